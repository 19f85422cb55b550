"""authsome's records and keys: what the real software wrote opens, and nothing else is taken for it."""

from __future__ import annotations

import json
import shutil
import traceback
from base64 import b64encode
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from argon2.low_level import Type, hash_secret_raw
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.legacy.test_fernet import stored_token
from tests.strategies import json_values, utf8_text

from kvseal import exact_json
from kvseal.drivers import driver_for
from kvseal.envelope.kdf import Argon2idParams
from kvseal.envelope.stored import DATA_FIELD, VERSION_FIELD, to_stored
from kvseal.errors import (
    EmptySecretError,
    ForeignVaultError,
    KDFParametersError,
    MalformedRecordError,
    RecordError,
    SecretError,
    TamperedRecordError,
    VaultMetaError,
    WrongLegacyKeyError,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.legacy import (
    AUTHSOME,
    AUTHSOME_FLAT,
    CODECS,
    AuthsomeCodec,
    AuthsomeControlCodec,
    AuthsomeFlatCodec,
    FernetCodec,
    PlaintextCodec,
    codecs_for,
)
from kvseal.legacy.authsome_keys import AuthsomeKeyRecord, read_master_key_file, read_master_secret
from kvseal.legacy.base import merged
from kvseal.recoding import take_over_authsome

if TYPE_CHECKING:
    from kvseal.legacy import LegacyCodec

MIGRATIONS = Path(__file__).parent.parent.parent / "migrations"
FROZEN = ["0008-authsome-0.4-flat", "0009-authsome-0.5-envelope", "0010-authsome-mixed"]

FLAT_KEY = bytes(range(32))
DEK = bytes(range(32, 64))
NONCE = b"twelve bytes"
VALUE = {"data": '{"access_token":"hunter2","größe":1}'}
DOCUMENT = json.dumps(
    {"version": 1, "key": b64encode(FLAT_KEY).decode(), "algorithm": "AES-256-GCM"}, indent=2
)


def flat(plaintext: bytes = VALUE["data"].encode(), key: bytes = FLAT_KEY) -> dict[str, Any]:
    """Return a record as authsome 0.4 stores it."""
    sealed = AESGCM(key).encrypt(NONCE, plaintext, None)
    return {"data": f"{b64encode(NONCE).decode()}.{b64encode(sealed).decode()}"}


def envelope(plaintext: bytes = json.dumps(VALUE).encode(), key: bytes = DEK) -> dict[str, Any]:
    """Return a record as authsome 0.5 stores it."""
    sealed = NONCE + AESGCM(key).encrypt(NONCE, plaintext, None)
    return {DATA_FIELD: b64encode(sealed).decode(), VERSION_FIELD: 1}


def key_record(secret: bytes = b"correct horse", dek: bytes = DEK) -> dict[str, Any]:
    """Return a key record with parameters of its own, cheaper than those that authsome writes."""
    salt = b"sixteen byte sal"
    kek = hash_secret_raw(secret, salt, 1, 8, 1, 32, Type.ID)
    return {
        "version": 1,
        "kdf": {
            "alg": "argon2id",
            "salt": b64encode(salt).decode(),
            "memory_cost": 8,
            "time_cost": 1,
            "parallelism": 1,
        },
        "wrapped_dek": {
            "alg": "AES-256-GCM",
            "nonce": b64encode(NONCE).decode(),
            "ciphertext": b64encode(AESGCM(kek).encrypt(NONCE, dek, None)).decode(),
        },
    }


@pytest.mark.parametrize("folder", FROZEN)
async def test_what_the_real_software_wrote(folder: str, tmp_path: Path) -> None:
    """Every record of a frozen vault opens to what authsome itself read, by the key file it wrote."""
    shutil.copytree(MIGRATIONS / folder / "vault", tmp_path, dirs_exist_ok=True)
    lines = (MIGRATIONS / folder / "expected.jsonl").read_text(encoding="utf-8").splitlines()
    expected = {(line["collection"], line["key"]): line for line in map(json.loads, lines)}
    master = read_master_key_file((MIGRATIONS / folder / "keys" / "master.key").read_bytes())
    store = DiskStore(directory=tmp_path)
    driver = driver_for(store)

    takeover = await take_over_authsome(driver, [master])
    found = {(e.collection, e.key): e.value async for page in driver.scan() for e in page.entries}
    await driver.close()
    store._cache.close()

    assert expected.keys() == found.keys() - {(META_COLLECTION, META_KEY)}
    for names, line in expected.items():
        stored = found[names]
        assert stored is not None
        assert line.get("skipped", False) == takeover.leaves[0].recognises(stored)
        if "value" in line:
            assert line["value"] == _opened(stored, takeover.legacy)
        elif not line.get("skipped"):
            with pytest.raises(TamperedRecordError):
                _opened(stored, takeover.legacy)


def _opened(stored: Any, codecs: tuple[LegacyCodec, ...]) -> dict[str, Any]:
    (codec,) = [codec for codec in codecs if codec.recognises(stored)]
    return codec.open(stored)


def test_flat() -> None:
    """A flat record becomes the value that authsome 0.5 reads through its wrapper."""
    assert VALUE == AuthsomeFlatCodec([DEK, FLAT_KEY]).open(flat())


def test_envelope() -> None:
    """A record under the DEK opens to the value that was put."""
    assert VALUE == AuthsomeCodec([FLAT_KEY, DEK]).open(envelope())


@pytest.mark.exhaustive
@given(value=st.dictionaries(utf8_text, json_values, max_size=4))
def test_values_come_back_exactly(value: dict[str, Any]) -> None:
    """Whatever the wrapper of py-key-value could put comes back, large integers and NaN too."""
    text = json.dumps(value)

    assert repr(json.loads(text)) == repr(AuthsomeCodec([DEK]).open(envelope(text.encode())))


@given(text=utf8_text)
def test_texts_come_back_exactly(text: str) -> None:
    """Whatever text authsome encrypted comes back, JSON or not."""
    assert {"data": text} == AuthsomeFlatCodec([FLAT_KEY]).open(flat(text.encode()))


SAMPLES: dict[str, dict[str, Any]] = {
    "authsome-flat": flat(),
    "authsome": envelope(),
    "authsome-control": {"data": '["vault:v:github:metadata"]'},
    "fernet": stored_token(Fernet(b64encode(FLAT_KEY)).encrypt(b"{}")),
    "plaintext": {"data": "hunter2"},
}


@pytest.mark.parametrize("name", SAMPLES)
def test_formats_are_not_mixed_up(name: str) -> None:
    """Each record is recognised by the codec of its own format alone, among all that there are."""
    codecs = [*(codec([]) for codec in CODECS.values()), AuthsomeControlCodec(), PlaintextCodec()]

    found = [codec.format for codec in codecs if codec.recognises(SAMPLES[name])]

    assert name == found[0]
    assert set(found) <= {name, "plaintext"}


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param({}, id="empty"),
        pytest.param(to_stored(bytes(60)), id="kvseal"),
        pytest.param({**flat(), "more": 1}, id="flat-and-a-field"),
        pytest.param({"data": b"bytes"}, id="no-text"),
        pytest.param({"data": "hunter2.txt"}, id="plaintext-with-a-dot"),
        pytest.param({"data": flat()["data"].replace(".", ":")}, id="another-separator"),
        pytest.param({**envelope(), VERSION_FIELD: 2}, id="version-2"),
        pytest.param({**envelope(), VERSION_FIELD: True}, id="version-true"),
        pytest.param({DATA_FIELD: envelope()[DATA_FIELD]}, id="no-version"),
        pytest.param({DATA_FIELD: 7, VERSION_FIELD: 1}, id="envelope-without-text"),
    ],
)
def test_recognises_nothing_else(stored: dict[str, Any]) -> None:
    """Sealed records, plaintext and near misses are of neither format."""
    assert not AuthsomeFlatCodec([]).recognises(stored)
    assert not AuthsomeCodec([]).recognises(stored)


@pytest.mark.parametrize(
    ("text", "is_control"),
    [
        ("1", True),
        ("[]", True),
        ('["a", "b"]', True),
        ("2", False),
        ("[1]", False),
        ("[", False),
        ("", False),
    ],
)
def test_control_data(text: str, is_control: bool) -> None:
    """The version and lists of keys are control data; other plaintext is plaintext."""
    codec = AuthsomeControlCodec()

    assert is_control == codec.recognises({"data": text})
    assert not codec.recognises({"data": text, "more": 1})
    assert {"data": text} == codec.open({"data": text})
    assert [] == list(codec.key_candidates("c", {}))


@pytest.mark.parametrize("stored", [flat(), envelope()], ids=["flat", "envelope"])
def test_every_flipped_bit_of_the_text(stored: dict[str, Any]) -> None:
    """A damaged record never opens to another value, and raises nothing but record errors."""
    field = next(iter(stored))
    codec: Any = AuthsomeFlatCodec([FLAT_KEY]) if field == "data" else AuthsomeCodec([DEK])
    text = stored[field].encode()
    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            opened = codec.open({**stored, field: flipped.decode("latin-1")})
        except RecordError:
            continue
        # Base64 ignores the unused bits of its last character.
        assert VALUE == opened


@pytest.mark.parametrize("stored", [flat(), envelope()], ids=["flat", "envelope"])
def test_every_truncation(stored: dict[str, Any]) -> None:
    """A record that was cut off never opens."""
    field = next(iter(stored))
    codec: Any = AuthsomeFlatCodec([FLAT_KEY]) if field == "data" else AuthsomeCodec([DEK])
    for size in range(len(stored[field])):
        with pytest.raises(RecordError):
            codec.open({**stored, field: stored[field][:size]})


@pytest.mark.parametrize(
    ("codec", "stored"),
    [
        pytest.param(AuthsomeFlatCodec([DEK]), flat(), id="flat"),
        pytest.param(AuthsomeCodec([FLAT_KEY]), envelope(), id="envelope"),
        pytest.param(AuthsomeCodec([]), envelope(), id="none"),
    ],
)
def test_wrong_key(codec: LegacyCodec, stored: dict[str, Any]) -> None:
    """A record of another key is one error, which says how many keys were tried."""
    with pytest.raises(TamperedRecordError, match="authsome keys opens the record"):
        codec.open(stored)


@pytest.mark.parametrize(
    ("codec", "stored", "message"),
    [
        pytest.param(AuthsomeFlatCodec([FLAT_KEY]), flat(b"hunter2\xff"), "no text", id="bytes"),
        pytest.param(AuthsomeCodec([DEK]), envelope(b"[]"), "not a JSON object", id="array"),
        pytest.param(AuthsomeCodec([DEK]), envelope(b"hunter2"), "not a JSON object", id="text"),
        pytest.param(AuthsomeCodec([DEK]), {DATA_FIELD: "AAAA", VERSION_FIELD: 1}, "too short", id="short"),
        pytest.param(AuthsomeCodec([DEK]), {DATA_FIELD: "hunter2!", VERSION_FIELD: 1}, "not base64", id="no"),
    ],
)
def test_malformed(codec: LegacyCodec, stored: dict[str, Any], message: str) -> None:
    """What opens to something else, or is no record at all, is malformed, and is not shown."""
    with pytest.raises(MalformedRecordError, match=message) as caught:
        codec.open(stored)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_codecs_of_held_keys() -> None:
    """Keys that a vault holds become codecs by their kind."""
    flat_codec, envelope_codec = codecs_for([(AUTHSOME_FLAT, FLAT_KEY), (AUTHSOME, DEK)])

    assert VALUE == flat_codec.open(flat())
    assert VALUE == envelope_codec.open(envelope())


def test_merged_codecs() -> None:
    """Of two codecs of one format the second opens what the first cannot, and damage is still an error."""
    first, second = AuthsomeCodec([FLAT_KEY]), AuthsomeCodec([DEK])
    other = FernetCodec([])

    joined, alone = merged([first, other, second])

    assert [AUTHSOME, "fernet"] == [joined.format, alone.format]
    assert alone is other
    assert joined.recognises(envelope())
    assert VALUE == joined.open(envelope())
    assert VALUE == joined.open(envelope(key=FLAT_KEY))
    assert [] == list(joined.key_candidates("c", VALUE))
    with pytest.raises(TamperedRecordError):
        joined.open(envelope(key=bytes(32)))


@pytest.mark.parametrize(
    ("content", "secret", "key"),
    [
        pytest.param(DOCUMENT.encode(), DOCUMENT.encode(), FLAT_KEY, id="document"),
        pytest.param(b"\n" + DOCUMENT.encode() + b" \n", DOCUMENT.encode(), FLAT_KEY, id="white-space"),
        pytest.param(DOCUMENT.replace("\n", "\r\n").encode(), DOCUMENT.encode(), FLAT_KEY, id="windows"),
        pytest.param(b64encode(FLAT_KEY) + b"\n", b64encode(FLAT_KEY), FLAT_KEY, id="base64"),
        pytest.param(b"correct horse", b"correct horse", None, id="passphrase"),
        pytest.param(b'{"key": 1}', b'{"key": 1}', None, id="no-key"),
        pytest.param(b'{"key": "QUJD"}', b'{"key": "QUJD"}', None, id="short-key"),
        pytest.param(b"[]", b"[]", None, id="array"),
    ],
)
def test_key_file(content: bytes, secret: bytes, key: bytes | None) -> None:
    """A key file is read both ways: as 0.4 takes the key out of it, and as 0.5 takes all of it."""
    master = read_master_key_file(content)

    assert secret == master.secret
    assert key == master.flat


@pytest.mark.parametrize(("content", "key"), [(b64encode(FLAT_KEY), FLAT_KEY), (DOCUMENT.encode(), None)])
def test_master_secret(content: bytes, key: bytes | None) -> None:
    """A secret is any text, and a key where it is base64 of 32 bytes; JSON is read in files alone."""
    master = read_master_secret(b" " + content + b"\n")

    assert (content, key) == (master.secret, master.flat)


@pytest.mark.parametrize("read", [read_master_key_file, read_master_secret])
def test_no_secret(read: Any) -> None:
    """Nothing, and what is no text, is refused without being repeated."""
    with pytest.raises(EmptySecretError):
        read(b" \n")
    content = VALUE["data"].encode() + b"\xff"
    with pytest.raises(SecretError, match="UTF-8") as caught:
        read(content)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_master_key_is_not_shown_or_pickled() -> None:
    """A master key has no repr of its bytes and refuses `copy` and `pickle`."""
    master = read_master_key_file(DOCUMENT.encode())

    assert "algorithm" not in repr(master)
    with pytest.raises(TypeError, match="not pickled"):
        deepcopy(master)


def test_key_record() -> None:
    """The DEK comes out of the record with the right secret, by the record's own parameters."""
    record = AuthsomeKeyRecord.from_value(key_record())

    assert Argon2idParams(time_cost=1, memory_cost=8, parallelism=1) == record.params
    assert DEK == record.unwrap(b"correct horse")


def test_wrong_secret_for_the_key_record() -> None:
    """Another secret is said to be one, and is not repeated."""
    secret = VALUE["data"].encode()
    with pytest.raises(WrongLegacyKeyError, match="does not open authsome's key record") as caught:
        AuthsomeKeyRecord.from_value(key_record()).unwrap(secret)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


CHANGES: dict[str, tuple[tuple[str, ...], Any]] = {
    "version": (("version",), 2),
    "version-float": (("version",), 1.0),
    "version-true": (("version",), True),
    "more": (("more",), 1),
    "more-in-kdf": (("kdf", "more"), 1),
    "kdf-alg": (("kdf", "alg"), "argon2i"),
    "kdf-none": (("kdf",), None),
    "kdf-text": (("kdf",), "argon2id"),
    "salt-short": (("kdf", "salt"), "QUJD"),
    "salt-base64": (("kdf", "salt"), "!"),
    "salt-number": (("kdf", "salt"), 1),
    "alg": (("wrapped_dek", "alg"), "AES-128-GCM"),
    "nonce-short": (("wrapped_dek", "nonce"), "QUJD"),
    "ciphertext-short": (("wrapped_dek", "ciphertext"), "QUJD"),
    "wrapped-list": (("wrapped_dek",), []),
}


@pytest.mark.parametrize("name", CHANGES)
def test_no_key_record(name: str) -> None:
    """What has not exactly this shape is refused before anything is derived."""
    value = key_record()
    *parents, last = CHANGES[name][0]
    node = value
    for step in parents:
        node = node[step]
    node[last] = CHANGES[name][1]

    with pytest.raises(ForeignVaultError, match="not a key record"):
        AuthsomeKeyRecord.from_value(value)


@pytest.mark.parametrize("value", [{}, {"anything": 1}, {"version": 1}])
def test_another_programs_record(value: dict[str, Any]) -> None:
    """A record that is nothing of authsome's is refused."""
    with pytest.raises(ForeignVaultError):
        AuthsomeKeyRecord.from_value(value)


@pytest.mark.parametrize(
    ("field", "number"),
    [("time_cost", 65), ("time_cost", 0), ("parallelism", 65), ("memory_cost", 7), ("memory_cost", 1.0)],
)
def test_costs_out_of_bounds(field: str, number: Any) -> None:
    """A record with absurd parameters is refused before anything is derived."""
    value = key_record()
    value["kdf"][field] = number

    with pytest.raises(KDFParametersError):
        AuthsomeKeyRecord.from_value(value)


def test_memory_ceiling() -> None:
    """A record that asks for a terabyte is refused before anything is allocated."""
    value = key_record()
    value["kdf"]["memory_cost"] = 2**30

    with pytest.raises(KDFParametersError, match="above the ceiling"):
        AuthsomeKeyRecord.from_value(value).unwrap(b"correct horse")


async def store_with(*records: dict[str, Any], record: dict[str, Any] | None = None) -> MemoryStore:
    """Return a store with *records* and authsome's key *record*."""
    store = MemoryStore()
    for number, stored in enumerate(records):
        await store.put(f"k{number}", stored, collection="c")
    if record is not None:
        await store.put(META_KEY, record, collection=META_COLLECTION)
    return store


MASTER = read_master_secret(b"correct horse")
OLD_MASTER = read_master_key_file(DOCUMENT.encode())


async def test_takeover_of_a_mixed_store() -> None:
    """Two secrets, as an upgraded home can need, open both formats; both keys are to be adopted."""
    store = await store_with(flat(), envelope(), record=key_record())

    takeover = await take_over_authsome(store, [OLD_MASTER, MASTER])

    assert takeover.adopts is not None
    assert key_record() == takeover.adopts.record
    assert [(AUTHSOME, DEK), (AUTHSOME_FLAT, FLAT_KEY)] == [(k.kind, k.key) for k in takeover.adopts.keys]
    assert [VALUE, VALUE] == [_opened(stored, takeover.legacy) for stored in (flat(), envelope())]


async def test_a_key_that_nothing_needs_is_not_kept() -> None:
    """The flat key is adopted only if a flat record opened with it."""
    store = await store_with(envelope(), flat(key=DEK), record=key_record(OLD_MASTER.secret))
    other = read_master_secret(b64encode(DEK))

    takeover = await take_over_authsome(store, [OLD_MASTER, other])

    assert takeover.adopts is not None
    assert [DEK, DEK] == [key.key for key in takeover.adopts.keys]


REFUSED: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "no secret": ({"record": key_record()}, [], SecretError, "no master key"),
    "wrong secret": ({"record": key_record()}, [OLD_MASTER], WrongLegacyKeyError, "does not open"),
    "no flat key": (
        {"records": [flat(), envelope()], "record": key_record()},
        [MASTER],
        WrongLegacyKeyError,
        "no given key is for them",
    ),
    "wrong flat key": (
        {"records": [flat(key=DEK)]},
        [OLD_MASTER],
        WrongLegacyKeyError,
        "opens none of 1 records",
    ),
    "key record lost": ({"records": [envelope()]}, [MASTER], VaultMetaError, "key record is missing"),
    "another program": ({"record": {"theirs": 1}}, [MASTER], ForeignVaultError, "not a key record"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_takeover_refused(name: str) -> None:
    """Key material that is missing or wrong is one clear error, before anything is written."""
    made, masters, error, message = REFUSED[name]
    store = await store_with(*made.get("records", ()), record=made.get("record"))
    before = deepcopy(store._cache)

    with pytest.raises(error, match=message):
        await take_over_authsome(store, masters)

    assert list(before) == list(store._cache)


async def test_the_key_record_asks_for_too_much_memory() -> None:
    """The caller's ceiling holds for authsome's record, too."""
    store = await store_with(record=key_record())

    with pytest.raises(KDFParametersError, match="ceiling of 7 KiB"):
        await take_over_authsome(store, [MASTER], memory_ceiling=7)


def test_exact_json_reads_documents() -> None:
    """A key file of nothing but nested brackets is a passphrase, not a crash."""
    text = b"[" * 100_000

    with pytest.raises(ValueError, match="JSON"):
        exact_json.loads(text)
    assert text == read_master_key_file(text).secret
