"""
One table of a recipe, read strictly: every value by its type, and no unknown key.

Every error names the file and the key.  None repeats a value, because its author may have
written a secret where a reference to it belongs.
"""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast

import click

from kvseal.cli.values import Argon2Cost
from kvseal.drivers import strip_password
from kvseal.drivers.backends import SCHEMES, backend_of_url
from kvseal.errors import KDFParametersError, SecretReferenceError, UnsupportedStoreError, UsageError
from kvseal.legacy.fernet_keys import KDF_FORMS, parse_kdf
from kvseal.secrets.sources import check_reference

if TYPE_CHECKING:
    from collections.abc import Collection

    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.legacy.fernet_keys import KeyDerivation

T = TypeVar("T")


class Table:
    """
    The table *name* of the recipe at *path*.

    Each value is taken out once, `None` where it is missing, and `end` refuses the keys that are left.
    """

    def __init__(self, path: Path, name: str, tables: dict[str, Any]) -> None:
        self._path = path
        self._name = name
        self._folder = path.absolute().parent
        values = tables.get(name, {})
        if not isinstance(values, dict):
            msg = f"{path}: {name} has to be a table, [{name}]"
            raise UsageError(msg)
        self._left = dict(values)

    def refuse(self, key: str, what: str) -> NoReturn:
        """Raise the error about *key*.  *what* never repeats a value, which may be a secret."""
        msg = f"{self._path}: {self._name}.{key} {what}"
        raise UsageError(msg, hint="migrations/README.md says what a recipe may hold")

    def end(self, where: str = "") -> None:
        """Refuse the first key that is left."""
        for key in self._left:
            self.refuse(key, f"is not known {where}".rstrip())

    def text(self, key: str) -> str | None:
        return self._typed(key, str, "has to be text that is not empty")

    def flag(self, key: str) -> bool | None:
        return self._typed(key, bool, "has to be true or false")

    def whole(self, key: str) -> int | None:
        value = self._typed(key, int, "has to be a whole number from 1 on")
        if value is not None and value < 1:
            self.refuse(key, "has to be a whole number from 1 on")
        return value

    def number(self, key: str) -> float | None:
        value = self._left.pop(key, None)
        if value is not None and (type(value) not in {int, float} or not 0 < value < inf):
            self.refuse(key, "has to be a number above 0")
        return cast("float | None", value)

    def one_of(self, key: str, choices: Collection[str]) -> str | None:
        value = self.text(key)
        if value is not None and value not in choices:
            self.refuse(key, f"has to be one of {', '.join(choices)}")
        return value

    def cost(self, key: str) -> Argon2idParams | None:
        value = self.text(key)
        if value is None:
            return None
        try:
            return Argon2Cost().convert(value, None, None)
        except click.BadParameter:
            self.refuse(key, "is neither t,m,p within the bounds (m in KiB) nor the name of a profile")

    def kdf(self, key: str) -> KeyDerivation | None:
        value = self.text(key)
        if value is None:
            return None
        try:
            return parse_kdf(value)
        except KDFParametersError:
            self.refuse(key, f"is none of {KDF_FORMS} within the bounds")

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._left.pop(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            self.refuse(key, "has to be a list of texts that are not empty")
        return tuple(values)

    def constants(self, key: str) -> dict[str, str | int | bool]:
        values = self._left.pop(key, {})
        kinds = {str, int, bool}
        if not isinstance(values, dict) or not all(type(value) in kinds for value in values.values()):
            self.refuse(key, "has to be a table of texts, whole numbers and booleans")
        return values

    def references(self, key: str) -> tuple[str, ...]:
        return tuple(self._reference(key, value) for value in self.texts(key))

    def reference(self, key: str) -> str | None:
        value = self.text(key)
        return None if value is None else self._reference(key, value)

    def path(self, key: str) -> Path | None:
        value = self.text(key)
        try:
            return None if value is None else Path(self._absolute(value)).expanduser()
        except RuntimeError:
            self.refuse(key, "starts with ~, and there is no such home directory")

    def path_or_false(self, key: str) -> Path | Literal[False] | None:
        if self._left.get(key) is False:
            del self._left[key]
            return False
        return self.path(key)

    def store(self, key: str) -> str | None:
        url = self.text(key)
        if url is None:
            return None
        if strip_password(url) != url:
            self.refuse(key, "has a password in it; name this store with a flag or an environment variable")
        try:
            backend, parsed = backend_of_url(url)
        except UnsupportedStoreError:
            self.refuse(
                key, f"has to be the URL of a store: {', '.join(f'{name}:' for name in sorted(SCHEMES))}"
            )
        is_path = backend.is_path and parsed.location
        return f"{parsed.scheme}:{self._absolute(parsed.location)}" if is_path else url

    def _typed(self, key: str, kind: type[T], what: str) -> T | None:
        value: T | None = self._left.pop(key, None)
        # By the very type: Python's true is a number, too, and TOML's is not.
        if value is not None and (type(value) is not kind or value == ""):
            self.refuse(key, what)
        return value

    def _reference(self, key: str, reference: str) -> str:
        try:
            check_reference(reference)
        except SecretReferenceError:
            self.refuse(
                key, "has to be a reference to a secret, such as file:PATH or env:NAME, and no secret"
            )
        scheme, _, rest = reference.partition(":")
        return f"file:{self._absolute(rest)}" if scheme == "file" else reference

    def _absolute(self, path: str) -> str:
        """Return *path* below the recipe's folder, unless it is absolute already or starts at a home."""
        return path if path.startswith(("/", "~")) else f"{self._folder}/{path}"
