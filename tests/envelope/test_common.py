"""The common path does what the small steps do: the same records, the same values, the same errors."""

from __future__ import annotations

import json
from base64 import b64decode
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import any_text, json_objects, same

from kvseal.envelope import codec as codec_module
from kvseal.envelope import sealing
from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.payload import Encoding
from kvseal.envelope.record import Binding, Header
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.envelope.stored import DATA_FIELD, VERSION_FIELD, from_stored, to_stored
from kvseal.errors import RecordError
from kvseal.observe.counters import Count

if TYPE_CHECKING:
    from collections.abc import Callable

VAULT_ID, DEK = b"v" * 16, b"k" * 32

expiries = st.none() | st.integers(-(2**70), 2**70)


def codec(
    context: str = "",
    binding: Binding = Binding.COLLECTION_AND_KEY,
    urandom: Callable[[int], bytes] | None = None,
) -> RecordCodec:
    """Return the codec of a vault with one DEK; two with the same *urandom* write the same."""
    associations = Associations(VAULT_ID, context=context)
    given = {} if urandom is None else {"urandom": urandom}
    return RecordCodec(
        Sealer(DEK, 1, associations, binding=binding, **given),
        Opener({1: DEK}, associations, weakest=binding),
    )


def counting() -> Callable[[int], bytes]:
    """Return a urandom whose draws are 1, 2, 3 …"""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def outcome(read: Callable[..., Any], *args: Any) -> Any:
    """Return what *read* returns, or the class and the words of its error."""
    try:
        return read(*args)
    except RecordError as exc:
        return type(exc), exc.message, exc.hint


@given(
    value=json_objects,
    collection=any_text,
    key=any_text,
    context=st.sampled_from(["", "x", "\ud800"]),
    binding=st.sampled_from(Binding),
    expires_at=expiries,
)
@pytest.mark.exhaustive
def test_writes_what_the_steps_write(
    value: dict[str, Any], collection: str, key: str, context: str, binding: Binding, expires_at: int | None
) -> None:
    """With the same randomness the record is the same byte for byte, and each path opens the other's."""
    one, other = codec(context, binding, counting()), codec(context, binding, counting())
    stored = one.sealing[collection](value, key, expires_at)
    opened = one.opening[collection](stored, key)

    assert stored == other._seal_uncommon(collection, value, key, expires_at)
    assert opened[1] == Header.parse(from_stored(stored)).expires_at
    assert same(value, opened[0])
    assert same(opened[0], one._open_uncommon(collection, stored, key)[0])


@given(
    collection=any_text,
    other=any_text,
    key=any_text,
    expires_at=expiries,
    position=st.integers(0, 10**4),
    bit=st.integers(0, 7),
    keep=st.integers(0, 120),
)
def test_fails_as_the_steps_fail(
    collection: str, other: str, key: str, expires_at: int | None, position: int, bit: int, keep: int
) -> None:
    """Whatever was done to a stored value, the error is the one that the small steps find."""
    one = codec()
    stored = one.sealing[collection]({"a": "b" * 20}, key, expires_at)
    record = from_stored(stored)
    flipped = bytearray(record)
    flipped[position % len(record)] ^= 1 << bit
    text = stored[DATA_FIELD]
    texts = [text[:keep], text + text, text.rstrip("="), text[:keep] + "\n" + text[keep:], None, 1, b"x", ""]
    damaged: list[Any] = [
        to_stored(bytes(flipped)),
        to_stored(record[:keep]),
        to_stored(record + b"\0"),
        *({**stored, DATA_FIELD: one_text} for one_text in texts),
        *({**stored, VERSION_FIELD: version} for version in (1, 3, True, 2.0, "2", None)),
        {**stored, "extra": 1},
        {DATA_FIELD: text},
        {VERSION_FIELD: 2},
        {},
    ]
    for changed in damaged:
        assert outcome(one._open_uncommon, collection, changed, key) == outcome(
            one.opening[collection], changed, key
        )
    assert outcome(one._open_uncommon, other, stored, key) == outcome(one.opening[other], stored, key)


def test_unused_bits_of_base64_are_refused() -> None:
    """A second spelling of the same bytes is not the record, whichever number of bytes is left over."""
    one = codec()
    for size in range(6):
        stored = one.sealing["c"]({"a": "b" * size}, "k")
        text, record = stored[DATA_FIELD], from_stored(stored)
        left = text.rstrip("=")
        spellings = [
            spelling
            for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            if b64decode(spelling := left[:-1] + last + "=" * (len(text) - len(left))) == record
        ]

        assert (1, 16, 4)[len(record) % 3] == len(spellings)
        for spelling in spellings:
            stored[DATA_FIELD] = spelling
            assert (spelling == text) == (outcome(one.opening["c"], stored, "k") == ({"a": "b" * size}, None))


@pytest.mark.parametrize("encoding", list(Encoding), ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("expires_at", [None, 1_800_000_000_000], ids=["lasting", "expiring"])
def test_every_encoding_is_read(encoding: Encoding, expires_at: int | None) -> None:
    """Records of the encodings 0 and 1 open through the same door, for ever."""
    text = {Encoding.MESSAGEPACK: b"\x81\xa1a\x01"}.get(encoding, b'{"a":1}')
    record = Sealer(DEK, 1, Associations(VAULT_ID)).seal(text, "c", "k", encoding, expires_at)

    assert ({"a": 1}, expires_at) == codec().open(to_stored(record), "c", "k")


def test_what_is_written_is_messagepack() -> None:
    """`seal` writes encoding 2, extended JSON where that needs it, and kvseal's own entries in plain JSON."""
    one = codec()
    written = [
        one.seal({"a": 1}, "c", "k"),
        one.seal({"a": 1}, "c", "k", 5),
        one.seal({"a": 2**64}, "c", "k"),
        one.seal_json({"a": 1}, "c", "k"),
    ]

    assert [Encoding.MESSAGEPACK, Encoding.MESSAGEPACK, Encoding.EXTENDED_JSON, Encoding.JSON] == [
        Header.parse(from_stored(stored)).encoding for stored in written
    ]


def test_form_that_no_writer_gives() -> None:
    """`open` returns the value of a longer form, and `verify` says that no writer has made it."""
    one = codec()
    record = Sealer(DEK, 1, Associations(VAULT_ID)).seal(b"\x81\xa1a\xcc\x01", "c", "k", Encoding.MESSAGEPACK)

    assert ({"a": 1}, None) == one.open(to_stored(record), "c", "k")
    with pytest.raises(RecordError, match="no writer"):
        one.verify(to_stored(record), "c", "k")


def test_every_path_is_counted_once() -> None:
    """A record that was sealed or opened is one step, whichever path it took; one that does not open is none."""
    sealed, opened, associations = Count(), Count(), Associations(VAULT_ID)
    one = RecordCodec(
        Sealer(DEK, 1, associations, counts=sealed), Opener({1: DEK}, associations, counts={1: opened})
    )
    stored = [one.seal(value, "c", "k") for value in ({"a": 1}, {"a": 2**64}, {"a": "\ud800"})]
    for each in stored:
        one.open(each, "c", "k")
    with pytest.raises(RecordError):
        one.open(stored[0], "c", "another")

    assert (3, 3) == (sealed.number, opened.number)


def test_derived_key_is_renewed_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """No derived key seals more records than its limit, whichever paths they take together."""
    monkeypatch.setattr(sealing, "RECORDS_PER_DERIVED_KEY", 3)
    one = codec(urandom=counting())
    values = [{"a": 1}, {"a": 2**64}] * 4
    records = [from_stored(one.seal(value, str(n), "k")) for n, value in enumerate(values)]

    assert [1, 1, 1, 5, 5, 5, 9, 9] == [record[19] for record in records]


def test_bounded_number_of_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many collections and writers there are, nothing is kept for each."""
    monkeypatch.setattr(codec_module, "_COLLECTIONS", 10)
    monkeypatch.setattr(sealing, "_DERIVED_KEYS", 10)
    reader = codec()
    for number in range(35):
        stored = codec().seal({}, str(number), "k")

        assert ({}, None) == reader.open(stored, str(number), "k")
        assert len(reader.opening) <= 10
        assert len(reader._open.__self__.runs) <= 10  # type: ignore[attr-defined]


def test_forged_records_do_not_grow_the_reader() -> None:
    """Records of DEKs that do not exist leave nothing behind in the reader."""
    one = codec()
    record = from_stored(one.seal({}, "c", "k"))
    for number in range(2, 100):
        with pytest.raises(RecordError):
            one.open(to_stored(record[:4] + number.to_bytes(4, "big") + record[8:]), "c", "k")

    assert 0 == len(one._open.__self__.runs)  # type: ignore[attr-defined]


def test_reprs_of_what_is_kept_show_nothing() -> None:
    """The caches of writer and reader show how much they hold, and not what."""
    one = codec()
    one.open(one.seal({}, "c", "k"), "c", "k")

    assert ("<BoundedCache of 1>", "<BoundedCache of 1>") == (repr(one.sealing), repr(one.opening))


def test_stored_value_is_json() -> None:
    """What is stored goes through any JSON store unchanged."""
    stored = codec().seal({"a": float("nan")}, "c", "k")

    assert stored == json.loads(json.dumps(stored))
