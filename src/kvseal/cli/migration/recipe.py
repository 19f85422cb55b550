"""
Recipes: what a migration needs to know, in a TOML file that can be reviewed, kept and run again.

`migrations/README.md` says what a recipe may hold.  It holds references to secrets and never a
secret.  It is read strictly: a misspelt key is an error and not a default.  Relative paths are
below the recipe's folder, so a recipe works from every current directory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from kvseal.cli.migration.recipe_table import Table
from kvseal.cli.settings import read_toml
from kvseal.envelope.stored import DATA_FIELD
from kvseal.errors import UsageError
from kvseal.errors.operating_system import next_step, reason_of
from kvseal.legacy.by_hand import ENCODINGS as STORED_ENCODINGS
from kvseal.legacy.by_hand import Layout
from kvseal.legacy.ciphers import MAC_HASHES
from kvseal.legacy.fernet_keys import ENCODINGS, UPSTREAM
from kvseal.legacy.jwe import CONTENT, MANAGEMENT
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
        about = (self.salt, self.kdf, self.source_material_encoding != "raw", self.salt_encoding != "raw")
        if self.source_material is None and any(about):
            return "a salt, a key derivation and encodings belong to source material, and there is none"
        if self.source_material is not None and self.salt is None and kdf.needs_salt:
            return "source material and salt belong together for this key derivation"
        if self.salt is not None and not kdf.takes_salt:
            return "this key derivation takes no salt"
        if self.salt is None and self.salt_encoding != "raw":
            return "there is no salt that could have an encoding"
        return None


F = TypeVar("F", bound=FernetKeys)


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
class CodecKeys(FernetKeys):
    """
    What opens records that were encrypted by hand: keys, or what they are derived from, and a layout.

    *mac_key*, *mac_hash* and *mac_first* are of AES-CBC with HMAC, *jwe_field*, *alg* and *enc* of JWE, and
    *codec* is the `MODULE:CODEC` of a codec in Python.
    """

    key_encoding: str = "base64"
    where: Layout = field(default_factory=Layout)
    mac_key: str | None = None
    mac_hash: str = "sha256"
    mac_first: bool = True
    jwe_field: str | None = None
    alg: str = "dir"
    enc: str = ""
    codec: str | None = None


@dataclass(frozen=True, slots=True)
class NoKeys:
    """Nothing: the format needs no key of its own."""


Keys = FernetKeys | FastMCPKeys | AuthsomeKeys | CodecKeys | NoKeys


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
    return _with_keys(table, FernetKeys(**_secrets(table)))


def _secrets(table: Table) -> dict[str, Any]:
    """Return the fields about keys, and what they are derived from."""
    return {
        "keys": table.references("keys"),
        "source_material": table.reference("source_material"),
        "salt": table.reference("salt"),
        "kdf": table.kdf("kdf"),
        "source_material_encoding": table.one_of("source_material_encoding", ENCODINGS) or "raw",
        "salt_encoding": table.one_of("salt_encoding", ENCODINGS) or "raw",
    }


def _with_keys(table: Table, keys: F) -> F:
    problem = keys.contradiction()
    if problem is not None:
        table.refuse("salt", f"does not fit: {problem}")
    if not keys.keys and keys.source_material is None:
        table.refuse("keys", "is missing, and so is source_material")
    return keys


def _cipher_keys(table: Table) -> CodecKeys:
    """Return what every cipher has: keys, and where the parts are."""
    return _with_keys(
        table, CodecKeys(**_secrets(table), key_encoding=_key_encoding(table), where=_layout(table))
    )


def _cbc_keys(table: Table) -> CodecKeys:
    mac_first = table.flag("mac_first")
    keys = replace(
        _cipher_keys(table),
        mac_key=table.reference("mac_key"),
        mac_hash=table.one_of("mac_hash", MAC_HASHES) or "sha256",
        mac_first=mac_first is not False,
    )
    if keys.mac_key is not None and mac_first is not None:
        table.refuse("mac_first", "is about a key of two halves, and there is a mac_key")
    return keys


def _jwe_keys(table: Table) -> CodecKeys:
    keys = CodecKeys(
        **_secrets(table),
        key_encoding=_key_encoding(table),
        jwe_field=table.text("jwe_field"),
        alg=table.one_of("alg", MANAGEMENT) or "dir",
        enc=table.one_of("enc", CONTENT) or "",
    )
    return _with_keys(table, keys)


def _python_keys(table: Table) -> CodecKeys:
    codec = table.text("codec")
    if codec is None:
        table.refuse("codec", "is missing: MODULE:CODEC")
    encoding = table.one_of("key_encoding", ENCODINGS) or "raw"
    return CodecKeys(keys=table.references("keys"), key_encoding=encoding, codec=codec)


def _key_encoding(table: Table) -> str:
    return table.one_of("key_encoding", ENCODINGS) or "base64"


def _layout(table: Table) -> Layout:
    try:
        return Layout(
            ciphertext=table.text("ciphertext") or DATA_FIELD,
            nonce=table.text("nonce"),
            tag=table.text("tag"),
            parts=table.texts("parts"),
            encoding=table.one_of("encoding", STORED_ENCODINGS) or "base64",
            nonce_size=table.whole("nonce_size"),
            aad=table.text("aad") or "",
            constants=table.constants("constants"),
        )
    except UsageError as exc:
        # Its message is about the layout, which holds no secret.
        table.refuse("parts", f"or aad does not fit: {exc.message}")


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
    "aes-gcm": _cipher_keys,
    "chacha20-poly1305": _cipher_keys,
    "secretbox": _cipher_keys,
    "aes-cbc-hmac": _cbc_keys,
    "jwe": _jwe_keys,
    "python": _python_keys,
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
