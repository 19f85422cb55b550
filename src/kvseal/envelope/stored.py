"""
The stored value: a record as the two-field mapping of py-key-value's encryption wrappers.

`{"__encrypted_data__": <standard base64>, "__encryption_version__": 2}`.  Upstream's
Fernet wrapper writes version 1 and refuses 2, so neither misreads the other.
There is one mapping per record: no other field, number or base64 text is valid.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any, Final

from pybase64 import b64decode, b64encode_as_string

from kvseal.envelope.record import NAMES_INSIDE
from kvseal.errors import (
    LegacyRecordError,
    MalformedRecordError,
    PlaintextRecordError,
    RecordError,
    UnknownRecordVersionError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA_FIELD: Final = "__encrypted_data__"
VERSION_FIELD: Final = "__encryption_version__"
VERSION: Final = 2
LEGACY_VERSION: Final = 1

QUANTUM: Final = 4
"""Characters of base64 that stand for three bytes."""
LAST_CHARACTERS: Final = ("", "AQgw", "AEIMQUYcgkosw048")
"""By bytes beyond the last full three: the characters before the padding whose unused bits are 0."""
_MIGRATE: Final = "import it with vaultctl migrate-from-fernet"


def is_sealed(value: Mapping[str, Any]) -> bool:
    """Whether *value* claims to be a kvseal record: readable or not, it is never plaintext or legacy."""
    return DATA_FIELD in value and value.get(VERSION_FIELD) == VERSION


def has_names_inside(value: Mapping[str, Any]) -> bool:
    """Whether *value* claims to be a record that carries its names: then no names belong beside it."""
    text = value.get(DATA_FIELD)
    if not is_sealed(value) or type(text) is not str:
        return False
    try:
        flags = b64decode(text[:QUANTUM], None, True)[2]
    except (binascii.Error, ValueError, IndexError):
        return False
    return bool(flags & NAMES_INSIDE)


def from_stored(value: Mapping[str, Any]) -> bytes:
    """
    Return the record bytes of *value*.

    Raises:
        PlaintextRecordError: *value* has neither field.
        LegacyRecordError: another encryption wrapper wrote it.
        MalformedRecordError: it is not a valid encoding of a record.
    """
    try:
        text, version = value[DATA_FIELD], value[VERSION_FIELD]
    except KeyError:
        raise _without_a_field(value) from None
    if version != VERSION or type(version) is not int or len(value) != 2 or type(text) is not str:  # noqa: PLR2004
        raise _with_odd_fields(value)
    try:
        record = b64decode(text, None, True)
    except (binascii.Error, ValueError) as exc:
        msg = "the record is not base64"
        raise MalformedRecordError(msg) from exc
    # Decoders ignore the unused bits of the last character, so two texts would encode one record.
    surplus = len(record) % 3
    if surplus and text[surplus - QUANTUM] not in LAST_CHARACTERS[surplus]:
        msg = "the record's base64 text is not canonical"
        raise MalformedRecordError(msg)
    return record


def to_stored(record: bytes) -> dict[str, Any]:
    """Return the mapping that a store keeps for *record*."""
    return {DATA_FIELD: b64encode_as_string(record), VERSION_FIELD: VERSION}


def _without_a_field(value: Mapping[str, Any]) -> RecordError:
    if DATA_FIELD in value or VERSION_FIELD in value:
        return MalformedRecordError("the record has only one of its two fields")
    return PlaintextRecordError("the record is not encrypted", hint=_MIGRATE)


def _with_odd_fields(value: Mapping[str, Any]) -> RecordError:
    version = value[VERSION_FIELD]
    if type(version) is not int or version == VERSION:
        return MalformedRecordError(
            f"the record is not exactly {DATA_FIELD} as text and {VERSION_FIELD} as a number"
        )
    if version == LEGACY_VERSION:
        return LegacyRecordError("the record was sealed by another encryption wrapper", hint=_MIGRATE)
    msg = f"the record has encryption version {version}; this kvseal reads version {VERSION}"
    return UnknownRecordVersionError(msg, hint="upgrade kvseal")
