"""
Names inside: what a record says of itself, for a store that does not keep its names.

They stand before the payload, so a holder of the DEK wrote them, and an observer of the store does not
see them.  A reader that asks by names compares bytes; a reader that has none has to prove where they lead.
"""

from __future__ import annotations

import re
from typing import Final

from kvseal.envelope.record import name_field
from kvseal.errors import MalformedRecordError, MovedRecordError, UnsealableValueError

_LENGTH: Final = 4
_SURROGATE: Final = b"\xed"
"""The first byte of each surrogate, and of few other characters."""
_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
"""Two code points that many languages cannot tell from the one character that they stand for."""


def names_field(collection: str, key: str) -> bytes:
    """
    Return what stands before the payload in a record of these names.

    Raises:
        UnsealableValueError: a name spells a character as two surrogates.
    """
    return _field(collection) + _field(key)


def _field(name: str) -> bytes:
    """Return u32 length ‖ generalized UTF-8 of *name*; raises like `names_field`."""
    field = name_field(name)
    if _SURROGATE in field and _PAIR.search(name):
        msg = "the name spells a character as two surrogates"
        raise UnsealableValueError(msg, hint="write it as the one character that it is")
    return field


def payload_of(plaintext: bytes, collection: str, key: str) -> bytes:
    """
    Return what follows the names in *plaintext*, if they are these.

    Raises:
        MovedRecordError: the record is that of other names, which the error does not repeat.
        MalformedRecordError: there are no names.
    """
    expected = name_field(collection) + name_field(key)
    is_asked_for = plaintext.startswith(expected)
    if not is_asked_for or _SURROGATE in expected:
        parse_names(plaintext)
    if not is_asked_for:
        raise moved()
    return plaintext[len(expected) :]


def parse_names(plaintext: bytes) -> tuple[str, str, bytes]:
    """
    Return collection, key and payload.

    Raises:
        MalformedRecordError: a length reaches beyond the end, or a name is no generalized UTF-8.
    """
    collection, rest = _first_name(plaintext)
    key, payload = _first_name(rest)
    return collection, key, payload


def moved() -> MovedRecordError:
    """Return the error for a record that is not that of its place."""
    return MovedRecordError(
        "the record is that of another name: it was copied or moved here",
        hint="restore the entry from a backup, or delete it",
    )


def _first_name(plaintext: bytes) -> tuple[str, bytes]:
    end = _LENGTH + int.from_bytes(plaintext[:_LENGTH], "big")
    if len(plaintext) < max(end, _LENGTH):
        msg = "the record is authentic, but the names in it end too early"
        raise MalformedRecordError(msg)
    try:
        name = plaintext[_LENGTH:end].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        name = None
    # Python's decoder takes one spelling of each code point, but two of a character.
    if name is None or _PAIR.search(name):
        msg = "the record is authentic, but a name in it is not generalized UTF-8"
        raise MalformedRecordError(msg)
    return name, plaintext[end:]
