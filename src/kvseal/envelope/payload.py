"""
What is sealed: the JSON text of one value, in one of two encodings.

`JSON` is RFC 8259 text whose integers fit 64 bits, so every parser reads it alike.
`EXTENDED_JSON` adds NaN, Infinity and -Infinity, integers of any size, and lone
surrogates as generalized UTF-8; it is used only for values that need it.
"""

from __future__ import annotations

from enum import IntEnum
from math import isfinite
from typing import TYPE_CHECKING, Any

import orjson

from kvseal import exact_json

if TYPE_CHECKING:
    from collections.abc import Mapping


class Encoding(IntEnum):
    """How the plaintext of a record encodes the value: bits 0-1 of the record's flags."""

    JSON = 0
    EXTENDED_JSON = 1


def encode(value: Mapping[str, Any]) -> tuple[bytes, int]:
    """
    Return the payload of *value* and its `Encoding`.

    Raises:
        UnsealableValueError: *value* would not come back as it is.
    """
    if type(value) is not dict:
        value = dict(value)
    # Nearly all values are flat.  This look at a token of five fields takes 0.2 us, `exact_json`'s 2 us.
    for part in value.values():
        kind = type(part)
        if kind is str or part is None or kind is int or kind is bool:
            continue
        if kind is not float or not isfinite(part):
            return _encode_uncommon(value)
    try:
        return orjson.dumps(value), 0
    except TypeError:
        return _encode_uncommon(value)


def decode(payload: bytes, encoding: int) -> dict[str, Any]:
    """
    Return the value that `encode` was given.

    Raises:
        ValueError: *payload* is not a JSON object in this encoding.
    """
    value = exact_json.loads_exact(payload) if encoding else orjson.loads(payload)
    if type(value) is not dict:
        msg = f"the payload is a JSON {type(value).__name__}, not an object"
        raise ValueError(msg)
    return value


def _encode_uncommon(value: dict[str, Any]) -> tuple[bytes, int]:
    text, portable = exact_json.dumps(value)
    return text, Encoding.JSON if portable else Encoding.EXTENDED_JSON
