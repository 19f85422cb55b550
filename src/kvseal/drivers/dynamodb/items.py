"""
Items of a `DynamoDBStore` table as entries, and how large an item may be.

An item has the attributes `collection`, `key`, `value`, which is the body as text, and `ttl`, the expiry
in whole seconds.  The store lets `ttl` win over the body, which has the expiry to the microsecond: an entry
is dead when either is over.

DynamoDB takes items of 400 KB with the names of their attributes, keys of 1,024 bytes, collections of 2,048,
and no empty name.  What does not fit is refused here, before anything is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from kvseal.drivers.base import Entry, content, has_expired
from kvseal.drivers.body import UnreadableBodyError, patch_body, read_body, write_body
from kvseal.errors import EntryTooLargeError, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kvseal.drivers.base import Replacement, _Keep
    from kvseal.drivers.body import Body

ITEM_BYTES: Final = 400 * 1024
KEY_BYTES: Final = 1024
COLLECTION_BYTES: Final = 2048
READ_UNIT: Final = 4096
WRITE_UNIT: Final = 1024

_NAMES: Final = len("collection") + len("key") + len("value")
_CERTAINLY_SMALL: Final = ITEM_BYTES // 8
"""Characters of a value whose body fits whatever they are: JSON writes each in six bytes at most."""
_TIME: Final = datetime(2024, 2, 29, 23, 59, 59, 123457, tzinfo=timezone.utc)
"""A time whose text is as long as that of any."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an item, the attribute `ttl` that it had when it was read, and when the store stops."""

    collection: str
    key: str
    ttl: Mapping[str, Any] | None = field(default=None, hash=False)
    dies_at: datetime | None = None

    @property
    def item_key(self) -> dict[str, Any]:
        """The primary key, as requests have it."""
        return item_key(self.collection, self.key)

    @property
    def is_dead(self) -> bool:
        """Whether the store reads it as missing by now."""
        return has_expired(self.dies_at)


def item_key(collection: str, key: str) -> dict[str, Any]:
    """Return the primary key of these names, as requests have it."""
    return {"collection": {"S": collection}, "key": {"S": key}}


def entry_of(item: Mapping[str, Any]) -> Entry:
    """Return what *item* says, with a `problem` where the store could not read it."""
    collection, key = item["collection"]["S"], item["key"]["S"]
    text, ttl = item.get("value", {}).get("S"), item.get("ttl")
    stored = b"" if text is None else text.encode("utf-8", "surrogatepass")
    try:
        if text is None:
            msg = "it has no text as its value"
            raise UnreadableBodyError(msg)  # noqa: TRY301 - as any other problem of a body
        body = _own_body(stored, collection, key)
        expires_at, dies_at = _times(body.expires_at, ttl)
    except UnreadableBodyError as exc:
        return Entry(
            collection, key, None, locator=Place(collection, key, ttl), stored=stored, problem=str(exc)
        )
    place = Place(collection, key, ttl, dies_at)
    return Entry(collection, key, body.value, body.created_at, expires_at, locator=place, stored=stored)


def is_live(entry: Entry) -> bool:
    """Whether the store would read *entry*, or fail to, rather than find nothing."""
    return not entry.locator.is_dead


def _own_body(stored: bytes, collection: str, key: str) -> Body:
    body = read_body(stored)
    if body.key is not None and (body.collection, body.key) != (collection, key):
        # Another program may have moved it: sealed here, it would be taken for what it is not.
        msg = f"it holds the body of {body.collection!r}/{body.key!r}"
        raise UnreadableBodyError(msg)
    return body


def _times(
    expires_at: datetime | None, ttl: Mapping[str, Any] | None
) -> tuple[datetime | None, datetime | None]:
    """Return the expiry as exactly as the item has it, and when the store stops reading it."""
    seconds = None if ttl is None else ttl.get("N")
    if seconds is None:
        return expires_at, expires_at
    try:
        native = datetime.fromtimestamp(int(seconds), timezone.utc)
    except (ValueError, OverflowError, OSError):
        msg = "its ttl is not a time in whole seconds"
        raise UnreadableBodyError(msg) from None
    if expires_at is not None and ttl_of(expires_at) == str(int(seconds)):
        return expires_at, native
    return native, native


def ttl_of(expires_at: datetime) -> str:
    """Return what the store writes into `ttl`."""
    return str(int(expires_at.timestamp()))


def checked_names(collection: str, key: str) -> tuple[str, str]:
    """Return the names; raises `StoreError` if DynamoDB cannot hold one."""
    check_name(collection, "collection", COLLECTION_BYTES)
    check_name(key, "key", KEY_BYTES)
    return collection, key


def check_name(name: str, what: str, most: int) -> None:
    """Raise `StoreError` unless *name* is UTF-8 text of 1 to *most* bytes."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= most:
        msg = f"DynamoDB cannot hold this {what} of {len(name)} characters"
        raise StoreError(msg, hint=f"a {what} is UTF-8 text of 1 to {most:,} bytes")


def new_item(entry: Entry) -> dict[str, Any]:
    """
    Return the item of a new *entry*.

    Raises:
        StoreError: DynamoDB cannot hold its names, or it lacks one or its value.
        EntryTooLargeError: it is larger than an item may be.
    """
    collection, key, value = content(entry)
    names = checked_names(collection, key)
    body = write_body(value, created_at=entry.created_at, expires_at=entry.expires_at, names=names)
    ttl = None if entry.expires_at is None else ttl_of(entry.expires_at)
    _check_size(collection, key, body, ttl)
    item = {**item_key(*names), "value": {"S": body}}
    return item if ttl is None else {**item, "ttl": {"N": ttl}}


def new_body(replacement: Replacement) -> str:
    """Return the body that *replacement* writes; raises `EntryTooLargeError` if it would not fit."""
    place, entry = replacement.entry.locator, replacement.entry
    body = patch_body(entry.stored, replacement.value, replacement.expires_at)
    _check_size(place.collection, place.key, body, new_ttl(place, replacement.expires_at))
    return body


def new_ttl(place: Place, expires_at: datetime | _Keep | None) -> str | None:
    """Return the `ttl` that a replacement leaves behind."""
    if isinstance(expires_at, datetime):
        return ttl_of(expires_at)
    kept = place.ttl if expires_at is not None else None
    return None if kept is None else str(kept.get("N", ""))


def check_value(collection: str, key: str, value: Mapping[str, Any]) -> None:
    """Raise `EntryTooLargeError` if the store could not put *value* under these names, with an expiry."""
    if _characters(value) <= _CERTAINLY_SMALL:
        return
    body = write_body(value, created_at=_TIME, expires_at=_TIME, names=(collection, key))
    _check_size(collection, key, body, ttl_of(_TIME))


def _characters(value: Mapping[str, Any]) -> int:
    """Return how much text is in *value*, of one with more than text and numbers in it: too much to know."""
    total = 0
    for name, part in value.items():
        if type(part) is str:
            total += len(part)
        elif type(part) is not int:
            return ITEM_BYTES
        total += len(name)
    return total


def _check_size(collection: str, key: str, body: str, ttl: str | None) -> None:
    size = item_size(collection, key, body.encode("utf-8", "surrogatepass"), ttl)
    if size > ITEM_BYTES:
        msg = f"an item of {size:,} bytes is more than DynamoDB can hold, which is {ITEM_BYTES:,}"
        raise EntryTooLargeError(msg, hint="keep large values elsewhere, or split them; nothing was written")


def item_size(collection: str, key: str, body: bytes, ttl: str | None) -> int:
    """Return the size of an item as DynamoDB counts it, with the names of its attributes."""
    size = _NAMES + len(collection.encode()) + len(key.encode()) + len(body)
    if ttl is not None:
        digits = ttl.lstrip("-").strip("0")
        size += len("ttl") + 1 + math.ceil(len(digits) / 2) + ttl.startswith("-")
    return size


def size_of(entry: Entry) -> int:
    """Return the size of a stored *entry*."""
    place = entry.locator
    return item_size(place.collection, place.key, entry.stored, new_ttl(place, entry.expires_at))


def units_of_scan(entries: Sequence[Entry]) -> int:
    """Return what a consistent scan of one page takes: a unit for each 4 KB."""
    return math.ceil(sum(map(size_of, entries)) / READ_UNIT)


def units_of_writes(replacements: Sequence[Replacement]) -> int:
    """Return what these replacements take: of each, a unit for each KB of the larger of old and new."""
    total = 0
    for replacement in replacements:
        place, old = replacement.entry.locator, size_of(replacement.entry)
        body = new_body(replacement).encode("utf-8", "surrogatepass")
        ttl = new_ttl(place, replacement.expires_at)
        total += math.ceil(max(old, item_size(place.collection, place.key, body, ttl)) / WRITE_UNIT)
    return total
