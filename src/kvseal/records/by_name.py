"""
Single records by their names at the base store, for operators and scripts.

They go through the driver and never through the store's own client, so that nothing
that an attacker left in the backend is unpickled.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock, expiry
from kvseal.drivers.abilities import leads
from kvseal.drivers.base import Entry, Replacement
from kvseal.envelope.record import Header
from kvseal.envelope.stored import from_stored, has_names_inside, is_sealed
from kvseal.errors import Conflict, MissingRecordError, MovedRecordError
from kvseal.keys.meta import META_COLLECTION, refuse_reserved
from kvseal.legacy import FernetCodec, PlaintextCodec
from kvseal.vault.inside_names import located_by_any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from kvseal.drivers.base import Driver
    from kvseal.envelope.codec import RecordCodec

_ATTEMPTS: Final = 16


@dataclass(frozen=True, slots=True)
class RecordInfo:
    """The unauthenticated facts in a stored entry: it was not opened."""

    collection: str
    key: str
    format: str
    created_at: str | None
    expires_at: str | None
    stored_bytes: int
    version: int | None = None
    suite: str | None = None
    dek: int | None = None
    encoding: str | None = None
    binding: str | None = None
    names_inside: bool | None = None
    nonce: str | None = None
    sealed_expires_at: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the mapping that `vaultctl inspect --json` prints."""
        return asdict(self)


async def get_record(driver: Driver, codec: RecordCodec, collection: str, key: str) -> dict[str, Any]:
    """
    Return the value.

    Raises:
        MissingRecordError: there is no such record, or its sealed expiry has passed.
        RecordError: it cannot be opened.
    """
    entry = await _existing(driver, collection, key)
    value, expires_at = codec.open(_value(entry), collection, key)
    if expires_at is not None and expires_at <= clock.wall_ms():
        raise _missing(collection, key)
    return value


async def put_record(
    driver: Driver,
    codec: RecordCodec,
    collection: str,
    key: str,
    value: Mapping[str, Any],
    *,
    ttl: float | None = None,
) -> None:
    """
    Seal *value* and store it, for *ttl* seconds or for good; replaces an existing entry atomically.

    Raises:
        UnsealableValueError, ReservedNameError, InvalidTTLError: nothing was written.
        Conflict: other processes kept changing the entry.
    """
    refuse_reserved(collection)
    now = clock.utc_now()
    ends_at = None if ttl is None else expiry.expiry_of(ttl)
    expires_at = None if ends_at is None else expiry.moment(ends_at)
    sealed = codec.seal(value, collection, key, expires_at=ends_at)
    inside = has_names_inside(sealed)
    for _ in range(_ATTEMPTS):
        entry = await driver.get(collection, key)
        if entry is None:
            new = Entry(collection, key, sealed, now, expires_at, names_inside=inside)
            if await driver.put_if_absent(new):
                return
        elif (await driver.replace_many([Replacement(entry, sealed, expires_at, inside)]))[0]:
            return
    raise _contended(collection, key)


async def delete_record(driver: Driver, collection: str, key: str) -> None:
    """Delete the entry, readable or not; raises `MissingRecordError` if there is none."""
    for _ in range(_ATTEMPTS):
        if await driver.delete_if_unchanged(await _existing(driver, collection, key)):
            return
    raise _contended(collection, key)


async def inspect_record(driver: Driver, collection: str, key: str) -> RecordInfo:
    """
    Return the facts in the stored entry that can be read without a key.

    Raises:
        MissingRecordError: there is no such entry.
        MalformedRecordError, UnknownRecordVersionError: it claims to be sealed but is not a valid record.
    """
    entry = await _existing(driver, collection, key)
    if entry.value is None or not is_sealed(entry.value):
        return _info(entry)
    record = from_stored(entry.value)
    header = Header.parse(record)
    return _info(
        entry,
        version=record[0],
        suite="XAES-256-GCM",
        dek=header.dek,
        encoding=header.encoding.name,
        binding=header.binding.name,
        names_inside=header.names_inside,
        nonce=header.nonce.hex(),
        sealed_expires_at=_millisecond_text(header.expires_at),
    )


async def find_record(driver: Driver, collection: str, key: str) -> RecordInfo:
    """Return names, format and times of the stored entry, even if it is damaged; or `MissingRecordError`."""
    return _info(await _existing(driver, collection, key))


async def list_records(
    driver: Driver, collection: str | None = None, *, codecs: Sequence[RecordCodec] = ()
) -> AsyncIterator[Entry]:
    """
    Yield every live entry except the vault meta, of one *collection* or of all.

    With *codecs*, an entry whose names the store does not give back has those that its record carries, and a
    problem if they do not lead to its place.
    """
    prove = partial(leads, driver)
    async for page in driver.scan():
        for found in page.entries:
            try:
                entry = located_by_any(codecs, found, prove)
            except MovedRecordError as exc:
                entry = replace(found, problem=exc.message or "")
            if entry.collection != META_COLLECTION and collection in {None, entry.collection}:
                yield entry


async def _existing(driver: Driver, collection: str, key: str) -> Entry:
    refuse_reserved(collection)
    entry = await driver.get(collection, key)
    if entry is None:
        raise _missing(collection, key)
    return entry


def _missing(collection: str, key: str) -> MissingRecordError:
    return MissingRecordError(
        f"there is no record {key!r} in collection {collection!r}", hint="see vaultctl list"
    )


def _contended(collection: str, key: str) -> Conflict:
    return Conflict(f"other processes keep changing {key!r} in collection {collection!r}", hint="try again")


def _value(entry: Entry) -> Mapping[str, Any]:
    if entry.value is None:
        msg = f"the record {entry.key!r} in collection {entry.collection!r} cannot be read: {entry.problem}"
        raise MissingRecordError(msg)
    return entry.value


def _format(entry: Entry) -> str:
    if entry.value is None:
        return f"undecodable: {entry.problem}"
    if is_sealed(entry.value):
        return "kvseal"
    known = (FernetCodec(()), PlaintextCodec())
    return next((codec.format for codec in known if codec.recognises(entry.value)), "undecodable")


def _info(entry: Entry, **fields: Any) -> RecordInfo:
    return RecordInfo(
        collection=entry.collection or "",
        key=entry.key or "",
        format=_format(entry),
        created_at=None if entry.created_at is None else entry.created_at.isoformat(),
        expires_at=None if entry.expires_at is None else entry.expires_at.isoformat(),
        stored_bytes=len(entry.stored),
        **fields,
    )


def _millisecond_text(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    try:
        return (datetime.fromtimestamp(0, timezone.utc) + timedelta(milliseconds=milliseconds)).isoformat()
    except OverflowError:
        return f"{milliseconds} ms after 1970"
