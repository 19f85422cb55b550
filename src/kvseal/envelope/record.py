"""
The sealed record: what is stored in place of a plaintext value.

A record names the suite and the DEK that sealed it, so a reader never guesses,
and a migration recognises finished records by their first bytes.  Parsing is
strict: there is one valid encoding per record, and every length is checked
before it is used.  Nothing here performs I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from kvseal.envelope.aead import DERIVATION_SIZE, NONCE_SIZE, TAG_SIZE
from kvseal.envelope.payload import Encoding
from kvseal.errors import (
    MalformedRecordError,
    UnknownFlagsError,
    UnknownRecordVersionError,
    UnknownSuiteError,
)

FORMAT_VERSION: Final = 1
SUITE_XAES_256_GCM: Final = 1
VAULT_ID_SIZE: Final = 16
AAD_LABEL: Final = b"kvseal/record/v1\x00"

FIXED_SIZE: Final = 8
"""Header bytes 0-7: version, suite, flags, zero, DEK number."""
NONCE_END: Final = FIXED_SIZE + NONCE_SIZE
EXPIRY_SIZE: Final = 8
DERIVATION_END: Final = FIXED_SIZE + DERIVATION_SIZE
"""Up to here the records of one run of a writer are the same, but for their flags."""
EXPIRY_END: Final = NONCE_END + EXPIRY_SIZE
MIN_SIZE: Final = NONCE_END + TAG_SIZE
MIN_NAMES: Final = 8
"""Bytes of two empty names inside."""

ENCODING_MASK: Final = 0b0000_0011
EXPIRES: Final = 0b0000_0100
NAMES_INSIDE: Final = 0b0000_1000
BINDING_SHIFT: Final = 4
BINDING_MASK: Final = 0b0011_0000
MAX_DEK: Final = 2**32 - 1

_KNOWN_FLAGS: Final = ENCODING_MASK | EXPIRES | NAMES_INSIDE | BINDING_MASK
_EXPIRY_LIMIT: Final = 2**63
pack_length: Final = Struct(">I").pack


class Binding(IntEnum):
    """The names to which a record is bound: bits 4-5 of its flags.  A lower value is stronger."""

    COLLECTION_AND_KEY = 0
    COLLECTION = 1
    NONE = 2


@dataclass(frozen=True, slots=True)
class Header:
    """
    Everything in a record except its ciphertext.

    offset size
    0      1   format version = 1
    1      1   suite: 1 = XAES-256-GCM
    2      1   flags: bits 0-1 encoding, bit 2 expiry present, bit 3 names inside, bits 4-5 binding
    3      1   0
    4      4   DEK number, big-endian
    8      24  nonce
    32     8   only with bit 2: expiry, Unix milliseconds, big-endian, signed
    """

    dek: int
    nonce: bytes
    encoding: Encoding = Encoding.JSON
    binding: Binding = Binding.COLLECTION_AND_KEY
    expires_at: int | None = None
    names_inside: bool = False

    @classmethod
    def parse(cls, record: bytes) -> Header:
        """
        Read the header of *record* without opening it.

        Raises:
            MalformedRecordError: *record* is too short or its reserved byte or DEK number is not valid.
            UnknownRecordVersionError, UnknownSuiteError, UnknownFlagsError: written by a later kvseal.
        """
        if len(record) < MIN_SIZE:
            msg = f"the record is truncated: {len(record)} bytes, at least {MIN_SIZE} are needed"
            raise MalformedRecordError(msg)
        check_start(record)
        dek = int.from_bytes(record[4:FIXED_SIZE], "big")
        if dek == 0:
            raise no_dek_zero()
        flags = record[2]
        return cls(
            dek=dek,
            nonce=record[FIXED_SIZE:NONCE_END],
            encoding=Encoding(flags & ENCODING_MASK),
            binding=Binding((flags & BINDING_MASK) >> BINDING_SHIFT),
            expires_at=expiry_of(record),
            names_inside=bool(flags & NAMES_INSIDE),
        )

    def start(self) -> bytes:
        """Return header bytes 0-7."""
        flags = self.encoding | self.binding << BINDING_SHIFT
        flags |= (EXPIRES if self.expires_at is not None else 0) | (NAMES_INSIDE if self.names_inside else 0)
        return bytes((FORMAT_VERSION, SUITE_XAES_256_GCM, flags, 0)) + self.dek.to_bytes(4, "big")

    def encode(self) -> bytes:
        """Return the whole header: 32 bytes, or 40 with an expiry."""
        return self.start() + self.nonce + encode_expiry(self.expires_at)


def check_start(record: bytes) -> None:
    """Refuse a record whose version, suite, flags or reserved byte this kvseal does not know."""
    version, suite, flags, reserved = record[:4]
    if version != FORMAT_VERSION:
        msg = f"the record is of format version {version}; this kvseal reads version {FORMAT_VERSION}"
        raise UnknownRecordVersionError(msg, hint="upgrade kvseal")
    if suite != SUITE_XAES_256_GCM:
        msg = f"the record is sealed with suite {suite}; this kvseal knows suite {SUITE_XAES_256_GCM}"
        raise UnknownSuiteError(msg, hint="upgrade kvseal")
    known = not flags & ~_KNOWN_FLAGS and flags & ENCODING_MASK <= max(Encoding)
    if not known or flags & BINDING_MASK == BINDING_MASK or (flags & NAMES_INSIDE and flags & BINDING_MASK):
        msg = f"the record has flags {flags:#010b}, some of which this kvseal does not know"
        raise UnknownFlagsError(msg, hint="upgrade kvseal")
    if reserved:
        msg = f"the record's reserved byte is {reserved}, not 0"
        raise MalformedRecordError(msg)
    least = MIN_SIZE + (EXPIRY_SIZE if flags & EXPIRES else 0) + (MIN_NAMES if flags & NAMES_INSIDE else 0)
    if len(record) < least:
        msg = f"the record is truncated: {len(record)} bytes with these flags, at least {least} are needed"
        raise MalformedRecordError(msg)


def no_dek_zero() -> MalformedRecordError:
    """Return the error for a record that names DEK 0, which no vault ever has."""
    return MalformedRecordError("the record names DEK 0, and numbers start at 1")


def expiry_of(record: bytes) -> int | None:
    """Return the sealed expiry in Unix milliseconds, or None.  Not yet authenticated."""
    if not record[2] & EXPIRES:
        return None
    return int.from_bytes(record[NONCE_END : NONCE_END + EXPIRY_SIZE], "big", signed=True)


def encode_expiry(expires_at: int | None) -> bytes:
    """Return 8 bytes, or none; an expiry beyond 63 bits becomes the last possible one."""
    if expires_at is None:
        return b""
    clamped = max(-_EXPIRY_LIMIT, min(expires_at, _EXPIRY_LIMIT - 1))
    return clamped.to_bytes(EXPIRY_SIZE, "big", signed=True)


def name_field(name: str) -> bytes:
    """Return u32 length ‖ UTF-8.  A lone surrogate, which some stores allow in a name, is encoded as well."""
    encoded = name.encode("utf-8", "surrogatepass")
    return pack_length(len(encoded)) + encoded


def bound_names(binding: Binding, collection: str, key: str) -> tuple[str, str]:
    """Return the names for the AAD; a name that *binding* omits is empty."""
    return (
        collection if binding < Binding.NONE else "",
        key if binding == Binding.COLLECTION_AND_KEY else "",
    )


def context_field(context: str) -> bytes:
    """Return u32 length ‖ UTF-8 of a wrapper's context, or nothing if it has none."""
    return name_field(context) if context else b""
