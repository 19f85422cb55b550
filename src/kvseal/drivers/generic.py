"""
The driver of last resort, for a store that has none: through the store's own `ttl`, `put` and `delete`.

It serves the names of a manifest, which are names at the base store, in the manifest's order.
Nothing finds it by itself: the caller has to know what it cannot promise, and to ask for it.

* What the manifest does not name is not there: not scanned, not counted, not verified.
* There is no compare-and-swap.  A value is read, compared and put, and whatever another writer
  puts in between is lost.  A lock keeps apart only the drivers of this kind in this process.  Of
  an entry that was put again with the same value and much the same time to live, nothing shows it.
* `put` resets the creation time, where a store keeps one, and none is ever reported.
* The expiry is what was left when it was asked for: it drifts with each replacement, by the time
  that a call takes and by what the store rounds away.
* `None` is taken for absent, though stores answer so for what they cannot read, too, and
  `put_if_absent` writes over that.  What a store refuses to read with an error is a problem.
* It may evict, as far as is known, so it is no home for a vault meta.
"""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from key_value.aio.errors import KeyValueOperationError

from kvseal import clock
from kvseal.concurrency import in_thread
from kvseal.drivers.base import (
    PAGE_BYTES,
    PAGE_SIZE,
    Capabilities,
    Count,
    Entry,
    Page,
    Times,
    content,
    is_in,
    refuse_problem,
    refuse_problems,
)
from kvseal.errors import KvsealError, StoreUnreachableError, UnsealableValueError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Replacement
    from kvseal.drivers.manifest import Names

LIMITS: Final = (
    "records that the manifest does not name are not seen, what others write meanwhile can be lost,"
    " creation times are reset, expiries drift, and what the store fails to read counts as absent"
)
"""What cannot be promised, for the operator who is asked to agree."""

_AT_ONCE: Final = 16
"""Reads under way at the same time."""
_DRIFT: Final = timedelta(seconds=2)
"""Two readings of one expiry may differ by as much: a slow call, or a store that counts in seconds."""
_REFUSALS: Final[tuple[type[Exception], ...]] = (KeyValueOperationError, UnicodeError)
"""What a store says of one entry, rather than of itself."""
_LOCK: Final = threading.Lock()
"""Held over each compare and its write; one for all stores, as two store objects may be one store."""


class GenericDriver:
    """The entries of *store* that *names* names."""

    capabilities = Capabilities(
        atomic_replace=False,
        evicts=True,
        sees_all=False,
        times=Times.LOST,
    )

    def __init__(self, store: AsyncKeyValue, names: Iterable[Names]) -> None:
        self.location = f"{type(store).__qualname__} (without a driver)"
        self._store = store
        self._names = names

    async def scan(
        self,
        *,
        after: str | None = None,
        partition: tuple[int, int] = (0, 1),
        expired: bool = False,  # noqa: ARG002 - see below
    ) -> AsyncIterator[Page]:
        """
        Yield what the store has of the manifest, in pages; the cursor is the number of a name.

        The store itself decides what has expired, and *expired* changes nothing.
        """
        last = int(after or 0)
        left = self._numbered(last, partition)
        entries: list[Entry] = []
        held = 0
        while names := await in_thread(lambda: list(islice(left, _AT_ONCE))):
            read = await asyncio.gather(*(self._read(*pair) for _, pair in names))
            found = [entry for entry in read if entry is not None]
            entries += found
            held += sum(len(entry.stored) for entry in found)
            last = names[-1][0]
            if len(entries) > PAGE_SIZE - _AT_ONCE or held >= PAGE_BYTES:
                yield Page(entries, str(last))
                entries, held = [], 0
        if entries:
            yield Page(entries, str(last))

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry, whether or not the manifest names it; `None` is all that the store said."""
        return await self._read(collection, key)

    async def put_if_absent(self, entry: Entry) -> bool:
        """Put *entry*, if the store has just answered `None`, with what is left of its time to live."""
        collection, key, value = content(entry)
        async with _turn():
            if await self._read(collection, key) is not None:
                return False
            await self._write((collection, key), value, entry.expires_at)
        return True

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Put each value whose entry was unchanged a moment before; after a failure, some are put."""
        refuse_problems(replacements)
        return [await self._replace(replacement) for replacement in replacements]

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete *entry* if it was unchanged a moment before."""
        refuse_problem(entry)
        async with _turn():
            return await self._held(entry) is not None and await self._delete(entry.locator)

    async def count(self) -> Count:
        """Count the names in the manifest, of which some may be gone."""
        return Count(await in_thread(lambda: sum(1 for _ in self._names)), exact=False)

    async def close(self) -> None:
        """There is nothing to release: the store is the application's."""

    def _numbered(self, after: int, partition: tuple[int, int]) -> Iterator[tuple[int, Names]]:
        """Yield the names of *partition* behind the one of number *after*, from 1 on."""
        for number, names in enumerate(self._names, 1):
            if number > after and is_in(partition, json.dumps(names).encode()):
                yield number, names

    async def _read(self, collection: str, key: str) -> Entry | None:
        names = (collection, key)
        try:
            with self._translated(_REFUSALS):
                value, ttl = await self._store.ttl(key, collection=collection)
            if value is None or (ttl is not None and ttl <= 0):
                return None
            expires_at = None if ttl is None else clock.utc_now() + timedelta(seconds=ttl)
            return Entry(*names, value, None, expires_at, locator=names, stored=_stored(value))
        except _REFUSALS as exc:
            problem = f"the store cannot read it: {type(exc).__name__}"
        except (TypeError, ValueError, RecursionError, OverflowError):
            problem = "the store returns what JSON cannot hold"
        return Entry(*names, None, locator=names, problem=problem)

    async def _replace(self, replacement: Replacement) -> bool:
        entry, expires_at = replacement.entry, replacement.expires_at
        async with _turn():
            held = await self._held(entry)
            if held is None:
                return False
            if not (expires_at is None or isinstance(expires_at, datetime)):
                expires_at = held.expires_at
            await self._write(entry.locator, replacement.value, expires_at)
        return True

    async def _held(self, entry: Entry) -> Entry | None:
        """Return what is there, if that is, as far as can be seen, what was read."""
        there = await self._read(*entry.locator)
        if there is None or there.problem or there.stored != entry.stored:
            return None
        if there.expires_at is None or entry.expires_at is None:
            return there if there.expires_at is entry.expires_at else None
        return there if abs(there.expires_at - entry.expires_at) <= _DRIFT else None

    async def _write(self, names: Names, value: Mapping[str, Any], expires_at: datetime | None) -> None:
        """Put *value*; what has expired already is what must not be there."""
        collection, key = names
        ttl = None if expires_at is None else (expires_at - clock.utc_now()).total_seconds()
        if ttl is not None and ttl <= 0:
            await self._delete(names)
            return
        try:
            with self._translated(_REFUSALS):
                await self._store.put(key, value, collection=collection, ttl=ttl)
        except _REFUSALS as exc:
            msg = f"{self.location} refuses the value or its name: {type(exc).__name__}"
            raise UnsealableValueError(msg) from exc

    async def _delete(self, names: Names) -> bool:
        collection, key = names
        with self._translated():
            return await self._store.delete(key, collection=collection)

    @contextmanager
    def _translated(self, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Raise what the store raises as kvseal's own error, unquoted, for it may quote a password."""
        try:
            yield
        except KvsealError:
            raise
        except passing:
            raise
        except Exception as exc:
            msg = f"{self.location} does not answer: {type(exc).__name__}"
            raise StoreUnreachableError(msg, hint="see what the store says with --debug") from exc


def for_store(store: AsyncKeyValue, manifest: Iterable[Names]) -> GenericDriver:
    """
    Return the driver of the base store at the end of *store*'s wrapper chain, over the names in *manifest*.

    The manifest, a `Manifest` or any collection of pairs, is iterated once for each scan.
    """
    from kvseal.drivers.chain import Chain  # noqa: PLC0415 - py-key-value's wrappers, which no URL has

    chain = Chain.of(store)
    return GenericDriver(chain.base, manifest)


@asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    # An asyncio lock is of one event loop, and a thread that waits for this one outlives a cancellation.
    while not _LOCK.acquire(blocking=False):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    try:
        yield
    finally:
        _LOCK.release()


def _stored(value: Mapping[str, Any]) -> bytes:
    """Return what a write compares: the value, in whatever order its fields are."""
    if not isinstance(value, dict):
        raise TypeError
    return json.dumps(value, sort_keys=True).encode()
