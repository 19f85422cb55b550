"""Names inside: what a record says of itself, and to whom."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.inside import names_field, parse_names, payload_of
from kvseal.envelope.record import Binding, Header
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.envelope.stored import DATA_FIELD, from_stored, has_names_inside, to_stored
from kvseal.errors import (
    MalformedRecordError,
    MovedRecordError,
    RecordError,
    TamperedRecordError,
    UnsealableValueError,
)

DEK, VAULT_ID = b"k" * 32, b"v" * 16
VALUE = {"user": "Ada", "roles": ["admin", None, True]}
WELL_FORMED = st.text(max_size=20)
PAIR = "\ud83d\udd11"


def codec(
    *,
    names_inside: bool = True,
    loses_names: bool = False,
    binding: Binding = Binding.COLLECTION_AND_KEY,
    context: str = "",
) -> RecordCodec:
    """Return a codec of one DEK."""
    associations = Associations(VAULT_ID, context=context)
    opener = Opener({1: DEK}, associations, weakest=binding)
    sealer = Sealer(DEK, 1, associations, binding=binding)
    return RecordCodec(sealer, opener, names_inside=names_inside, loses_names=loses_names)


@given(
    WELL_FORMED,
    WELL_FORMED,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(["", "tenant"]),
    st.sampled_from([VALUE, {}, {"a": 2**70}, {"a": "\ud800"}]),
)
def test_comes_back(
    collection: str, key: str, expires_at: int | None, context: str, value: dict[str, Any]
) -> None:
    """A record that carries its names opens by them, with its expiry, and says them to a holder of the DEK."""
    both = codec(context=context)

    stored = both.seal(value, collection, key, expires_at)

    assert has_names_inside(stored)
    assert (value, expires_at) == both.open(stored, collection, key)
    assert (value, expires_at) == both.verify(stored, collection, key)
    assert (value, expires_at) == codec(names_inside=False, context=context).open(stored, collection, key)
    assert (collection, key) == both.names_in(stored)


@given(WELL_FORMED, WELL_FORMED, WELL_FORMED, WELL_FORMED)
def test_moved(collection: str, key: str, other_collection: str, other_key: str) -> None:
    """Under any other names it is moved, and the error repeats none of the names in it."""
    stored = codec().seal(VALUE, f"{collection}<", f"{key}>")
    if (f"{collection}<", f"{key}>") == (other_collection, other_key):
        return

    with pytest.raises(MovedRecordError) as caught:
        codec().open(stored, other_collection, other_key)
    assert f"{key}>" not in f"{caught.value} {caught.value.hint}"


@given(st.binary(max_size=60))
def test_one_spelling(plaintext: bytes) -> None:
    """What is read as names is what a writer writes for them, byte for byte."""
    try:
        collection, key, payload = parse_names(plaintext)
    except MalformedRecordError:
        return

    assert plaintext == names_field(collection, key) + payload
    assert payload == payload_of(plaintext, collection, key)


def test_names_do_not_show() -> None:
    """The stored bytes have neither name; they are as much longer as the names are."""
    without, with_names = (
        from_stored(codec(names_inside=inside).seal(VALUE, "sessions", "https://host/key"))
        for inside in (False, True)
    )

    assert len("sessions" + "https://host/key") + 8 == len(with_names) - len(without)
    assert b"sessions" not in with_names
    assert b"https" not in with_names


def test_common_and_uncommon_path_agree() -> None:
    """A value that needs the slow path is sealed under the same flags as any other, with and without an expiry."""
    sealed = [codec().seal(value, "c", "k", at) for value in (VALUE, {"a": 2**70}) for at in (None, 5)]
    headers = [Header.parse(from_stored(one)) for one in sealed]

    assert [True] * 4 == [header.names_inside for header in headers]
    assert [None, 5] * 2 == [header.expires_at for header in headers]
    assert [2, 2, 1, 1] == [header.encoding for header in headers]


@pytest.mark.parametrize("binding", [Binding.COLLECTION, Binding.NONE])
@pytest.mark.parametrize("loses_names", [False, True])
def test_weaker_binding_has_none(binding: Binding, *, loses_names: bool) -> None:
    """Where the policy leaves a name out of the binding, no record carries names, which would bind it."""
    weaker = codec(binding=binding, loses_names=loses_names)
    stored = weaker.seal(VALUE, "c", "k")

    assert not has_names_inside(stored)
    assert weaker.is_current(stored)
    assert weaker.names_in(stored) is None
    assert (VALUE, None) == weaker.opening["c"](stored, "other")


def test_reserved_entries_have_none() -> None:
    """An entry of kvseal's own carries no names, whatever the vault writes otherwise."""
    stored = codec().seal_json({"a": 1}, "c", "k")

    assert not has_names_inside(stored)
    assert ({"a": 1}, None) == codec().open(stored, "c", "k")


def test_nameless_record_is_left_to_the_caller() -> None:
    """On a store that loses names the prepared reader hands over what is to be sealed anew, and `open` reads it."""
    nameless = codec(names_inside=False).seal(VALUE, "c", "k")
    losing = codec(loses_names=True)

    with pytest.raises(RecordError, match="does not carry"):
        losing.opening["c"](nameless, "k")
    assert (VALUE, None) == losing.open(nameless, "c", "k")
    assert (VALUE, None) == losing.opening["c"](losing.seal(VALUE, "c", "k"), "k")


def test_is_current() -> None:
    """A record without names is not what a writer with names inside would write; the other way round it may stay."""
    nameless, named = codec(names_inside=False).seal(VALUE, "c", "k"), codec().seal(VALUE, "c", "k")

    assert [False, True] == [codec().is_current(nameless), codec().is_current(named)]
    assert [True, True] == [codec(names_inside=False).is_current(one) for one in (nameless, named)]


def test_surrogates() -> None:
    """A lone surrogate is a name like any other; two that spell one character are refused by both sides."""
    stored = codec().seal(VALUE, "\ud800", "a\udfff")

    assert ("\ud800", "a\udfff") == codec().names_in(stored)
    for names in ((PAIR, "k"), ("c", PAIR)):
        with pytest.raises(UnsealableValueError, match="two surrogates"):
            codec().seal(VALUE, *names)
    with pytest.raises(MovedRecordError):
        codec().open(stored, PAIR, "k")
    pair = PAIR.encode("utf-8", "surrogatepass")
    with pytest.raises(MalformedRecordError):
        payload_of(names_field("c", "")[:-4] + len(pair).to_bytes(4, "big") + pair, "c", PAIR)


@pytest.mark.parametrize("flip", [0b0000_1000, 0b0000_0100, 0b0000_0010])
def test_flags_are_authenticated(flip: int) -> None:
    """A record that carries names does not open without the flag, or with another one changed."""
    record = bytearray(from_stored(codec().seal({**VALUE, "long": "x" * 40}, "", "", 7)))
    record[2] ^= flip

    with pytest.raises((TamperedRecordError, MalformedRecordError)) as caught:
        codec().open(to_stored(bytes(record)), "", "")
    assert caught.type is TamperedRecordError


def test_every_bit() -> None:
    """Each flipped bit of such a record is found, and never gives other names or another value."""
    stored = from_stored(codec().seal(VALUE, "c", "k", 7))
    for bit in range(8 * len(stored)):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordError):
            codec().open(to_stored(bytes(flipped)), "c", "k")
        # Without the flag there are no names to be had, and that it was removed shows when it is opened.
        with suppress(RecordError):
            assert codec().names_in(to_stored(bytes(flipped))) is None


def test_another_key_of_the_same_number() -> None:
    """A DEK that lost its number opens such records, too."""
    associations = Associations(VAULT_ID)
    other = os.urandom(32)
    reader = Opener({1: other}, associations, seconds={1: [DEK]})
    stored = codec().seal(VALUE, "c", "k")

    assert reader.names_in(from_stored(stored)) == ("c", "k")
    assert (VALUE, None) == RecordCodec(Sealer(DEK, 1, associations), reader).open(stored, "c", "k")


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": 1},
        {DATA_FIELD: "AQEK"},
        {DATA_FIELD: "AQEK", "__encryption_version__": 1},
        {DATA_FIELD: None, "__encryption_version__": 2},
        {DATA_FIELD: "", "__encryption_version__": 2},
        {DATA_FIELD: "AQ==", "__encryption_version__": 2},
        {DATA_FIELD: "????", "__encryption_version__": 2},
        {DATA_FIELD: "AQEC", "__encryption_version__": 2},
    ],
)
def test_claims(value: dict[str, Any]) -> None:
    """What is no sealed record, or one without the flag, claims no names, however odd it is."""
    assert not has_names_inside(value)
