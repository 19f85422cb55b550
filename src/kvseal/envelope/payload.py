"""
What is sealed: one value as bytes, in one of three encodings.

`MESSAGEPACK` is what is written: a map of null, booleans, integers of 64 bits, floats, text, lists and maps.
`EXTENDED_JSON` is for the rest, integers of any size and lone surrogates as generalized UTF-8.
`JSON`, RFC 8259 text whose integers fit 64 bits, is read for ever, and written for kvseal's own entries.

Two strict encoders of different make prove that a value comes back as it is.  What ormsgpack packs that is
none of these, such as `bytes`, orjson refuses; what orjson would turn into something else, such as a tuple,
ormsgpack refuses (docs/decisions/0008).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import orjson
import ormsgpack

from kvseal import exact_json
from kvseal.errors import UnsealableValueError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Encoding(IntEnum):
    """How the plaintext of a record encodes the value: bits 0-1 of the record's flags."""

    JSON = 0
    EXTENDED_JSON = 1
    MESSAGEPACK = 2


STRICT_PACKING: Final = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
"""With it `ormsgpack.packb` raises `TypeError` for all that it would otherwise turn into something else."""


_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def encode(value: Mapping[str, Any]) -> tuple[bytes, int]:
    """
    Return the payload of *value* and its `Encoding`.

    Raises:
        UnsealableValueError: *value* would not come back as it is.
    """
    if type(value) is not dict:
        value = dict(value)
    try:
        packed = ormsgpack.packb(value, None, STRICT_PACKING)
        orjson.dumps(value, None, exact_json.STRICT)
    except TypeError:
        return exact_json.dumps_exact(value), Encoding.EXTENDED_JSON
    return packed, Encoding.MESSAGEPACK


def is_shallow(value: dict[str, Any]) -> bool:
    """
    Whether *value*, which has a strict packing, has scalars alone, and lists and dicts of them.

    Then its types prove what a second encoder would.  `False` says nothing of the value.
    """
    for part in value.values():
        kind = type(part)
        if kind in _SCALARS:
            continue
        if kind is not dict and kind is not list:
            return False
        if not _SCALARS.issuperset(map(type, part.values() if kind is dict else part)):
            return False
    return True


def encode_json(value: dict[str, Any]) -> bytes:
    """
    Return the payload of *value* in the encoding `JSON`, for an entry that every release has to read.

    Raises:
        UnsealableValueError: plain JSON cannot hold *value*.
    """
    text, portable = exact_json.dumps(value)
    if not portable:
        raise UnsealableValueError(
            "the value needs more than plain JSON", hint="use 64-bit integers and text"
        )
    return text


def decode(payload: bytes, encoding: int) -> dict[str, Any]:
    """
    Return the value that `encode` was given.

    Raises:
        ValueError: *payload* is not one map or object in this encoding.
    """
    value = _DECODERS[encoding](payload)
    if type(value) is not dict:
        msg = f"the payload is a {type(value).__name__}, not a map"
        raise ValueError(msg)
    return value


def is_strict(payload: bytes, encoding: int, value: dict[str, Any]) -> bool:
    """
    Whether *payload* is what a writer makes of the *value* that `decode` has read from it.

    `decode` takes MessagePack in longer forms, a key that is there twice, bin, float 32 and trailing bytes.
    JSON has no such form: its spaces and escapes are the writer's choice.
    """
    if encoding != Encoding.MESSAGEPACK:
        return True
    try:
        return encode(value) == (payload, Encoding.MESSAGEPACK)
    except UnsealableValueError:
        return False


_DECODERS: Final = (exact_json.loads_portable, exact_json.loads_exact, ormsgpack.unpackb)
