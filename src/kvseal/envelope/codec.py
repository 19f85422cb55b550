"""
Values to stored records and back: the whole of the envelope in two calls.

Everything that reads or writes kvseal records, the wrapper and every recode,
goes through `RecordCodec`, so there is one order of checks and one set of errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvseal.envelope.payload import decode, encode
from kvseal.envelope.record import ENCODING_MASK, EXPIRES, expiry_of
from kvseal.envelope.stored import from_stored, to_stored
from kvseal.errors import MalformedRecordError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.envelope.sealing import Opener, Sealer


class RecordCodec:
    """Seals with the active DEK and opens with every DEK of one keyring, for one context."""

    __slots__ = ("_open", "_seal", "active_dek")

    active_dek: int
    """The number of the DEK that seals."""

    def __init__(self, sealer: Sealer, opener: Opener) -> None:
        self._seal = sealer.seal
        self._open = opener.open
        self.active_dek = sealer.dek

    def seal(
        self, value: Mapping[str, Any], collection: str, key: str, expires_at: int | None = None
    ) -> dict[str, Any]:
        """
        Return what to store for *value* under these names at the base store.

        *expires_at*, in Unix milliseconds, is sealed with it.

        Raises:
            UnsealableValueError: *value* would not come back as it is.
        """
        payload, encoding = encode(value)
        return to_stored(self._seal(payload, collection, key, encoding, expires_at))

    def open(self, stored: Mapping[str, Any], collection: str, key: str) -> tuple[dict[str, Any], int | None]:
        """
        Return the value and its sealed expiry in Unix milliseconds.

        Raises:
            RecordError: the subclass says why *stored* is no record of this vault for these names.
        """
        record = from_stored(stored)
        payload = self._open(record, collection, key)
        flags = record[2]
        try:
            value = decode(payload, flags & ENCODING_MASK)
        except ValueError:
            msg = "the record is authentic but its payload is not JSON of the encoding it names"
            raise MalformedRecordError(msg) from None
        return value, expiry_of(record) if flags & EXPIRES else None
