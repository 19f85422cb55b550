"""`vaultctl migrate` and `migrate-back`: what people encrypted by hand, and what a stranger's codec opens."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from key_value.aio.wrappers.encryption.base import BaseEncryptionWrapper
from tests.cli.harness import SECRET, Terminalless, with_store, with_tree
from tests.cli.migration import strangers_codec
from tests.test_migrations import thawed

from kvseal import EnvelopeEncryptionWrapper, Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

VALUES = {"a": {"t": "one"}, "b": {"n": 2, "größer": [None, 1.5]}, "c": {"n": 3}}
KEY = bytes(range(32))
STRANGER = "--codec python:strangers:{} --key env:STRANGER"


def by_hand(store: Any) -> BaseEncryptionWrapper:
    """Return the wrapper that a project builds on py-key-value's own base."""
    aead = AESGCM(KEY)

    def encrypt(data: bytes) -> bytes:
        return bytes(12) + aead.encrypt(bytes(12), data, None)

    def decrypt(data: bytes, version: int) -> bytes:
        assert 1 == version
        return aead.decrypt(data[:12], data[12:], None)

    return BaseEncryptionWrapper(store, encryption_fn=encrypt, decryption_fn=decrypt, encryption_version=1)


def stored(values: Mapping[str, Mapping[str, Any]], directory: str = "kv") -> None:
    """Put *values* into collection `c` as they are."""

    async def fill(store: Any) -> None:
        for name, value in values.items():
            await store.put(name, dict(value), collection="c")

    with_store(Path(directory), fill)


def contents(directory: str = "kv") -> dict[str, Any]:
    """Return what the store itself holds in collection `c`."""

    async def read(store: Any) -> dict[str, Any]:
        return {name: await store.get(name, collection="c") for name in VALUES}

    found: dict[str, Any] = with_store(Path(directory), read)
    return found


async def read_sealed(store: Any) -> dict[str, Any]:
    """Return what the new application reads in *store*."""
    kv = EnvelopeEncryptionWrapper(store, secret=Secret(SECRET.encode()), create=False)
    return {name: await kv.get(name, collection="c") for name in VALUES}


def sealed() -> dict[str, Any]:
    """Return what the new application reads."""
    found: dict[str, Any] = with_store(Path("kv"), read_sealed)
    return found


@pytest.fixture
def base(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> Terminalless:
    """Return vaultctl beside a store that a `BaseEncryptionWrapper` wrote, with its key in the environment."""
    monkeypatch.setenv("STORE_KEY", b64encode(KEY).decode())

    async def fill(store: Any) -> None:
        for name, value in VALUES.items():
            await by_hand(store).put(name, value, collection="c")

    with_store(Path("kv"), fill)
    return vaultctl


@pytest.fixture
def strange(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> Terminalless:
    """Return vaultctl beside a store that a stranger's codec wrote, and that codec."""
    shutil.copy(strangers_codec.__file__, "strangers.py")
    monkeypatch.setenv("STRANGER", "a key of a stranger")
    codec = strangers_codec.Codec([b"a key of a stranger"])
    stored({name: codec.seal(value, "c", name) for name, value in VALUES.items()})
    return vaultctl


def test_a_wrapper_of_the_base_class(base: Terminalless) -> None:
    """A store of py-key-value's own base needs nothing but the cipher's name and the key, there and back."""
    there = base("migrate --codec aes-gcm --key env:STORE_KEY --yes --json --argon2 1,8,1")
    new = sealed()
    again = base("migrate --codec aes-gcm --key env:STORE_KEY --yes --json")
    back = base("migrate-back --codec aes-gcm --key env:STORE_KEY --yes --json")

    async def read(store: Any) -> dict[str, Any]:
        return {name: await by_hand(store).get(name, collection="c") for name in VALUES}

    assert [(0, 3), (0, 0), (0, 3)] == [(d.code, d.lines[-1]["changed"]) for d in (there, again, back)]
    assert VALUES == new
    assert VALUES == with_store(Path("kv"), read)
    assert ("migrate", "migrate-back") == (there.lines[-1]["command"], back.lines[-1]["command"])


def test_dry_runs_change_nothing(base: Terminalless) -> None:
    """Both ways can be asked what they would do, with `--dry-run` and `--check`, and change nothing."""
    command = "--codec aes-gcm --key env:STORE_KEY --yes --json"
    old = contents()
    there = [base(f"migrate {command} {how} --argon2 1,8,1") for how in ("--dry-run", "--check")]
    assert old == contents()
    assert 0 == base(f"migrate {command} --argon2 1,8,1").code
    new = contents()
    back = [base(f"migrate-back {command} {how}") for how in ("--dry-run", "--check")]

    assert new == contents()
    assert [0, 4, 0, 4] == [done.code for done in (*there, *back)]
    assert [3] * 4 == [done.lines[-1]["changed"] for done in (*there, *back)]


def test_a_wrong_key(base: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that opens nothing is found out by the survey, before a write."""
    done = base("migrate --codec aes-gcm --key env:STORE_KEY --key-encoding hex --yes")
    monkeypatch.setenv("WRONG_KEY", "00" * 32)
    wrong = base("migrate --codec aes-gcm --key env:WRONG_KEY --key-encoding hex --yes")

    assert (2, 1) == (done.code, wrong.code)
    assert "the key is not hex" in done.err
    assert "the given keys open none of 3 legacy records" in wrong.err


RECIPE = """
[source]
format = "aes-gcm"
keys = ["file:key"]
key_encoding = "raw"
ciphertext = "box.ct"
nonce = "box.iv"
encoding = "hex"
aad = "app|{collection}|{key}"
constants = { v = 3, alg = "A256GCM" }
"""


def test_a_recipe(vaultctl: Terminalless) -> None:
    """A dictionary of fields with the names in the associated data is declared by a recipe, there and back."""

    def record(name: str) -> dict[str, Any]:
        aad = f"app|c|{name}".encode()
        text = AESGCM(KEY).encrypt(bytes(12), json.dumps(VALUES[name]).encode(), aad)
        return {"v": 3, "alg": "A256GCM", "box": {"iv": bytes(12).hex(), "ct": text.hex()}}

    stored({name: record(name) for name in VALUES})
    for name, content in (("key", KEY), ("recipe.toml", RECIPE.encode())):
        Path(name).write_bytes(content)
        Path(name).chmod(0o600)

    there = vaultctl("migrate --recipe recipe.toml --yes --json --argon2 1,8,1")
    new = sealed()
    back = vaultctl("migrate-back --recipe recipe.toml --yes --json")

    assert [(0, 3), (0, 3)] == [(done.code, done.lines[-1]["changed"]) for done in (there, back)]
    assert VALUES == new
    for name, value in contents().items():
        assert (3, "A256GCM", {"iv", "ct"}) == (value["v"], value["alg"], set(value["box"]))
        iv, text = (bytes.fromhex(value["box"][part]) for part in ("iv", "ct"))
        assert VALUES[name] == json.loads(AESGCM(KEY).decrypt(iv, text, f"app|c|{name}".encode()))


@pytest.mark.parametrize(
    "folder", ["0003-fernet-0.5", "0004-plaintext", "0007-fastmcp-cli", "0008-authsome-0.4-flat"]
)
def test_the_well_known_cases(vaultctl: Terminalless, tmp_path: Path, folder: str) -> None:
    """The general command takes the recipes of the other commands, too."""
    recipe = thawed(folder, tmp_path) / "recipe.toml"

    done = vaultctl(f"migrate --recipe {recipe} --yes --json")

    assert done.code in {0, 3}
    assert done.lines[-1]["changed"]


class TestStranger:
    """A codec in Python that knows nothing of kvseal."""

    def test_there_and_back(self, strange: Terminalless) -> None:
        """It opens every record under its names, and the old application reads what comes back."""
        before = contents()
        there = strange(f"migrate {STRANGER.format('Codec')} --yes --json --argon2 1,8,1")
        new = sealed()
        back = strange(f"migrate-back {STRANGER.format('Codec')} --yes --json")

        assert [(0, 3), (0, 3)] == [(done.code, done.lines[-1]["changed"]) for done in (there, back)]
        assert VALUES == new
        assert before == contents()

    def test_a_recipe(self, strange: Terminalless) -> None:
        """A recipe names it as well."""
        Path("recipe.toml").write_text(
            '[source]\nformat = "python"\ncodec = "strangers:Codec"\nkeys = ["env:STRANGER"]\n'
        )
        Path("recipe.toml").chmod(0o600)

        done = strange("migrate --recipe recipe.toml --yes --json --argon2 1,8,1")

        assert (0, 3) == (done.code, done.lines[-1]["changed"])
        assert VALUES == sealed()

    @pytest.mark.processes
    def test_workers(self, strange: Terminalless) -> None:
        """Several processes share the work, each with a codec of its own."""
        codec = strangers_codec.Codec([b"a key of a stranger"])

        async def fill(store: Any) -> None:
            for name, value in VALUES.items():
                await store.put(name, codec.seal(value, "c", name), collection="c")

        with_tree(Path("tree"), fill)
        command = f"migrate {STRANGER.format('Codec')} --workers 2 --yes --json --argon2 1,8,1"
        done = strange(f"{command} --store filetree:tree")

        assert (0, 3) == (done.code, done.lines[-1]["changed"])
        assert VALUES == with_tree(Path("tree"), read_sealed)

    def test_no_way_back(self, strange: Terminalless) -> None:
        """Without `seal` there is none, which is said before anything is touched; without `recognises` all is its."""
        command = STRANGER.format("OneWay")
        there = strange(f"migrate {command} --yes --json --argon2 1,8,1")
        back = strange(f"migrate-back {command} --yes")

        assert (0, 3) == (there.code, there.lines[-1]["changed"])
        assert (2, "") == (back.code, back.out)
        assert "nothing seals it" in back.err

    def test_what_it_raises_leaks_nothing(self, strange: Terminalless) -> None:
        """Whatever it raises, returns or changes is a failure of that record, of which no word is repeated."""
        before = contents()

        done = strange(f"migrate {STRANGER.format('Vandal')} --yes --argon2 1,8,1 --debug")

        after = contents()
        assert 3 == done.code
        assert (
            "failed: c/b: TamperedRecordError: the codec strangers:Vandal does not open the record"
            in done.err
        )
        assert "failed: c/c: MalformedRecordError" in done.err
        assert "hunter2" not in done.out + done.err
        assert (before["b"], before["c"]) == (after["b"], after["c"])
        assert before["a"] != after["a"]

    def test_a_codec_that_does_not_read_what_it_writes(self, strange: Terminalless) -> None:
        """On the way back, a record that would be lost stays sealed and is named."""
        strange(f"migrate {STRANGER.format('Codec')} --yes --argon2 1,8,1")

        done = strange(f"migrate-back {STRANGER.format('Liar')} --yes")

        assert 3 == done.code
        assert "does not seal the value (it reads another one back)" in done.err
        assert "hunter2" not in done.out + done.err
        assert VALUES == sealed()

    @pytest.mark.parametrize(
        "codec",
        [
            "python:strangers:Codec",
            "python:strangers:Mute",
            "python:strangers:Nothing",
            "python:nowhere:Codec",
            "python:strangers",
            "python:",
            "enigma",
            "aes-gcm",
        ],
    )
    def test_no_codec(self, strange: Terminalless, codec: str) -> None:
        """What is no codec, or lacks its key, is an error without a word of what it raised."""
        before = contents()

        done = strange(f"migrate --codec {codec} --yes --debug")

        assert (2, "") == (done.code, done.out)
        assert "hunter2" not in done.err.replace("msg = ", "")
        assert before == contents()

    def test_no_importing_of_its_keys(self, strange: Terminalless) -> None:
        """Such keys are not held by a vault: there is no option that says otherwise."""
        done = strange(f"migrate {STRANGER.format('Codec')} --import-keys --yes")

        assert (2, "") == (done.code, done.out)


@pytest.mark.parametrize("options", ["", "--key env:OLD", "--recipe recipe.toml --key env:OLD"])
def test_nothing_is_guessed(vaultctl: Terminalless, options: str) -> None:
    """Without a recipe or a codec, and with a key that belongs to none, it is a mistake."""
    Path("recipe.toml").write_text('[source]\nformat = "plaintext"\n')
    Path("recipe.toml").chmod(0o600)
    stored({"a": {"v": 1}})

    for command in ("migrate", "migrate-back"):
        assert 2 == vaultctl(f"{command} {options} --yes").code
