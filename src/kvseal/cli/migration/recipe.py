"""
Recipes: what a migration needs to know, in a TOML file that can be reviewed, kept and run again.

`migrations/README.md` says what a recipe may hold.  It holds references to secrets and never a
secret.  It is read strictly: a misspelt key is an error and not a default.  Relative paths are
below the recipe's folder, so a recipe works from every current directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from kvseal.cli.migration.recipe_table import Table
from kvseal.cli.settings import read_toml
from kvseal.errors import UsageError
from kvseal.errors.operating_system import next_step, reason_of
from kvseal.legacy.fernet_keys import ENCODINGS, UPSTREAM
from kvseal.recoding import PlaintextRule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.legacy.fernet_keys import KeyDerivation

_ALL_BUT_ONE: Final = 2
_TABLES: Final = ("source", "target", "policy", "run")


@dataclass(frozen=True, slots=True)
class FernetKeys:
    """What opens a Fernet vault: keys in the order to try them, source material to derive one, or both."""

    keys: tuple[str, ...] = ()
    source_material: str | None = None
    salt: str | None = None
    kdf: KeyDerivation | None = None
    source_material_encoding: str = "raw"
    salt_encoding: str = "raw"

    def contradiction(self) -> str | None:
        """Return what is wrong with these keys together, if anything is."""
        kdf = self.kdf or UPSTREAM
        if self.source_material is None and self != FernetKeys(self.keys):
            return "a salt, a key derivation and encodings belong to source material, and there is none"
        if self.source_material is not None and self.salt is None and kdf.needs_salt:
            return "source material and salt belong together for this key derivation"
        if self.salt is not None and not kdf.takes_salt:
            return "this key derivation takes no salt"
        if self.salt is None and self.salt_encoding != "raw":
            return "there is no salt that could have an encoding"
        return None


@dataclass(frozen=True, slots=True)
class FastMCPKeys:
    """What FastMCP has its storage key from; *server_urls* prove the names of a client's tokens."""

    client_secret: str | None = None
    signing_key: str | None = None
    encryption_key: str | None = None
    server_urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuthsomeKeys:
    """Where authsome's master key is; a home that was upgraded may need the old one and the new."""

    key_file: Path | None = None
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class NoKeys:
    """Nothing: the format needs no key of its own."""


Keys = FernetKeys | FastMCPKeys | AuthsomeKeys | NoKeys


@dataclass(frozen=True, slots=True)
class SourceRecipe:
    """The old vault: where it is, what wrote it, and what opens it."""

    format: str
    keys: Keys
    store: str | None = None
    manifest: Path | None = None


@dataclass(frozen=True, slots=True)
class TargetRecipe:
    """The sealed vault; without *store* it takes the place of the old one."""

    store: str | None = None
    meta_store: str | None = None
    create: bool | None = None
    secret: str | None = None
    argon2: Argon2idParams | None = None


@dataclass(frozen=True, slots=True)
class PolicyRecipe:
    """What may happen to the old vault."""

    plaintext: PlaintextRule | None = None
    backup: Path | Literal[False] | None = None
    finalize: bool | None = None


@dataclass(frozen=True, slots=True)
class RunRecipe:
    """How fast it goes."""

    workers: int | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """One migration.  `None` is "not given": a flag, or else the default of the command, decides."""

    path: Path
    source: SourceRecipe
    target: TargetRecipe
    policy: PolicyRecipe
    run: RunRecipe


def read_recipe(path: Path) -> Recipe:
    """
    Return the recipe in the file *path*, with every path in it made absolute; no secret is read.

    Raises:
        UsageError: *path* is not a readable recipe; the message names the file and the key.
    """
    tables = _tables(path)
    return Recipe(
        path,
        _source(Table(path, "source", tables)),
        _target(Table(path, "target", tables)),
        _policy(Table(path, "policy", tables)),
        _run(Table(path, "run", tables)),
    )


def _tables(path: Path) -> dict[str, Any]:
    try:
        # A recipe can name code to run: a store, or the command that prints a secret.
        tables = read_toml(path)
    except OSError as exc:
        msg = f"the recipe {path} cannot be read: {reason_of(exc)}"
        raise UsageError(msg, hint=next_step(exc)) from None
    for name in tables:
        if name not in _TABLES:
            msg = f"{path}: {name!r} is not a table of a recipe"
            raise UsageError(msg, hint=f"known tables: {', '.join(_TABLES)}")
    return tables


def _source(table: Table) -> SourceRecipe:
    stored_format = table.one_of("format", _KEYS_OF)
    if stored_format is None:
        table.refuse("format", f"is missing; it is one of {', '.join(_KEYS_OF)}")
    source = SourceRecipe(
        stored_format,
        _KEYS_OF[stored_format](table),
        store=table.store("store"),
        manifest=table.path("manifest"),
    )
    table.end(f"for format {stored_format!r}")
    return source


def _fernet_keys(table: Table) -> FernetKeys:
    keys = FernetKeys(
        table.references("keys"),
        table.reference("source_material"),
        table.reference("salt"),
        table.kdf("kdf"),
        table.one_of("source_material_encoding", ENCODINGS) or "raw",
        table.one_of("salt_encoding", ENCODINGS) or "raw",
    )
    problem = keys.contradiction()
    if problem is not None:
        table.refuse("salt", f"does not fit: {problem}")
    if not keys.keys and keys.source_material is None:
        table.refuse("keys", "is missing, and so is source_material")
    return keys


def _fastmcp_keys(table: Table) -> FastMCPKeys:
    keys = FastMCPKeys(
        table.reference("client_secret"),
        table.reference("signing_key"),
        table.reference("encryption_key"),
        table.texts("server_urls"),
    )
    if (keys.client_secret, keys.signing_key, keys.encryption_key).count(None) != _ALL_BUT_ONE:
        table.refuse("client_secret", "or signing_key or encryption_key has to be given, and only one")
    return keys


def _authsome_keys(table: Table) -> AuthsomeKeys:
    keys = AuthsomeKeys(table.path("key_file"), table.reference("secret"))
    if keys.key_file is None and keys.secret is None:
        table.refuse("key_file", "is missing, and so is secret")
    return keys


def _no_keys(_: Table) -> NoKeys:
    return NoKeys()


_KEYS_OF: Final[dict[str, Callable[[Table], Keys]]] = {
    "fernet": _fernet_keys,
    "plaintext": _no_keys,
    "fastmcp": _fastmcp_keys,
    "authsome": _authsome_keys,
    # Nothing to migrate: a vault that is kept to be opened and verified.
    "kvseal": _no_keys,
}


def _target(table: Table) -> TargetRecipe:
    target = TargetRecipe(
        store=table.store("store"),
        meta_store=table.store("meta_store"),
        create=table.flag("create"),
        secret=table.reference("secret"),
        argon2=table.cost("argon2"),
    )
    table.end()
    return target


def _policy(table: Table) -> PolicyRecipe:
    rules = {rule.value: rule for rule in PlaintextRule}
    plaintext = table.one_of("plaintext", rules)
    policy = PolicyRecipe(
        plaintext=None if plaintext is None else rules[plaintext],
        backup=table.path_or_false("backup"),
        finalize=table.flag("finalize"),
    )
    table.end()
    return policy


def _run(table: Table) -> RunRecipe:
    run = RunRecipe(workers=table.whole("workers"), rate=table.number("rate"))
    table.end()
    return run
