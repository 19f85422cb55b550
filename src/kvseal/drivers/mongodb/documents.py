"""
Documents of a `MongoDBStore` as entries, and entries as documents.

    {_id, key, collection, version: 1, created_at: Date, expires_at: Date, value: {object: {…}}}

A document is kept as the BSON that the server sent: what a write compares is that, field by field, with
the order of its fields.  MongoDB itself takes 1 and 1.0 for equal.  A store that writes the same value with
a number of another type writes another creation time with it, so it is told apart all the same, unless that
was in the same millisecond.

A BSON date has milliseconds.  Creation times are rounded down and expiries up, so nothing ends before its
time, and a sealed expiry, which has milliseconds too and was rounded up as well, never ends before it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from bson.int64 import Int64
from bson.raw_bson import DEFAULT_RAW_BSON_OPTIONS, RawBSONDocument

from kvseal import exact_json, expiry
from kvseal.drivers.base import KEEP, Entry, _Keep, content
from kvseal.drivers.mongodb.names import checked_key
from kvseal.errors import EntryTooLargeError, UnsealableValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.drivers.base import Replacement
    from kvseal.drivers.mongodb.names import Names

RAW: Final[CodecOptions[RawBSONDocument]] = DEFAULT_RAW_BSON_OPTIONS.with_options(
    datetime_conversion=DatetimeConversion.DATETIME_MS
)
"""Documents come as the server's bytes, and a date beyond Python's calendar is no error."""
_PLAIN: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    dict, datetime_conversion=DatetimeConversion.DATETIME_MS
)

MOST_BYTES: Final = 16 * 2**20
"""Of one document: the server's limit, the same in every release."""
_SURELY_FITS: Final = MOST_BYTES // 5
"""Characters of text for which there is room, with four bytes each, beside all else in a sealed value."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND: Final = timedelta(milliseconds=1)
_JSON_TYPES: Final = (str, int, float, bool, type(None))


class _ForeignTypeError(ValueError):
    """A value has a type that JSON does not have; the message names it and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """The MongoDB collection of a document, and its `_id` as BSON: that of every type is hashable."""

    collection: str
    id: bytes


def id_of(document: Mapping[str, Any]) -> bytes:
    """Return the `_id` of *document* as BSON."""
    return bson.encode({"_id": document["_id"]}, codec_options=_PLAIN)


def entry_of(collection: str, document: RawBSONDocument, names: Names, problem: str = "") -> Entry:
    """Return what *document* of the MongoDB collection *collection* says, with a *problem* if it has one."""
    name, odd = _name(collection, document, names)
    value, unreadable = _value(document)
    created_at, odd_creation = _time(document, "created_at")
    expires_at, odd_expiry = _time(document, "expires_at")
    problem = problem or odd or unreadable or odd_creation or odd_expiry
    return Entry(
        name,
        document["key"],
        None if problem else value,
        created_at,
        expires_at,
        locator=Place(collection, id_of(document)),
        stored=bytes(document.raw),
        problem=problem,
    )


def expiry_of(document: RawBSONDocument) -> datetime | None:
    """Return when *document* expires, `None` where it says nothing that can be read."""
    return _time(document, "expires_at")[0]


def document_of(entry: Entry) -> RawBSONDocument:
    """Return the document of which *entry* was made."""
    return RawBSONDocument(entry.stored, RAW)


def unchanged(document: RawBSONDocument) -> dict[str, Any]:
    """Return the filter for a document that is still as *document* was read or written."""
    return {
        "_id": document["_id"],
        "key": document["key"],
        **{name: _same(document, name) for name in ("value", "created_at", "expires_at")},
    }


def new_document(entry: Entry) -> RawBSONDocument:
    """
    Return the document of *entry*, under an `_id` that is made of its key.

    `_id` is what MongoDB keeps unique: of any number of drivers that put one key, one succeeds.

    Raises:
        StoreError: a name or the value is missing, or MongoDB cannot hold the key.
        UnsealableValueError: JSON or MongoDB cannot hold the value.
        EntryTooLargeError: MongoDB has no room for it in one document.
    """
    collection, key, value = content(entry)
    fields = {
        "_id": hashlib.sha256(checked_key(key).encode()).hexdigest(),
        "collection": collection,
        "key": key,
        "version": 1,
        "value": _held(value),
        **_times(entry),
    }
    document = RawBSONDocument(bson.encode(fields, codec_options=_PLAIN), RAW)
    _check_size(len(document.raw))
    return document


def check_value(collection: str, key: str, value: Mapping[str, Any]) -> None:
    """Raise `EntryTooLargeError` if the document of *value* is too large; most are not made for that."""
    characters = sum(len(part) for part in value.values() if isinstance(part, str))
    if characters > _SURELY_FITS:
        new_document(Entry(collection, key, value))


def content_of(document: RawBSONDocument) -> dict[str, Any]:
    """Return the update that makes of another document of the same key what *document* is."""
    names = [name for name in document if name != "_id"]
    update: dict[str, Any] = {"$set": {name: document[name] for name in names}}
    if gone := {"created_at", "expires_at"}.difference(names):
        update["$unset"] = dict.fromkeys(gone, "")
    return update


@dataclass(frozen=True, slots=True)
class Swap:
    """One replacement, as MongoDB takes it: where, of what, and by what."""

    place: Place
    unchanged: dict[str, Any]
    update: dict[str, Any]

    @classmethod
    def of(cls, replacement: Replacement) -> Swap:
        """Return what *replacement* asks for; raises like `new_document`."""
        entry = replacement.entry
        document, value = document_of(entry), _held(replacement.value)
        old = document["value"]
        _check_size(
            len(entry.stored) - (len(old.raw) if isinstance(old, RawBSONDocument) else 0) + len(value.raw)
        )
        return cls(entry.locator, unchanged(document), _update(value, replacement.expires_at))

    def is_done(self, document: RawBSONDocument | None) -> bool:
        """Whether *document*, which was read since, is what this replacement would have made."""
        if document is None or document.get("created_at") != self.unchanged["created_at"].get("$eq"):
            return False
        value = document.get("value")
        if not isinstance(value, RawBSONDocument) or value.raw != self.update["$set"]["value"].raw:
            return False
        expected = self.unchanged["expires_at"].get("$eq")
        if "$unset" in self.update:
            expected = None
        return bool(document.get("expires_at") == self.update["$set"].get("expires_at", expected))


def milliseconds(time: datetime, *, up: bool) -> DatetimeMS:
    """Return *time* as MongoDB keeps it: rounded *up*, but never past the calendar, or down."""
    since = time - _EPOCH
    return DatetimeMS(min(-(-since // _MILLISECOND), expiry.LAST) if up else since // _MILLISECOND)


def _update(value: RawBSONDocument, expires_at: datetime | _Keep | None) -> dict[str, Any]:
    if expires_at is KEEP:
        return {"$set": {"value": value}}
    if isinstance(expires_at, datetime):
        return {"$set": {"value": value, "expires_at": milliseconds(expires_at, up=True)}}
    return {"$set": {"value": value}, "$unset": {"expires_at": ""}}


def _times(entry: Entry) -> dict[str, DatetimeMS]:
    times = {}
    if entry.created_at is not None:
        times["created_at"] = milliseconds(entry.created_at, up=False)
    if entry.expires_at is not None:
        times["expires_at"] = milliseconds(entry.expires_at, up=True)
    return times


def _same(document: RawBSONDocument, name: str) -> dict[str, Any]:
    """Return the condition that the field is what it is in *document*."""
    return {"$eq": document[name]} if name in document else {"$exists": False}


def _name(collection: str, document: RawBSONDocument, names: Names) -> tuple[str | None, str]:
    """Return the collection of *document* as the store calls it, and what is wrong about it."""
    name = document.get("collection")
    if not isinstance(name, str):
        # Where nothing is replaced in names, the place is the name.
        return (collection if names.leads_to(collection, collection) else None), ""
    if names.leads_to(name, collection):
        return name, ""
    problem = (
        f"it names the collection {name!r}, which the store would not look for here (?names=v1, ?names=plain)"
    )
    return (collection if names.leads_to(collection, collection) else None), problem


def _value(document: RawBSONDocument) -> tuple[Mapping[str, Any] | None, str]:
    """Return the value as the store reads it, and why it cannot be read."""
    # What a parser says quotes the value, which may be a plaintext secret.
    try:
        holder = document.get("value")
        held = holder.get("object") if isinstance(holder, RawBSONDocument) else None
        if isinstance(held, RawBSONDocument):
            return _as_json(bson.decode(held.raw, codec_options=_PLAIN)), ""
        value = exact_json.loads(held) if isinstance(held, str) else None
    except _ForeignTypeError as exc:
        return None, str(exc)
    except (ValueError, IndexError, BSONError, RecursionError):
        return None, "the value cannot be read"
    return (value, "") if isinstance(value, dict) else (None, "the document has no mapping in value.object")


def _as_json(value: Any) -> Any:
    """Return *value* with nothing but JSON's types in it, or raise `_ForeignTypeError`."""
    kind = type(value)
    if kind is dict:
        return {name: _as_json(item) for name, item in value.items()}
    if kind is list:
        return [_as_json(item) for item in value]
    if kind is Int64:
        return int(value)
    if kind in _JSON_TYPES:
        return value
    msg = f"the value has a {kind.__name__} in it, which JSON does not have"
    raise _ForeignTypeError(msg)


def _time(document: RawBSONDocument, name: str) -> tuple[datetime | None, str]:
    if name not in document:
        return None, ""
    time = document[name]
    if not isinstance(time, DatetimeMS):
        return None, f"{name} is not a date"
    try:
        return _EPOCH + int(time) * _MILLISECOND, ""
    except OverflowError:
        return None, f"{name} is outside of the years 1 to 9999"


def _held(value: Mapping[str, Any]) -> RawBSONDocument:
    """Return the field `value` for *value*; raises `UnsealableValueError` if BSON or JSON cannot hold it."""
    try:
        _refuse_foreign(value)
        return RawBSONDocument(bson.encode({"object": dict(value)}, codec_options=_PLAIN), RAW)
    except _ForeignTypeError as exc:
        raise UnsealableValueError(str(exc)) from None
    except OverflowError:
        msg = "the value has an integer beyond 64 bits, which MongoDB cannot hold"
        raise UnsealableValueError(msg, hint="keep it sealed, or store the number as text") from None
    except (BSONError, UnicodeError, RecursionError, TypeError, ValueError) as exc:
        # Their messages quote the value.
        msg = f"MongoDB cannot hold the value: {type(exc).__name__}"
        hint = "MongoDB has no lone surrogates, no NUL characters in names of fields, and at most 100 levels"
        raise UnsealableValueError(msg, hint=hint) from None


def _refuse_foreign(value: Any) -> None:
    """Raise `_ForeignTypeError` if BSON could hold something in *value* that JSON cannot."""
    if isinstance(value, dict):
        for item in value.values():
            _refuse_foreign(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_foreign(item)
    elif not isinstance(value, _JSON_TYPES):
        msg = f"the value has a {type(value).__name__} in it, which JSON does not have"
        raise _ForeignTypeError(msg)


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        msg = f"the document would have {size:,} bytes, and MongoDB holds {MOST_BYTES:,} at most"
        raise EntryTooLargeError(msg, hint="split the value, or keep it in another store")
