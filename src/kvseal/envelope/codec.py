"""
Values to stored records and back: the whole of the envelope in two calls.

Everything that reads or writes kvseal records, the wrapper and every recode,
goes through `RecordCodec`, so there is one order of checks and one set of errors.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvseal.envelope.bounded_cache import BoundedCache
from kvseal.envelope.common import opening, sealing
from kvseal.envelope.payload import decode, encode, encode_json, is_strict
from kvseal.envelope.record import ENCODING_MASK, Binding, Header, expiry_of
from kvseal.envelope.stored import from_stored, has_names_inside, to_stored
from kvseal.errors import MalformedRecordError, RecordError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.envelope.common import Open, Seal
    from kvseal.envelope.sealing import Opener, Sealer

_COLLECTIONS: Final = 4096


class RecordCodec:
    """
    Seals with the active DEK and opens with every DEK of one keyring, for one context.

    With *names_inside* the records that it seals carry their names, unless the binding leaves one out.  With
    *loses_names* they do, too, and `opening` leaves records that do not to a caller that can seal them anew.
    """

    __slots__ = (
        "_names_in",
        "_open",
        "_seal",
        "active_dek",
        "loses_names",
        "names_inside",
        "opening",
        "sealing",
    )

    active_dek: int
    """The number of the DEK that seals."""

    sealing: BoundedCache[str, Seal]
    """By collection at the base store: what `seal` does, prepared for it."""

    opening: BoundedCache[str, Open]
    """By collection at the base store: what `open` does, prepared for it."""

    def __init__(
        self, sealer: Sealer, opener: Opener, *, names_inside: bool = False, loses_names: bool = False
    ) -> None:
        binds_names = sealer.binding == Binding.COLLECTION_AND_KEY
        self._seal = sealer.seal
        self._open = opener.open
        self._names_in = opener.names_in
        self.active_dek = sealer.dek
        self.loses_names = loses_names and binds_names
        self.names_inside = (names_inside or loses_names) and binds_names
        # Names inside are for file trees and buckets, beside whose latency the long path is nothing.
        if self.names_inside:
            self.sealing = BoundedCache(
                lambda collection: partial(self._seal_uncommon, collection), _COLLECTIONS
            )
        else:
            self.sealing = BoundedCache(partial(sealing, sealer, self._seal_uncommon), _COLLECTIONS)
        if self.loses_names:
            self.opening = BoundedCache(
                lambda collection: partial(self._open_named, collection), _COLLECTIONS
            )
        else:
            self.opening = BoundedCache(partial(opening, opener, self._open_uncommon), _COLLECTIONS)

    def seal(
        self, value: Mapping[str, Any], collection: str, key: str, expires_at: int | None = None
    ) -> dict[str, Any]:
        """
        Return what to store for *value* under these names at the base store.

        *expires_at*, in Unix milliseconds, is sealed with it.

        Raises:
            UnsealableValueError: *value* would not come back as it is.
        """
        return self.sealing[collection](value, key, expires_at)

    def seal_json(self, value: dict[str, Any], collection: str, key: str) -> dict[str, Any]:
        """
        Return what to store for an entry of kvseal's own: in plain JSON, whatever `seal` writes.

        Raises:
            UnsealableValueError: plain JSON cannot hold *value*.
        """
        return to_stored(self._seal(encode_json(value), collection, key))

    def open(self, stored: Mapping[str, Any], collection: str, key: str) -> tuple[dict[str, Any], int | None]:
        """
        Return the value and its sealed expiry in Unix milliseconds.

        Raises:
            RecordError: the subclass says why *stored* is no record of this vault for these names.
        """
        if self.loses_names:
            return self._open_uncommon(collection, stored, key)
        return self.opening[collection](stored, key)

    def names_in(self, stored: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the names that the record carries, `None` where it has none; raises like `open`."""
        return self._names_in(from_stored(stored))

    def is_current(self, stored: Mapping[str, Any]) -> bool:
        """Whether the header of a sealed record says what `seal` would make it say."""
        header = Header.parse(from_stored(stored))
        return header.dek == self.active_dek and (header.names_inside or not self.names_inside)

    def verify(
        self, stored: Mapping[str, Any], collection: str, key: str
    ) -> tuple[dict[str, Any], int | None]:
        """
        Return what `open` does, if the payload is in the one form that a writer gives it.

        Raises:
            RecordError: as `open`; `MalformedRecordError` where only the form is another.
        """
        record, payload, value = self._opened(stored, collection, key)
        if not is_strict(payload, record[2] & ENCODING_MASK, value):
            msg = "the record is authentic, but no writer would encode its value in this form"
            raise MalformedRecordError(msg, hint="get still returns the value: put it again")
        return value, expiry_of(record)

    def _seal_uncommon(
        self, collection: str, value: Mapping[str, Any], key: str, expires_at: int | None = None
    ) -> dict[str, Any]:
        payload, encoding = encode(value)
        record = self._seal(payload, collection, key, encoding, expires_at, names_inside=self.names_inside)
        return to_stored(record)

    def _open_uncommon(
        self, collection: str, stored: Mapping[str, Any], key: str
    ) -> tuple[dict[str, Any], int | None]:
        record, _, value = self._opened(stored, collection, key)
        return value, expiry_of(record)

    def _open_named(
        self, collection: str, stored: Mapping[str, Any], key: str
    ) -> tuple[dict[str, Any], int | None]:
        if not has_names_inside(stored):
            msg = "the record does not carry its names"
            raise RecordError(msg)
        return self._open_uncommon(collection, stored, key)

    def _opened(
        self, stored: Mapping[str, Any], collection: str, key: str
    ) -> tuple[bytes, bytes, dict[str, Any]]:
        """Return the bytes of the record, its payload and its value."""
        record = from_stored(stored)
        payload = self._open(record, collection, key)
        try:
            return record, payload, decode(payload, record[2] & ENCODING_MASK)
        except ValueError:
            msg = "the record is authentic but its payload is no value of the encoding it names"
            raise MalformedRecordError(msg) from None
