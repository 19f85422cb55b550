"""Recipes: what may stand in one, what a path in it means, and that a mistake is an error that names it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from kvseal import Argon2idParams
from kvseal.cli.migration.recipe import (
    AuthsomeKeys,
    CodecKeys,
    FastMCPKeys,
    FernetKeys,
    NoKeys,
    PolicyRecipe,
    Recipe,
    RunRecipe,
    SourceRecipe,
    TargetRecipe,
    read_recipe,
)
from kvseal.errors import UsageError
from kvseal.legacy.by_hand import Layout
from kvseal.legacy.fernet_keys import Hkdf, Pbkdf2, Sha256
from kvseal.recoding import PlaintextRule

README = Path(__file__).parents[3] / "migrations" / "README.md"
PLAIN = '[source]\nformat = "plaintext"\n'
SECRET = "aSecretThatNobodyMaySeeInAMessage"

EVERYTHING = """
[source]
store = "disk:vault"
format = "fernet"
keys = ["file:keys/new.key", "env:OLD_KEY"]
source_material = "keyring:app/material"
salt = "cred:salt"
kdf = "pbkdf2:sha512,1000"
source_material_encoding = "hex"
salt_encoding = "base64"
manifest = "names.jsonl"

[target]
store = "filetree:sealed?names=v1"
meta_store = "redis://localhost:6379/1"
create = true
secret = "file:~/master.key"
argon2 = "3,65536,4"

[policy]
plaintext = "skip"
backup = "before.kvseal"
finalize = false

[run]
workers = 4
rate = 250.5
"""


def written(tmp_path: Path, text: str) -> Path:
    """Return the path of a recipe that says *text*."""
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def refusal(tmp_path: Path, text: str) -> UsageError:
    """Return the error that a recipe which says *text* is."""
    with pytest.raises(UsageError) as caught:
        read_recipe(written(tmp_path, text))
    return caught.value


def test_everything(tmp_path: Path) -> None:
    """Each key arrives where it belongs, and relative paths mean the recipe's folder."""
    path = written(tmp_path, EVERYTHING)

    expected = Recipe(
        path,
        SourceRecipe(
            format="fernet",
            keys=FernetKeys(
                (f"file:{tmp_path}/keys/new.key", "env:OLD_KEY"),
                "keyring:app/material",
                "cred:salt",
                Pbkdf2("sha512", 1000),
                "hex",
                "base64",
            ),
            store=f"disk:{tmp_path}/vault",
            manifest=tmp_path / "names.jsonl",
        ),
        TargetRecipe(
            store=f"filetree:{tmp_path}/sealed?names=v1",
            meta_store="redis://localhost:6379/1",
            create=True,
            secret="file:~/master.key",
            argon2=Argon2idParams.RFC_9106_LOW_MEMORY,
        ),
        PolicyRecipe(plaintext=PlaintextRule.SKIP, backup=tmp_path / "before.kvseal", finalize=False),
        RunRecipe(workers=4, rate=250.5),
    )
    assert expected == read_recipe(path)


def test_nothing_but_a_format(tmp_path: Path) -> None:
    """What a recipe does not say is `None`, so that a flag or the command's own default decides."""
    path = written(tmp_path, PLAIN)

    expected = Recipe(path, SourceRecipe("plaintext", NoKeys()), TargetRecipe(), PolicyRecipe(), RunRecipe())
    assert expected == read_recipe(path)


@pytest.mark.parametrize(
    ("lines", "keys"),
    [
        ('format = "fernet"\nsource_material = "env:A"\nsalt = "env:B"', FernetKeys((), "env:A", "env:B")),
        (
            'format = "fernet"\nsource_material = "env:A"\nkdf = "sha256"',
            FernetKeys((), "env:A", kdf=Sha256()),
        ),
        (
            'format = "fernet"\nsource_material = "env:A"\nkdf = "hkdf:app"',
            FernetKeys((), "env:A", kdf=Hkdf(b"app")),
        ),
        ('format = "fastmcp"\nclient_secret = "env:A"', FastMCPKeys(client_secret="env:A")),
        ('format = "fastmcp"\nsigning_key = "env:A"', FastMCPKeys(signing_key="env:A")),
        (
            'format = "fastmcp"\nencryption_key = "env:A"\nserver_urls = ["https://a.example/mcp"]',
            FastMCPKeys(encryption_key="env:A", server_urls=("https://a.example/mcp",)),
        ),
        ('format = "authsome"\nkey_file = "/srv/master.key"', AuthsomeKeys(Path("/srv/master.key"))),
        ('format = "authsome"\nsecret = "env:A"', AuthsomeKeys(secret="env:A")),
        (
            'format = "authsome"\nkey_file = "/srv/master.key"\nsecret = "env:A"',
            AuthsomeKeys(Path("/srv/master.key"), "env:A"),
        ),
        ('format = "kvseal"', NoKeys()),
        ('format = "aes-gcm"\nkeys = ["env:A"]', CodecKeys(("env:A",))),
        (
            'format = "secretbox"\nsource_material = "env:A"\nkdf = "sha256"\nciphertext = "a.b"\nnonce_size = 24',
            CodecKeys(source_material="env:A", kdf=Sha256(), where=Layout("a.b", nonce_size=24)),
        ),
        (
            'format = "chacha20-poly1305"\nkeys = ["env:A"]\nkey_encoding = "hex"\ntag = "t"\nencoding = "hex"',
            CodecKeys(("env:A",), key_encoding="hex", where=Layout(tag="t", encoding="hex")),
        ),
        (
            'format = "aes-cbc-hmac"\nkeys = ["env:A"]\nmac_first = false\nmac_hash = "sha512"',
            CodecKeys(("env:A",), mac_first=False, mac_hash="sha512"),
        ),
        (
            'format = "aes-cbc-hmac"\nkeys = ["env:A"]\nmac_key = "env:B"\nparts = ["tag", "nonce", "ciphertext"]',
            CodecKeys(("env:A",), mac_key="env:B", where=Layout(parts=("tag", "nonce", "ciphertext"))),
        ),
        (
            'format = "jwe"\nkeys = ["env:A"]\njwe_field = "t"\nalg = "A256KW"\nenc = "A128GCM"',
            CodecKeys(("env:A",), jwe_field="t", alg="A256KW", enc="A128GCM"),
        ),
        ('format = "python"\ncodec = "m:C"', CodecKeys(key_encoding="raw", codec="m:C")),
    ],
)
def test_keys_of_each_format(tmp_path: Path, lines: str, keys: object) -> None:
    """Each format has keys of its own kind."""
    assert keys == read_recipe(written(tmp_path, f"[source]\n{lines}\n")).source.keys


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("disk:/srv/vault", "disk:/srv/vault"),
        ("disk:///srv/vault", "disk:///srv/vault"),
        ("disk:~/vault", "disk:~/vault"),
        ("disk:../vault", "disk:{}/../vault"),
        ("python:stacks:vault", "python:stacks:vault"),
        ("postgresql://app@db/vault", "postgresql://app@db/vault"),
    ],
)
def test_paths_of_stores(tmp_path: Path, url: str, meant: str) -> None:
    """Only a relative path is completed: what is absolute, at home or no path stays as it is."""
    recipe = read_recipe(written(tmp_path, f'{PLAIN}store = "{url}"\n'))

    assert meant.format(tmp_path) == recipe.source.store


def test_no_backup(tmp_path: Path) -> None:
    """That no backup is wanted is not the same as saying nothing."""
    assert read_recipe(written(tmp_path, f"{PLAIN}[policy]\nbackup = false\n")).policy.backup is False
    home = read_recipe(written(tmp_path, f'{PLAIN}[policy]\nbackup = "~/b"\n'))
    assert Path.home() / "b" == home.policy.backup


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[sourcce]\n", "'sourcce'"),
        ("source = 1\n", "[source]"),
        ("", "source.format"),
        ('[source]\nformat = "ferret"\n', "source.format"),
        ("[source]\nformat = 1\n", "source.format"),
        (f'{PLAIN}Store = "disk:a"\n', "source.Store"),
        (f'{PLAIN}keys = ["env:A"]\n', "source.keys"),
        (f"{PLAIN}store = 3\n", "source.store"),
        (f'{PLAIN}store = ""\n', "source.store"),
        (f'{PLAIN}store = "vault"\n', "source.store"),
        (f'{PLAIN}store = "disc:vault"\n', "source.store"),
        (f'{PLAIN}store = "memory:"\n', "source.store"),
        (f'{PLAIN}manifest = ["a"]\n', "source.manifest"),
        (f'{PLAIN}manifest = "~no-user-of-this-name/a"\n', "source.manifest"),
        ('[source]\nformat = "fernet"\n', "source.keys"),
        ('[source]\nformat = "fernet"\nkeys = []\n', "source.keys"),
        ('[source]\nformat = "fernet"\nkeys = "env:A"\n', "source.keys"),
        ('[source]\nformat = "fernet"\nkeys = ["env:A", 1]\n', "source.keys"),
        ('[source]\nformat = "fernet"\nkeys = [""]\n', "source.keys"),
        ('[source]\nformat = "fernet"\nkeys = ["env:A"]\nsalt = "env:B"\n', "source.salt"),
        ('[source]\nformat = "fernet"\nsource_material = "env:A"\n', "source.salt"),
        (
            '[source]\nformat = "fernet"\nsource_material = "env:A"\nsalt = "env:B"\nkdf = "sha256"\n',
            "source.salt",
        ),
        ('[source]\nformat = "fernet"\nkeys = ["env:A"]\nkdf = "sha256"\n', "source.salt"),
        ('[source]\nformat = "fernet"\nsource_material = "env:A"\nkdf = "md5"\n', "source.kdf"),
        (
            '[source]\nformat = "fernet"\nsource_material = "env:A"\nkdf = "hkdf"\nsalt_encoding = "rot13"\n',
            "source.salt_encoding",
        ),
        ('[source]\nformat = "fernet"\nkeys = ["env:A"]\nclient_secret = "env:B"\n', "source.client_secret"),
        ('[source]\nformat = "fastmcp"\n', "source.client_secret"),
        (
            '[source]\nformat = "fastmcp"\nclient_secret = "env:A"\nsigning_key = "env:B"\n',
            "source.client_secret",
        ),
        ('[source]\nformat = "authsome"\n', "source.key_file"),
        ('[source]\nformat = "aes-gcm"\n', "source.keys"),
        ('[source]\nformat = "python"\n', "source.codec"),
        ('[source]\nformat = "aes-gcm"\nkeys = ["env:A"]\ncodec = "m:C"\n', "source.codec"),
        ('[source]\nformat = "aes-gcm"\nkeys = ["env:A"]\nparts = ["tag"]\n', "source.parts"),
        ('[source]\nformat = "aes-gcm"\nkeys = ["env:A"]\naad = "{tenant}"\n', "source.parts or aad"),
        ('[source]\nformat = "aes-gcm"\nkeys = ["env:A"]\nencoding = "rot13"\n', "source.encoding"),
        ('[source]\nformat = "aes-gcm"\nkeys = ["env:A"]\nconstants = { v = 1.5 }\n', "source.constants"),
        ('[source]\nformat = "jwe"\nkeys = ["env:A"]\nalg = "RSA-OAEP"\n', "source.alg"),
        ('[source]\nformat = "aes-cbc-hmac"\nkeys = ["env:A"]\nmac_hash = "md5"\n', "source.mac_hash"),
        (f"{PLAIN}[target]\ncreate = 1\n", "target.create"),
        (f'{PLAIN}[target]\nargon2 = "3,65536"\n', "target.argon2"),
        (f'{PLAIN}[target]\nargon2 = "0,0,0"\n', "target.argon2"),
        (f'{PLAIN}[target]\nkdf = "3,65536,4"\n', "target.kdf"),
        (f'{PLAIN}[policy]\nplaintext = "keep"\n', "policy.plaintext"),
        (f"{PLAIN}[policy]\nplaintext = true\n", "policy.plaintext"),
        (f"{PLAIN}[policy]\nbackup = true\n", "policy.backup"),
        (f'{PLAIN}[policy]\nfinalize = "yes"\n', "policy.finalize"),
        (f"{PLAIN}[policy]\nfinalise = true\n", "policy.finalise"),
        (f"{PLAIN}[run]\nworkers = 0\n", "run.workers"),
        (f"{PLAIN}[run]\nworkers = true\n", "run.workers"),
        (f"{PLAIN}[run]\nworkers = 1.5\n", "run.workers"),
        (f"{PLAIN}[run]\nrate = 0\n", "run.rate"),
        (f"{PLAIN}[run]\nrate = nan\n", "run.rate"),
        (f"{PLAIN}[run]\nrate = inf\n", "run.rate"),
        (f"{PLAIN}[run]\nrate = true\n", "run.rate"),
        (f"{PLAIN}[run]\nspeed = 1\n", "run.speed"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, names: str) -> None:
    """A mistake is an error that names the file and the key, and never a default."""
    message = refusal(tmp_path, text).message

    assert str(tmp_path / "recipe.toml") in message
    assert names in message


@pytest.mark.parametrize(
    "text",
    [
        f'[source]\nformat = "fernet"\nkeys = ["{SECRET}"]\n',
        f'[source]\nformat = "fastmcp"\nclient_secret = "{SECRET}"\n',
        f'[source]\nformat = "authsome"\nsecret = "master:{SECRET}"\n',
        f'{PLAIN}[target]\nsecret = "{SECRET}"\n',
        f'{PLAIN}[target]\nargon2 = "{SECRET}"\n',
        f'{PLAIN}store = "redis://:{SECRET}@localhost"\n',
        f'{PLAIN}store = "{SECRET}"\n',
        f'{PLAIN}store = "postgresql://localhost/kv?password={SECRET}"\n',
        f'[source]\nformat = "{SECRET}"\n',
        f"{PLAIN}[target]\nsecret = {SECRET}\n",
    ],
)
def test_secrets_are_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    """A secret in a recipe is an error, and the error does not say it."""
    error = refusal(tmp_path, text)

    assert SECRET not in f"{error.message} {error.hint}"


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_recipe_of_others(tmp_path: Path, mode: int) -> None:
    """A recipe that others can write is refused, because it can name code to run."""
    path = written(tmp_path, PLAIN)
    path.chmod(mode)

    with pytest.raises(UsageError, match="can be changed by others"):
        read_recipe(path)


@pytest.mark.parametrize("content", [None, b"\xff", b"[source"])
def test_no_recipe(tmp_path: Path, content: bytes | None) -> None:
    """A file that is not there, not text or not TOML is an error that names it."""
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)

    with pytest.raises(UsageError, match=re.escape(str(path))):
        read_recipe(path)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 3_000 + "]" * 3_000,
        "x = " + "{a=" * 3_000 + "1" + "}" * 3_000,
        "[" + "a." * 9_000 + "a]",
    ],
)
def test_nested_deeply(tmp_path: Path, text: str) -> None:
    """A recipe that no parser can hold on its stack is an error of its own, and no recipe."""
    error = refusal(tmp_path, text)

    assert "recipe.toml" in error.message


def test_what_is_checked_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's file that takes the name after the check is not read."""
    path = written(tmp_path, PLAIN)
    foreign = tmp_path / "foreign.toml"
    foreign.write_text('[source]\nformat = "kvseal"\n')
    real_stat, real_fstat = os.stat, os.fstat

    def swap() -> None:
        if foreign.exists():
            foreign.replace(path)

    def stat(*arguments: Any, **options: Any) -> os.stat_result:
        found = real_stat(*arguments, **options)
        if str(arguments[0]) == str(path):
            swap()
        return found

    def fstat(descriptor: int) -> os.stat_result:
        found = real_fstat(descriptor)
        swap()
        return found

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "fstat", fstat)

    assert "plaintext" == read_recipe(path).source.format
    assert "kvseal" in path.read_text()


def test_a_recipe_that_is_a_pipe(tmp_path: Path) -> None:
    """A pipe of that name is refused, and keeps no reader waiting."""
    os.mkfifo(tmp_path / "recipe.toml", 0o600)

    with pytest.raises(UsageError, match="not a file"):
        read_recipe(tmp_path / "recipe.toml")


def test_documented(tmp_path: Path) -> None:
    """Every key that the README's table lists is one, and there is none that it does not list."""
    table = README.read_text(encoding="utf-8").partition("## Recipes")[2]
    cells = re.findall(r"^\| [^|]*\| ([^|]+) \|", table, re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    fields = {
        name
        for cls in (
            SourceRecipe,
            TargetRecipe,
            PolicyRecipe,
            RunRecipe,
            FernetKeys,
            FastMCPKeys,
            AuthsomeKeys,
            CodecKeys,
            Layout,
        )
        for name in cls.__dataclass_fields__
    }
    # What opens a Fernet vault is a field of a field of this very name, and a layout's keys stand beside the others.
    assert fields - {"where"} == documented


@pytest.mark.parametrize(
    ("text", "what"),
    [("a" + ".a" * 40_000 + " = 1", "dots"), ("# " + "x" * 2**18, "longer than")],
    ids=["one key of many parts", "long"],
)
def test_what_would_keep_the_parser_busy(tmp_path: Path, text: str, what: str) -> None:
    """A recipe that Python's parser needs minutes for is refused before it is parsed."""
    assert what in str(refusal(tmp_path, text))
