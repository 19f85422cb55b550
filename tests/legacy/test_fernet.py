"""Records that the real upstream wrapper wrote, under keys in every form that people have."""

from __future__ import annotations

import json
import traceback
from base64 import b64encode
from typing import Any

import pytest
from cryptography.fernet import Fernet, MultiFernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from tests.strategies import json_values, same, utf8_text

from kvseal.envelope.stored import DATA_FIELD, VERSION_FIELD, to_stored
from kvseal.errors import MalformedRecordError, RecordError, SecretError, TamperedRecordError, VaultError
from kvseal.legacy import CODECS, FERNET, FernetCodec, codecs_for
from kvseal.legacy.fernet import parse_key
from kvseal.legacy.fernet_keys import UPSTREAM

VALUE = {"user": "Ada", "n": 2**70, "x": float("inf"), "s": "\ud83d", "nested": {"a": [1, None, True, 1.0]}}
KEYS = [Fernet.generate_key() for _ in range(3)]


async def written(fernet: Fernet | MultiFernet | None = None, **options: str) -> dict[str, Any]:
    """Return what lies in the store below upstream's wrapper after it has put VALUE."""
    store = MemoryStore()
    if fernet is not None:
        wrapper = FernetEncryptionWrapper(store, fernet=fernet)
    else:
        wrapper = FernetEncryptionWrapper(store, **options)
    await wrapper.put("k", VALUE, collection="c")
    stored = await store.get("k", collection="c")
    assert stored is not None
    return stored


def stored_token(token: bytes) -> dict[str, Any]:
    """Return the mapping that upstream stores for a token."""
    return {DATA_FIELD: b64encode(token).decode(), VERSION_FIELD: 1}


async def test_one_key() -> None:
    """A record under one key opens with it."""
    assert VALUE == FernetCodec([parse_key(KEYS[0])]).open(await written(Fernet(KEYS[0])))


@pytest.mark.parametrize("writer", range(3), ids=["first", "second", "third"])
async def test_several_keys(writer: int) -> None:
    """A record opens with whichever of several keys wrote it."""
    codec = FernetCodec([parse_key(key) for key in KEYS])

    assert VALUE == codec.open(await written(Fernet(KEYS[writer])))


async def test_multi_fernet() -> None:
    """A MultiFernet writes with its first key, and its list of keys opens what it wrote."""
    stored = await written(MultiFernet([Fernet(key) for key in KEYS]))

    assert VALUE == FernetCodec([parse_key(key) for key in KEYS]).open(stored)
    assert VALUE == FernetCodec([parse_key(KEYS[0])]).open(stored)
    with pytest.raises(TamperedRecordError):
        FernetCodec([parse_key(key) for key in KEYS[1:]]).open(stored)


async def test_source_material_and_salt() -> None:
    """A record under source material and salt opens with the key that kvseal derives from them."""
    stored = await written(source_material="hunter2", salt="pepper")

    assert VALUE == FernetCodec([UPSTREAM.derive(b"hunter2", b"pepper")]).open(stored)
    with pytest.raises(TamperedRecordError):
        FernetCodec([UPSTREAM.derive(b"hunter2", b"pepper ")]).open(stored)


async def test_wrong_key() -> None:
    """None of the keys is one error, which says how many were tried."""
    codec = FernetCodec([parse_key(key) for key in KEYS[1:]])

    with pytest.raises(TamperedRecordError, match="none of 2 Fernet keys"):
        codec.open(await written(Fernet(KEYS[0])))


async def test_recognises_what_upstream_writes() -> None:
    """What upstream wrote is recognised, whichever key it takes."""
    assert FernetCodec([]).recognises(await written(Fernet(KEYS[0])))


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param({}, id="empty"),
        pytest.param({"user": "Ada"}, id="plaintext"),
        pytest.param(to_stored(bytes(60)), id="kvseal"),
        pytest.param({DATA_FIELD: "Z0FBQUFB", VERSION_FIELD: 2}, id="version-2"),
        pytest.param({DATA_FIELD: "Z0FBQUFB", VERSION_FIELD: True}, id="version-true"),
        pytest.param({DATA_FIELD: "Z0FBQUFB"}, id="no-version"),
        pytest.param({DATA_FIELD: 7, VERSION_FIELD: 1}, id="no-text"),
        pytest.param({DATA_FIELD: "AAAA", VERSION_FIELD: 1}, id="another-format"),
    ],
)
def test_recognises_nothing_else(stored: dict[str, Any]) -> None:
    """Plaintext, sealed records and other formats are not taken for Fernet records."""
    assert not FernetCodec([]).recognises(stored)


async def test_every_flipped_bit_of_the_text() -> None:
    """A damaged Fernet record never opens to another value."""
    stored = await written(Fernet(KEYS[0]))
    codec, text = FernetCodec([parse_key(KEYS[0])]), stored[DATA_FIELD].encode()
    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            opened = codec.open({DATA_FIELD: flipped.decode("latin-1"), VERSION_FIELD: 1})
        except RecordError:
            continue
        # Both layers of base64 ignore unused bits of their last character.
        assert same(VALUE, opened)


async def test_every_truncation() -> None:
    """A Fernet record that was cut off never opens."""
    stored = await written(Fernet(KEYS[0]))
    codec = FernetCodec([parse_key(KEYS[0])])
    for size in range(len(stored[DATA_FIELD])):
        with pytest.raises(RecordError):
            codec.open({DATA_FIELD: stored[DATA_FIELD][:size], VERSION_FIELD: 1})


@pytest.mark.parametrize(
    "text", ["Z0FBQUFB!", "Z0FBQUFB=", "Z0FBQUFBä"], ids=["sign", "padding", "not-ascii"]
)
def test_not_base64(text: str) -> None:
    """A record that is not base64 is malformed."""
    with pytest.raises(MalformedRecordError, match="not base64"):
        FernetCodec([parse_key(KEYS[0])]).open({DATA_FIELD: text, VERSION_FIELD: 1})


@pytest.mark.parametrize(
    "plaintext", [b"[]", b"hunter2", b"", b"\xff"], ids=["array", "text", "empty", "bytes"]
)
def test_token_that_holds_no_object(plaintext: bytes) -> None:
    """A token that opens to anything but a JSON object is malformed, and is not shown."""
    stored = stored_token(Fernet(KEYS[0]).encrypt(plaintext))

    with pytest.raises(MalformedRecordError, match="not a JSON object") as caught:
        FernetCodec([parse_key(KEYS[0])]).open(stored)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.exhaustive
@given(value=st.dictionaries(utf8_text, json_values, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_values_come_back_exactly(value: dict[str, Any]) -> None:
    """Whatever upstream could put comes back with its types, large integers and NaN."""
    # Upstream's own text joins two surrogates that stand side by side.
    expected = json.loads(json.dumps(value))
    store = MemoryStore()
    await FernetEncryptionWrapper(store, fernet=Fernet(KEYS[0])).put("k", value)
    stored = await store.get("k")

    assert stored is not None
    assert same(expected, FernetCodec([parse_key(KEYS[0])]).open(stored))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hunter2",
        b"hunter2" * 9,
        KEYS[0][:-1],
        KEYS[0][:-4],
        b"\xff" * 44,
        "ключ".encode(),
    ],
    ids=["empty", "passphrase", "long", "one-lost", "group-lost", "bytes", "not-ascii"],
)
def test_no_fernet_key(text: bytes) -> None:
    """What is no Fernet key is refused without being repeated, in message, hint or traceback."""
    with pytest.raises(SecretError) as caught:
        parse_key(text)
    shown = caught.value.hint + "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown
    assert KEYS[0][:20].decode() not in shown
    assert caught.value.__context__ is None


@pytest.mark.parametrize("around", [b"%s", b"%s\n", b" %s ", b"\t%s\r\n"])
def test_white_space_around_a_key(around: bytes) -> None:
    """White space around a key does not matter."""
    assert parse_key(KEYS[0]) == parse_key(around % KEYS[0])


def test_codecs_for() -> None:
    """Keys of one kind become one codec, in their order, whatever stands between them."""
    (codec,) = codecs_for((FERNET, parse_key(key)) for key in KEYS)

    assert FERNET == codec.format
    assert {FERNET} <= set(CODECS)
    assert {} == codec.open(stored_token(Fernet(KEYS[2]).encrypt(b"{}")))
    assert () == codecs_for([])


def test_key_of_a_kind_from_the_future() -> None:
    """A kind that a later kvseal has added is named, with what to do."""
    with pytest.raises(VaultError, match="kind 'enigma'") as caught:
        codecs_for([("enigma", bytes(32))])

    assert "upgrade kvseal" == caught.value.hint


@pytest.mark.parametrize("key", range(3), ids=["first", "second", "third"])
def test_tokens_in_a_lenient_spelling(key: int) -> None:
    """A token that only `cryptography`'s own lenient reader takes opens as well, with any of several keys."""
    token = Fernet(KEYS[key]).encrypt(b'{"a": 1}')
    lenient = token[:20] + b"\n" + token[20:]

    assert {"a": 1} == FernetCodec([parse_key(k) for k in KEYS]).open(stored_token(lenient))
