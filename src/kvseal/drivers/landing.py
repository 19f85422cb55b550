"""
Where names land: which names of a store reach the place of another entry.

Some stores fold names.  A file tree resolves `..`, a multi-disk store drops the characters that a file
system may refuse, and most stores join both names into one key.  A name that reaches an entry of another
collection could overwrite the vault meta.  So names are compared here where they land, by the rule of the
store, and no backend is opened for it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Protocol
from urllib.parse import unquote

from kvseal.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

SEPARATOR: Final = "::"


class Landing(Protocol):
    """Where the names of one store land."""

    @property
    def check_key(self) -> Callable[[str], object] | None:
        """What raises `StoreError` for a key that leaves its collection; `None` where no key can."""
        ...

    @property
    def loses_names(self) -> bool:
        """Whether a name may not come back from where it lands: as the driver's `loses_names` says."""
        ...

    @property
    def check_value(self) -> Callable[[str, str, Mapping[str, Any]], object] | None:
        """What raises `EntryTooLargeError` for collection, key and value; `None` where any size fits."""
        ...

    def reaches(self, collection: str, reserved: str) -> bool:
        """
        Whether a key in *collection* could reach an entry of the collection *reserved*, or its folder.

        It does not depend on the key, so a caller may remember the answer.

        Raises:
            StoreError: the store has no place of its own for *collection*.
        """
        ...

    def place(self, collection: str, key: str) -> tuple[str, str]:
        """
        Return where the store keeps the entry: of two names with one place, each overwrites the other.

        Raises:
            StoreError: a name leaves its own place, or the store has none for it.
        """
        ...


@dataclass(frozen=True, slots=True)
class ExactNames:
    """Both names are kept apart and as they are, in columns or dictionaries."""

    check_key: None = None
    loses_names: ClassVar[bool] = False
    check_value: None = None

    def reaches(self, collection: str, reserved: str) -> bool:
        """Whether it is the same collection."""
        return collection == reserved

    def place(self, collection: str, key: str) -> tuple[str, str]:
        """Return the names."""
        return collection, key


@dataclass(frozen=True, slots=True)
class JoinedPlaces:
    """One key of both names, `collection::key`: a collection may begin with another one and the separator."""

    check_key: None = None
    loses_names: ClassVar[bool] = False
    check_value: None = None

    def reaches(self, collection: str, reserved: str) -> bool:
        """Whether one collection with the separator begins with the other one."""
        mine, theirs = f"{collection}{SEPARATOR}", f"{reserved}{SEPARATOR}"
        return mine.startswith(theirs) or theirs.startswith(mine)

    def place(self, collection: str, key: str) -> tuple[str, str]:
        """Return the joined key."""
        return "", f"{collection}{SEPARATOR}{key}"


@dataclass(frozen=True, slots=True)
class FolderPlaces:
    """A folder for each collection; *folder* and *file* raise `StoreError` for what would leave its own."""

    folder: Callable[[str], str]
    file: Callable[[str], str] | None = None
    loses_names: bool = False
    check_value: None = None

    @property
    def check_key(self) -> Callable[[str], object] | None:
        """The rule of files, if keys are names of files."""
        return self.file

    def reaches(self, collection: str, reserved: str) -> bool:
        """Whether the folder is the reserved one or in it, on any file system."""
        return _on_disk(self.folder(collection)).startswith(_on_disk(self.folder(reserved)))

    def place(self, collection: str, key: str) -> tuple[str, str]:
        """Return folder and file."""
        return self.folder(collection), key if self.file is None else self.file(key)


@dataclass(frozen=True, slots=True)
class UnknownPlaces:
    """A store that kvseal does not know: it may fold names as file systems, HTTP and S3-like servers do."""

    loses_names: ClassVar[bool] = False
    check_value: None = None

    def check_key(self, key: str) -> None:
        """Raise `StoreError` if *key* climbs out of its collection by dot segments."""
        if "." in key or "%" in key:
            _resolved(key)

    def reaches(self, collection: str, reserved: str) -> bool:
        """Whether the resolved collection is the reserved one or in it."""
        resolved = _resolved(collection)
        if not resolved:
            msg = f"the collection {collection!r} may lead to the root of the store, where others begin"
            raise StoreError(msg, hint="use a name with more than dots and slashes")
        return _on_disk(resolved).startswith(_on_disk(_resolved(reserved)))

    def place(self, collection: str, key: str) -> tuple[str, str]:
        """Return both names as one path, without what such servers leave out."""
        return "", f"{_resolved(collection)}/{_resolved(key)}"


def _resolved(name: str) -> str:
    path: list[str] = []
    for part in unquote(name).replace("\\", "/").replace(SEPARATOR, "/").split("/"):
        if part == ".." and not path:
            msg = f"the name {name!r} leads out of its collection"
            raise StoreError(msg, hint="use names without .. segments")
        if part == "..":
            path.pop()
        elif part not in {"", "."}:
            path.append(part)
    return "/".join(path)


def _on_disk(path: str) -> str:
    """
    Return *path* as the least exact file system sees it, with a slash at its end.

    Such a one ignores case, the form of accents, characters that only format, and trailing dots and spaces.
    """
    visible = "".join(c for c in path.casefold() if unicodedata.category(c) != "Cf")
    parts = unicodedata.normalize("NFKC", visible).casefold().split("/")
    return "".join(f"{part.rstrip('. ')}/" for part in parts)
