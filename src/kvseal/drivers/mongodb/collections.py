"""
The collections of one database, by the few operations that the driver needs.  Every call blocks.

MongoDBStore has a collection for each of its own, with an index on `key` that is not unique.  It writes by
an upsert, of which two at once can make two documents of one key.  Its `get` then reads any of them, and its
`put` writes any.  So a key with several documents is a problem, wherever it is met, and none of them is
taken for the one that is meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pymongo
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import BulkWriteError

from kvseal import clock
from kvseal.drivers.base import PAGE_BYTES, PAGE_SIZE, is_in
from kvseal.drivers.mongodb.connection import translated
from kvseal.drivers.mongodb.documents import id_of
from kvseal.drivers.mongodb.ranges import behind, value
from kvseal.errors import StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bson.raw_bson import RawBSONDocument
    from pymongo import InsertOne, UpdateOne
    from pymongo.cursor import Cursor

    from kvseal.drivers.mongodb.connection import Connection

ENTRY: Final[dict[str, Any]] = {
    "key": {"$type": "string"},
    "$or": [{"collection": {"$type": "string"}}, {"value.object": {"$exists": True}}],
}
"""What is a document of the store, readable or not: an application may keep others in the same database."""
_MOST_PARTS: Final = 16
"""Parts of which the `_id`s are read at once, those of the others too."""
_DUPLICATE: Final = 11000
_LONGEST: Final = 600
"""Seconds for a question about all documents."""


class Found(NamedTuple):
    """Documents in the order of `_id`, the `_id` behind which a scan goes on, and whether nothing is."""

    documents: list[RawBSONDocument]
    last: bytes | None
    is_end: bool


class Sent(NamedTuple):
    """How many documents a batch changed or inserted, which were there, and whether a majority has it."""

    done: int
    present: frozenset[int]
    confirmed: bool


class Outcome(NamedTuple):
    """Which of the writes were done, in order, and whether a majority has them."""

    done: list[bool]
    confirmed: bool


class Collections:
    """The collections that *connection* reaches."""

    def __init__(self, connection: Connection) -> None:
        self.location = connection.location
        self._connection = connection

    def names(self) -> list[str]:
        """Return the names of all collections, in order; a view is none."""
        with translated(self.location):
            found = self._connection.database().list_collection_names(filter={"type": "collection"})
        return sorted(name for name in found if not name.startswith("system."))

    def exists(self, name: str) -> bool:
        """Whether there is such a collection."""
        with translated(self.location):
            return bool(self._connection.database().list_collection_names(filter={"name": name}))

    def create(self, name: str) -> None:
        """Make the collection *name* as MongoDBStore does, with both indexes, in one step; twice is fine."""
        by_key = IndexModel("key")
        by_expiry = IndexModel("expires_at", expireAfterSeconds=0)
        with translated(self.location):
            self._connection.collection(name).create_indexes([by_key, by_expiry])

    def last_id(self, name: str) -> bytes | None:
        """Return the highest `_id` there is."""
        with translated(self.location):
            found = self._connection.collection(name).find_one({}, {"_id": 1}, sort=[("_id", DESCENDING)])
        return None if found is None else id_of(found)

    def page(self, name: str, after: bytes | None, last: bytes | None, partition: tuple[int, int]) -> Found:
        """Return the next documents behind *after* up to *last*, of this *partition*, by `_id`."""
        where = behind(after, last)
        if where is None:
            return Found([], None, is_end=True)
        return self._all(name, where) if partition[1] == 1 else self._part(name, where, partition)

    def of_key(self, name: str, key: str) -> list[RawBSONDocument]:
        """Return the documents of *key*, two at most: there should be no more than one."""
        with translated(self.location):
            return list(self._connection.collection(name).find({"key": key}).limit(2))

    def of_keys(self, name: str, keys: Sequence[str]) -> list[RawBSONDocument]:
        """Return every document of *keys*."""
        with translated(self.location):
            return list(self._connection.collection(name).find({"key": {"$in": keys}}))

    def of_ids(self, name: str, ids: Iterable[bytes]) -> dict[bytes, RawBSONDocument]:
        """Return the documents of *ids* that there are."""
        with translated(self.location):
            where = {"_id": {"$in": [value(id_) for id_ in ids]}}
            return {id_of(found): found for found in self._connection.collection(name).find(where)}

    def doubles(self, name: str, keys: Sequence[str] | None = None) -> frozenset[str]:
        """
        Return those of *keys*, or of all keys, that have several documents.

        All keys come in order out of their index alone, and nothing of them is held but the last one.
        """
        where = {"$type": "string"} if keys is None else {"$in": keys}
        doubles, last = set(), None
        with translated(self.location):
            rows = self._connection.collection(name).find({"key": where}, {"key": 1, "_id": 0})
            for row in rows.sort("key", ASCENDING).allow_disk_use(allow_disk_use=True):
                if row["key"] == last:
                    doubles.add(row["key"])
                last = row["key"]
        return frozenset(doubles)

    def count(self, name: str) -> int:
        """Count the documents of the store that have not expired, which reads all of them."""
        live = {**ENTRY, "expires_at": {"$not": {"$lte": clock.utc_now()}}}
        with translated(self.location), pymongo.timeout(_LONGEST):
            return self._connection.collection(name).count_documents(live)

    def has_entries(self, name: str) -> bool:
        """Whether a document of the store is in the collection."""
        with translated(self.location):
            return self._connection.collection(name).find_one(ENTRY, {"_id": 1}) is not None

    def write(self, name: str, operations: Sequence[UpdateOne | InsertOne[Any]], seconds: float) -> Sent:
        """
        Do *operations*, in any order, and wait *seconds* until a majority has them.

        An insertion is left out if there is a document of its `_id`.

        Raises:
            StoreUnreachableError, StoreError: the server refused one; any of the others may be done.
        """
        collection = self._connection.collection(name, seconds)
        with translated(self.location):
            try:
                result = collection.bulk_write(list(operations), ordered=False)
            except BulkWriteError as exc:
                details: Any = exc.details
                if any(error["code"] != _DUPLICATE for error in details["writeErrors"]):
                    raise
                present = frozenset(error["index"] for error in details["writeErrors"])
                done = details["nMatched"] + details["nInserted"]
                return Sent(done, present, confirmed=not details["writeConcernErrors"])
        return Sent(result.matched_count + result.inserted_count, frozenset(), confirmed=True)

    def delete(self, name: str, where: dict[str, Any]) -> bool:
        """Delete the document that *where* describes, and return whether there was one."""
        with translated(self.location):
            return self._connection.collection(name).delete_one(where).deleted_count == 1

    def expect(self, name: str, *, may_create: bool) -> None:
        """
        Make the collection *name* if it is missing.

        Raises:
            StoreNotFoundError: it is missing, and the store was told to create none.
        """
        if self.exists(name):
            return
        if not may_create:
            msg = f"{self.location}: there is no collection {name}, and the store has auto_create=False"
            raise StoreNotFoundError(
                msg, hint="create it as MongoDBStore would: indexes on key and expires_at"
            )
        self.create(name)

    def _all(self, name: str, where: dict[str, Any]) -> Found:
        wanted = {"$and": [where, ENTRY]} if where else ENTRY
        with translated(self.location):
            rows = self._connection.collection(name).find(wanted).sort("_id", ASCENDING).limit(PAGE_SIZE)
            found, is_whole = _cut(rows)
        last = id_of(found[-1]) if found else None
        return Found(found, last, is_end=is_whole and len(found) < PAGE_SIZE)

    def _part(self, name: str, where: dict[str, Any], partition: tuple[int, int]) -> Found:
        """
        Read the `_id`s alone, and then the documents of those that are of this part.

        So n parts together read every `_id` n times and every document once.
        """
        most = PAGE_SIZE * min(partition[1], _MOST_PARTS)
        with translated(self.location):
            rows = (
                self._connection.collection(name).find(where, {"_id": 1}).sort("_id", ASCENDING).limit(most)
            )
            ids = [id_of(row) for row in rows]
            mine = [id_ for id_ in ids if is_in(partition, id_)]
            of_page = mine[:PAGE_SIZE]
            wanted = {"_id": {"$in": [value(id_) for id_ in of_page]}, **ENTRY}
            found, is_whole = _cut(self._connection.collection(name).find(wanted).sort("_id", ASCENDING))
        if not is_whole:
            return Found(found, id_of(found[-1]), is_end=False)
        if len(of_page) < len(mine):
            return Found(found, of_page[-1], is_end=False)
        return Found(found, ids[-1] if ids else None, is_end=len(ids) < most)


def _cut(rows: Cursor[RawBSONDocument]) -> tuple[list[RawBSONDocument], bool]:
    """Return the documents of one page, and whether no more are known to be in *rows*."""
    found: list[RawBSONDocument] = []
    held = 0
    with rows:
        for row in rows:
            found.append(row)
            held += len(row.raw)
            if held >= PAGE_BYTES:
                return found, False
    return found, True
