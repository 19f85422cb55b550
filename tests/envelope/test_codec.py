"""Values to stored records and back, as a store keeps them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import any_text, json_objects, same

from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.record import Binding
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.envelope.stored import to_stored
from kvseal.errors import MalformedRecordError, RecordError, UnsealableValueError

VAULT_ID, DEK = b"v" * 16, b"k" * 32


def codec(binding: Binding = Binding.COLLECTION_AND_KEY) -> RecordCodec:
    """Return the codec of a vault with one DEK."""
    associations = Associations(VAULT_ID)
    return RecordCodec(
        Sealer(DEK, 1, associations, binding=binding), Opener({1: DEK}, associations, weakest=binding)
    )


@given(
    value=json_objects,
    collection=any_text,
    key=any_text,
    expires_at=st.none() | st.integers(-(2**63), 2**63 - 1),
)
@pytest.mark.exhaustive
def test_open_undoes_seal(value: dict[str, Any], collection: str, key: str, expires_at: int | None) -> None:
    """A value comes back exactly, with the expiry that was sealed with it, through any JSON store."""
    one = codec()
    stored = json.loads(json.dumps(one.seal(value, collection, key, expires_at=expires_at)))
    opened, expiry = one.open(stored, collection, key)

    assert same(value, opened)
    assert expires_at == expiry


def test_refused_value() -> None:
    """A value that would not come back is refused before anything is sealed."""
    with pytest.raises(UnsealableValueError):
        codec().seal({"a": (1,)}, "c", "k")


@pytest.mark.parametrize("binding", list(Binding), ids=lambda binding: binding.name.lower())
@pytest.mark.parametrize("expires_at", [None, 1_800_000_000_000], ids=["lasting", "expiring"])
def test_every_flipped_bit_of_the_stored_text_is_found(binding: Binding, expires_at: int | None) -> None:
    """Any one bit flipped in the JSON text that a store keeps is no JSON, the same mapping, or an error."""
    one = codec(binding)
    stored = one.seal({"a": 1}, "c", "k", expires_at=expires_at)
    text = json.dumps(stored).encode()
    outcomes: Counter[str] = Counter()
    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            parsed = json.loads(bytes(flipped))
        except ValueError:
            outcomes["no JSON"] += 1
            continue
        if parsed == stored:
            outcomes["no change"] += 1
            continue
        with pytest.raises(RecordError) as caught:
            one.open(parsed, "c", "k")
        outcomes[type(caught.value).__name__] += 1

    assert {"no JSON", "MalformedRecordError", "TamperedRecordError", "UnknownRecordVersionError"} <= {
        *outcomes
    }
    assert outcomes["TamperedRecordError"] > 100


@pytest.mark.parametrize(
    ("payload", "encoding"),
    [
        (b"[]", 0),
        (b"not JSON", 0),
        (b'{"a":NaN}', 0),
        (b"null", 1),
        (b"\xff", 1),
        (b"\x90", 2),
        (b"\xc0", 2),
        (b"\x81\xa1a", 2),
    ],
    ids=["array", "text", "nan-in-plain-json", "null", "no-utf-8", "packed-array", "packed-nil", "truncated"],
)
def test_authentic_payload_that_is_no_object(payload: bytes, encoding: int) -> None:
    """A payload that was sealed by a holder of the DEK but is no object is malformed, not a crash."""
    sealer = Sealer(DEK, 1, Associations(VAULT_ID))
    stored = to_stored(sealer.seal(payload, "c", "k", encoding=encoding))

    with pytest.raises(MalformedRecordError, match="authentic"):
        codec().open(stored, "c", "k")


def test_plaintext_is_not_in_the_error() -> None:
    """The error of an authentic but odd payload does not repeat what is in it, nor does its cause."""
    stored = to_stored(Sealer(DEK, 1, Associations(VAULT_ID)).seal(b"hunter2", "c", "k"))

    with pytest.raises(MalformedRecordError) as caught:
        codec().open(stored, "c", "k")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_active_dek() -> None:
    """The codec says which DEK it seals with."""
    assert 1 == codec().active_dek
