"""
The driver of `MongoDBStore`: a MongoDB collection for each collection, documents as they are in BSON.

* A scan goes through the collections by name, and through each by `_id`, up to the highest `_id` that there
  was when it began to.  An `_id` stays when its document is rewritten, and newcomers get higher ones.
* A swap compares value, creation time and expiry with what was read, and writes the value alone.  Of a
  batch MongoDB says only how many it has done; if some were not, all are read back.  If an answer is lost,
  pymongo asks once more on a replica set, which knows what it has done.
* There is no unique index on `key`.  A driver puts a document under an `_id` made of its key, so of any
  number of drivers one succeeds, and looks again afterwards: if the store object has made a document of the
  same key meanwhile, the driver takes its own away.  A store object that looked before the driver wrote, and
  writes after it has looked again, still makes a second one; only a unique index on `key` prevents that.
* What has expired is decided by this host's clock, as the store itself does.  The server removes it by its
  own, within a minute or so.
"""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Final

from key_value.aio.stores.mongodb.store import MongoDBSerializationAdapter, MongoDBStore

from kvseal.concurrency import in_thread
from kvseal.drivers.base import (
    Capabilities,
    Count,
    Entry,
    Page,
    Replacement,
    StoreTime,
    Times,
    Written,
    content,
    has_expired,
    prepared,
    refuse_problem,
    refuse_problems,
)
from kvseal.drivers.chain import DEFAULT_COLLECTION
from kvseal.drivers.mongodb.address import Address
from kvseal.drivers.mongodb.collections import Collections
from kvseal.drivers.mongodb.connection import CONFIRMED_WITHIN, Connection
from kvseal.drivers.mongodb.documents import Swap, document_of, entry_of, new_document, unchanged
from kvseal.drivers.mongodb.names import Names, checked_key
from kvseal.drivers.mongodb.purge import purge_collections
from kvseal.drivers.mongodb.puts import New, put_all
from kvseal.drivers.mongodb.ranges import Position
from kvseal.drivers.mongodb.scans import DOUBLES, CollectionScan
from kvseal.drivers.mongodb.swaps import swap_all
from kvseal.errors import StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from kvseal.drivers.base import Purged, Put
    from kvseal.drivers.mongodb.collections import Outcome
    from kvseal.drivers.urls import StoreUrl

PATIENCE: Final = 2.0
"""Seconds that a change of the vault meta waits for a majority of the replica set, at most."""
_DOUBT: Final = (
    f"no majority of the replica set has confirmed it within {PATIENCE:g} s, so a failover may lose it"
)
_NOT_FOUND: Final = (
    "check ?db_name=NAME, the database of MongoDBStore, which the path of a URL does not name;"
    " or create the store explicitly"
)


class MongoDBDriver:
    """
    The entries of one database, whose names lead to collections by *names*.

    It has a client of its own and works in threads, so it may be used from any event loop.
    """

    capabilities = Capabilities(
        atomic_replace=True,
        evicts=False,
        keeps_time=True,
        times=Times.MILLISECONDS,
    )

    def __init__(self, connection: Connection, names: Names, *, auto_create: bool = True) -> None:
        self.location = connection.location
        self._connection = connection
        self._collections = Collections(connection)
        self._names = names
        self._auto_create = auto_create

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries of one collection after the other, in the order of `_id`."""
        start = None if after is None else Position.of_cursor(after)
        for name in await in_thread(self._collections.names):
            if start is not None and name < start.collection:
                continue
            position = start.id if start is not None and name == start.collection else None
            scan = CollectionScan(self._collections, name, self._names, position, partition)
            while (found := await in_thread(scan.next)) is not None:
                entries, last = found
                seen = [entry for entry in entries if expired or not has_expired(entry.expires_at)]
                if seen:
                    yield Page(seen, Position(name, last).cursor())

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry as it is stored, with a `problem` where it cannot be read or there are several."""
        return await in_thread(self._get, self._names.stored(collection), checked_key(key))

    async def put_if_absent(self, entry: Entry) -> bool:
        """Insert a document under an `_id` made of its key, or write over one that has expired."""
        outcome = await in_thread(self._put, entry, CONFIRMED_WITHIN)
        (done,) = self._confirmed(outcome)
        return done

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """Insert the documents in one batch for each collection."""
        return await in_thread(self._put_many, entries)

    async def put_confirmed(self, entry: Entry) -> Written:
        """Put *entry* if absent, and wait for a majority of the replica set."""
        return _written(await in_thread(self._put, entry, PATIENCE))

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Swap the values in one batch for each collection."""
        refuse_problems(replacements)
        live = [not has_expired(replacement.entry.expires_at) for replacement in replacements]
        outcome = await in_thread(self._swap, list(compress(replacements, live)), CONFIRMED_WITHIN)
        done = iter(self._confirmed(outcome))
        return [is_live and next(done) for is_live in live]

    async def replace_confirmed(self, replacement: Replacement) -> Written:
        """Replace one entry, and wait for a majority of the replica set."""
        refuse_problem(replacement.entry)
        if has_expired(replacement.entry.expires_at):
            return Written(done=False)
        return _written(await in_thread(self._swap, [replacement], PATIENCE))

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete the document if it is unchanged."""
        refuse_problem(entry)
        if has_expired(entry.expires_at):
            return False
        where = unchanged(document_of(entry))
        return await in_thread(self._collections.delete, entry.locator.collection, where)

    async def count(self) -> Count:
        """Let the server count, which reads every document there."""
        names = await in_thread(self._collections.names)
        counts = [await in_thread(self._collections.count, name) for name in names]
        return Count(sum(counts), exact=True)

    async def store_time(self) -> StoreTime:
        """Ask the server for its time, on a connection that is open already."""
        return await in_thread(self._connection.time)

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """Compact every collection that has a document of the store."""
        names = await in_thread(self._collections.names)
        ours = [name for name in names if await in_thread(self._collections.has_entries, name)]
        return await in_thread(purge_collections, self._connection, ours, dry_run=dry_run)

    async def close(self) -> None:
        """Close the driver's own client; the store's stays open."""
        await in_thread(self._connection.close)

    async def expect_database(self, *, create: bool) -> None:
        """
        Make sure that the database has a collection, or with *create* make the first one of the store.

        Raises:
            StoreNotFoundError: it has none.
        """
        if await in_thread(self._collections.names):
            return
        if not create:
            msg = f"{self.location}: the database has no collections"
            raise StoreNotFoundError(msg, hint=_NOT_FOUND)
        await in_thread(self._collections.create, self._names.stored(DEFAULT_COLLECTION))

    def _swap(self, replacements: Sequence[Replacement], seconds: float) -> Outcome:
        swaps = [Swap.of(replacement) for replacement in replacements]
        return swap_all(self._collections, swaps, seconds)

    def _put(self, entry: Entry, seconds: float) -> Outcome:
        return self._put_all([self._new(entry)], seconds)

    def _put_many(self, entries: Sequence[Entry]) -> list[Put]:
        puts, new = prepared(entries, self._new)
        outcome = self._put_all(list(new.values()), CONFIRMED_WITHIN)
        for number, is_done in zip(new, self._confirmed(outcome), strict=True):
            puts[number] = is_done
        return puts

    def _put_all(self, new: Sequence[New], seconds: float) -> Outcome:
        for name in {one.collection for one in new}:
            self._collections.expect(name, may_create=self._auto_create)
        return put_all(self._collections, new, seconds)

    def _new(self, entry: Entry) -> New:
        collection, _, _ = content(entry)
        return New(self._names.stored(collection), new_document(entry))

    def _get(self, name: str, key: str) -> Entry | None:
        found = self._collections.of_key(name, key)
        if not found:
            return None
        entry = entry_of(name, found[0], self._names, DOUBLES if len(found) > 1 else "")
        return None if len(found) == 1 and has_expired(entry.expires_at) else entry

    def _confirmed(self, outcome: Outcome) -> list[bool]:
        if not outcome.confirmed:
            msg = (
                f"{self.location}: no majority of the replica set has confirmed it in {CONFIRMED_WITHIN:g} s"
            )
            raise StoreUnreachableError(msg, hint="look at the secondaries, then run the same command again")
        return outcome.done


def for_store(store: MongoDBStore) -> MongoDBDriver:
    """
    Return the driver of a store, whether or not it is set up.

    Raises:
        UnsupportedStoreError: it has another serializer, or a client that cannot be followed.
    """
    if type(store._adapter) is not MongoDBSerializationAdapter:  # noqa: SLF001
        msg = f"kvseal cannot follow a MongoDBStore with a {type(store._adapter).__qualname__}"  # noqa: SLF001
        raise UnsupportedStoreError(
            msg, hint="use the store's own serializer, or another store for the vault meta"
        )
    address = Address.of_client(store._client, store._db.name)  # noqa: SLF001
    names = Names(store._sanitize_collection)  # noqa: SLF001
    return MongoDBDriver(Connection(address), names, auto_create=store._auto_create)  # noqa: SLF001


async def from_url(url: StoreUrl, *, create: bool) -> MongoDBDriver:
    """
    Return the driver of the database that `//user:password@host:port/?db_name=name` names.

    It has a collection, or with *create* gets one now.  Everything but `db_name` and `names` is as pymongo
    has it.  As for MongoDBStore the path is no database: it says where the user is known.

    Raises:
        UnsupportedStoreError: that is not the URL of a database.
        StoreNotFoundError: there is no such database.
        StoreUnreachableError: there is no server, or it refuses the user.
    """
    address, names = Address.of_url(url)
    driver = MongoDBDriver(Connection(address), names)
    try:
        await driver.expect_database(create=create)
    except BaseException:
        await driver.close()
        raise
    return driver


def _written(outcome: Outcome) -> Written:
    (done,) = outcome.done
    return Written(done, _DOUBT if done and not outcome.confirmed else "")
