"""
The order of `_id`, in which a scan goes, and a place in it.

A sort by `_id` goes through all its BSON types one after the other, but `$gt` compares within one type: what
is greater than a text is a text, and no ObjectId is.  So a range that begins behind an `_id` is what is
greater among those of its type, and everything of the types that come later.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any, Final

import bson

from kvseal.drivers.mongodb.documents import RAW

# The types in MongoDB's order, each with those that are compared with it: their codes in BSON, their names.
# An array and a regular expression cannot be an `_id`.
_ORDER: Final[tuple[tuple[bytes, tuple[str, ...]], ...]] = (
    (b"\xff", ("minKey",)),
    (b"\x06\x0a", ("null",)),
    (b"\x01\x10\x12\x13", ("number",)),
    (b"\x02\x0e", ("string", "symbol")),
    (b"\x03", ("object",)),
    (b"\x05", ("binData",)),
    (b"\x07", ("objectId",)),
    (b"\x08", ("bool",)),
    (b"\x09", ("date",)),
    (b"\x11", ("timestamp",)),
    (b"\x0d\x0f", ("javascript", "javascriptWithScope")),
    (b"\x7f", ("maxKey",)),
)
_RANKS: Final = {code: rank for rank, (codes, _) in enumerate(_ORDER) for code in codes}
_CODE: Final = 4
"""Where the code of the first field's type is in a document of BSON: behind its length."""


@dataclass(frozen=True, slots=True)
class Position:
    """Behind a document of a collection: where a scan goes on, in this process or in another one."""

    collection: str
    id: bytes

    def cursor(self) -> str:
        """Return the position as text."""
        return json.dumps([self.collection, b64encode(self.id).decode()])

    @classmethod
    def of_cursor(cls, cursor: str) -> Position:
        """Return the position that `cursor` has returned."""
        collection, encoded = json.loads(cursor)
        return cls(collection, b64decode(encoded))


def rank(id_: bytes) -> int:
    """Return the place of the type of *id_* among all types."""
    return _RANKS[id_[_CODE]]


def value(id_: bytes) -> Any:
    """Return *id_* as pymongo takes it in a filter, exactly as it was read."""
    return bson.decode(id_, codec_options=RAW)["_id"]


def behind(after: bytes | None, last: bytes | None) -> dict[str, Any] | None:
    """
    Return the filter for what comes behind *after*, up to *last* in so far as that has the same type.

    `None`: nothing does.  Of the types between, everything is meant, and of the type of *last* too, as long
    as *after* has an earlier one.
    """
    if after is None:
        return {}
    greater = {"$gt": value(after)}
    if last is None:
        return {"_id": greater}
    first, end = rank(after), rank(last)
    if first > end:
        return None
    if first == end:
        return {"_id": {**greater, "$lte": value(last)}}
    later = [name for _, names in _ORDER[first + 1 : end + 1] for name in names]
    return {"$or": [{"_id": greater}, {"_id": {"$type": later}}]}
