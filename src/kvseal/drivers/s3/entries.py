"""
The entries of a bucket: what an object says, which names it has, and what takes its place.

The body has the value and the times, as other stores' bodies do, and no names.  A body that kvseal writes
has them where the object key does not give them back, unless the value says them itself to those who can
open it.  They count only where the store would keep them in this very object: a body that was copied to
another object is a problem of the entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from kvseal.drivers.base import Entry, content
from kvseal.drivers.body import UnreadableBodyError, patch_body, read_body, write_body
from kvseal.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.drivers.base import Replacement
    from kvseal.drivers.body import Body
    from kvseal.drivers.s3.names import ObjectNames

_CREATED, _EXPIRES = "created-at", "expires-at"


@dataclass(frozen=True, slots=True)
class Place:
    """The object of an entry; of what was read there, its ETag and what a new object has to repeat."""

    key: str
    etag: str = field(default="", compare=False)
    headers: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    is_tagged: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a bucket at one place, or why it is not read."""

    place: Place
    body: bytes = field(default=b"", repr=False)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object to write: its key, body and headers."""

    key: str
    body: bytes = field(repr=False)
    headers: Mapping[str, Any] = field(repr=False)


def entry_of(names: ObjectNames, found: Found, asked: tuple[str, str] | None = None) -> Entry:
    """
    Return the entry that was *found*, with a `problem` if it cannot be read.

    *asked* are names that lead to its place; they count only for a body without names.
    """
    place, problem = found.place, found.problem
    by_key = asked or names.names(place.key)
    try:
        body = read_body(found.body)
        own = _stated(names, body, place.key) or by_key
    except UnreadableBodyError as exc:
        problem = f"{place.key!r}: {problem or exc}"
        return Entry(*by_key, None, locator=place, stored=found.body, problem=problem)
    path = place.key if None in own else None
    times = (body.created_at, body.expires_at)
    return Entry(*own, body.value, *times, locator=place, stored=found.body, path=path)


def _stated(names: ObjectNames, body: Body, object_key: str) -> tuple[str, str] | None:
    """Return the names in *body*, if it has any; raises if the store would not keep them in this object."""
    if body.collection is None or body.key is None:
        return None
    if not names.lead_to(body.collection, body.key, object_key):
        msg = f"it holds the body of {body.collection!r}/{body.key!r}"
        raise UnreadableBodyError(msg)
    return body.collection, body.key


def new_object(names: ObjectNames, entry: Entry) -> NewObject:
    """Return the object that the store would write for *entry*; raises `StoreError` if it cannot hold it."""
    headers = {"ContentType": "application/json", "Metadata": _times({}, entry.created_at, entry.expires_at)}
    body = partial(write_body, created_at=entry.created_at, expires_at=entry.expires_at)
    if entry.path is not None and entry.value is not None and None in (entry.collection, entry.key):
        refuse_other_place(names, entry)
        return NewObject(entry.path, body(entry.value).encode(), headers)
    collection, key, value = content(entry)
    object_key = names.object_key(collection, key)
    is_shown = entry.names_inside or names.names(object_key) == (collection, key)
    stated = None if is_shown else (collection, key)
    return NewObject(object_key, body(value, names=stated).encode(), headers)


def replacing_object(names: ObjectNames, replacement: Replacement) -> NewObject:
    """
    Return what takes the place of the object that *replacement*'s entry was read from.

    Raises:
        StoreError: the entry was given names that are not stored there.
    """
    entry, place = replacement.entry, replacement.entry.locator
    inside, stated = replacement.names_inside, None
    if entry.key is not None:
        if not names.lead_to(entry.collection, entry.key, place.key):
            msg = f"{entry.collection!r}/{entry.key!r} is not stored in the object {place.key!r}"
            raise StoreError(msg, hint="a value that is sealed for it there could never be opened")
        if entry.collection is not None and names.names(place.key) != (entry.collection, entry.key):
            stated = None if inside else (entry.collection, entry.key)
    expires_at = replacement.expires_at
    body = patch_body(entry.stored, replacement.value, expires_at, names=stated, names_inside=inside)
    headers = dict(place.headers)
    if expires_at is None or isinstance(expires_at, datetime):
        headers["Metadata"] = _times(headers.get("Metadata", {}), entry.created_at, expires_at)
    return NewObject(place.key, body.encode(), headers)


def refuse_other_place(names: ObjectNames, entry: Entry) -> None:
    """Raise `StoreError` unless the path of *entry* is an object key that says of its names what it does."""
    path = entry.path or ""
    if names.names(path) != (entry.collection, entry.key) or "/" not in path:
        msg = f"an object {path!r} would be another entry here: this store keeps names in another way"
        raise StoreError(msg, hint="give the names when the backup is taken: --manifest")


def _times(
    metadata: Mapping[str, str], created_at: datetime | None, expires_at: datetime | None
) -> dict[str, str]:
    """Return *metadata* with the times that the store keeps there too, and never reads."""
    kept = {name: text for name, text in metadata.items() if name not in {_CREATED, _EXPIRES}}
    if created_at is not None:
        kept[_CREATED] = created_at.isoformat()
    if expires_at is not None:
        kept[_EXPIRES] = expires_at.isoformat()
    return kept
