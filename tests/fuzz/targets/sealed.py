"""Records of kvseal: the header, the stored mapping, payloads in each encoding, and what a reader makes of them."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from typing import Any

from tests.fuzz.target import VECTORS, NotAnInputError, Target

from kvseal import exact_json
from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.inside import names_field, parse_names, payload_of
from kvseal.envelope.payload import Encoding
from kvseal.envelope.record import Header
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.envelope.stored import from_stored, to_stored
from kvseal.errors import KvsealError

NAMES = ("sessions", "user:1")
_COMPARED = 2**16
"""Bytes up to which a value is also compared with itself: what that needs would count for the parser."""
DEK, VAULT_ID = b"k" * 32, b"v" * 16


@cache
def vectors() -> dict[str, Any]:
    """Return the vectors of records."""
    value: dict[str, Any] = json.loads((VECTORS / "record-v1.json").read_text())
    return value


def mapping(data: bytes) -> dict[str, Any]:
    """Return the JSON object *data*; a store gives kvseal nothing else."""
    try:
        value = exact_json.loads(data)
    except ValueError:
        raise NotAnInputError from None
    if not isinstance(value, dict):
        raise NotAnInputError
    return value


def stored_records() -> list[bytes]:
    """Return every stored record of the vectors, right or wrong."""
    cases = [*vectors()["positive"], *vectors()["negative"]]
    return [json.dumps(case["stored"]).encode() for case in cases if isinstance(case.get("stored"), dict)]


def _records() -> list[bytes]:
    return [from_stored(case["stored"]) for case in vectors()["positive"]]


def _header(data: bytes) -> None:
    header = Header.parse(data)
    assert header.encode() == data[: len(header.encode())]


def _stored(data: bytes) -> None:
    value = mapping(data)
    assert to_stored(from_stored(value)) == value


@cache
def _codec() -> RecordCodec:
    associations = Associations(VAULT_ID)
    return RecordCodec(Sealer(DEK, 1, associations), Opener({1: DEK}, associations))


def _payloads() -> list[bytes]:
    return [bytes((case["encoding"],)) + bytes.fromhex(case["payload"]) for case in vectors()["positive"]]


def _payload(data: bytes) -> None:
    """Open an authentic record with any payload, as `get`, `verify` and a re-seal do."""
    encoding, payload = Encoding(data[0] % 3 if data else 0), data[1:]
    stored = to_stored(Sealer(DEK, 1, Associations(VAULT_ID)).seal(payload, *NAMES, encoding=encoding))
    value, _ = _codec().open(stored, *NAMES)
    if len(payload) < _COMPARED:
        again, _ = _codec().open(_codec().seal(value, *NAMES), *NAMES)
        assert repr(again) == repr(value)
    _codec().verify(stored, *NAMES)


def _plaintexts() -> list[bytes]:
    cases = (case for case in vectors()["positive"] if case.get("names_inside"))
    return [
        names_field(case["collection"], case["key"]) + bytes.fromhex(case["payload"])[:64]
        for case in cases
        if len(case["key"]) < _COMPARED
    ]


def _names(data: bytes) -> None:
    """Names have one spelling: what is read is written again as the same bytes, and read as asked for."""
    collection, key, payload = parse_names(data)
    assert names_field(collection, key) + payload == data
    assert payload_of(data, collection, key) == payload


def _opened(data: bytes) -> None:
    value = mapping(data)
    case = vectors()
    deks = {int(number): bytes.fromhex(key) for number, key in case["deks"].items()}
    opener = Opener(deks, Associations(bytes.fromhex(case["vault_id"])))
    RecordCodec(Sealer(DEK, 1, Associations(VAULT_ID)), opener).open(value, *NAMES)


def _texts() -> list[bytes]:
    return [
        b'{"a": [1, 2.5, "x", null, true, {"b": -0.0}]}',
        b'{"n": NaN, "i": 123456789012345678901234567890}',
    ]


def _json(data: bytes) -> None:
    """Parse any text, write it again if it is an object, and parse that: it has to be the same."""
    value = exact_json.loads(data)
    if isinstance(value, dict) and len(data) < _COMPARED:
        text, _ = exact_json.dumps(value)
        assert repr(exact_json.loads(text)) == repr(value)
    with suppress(ValueError):
        exact_json.loads_exact(data)
    exact_json.loads_portable(data)


TARGETS = (
    Target("record-header", ("envelope.record.Header.parse",), _records, _header),
    Target("record-stored", ("envelope.stored.from_stored",), stored_records, _stored, is_json=True),
    Target("record-opened", ("records.reading.Reader.read",), stored_records, _opened, is_json=True),
    Target("payload", ("envelope.payload.decode",), _payloads, _payload),
    Target(
        "names-inside",
        ("envelope.inside.parse_names",),
        _plaintexts,
        _names,
    ),
    Target(
        "json",
        ("exact_json.loads", "exact_json.loads_exact", "exact_json.loads_portable"),
        _texts,
        _json,
        is_json=True,
        allowed=(KvsealError, ValueError),
    ),
)
