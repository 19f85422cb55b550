"""
The driver of `MemoryStore`: the dictionaries inside one store object.

Bodies are JSON without names, because the names are the dictionaries' keys.  Every
compare-and-swap happens under one lock and without an `await`, so it is atomic among
event loops and threads.  The store itself takes no lock.  A replacement that keeps the expiry is
safe beside it in any thread: it changes the entry that was compared, and no longer the one that
the store has put since.  What changes the expiry, or deletes, is safe beside a store that is used
in the driver's own event loop, where nothing runs in between.
"""

from __future__ import annotations

import json
import sys
import threading
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from cachetools import Cache
from key_value.aio.stores.memory.store import MemoryCacheEntry

from kvseal.concurrency import slices_between_turns
from kvseal.drivers.base import (
    PAGE_SIZE,
    Capabilities,
    Count,
    Entry,
    OnThisMachine,
    Page,
    Purged,
    Replacement,
    content,
    has_expired,
    is_in,
    refuse_problem,
    refuse_problems,
)
from kvseal.drivers.body import UnreadableBodyError, patch_body, read_body, write_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from key_value.aio.stores.memory import MemoryStore

_LOCK: Final = threading.Lock()
"""Held over each compare and its write; one for all stores, as it is never held for long."""

Names = tuple[str, str]


class MemoryDriver(OnThisMachine):
    """The entries of one `MemoryStore`, for as long as this process lives."""

    location = "memory:"

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.capabilities = Capabilities(
            atomic_replace=True,
            evicts=store.max_entries_per_collection != sys.maxsize,
            lasting=False,
        )

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield what was there at the start and still is, in the order of names; the cursor is a name."""
        await self._store.setup()
        last = None if after is None else tuple(json.loads(after))
        names = [name for name in self._names() if last is None or name > last]
        for start in range(0, len(names), PAGE_SIZE):
            page = names[start : start + PAGE_SIZE]
            entries: list[Entry] = []
            async for part in slices_between_turns(len(page)):
                mine = (name for name in page[part] if partition[1] == 1 or is_in(partition, _hashed(name)))
                found = (self._live_entry(name, expired=expired) for name in mine)
                entries += [entry for entry in found if entry is not None]
            if entries:
                yield Page(entries, json.dumps(page[-1]))

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry, without counting as a use of it: the store's order of eviction stays."""
        await self._store.setup()
        return self._live_entry((collection, key))

    async def put_if_absent(self, entry: Entry) -> bool:
        """Store *entry* through the collection's own bookkeeping, unless a live one has its names."""
        collection, key, value = content(entry)
        body = write_body(value, created_at=entry.created_at, expires_at=entry.expires_at)
        await self._set_up(collection)
        with _LOCK:
            if self._live((collection, key)) is not None:
                return False
            self._store._cache[collection]._cache[key] = MemoryCacheEntry(body, entry.expires_at)  # noqa: SLF001
        return True

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Store each value whose entry is unchanged."""
        refuse_problems(replacements)
        done: list[bool] = []
        async for part in slices_between_turns(len(replacements)):
            done += [self._replace(replacement) for replacement in replacements[part]]
        return done

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete *entry* if it is unchanged."""
        refuse_problem(entry)
        with _LOCK:
            if self._held(entry) is None:
                return False
            collection, key = entry.locator
            del self._store._cache[collection]._cache[key]  # noqa: SLF001
        return True

    async def count(self) -> Count:
        """Count the live entries."""
        await self._store.setup()
        return Count(sum(self._live(names) is not None for names in self._names()), exact=True)

    async def purge(self, *, dry_run: bool = False) -> Purged:  # noqa: ARG002 - it changes nothing
        """There are no files."""
        return Purged(("nothing: the store is in this process's memory, and in no file",))

    async def close(self) -> None:
        """There is nothing to release: the store is the application's."""

    async def _set_up(self, collection: str) -> None:
        await self._store.setup_collection(collection=collection)
        if collection not in self._store._cache:  # noqa: SLF001
            # The store believes that a collection which was destroyed is still set up.
            await self._store._setup_collection(collection=collection)  # noqa: SLF001

    def _replace(self, replacement: Replacement) -> bool:
        entry, expires_at = replacement.entry, replacement.expires_at
        body = patch_body(entry.stored, replacement.value, expires_at)
        with _LOCK:
            held = self._held(entry)
            if held is None:
                return False
            if expires_at is None or isinstance(expires_at, datetime):
                collection, key = entry.locator
                self._store._cache[collection]._cache[key] = MemoryCacheEntry(body, expires_at)  # noqa: SLF001
            else:
                # Changed in place, the entry keeps its turn of eviction and its time to live.
                held.json_str = body
        return True

    def _held(self, entry: Entry) -> MemoryCacheEntry | None:
        """Return the stored object of *entry* if it is live and what was read."""
        held = self._live(entry.locator)
        return held if held is not None and _stored(held) == entry.stored else None

    def _live_entry(self, names: Names, *, expired: bool = False) -> Entry | None:
        held = self._live(names, expired=expired)
        return None if held is None else _entry(names, _stored(held))

    def _live(self, names: Names, *, expired: bool = False) -> MemoryCacheEntry | None:
        collection = self._store._cache.get(names[0])  # noqa: SLF001
        if collection is None:
            return None
        try:
            # The base class reads without marking the entry as used.
            held: MemoryCacheEntry = Cache.__getitem__(collection._cache, names[1])  # noqa: SLF001
        except KeyError:
            return None
        return None if has_expired(held.expires_at) and not expired else held

    def _names(self) -> Iterator[Names]:
        # A dictionary is copied in one step, so that no other thread comes between.
        for collection, entries in sorted(self._store._cache.copy().items(), key=itemgetter(0)):  # noqa: SLF001
            keys = list(Cache.__iter__(entries._cache))  # noqa: SLF001
            yield from ((collection, key) for key in sorted(keys))


def for_store(store: MemoryStore) -> MemoryDriver:
    """Return the driver of *store*."""
    return MemoryDriver(store)


def _stored(held: MemoryCacheEntry) -> bytes:
    return held.json_str.encode("utf-8", "surrogatepass")


def _entry(names: Names, stored: bytes) -> Entry:
    try:
        body = read_body(stored)
    except UnreadableBodyError as exc:
        return Entry(*names, None, locator=names, stored=stored, problem=str(exc))
    return Entry(*names, body.value, body.created_at, body.expires_at, locator=names, stored=stored)


def _hashed(names: Names) -> bytes:
    return "\0".join(names).encode("utf-8", "surrogatepass")
