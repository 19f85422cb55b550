"""Stores whose application made its Fernet key in some way of its own, migrated by options and by recipes."""

from __future__ import annotations

import hashlib
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from tests.cli.harness import FERNET_KEY, SECRET, Terminalless, old_store, with_store
from tests.test_migrations import thawed

from kvseal import EnvelopeEncryptionWrapper, Secret
from kvseal.legacy.fastmcp import key_of_client_secret, key_of_text_signing_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from key_value.aio.stores.disk import DiskStore

VALUES = {"a": {"t": "one"}, "b": {"n": 2}, "c": {"n": 3}}
MATERIAL, SALT = b"correct horse", bytes(range(1, 17))
SECOND, THIRD = (Fernet.generate_key().decode() for _ in range(2))


def file(name: str, content: bytes) -> str:
    """Write *content* where only the owner reads it, and return its reference."""
    Path(name).write_bytes(content)
    Path(name).chmod(0o600)
    return f"file:{name}"


def read_sealed(key: str) -> Any:
    """Return what the new application reads at *key*."""
    secret = Secret(SECRET.encode())
    return with_store(
        Path("kv"),
        lambda store: EnvelopeEncryptionWrapper(store, secret=secret, create=False).get(key, collection="c"),
    )


def all_read() -> bool:
    """Whether the new application reads every value."""
    return {key: read_sealed(key) for key in VALUES} == VALUES


@pytest.mark.parametrize("between", [",", "\n", " ", ", "], ids=repr)
def test_several_keys_in_one_reference(
    vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    """Records under each of several keys in one variable are sealed; none is left behind."""
    for name, key in zip(VALUES, (THIRD, FERNET_KEY, SECOND), strict=True):
        old_store(Path("kv"), {name: VALUES[name]}, key=key)
    monkeypatch.setenv("KEYS", between.join((FERNET_KEY, SECOND, THIRD)))

    done = vaultctl("migrate-from-fernet --fernet-key env:KEYS --yes --json --argon2 1,8,1")

    assert (0, 3) == (done.code, done.lines[-1]["changed"])
    assert all_read()


def test_what_follows_a_key_is_refused(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with a key and something else is an error that shows none of it, and nothing is written."""
    old_store(Path("kv"), VALUES)
    monkeypatch.setenv("KEYS", f"{FERNET_KEY};{SECOND}")

    done = vaultctl("migrate-from-fernet --fernet-key env:KEYS --yes")

    assert (2, "") == (done.code, done.out)
    assert "this is not a Fernet key" in done.err
    assert SECOND[:9] not in done.err


def derivations() -> dict[str, tuple[str, Callable[[], bytes], str]]:
    """Return options, how the application made its key, and the keys of a recipe, by a name."""
    salt, encoded = "--salt file:salt", "--salt file:salt.b64 --salt-encoding base64"
    return {
        "sha256": ("--fernet-kdf sha256", hashlib.sha256(MATERIAL).digest, 'kdf = "sha256"'),
        "pbkdf2": (
            f"--fernet-kdf pbkdf2:sha512,1000 {salt}",
            lambda: hashlib.pbkdf2_hmac("sha512", MATERIAL, SALT, 1000, dklen=32),
            'kdf = "pbkdf2:sha512,1000"\nsalt = "file:salt"',
        ),
        "pbkdf2-encoded": (
            f"--fernet-kdf pbkdf2:sha256,390000 {encoded}",
            lambda: hashlib.pbkdf2_hmac("sha256", MATERIAL, SALT, 390_000),
            'kdf = "pbkdf2:sha256,390000"\nsalt = "file:salt.b64"\nsalt_encoding = "base64"',
        ),
        "hkdf": (
            f"--fernet-kdf 'hkdf:app storage' {salt}",
            lambda: HKDF(SHA256(), 32, SALT, b"app storage").derive(MATERIAL),
            'kdf = "hkdf:app storage"\nsalt = "file:salt"',
        ),
        "hkdf-no-salt": (
            "--fernet-kdf hkdf",
            lambda: HKDF(SHA256(), 32, None, b"").derive(MATERIAL),
            'kdf = "hkdf"',
        ),
        "scrypt": (
            f"--fernet-kdf scrypt:1024,8,1 {salt}",
            lambda: hashlib.scrypt(MATERIAL, salt=SALT, n=1024, r=8, p=1, dklen=32),
            'kdf = "scrypt:1024,8,1"\nsalt = "file:salt"',
        ),
        "encoded-material": (
            "--fernet-kdf sha256 --source-material-encoding hex",
            hashlib.sha256(MATERIAL).digest,
            'kdf = "sha256"\nsource_material_encoding = "hex"',
        ),
    }


@pytest.fixture(params=derivations())
def derived(request: pytest.FixtureRequest, vaultctl: Terminalless) -> tuple[Terminalless, str, str]:
    """Return vaultctl beside a store whose key was derived, the options for it and the lines of a recipe."""
    options, make, lines = derivations()[request.param]
    old_store(Path("kv"), VALUES, key=urlsafe_b64encode(make()).decode())
    in_hex = "encoding hex" in options
    material = file("material", MATERIAL.hex().encode() if in_hex else MATERIAL)
    file("salt", SALT)
    file("salt.b64", b64encode(SALT) + b"\n")
    return vaultctl, f"--source-material {material} {options}", f'source_material = "{material}"\n{lines}'


def test_derived_keys(derived: tuple[Terminalless, str, str]) -> None:
    """A key of every derivation opens its records, by options."""
    vaultctl, options, _ = derived

    done = vaultctl(f"migrate-from-fernet {options} --yes --json --argon2 1,8,1")

    assert (0, 3) == (done.code, done.lines[-1]["changed"])
    assert all_read()


def test_derived_keys_of_a_recipe(derived: tuple[Terminalless, str, str]) -> None:
    """A key of every derivation opens its records, by a recipe."""
    vaultctl, _, lines = derived
    Path("recipe.toml").write_text(f'[source]\nformat = "fernet"\n{lines}\n')
    Path("recipe.toml").chmod(0o600)

    done = vaultctl("migrate-from-fernet --recipe recipe.toml --yes --json --argon2 1,8,1")

    assert (0, 3) == (done.code, done.lines[-1]["changed"])


def test_derived_keys_are_held(derived: tuple[Terminalless, str, str]) -> None:
    """A derived key is held like any other: wrappers read old records before one is changed."""
    vaultctl, options, _ = derived

    done = vaultctl(f"migrate-from-fernet {options} --import-keys --json --argon2 1,8,1")

    assert 0 == done.code
    assert all_read()
    assert 0 == vaultctl("migrate-from-fernet --yes --no-backup --finalize").code


@pytest.mark.parametrize("form", ["raw", "hex"])
def test_keys_that_are_not_base64(vaultctl: Terminalless, form: str) -> None:
    """Raw 32 bytes and hex are keys, too."""
    raw = bytes(range(200, 232))
    old_store(Path("kv"), VALUES, key=urlsafe_b64encode(raw).decode())
    reference = file("key", raw if form == "raw" else raw.hex().encode() + b"\n")

    done = vaultctl(f"migrate-from-fernet --fernet-key {reference} --yes --json --argon2 1,8,1")

    assert (0, 3) == (done.code, done.lines[-1]["changed"])


@pytest.mark.parametrize("was_whole", [True, False])
def test_a_line_break_at_the_end(vaultctl: Terminalless, was_whole: bool) -> None:
    """An application that read a mounted file whole, and one that stripped it, are both migrated."""
    key = hashlib.sha256(MATERIAL + b"\n" if was_whole else MATERIAL).digest()
    old_store(Path("kv"), VALUES, key=urlsafe_b64encode(key).decode())
    reference = file("passphrase", MATERIAL + b"\n")

    done = vaultctl(
        f"migrate-from-fernet --source-material {reference} --fernet-kdf sha256 --yes --json --argon2 1,8,1"
    )

    assert (0, 3) == (done.code, done.lines[-1]["changed"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--source-material env:OLD --fernet-kdf scrypt:1024,8,1", "belong together"),
        ("--source-material env:OLD --fernet-kdf sha256 --salt env:NEW", "takes no salt"),
        ("--fernet-key env:OLD --fernet-kdf sha256", "belong to source material"),
        ("--fernet-key env:OLD --salt-encoding hex", "belong to source material"),
        ("--source-material env:OLD --fernet-kdf sha256 --salt-encoding hex", "no salt"),
        ("--source-material env:OLD --fernet-kdf md5", "no key derivation that kvseal knows"),
        ("--fernet-kdf sha256 --fastmcp-client-secret env:OLD", "more than one vault"),
    ],
)
def test_contradictions(vaultctl: Terminalless, options: str, says: str) -> None:
    """Options of a derivation that do not fit together are a mistake, told before anything is touched."""
    old_store(Path("kv"), VALUES)

    done = vaultctl(f"migrate-from-fernet {options} --yes")

    assert (2, "") == (done.code, done.out)
    assert says in done.err


@pytest.mark.parametrize("option", ["client-secret", "signing-key"])
@pytest.mark.parametrize("was_whole", [True, False])
def test_a_line_break_in_a_secret_of_fastmcp(
    vaultctl: Terminalless,
    option: str,
    was_whole: bool,
) -> None:
    """A FastMCP server whose secret ended with a line break is migrated from the same file, and so is one without."""
    secret = b"a secret of the server" + b"\n" * was_whole
    derive = key_of_client_secret if option == "client-secret" else key_of_text_signing_key
    old_store(Path("kv"), VALUES, key=derive(secret).decode())
    reference = file("secret", b"a secret of the server\n")

    done = vaultctl(f"migrate-from-fernet --fastmcp-{option} {reference} --yes --json --argon2 1,8,1")

    assert (0, 3) == (done.code, done.lines[-1]["changed"])


class TestWhoseStore:
    """A store that looks like FastMCP's or authsome's: the message says which option fits."""

    def in_fastmcp(self, collection: str) -> None:
        """Write a record into *collection* as FastMCP does."""

        async def fill(store: DiskStore) -> None:
            await FernetEncryptionWrapper(store, fernet=Fernet(SECOND)).put(
                "k", {"v": 1}, collection=collection
            )

        with_store(Path("kv"), fill)

    @pytest.mark.parametrize("keys", ["", "--fernet-key env:OLD"], ids=["no-key", "wrong-key"])
    @pytest.mark.parametrize(
        ("collection", "option"),
        [
            ("mcp-oauth-proxy-clients", "--fastmcp-signing-key"),
            ("mcp-refresh-tokens", "--fastmcp-client-secret"),
            ("mcp-oauth-token", "--fastmcp-encryption-key"),
        ],
    )
    def test_fastmcp(self, vaultctl: Terminalless, keys: str, collection: str, option: str) -> None:
        """FastMCP's collections name the options for its server or its client."""
        self.in_fastmcp(collection)

        done = vaultctl(f"migrate-from-fernet {keys} --yes --json")

        assert 1 == done.code
        assert option in done.error["hint"]

    @pytest.mark.parametrize("keys", ["", "--fernet-key env:OLD"], ids=["no-key", "wrong-key"])
    @pytest.mark.parametrize("folder", ["0008-authsome-0.4-flat", "0009-authsome-0.5-envelope"])
    def test_authsome(self, vaultctl: Terminalless, tmp_path: Path, folder: str, keys: str) -> None:
        """Records of authsome, flat or not, name the command for them."""
        copy = thawed(folder, tmp_path)

        done = vaultctl(f"migrate-from-fernet {keys} --store disk:{copy}/vault --yes --json")

        assert 1 == done.code
        assert "migrate-from-authsome" in done.error["hint"]

    def test_authsome_without_its_key_record(self, vaultctl: Terminalless, tmp_path: Path) -> None:
        """Records of authsome alone are no format that a Fernet key opens: nothing is written, and a hint says so."""
        store = f"disk:{thawed('0009-authsome-0.5-envelope', tmp_path)}/vault"

        done = vaultctl(
            f"migrate-from-fernet --fernet-key env:OLD --store {store} --meta-store disk:meta --create-store"
            " --argon2 1,8,1 --yes --json"
        )

        assert (1, "WrongLegacyKeyError") == (done.code, done.error["error"])
        assert "migrate-from-authsome" in done.error["hint"]
        assert [] == [line for line in done.lines if line["type"] == "summary"]

    def test_no_known_program(self, vaultctl: Terminalless) -> None:
        """A store like any other gets the hint that it always had."""
        old_store(Path("kv"), VALUES, key=SECOND)

        done = vaultctl("migrate-from-fernet --fernet-key env:OLD --yes --json")

        assert (1, "check which key the old application uses; nothing was written") == (
            done.code,
            done.error["hint"],
        )
