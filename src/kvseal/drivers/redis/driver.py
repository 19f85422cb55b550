"""
The driver of stores on a Redis or Valkey server, beside any number of applications that use them.

What `kvseal.drivers.joined` says about keys and bodies holds here.  Three things are
particular to these servers:

* A scan is the server's own SCAN: it visits every key that lives throughout, however often the
  server grows or shrinks its tables meanwhile, and may visit one twice.  Each step leaves part of
  the key space behind for good, so the scan ends; keys that are added faster than it goes make it
  longer.  Pages hold at most `PAGE_SIZE` entries and, unless a single one is larger, `PAGE_BYTES`.
* A cursor holds while the server runs.  After a restart or a failover a resumed scan begins at the
  beginning, and one that is under way raises `StoreUnreachableError` instead of missing half.
* `count` counts whatever is in the database, expired and foreign keys too: an estimate.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from typing_extensions import ParamSpec

from kvseal.concurrency import in_thread
from kvseal.drivers.base import (
    PAGE_BYTES,
    PAGE_SIZE,
    Capabilities,
    Count,
    Entry,
    Page,
    Replacement,
    Written,
    has_expired,
    is_in,
    prepared,
    refuse_problem,
    refuse_problems,
)
from kvseal.drivers.joined import JOINED, entry_of, patched, problem_entry, written
from kvseal.drivers.redis.address import Address
from kvseal.drivers.redis.purge import purge_server
from kvseal.drivers.redis.replicas import unconfirmed
from kvseal.drivers.redis.server import AT_ONCE, DELETE, SCAN_COUNT, OtherType, RespServer
from kvseal.drivers.redis.shares import KeyShare, order_of
from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from kvseal.drivers.base import Purged, Put, StoreTime, _Keep
    from kvseal.drivers.redis.server import Batch
    from kvseal.drivers.urls import StoreUrl

P = ParamSpec("P")
T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_END: Final = "end"
_CALLS_WORTH_A_SPLIT: Final = 8
"""Calls of SCAN for a part, from which on reading that part alone is worth a few keys that are read twice."""

_CONCEALED: Final = "this user may run neither INFO nor CONFIG, which say whether the server evicts"


class RespDriver:
    """
    The entries in one database of a server.

    It has connections of its own and works in threads, so it may be used from any event loop, and
    the application's client is never touched.  `("a", "b::c")` and `("a::b", "c")` are one key: `get`
    of either answers with the one entry there is, under the names that it was stored with.

    `capabilities.evicts` is a setting of the server: known after the first operation, `True` until then.
    """

    def __init__(self, server: RespServer) -> None:
        self.location = server.location
        self._server = server
        self._evicts: bool | None = None
        self._is_asked = False

    @property
    def capabilities(self) -> Capabilities:
        """What the server can promise, as far as it has been asked."""
        return Capabilities(
            atomic_replace=True,
            evicts=self._evicts is not False,
            conceals=_CONCEALED if self._evicts is None and self._is_asked else "",
            keeps_time=True,
        )

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries in pages, in the server's order; a cursor holds for one run of it."""
        cursor, batch = await self._start(after)
        run = None if batch is None else batch.run
        while batch is not None:
            if batch.run != run:
                msg = f"{self.location} was restarted during the scan"
                raise StoreUnreachableError(msg, hint="run the same command again")
            async for page in self._pages(batch, cursor, partition, expired=expired):
                yield page
            cursor = batch.cursor
            batch = await self._blocking(self._server.scan, cursor) if cursor else None

    async def split(self, parts: int) -> Sequence[str] | None:
        """Return shares of the server's own order, which hold for this run of it; `None` for few keys."""
        run = await self._order()
        few = parts * _CALLS_WORTH_A_SPLIT * SCAN_COUNT
        if not run or (await self.count()).entries < few:
            return None
        return [str(share) for share in KeyShare.all_of(run, parts)]

    async def is_split_so(self, bounds: str) -> bool:
        """Whether the server was not restarted since."""
        share = KeyShare.parse(bounds)
        return share is not None and share.run == await self._order()

    async def scan_within(
        self, bounds: str, *, after: str | None = None, expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries in a share of the server's order."""
        share = KeyShare.parse(bounds)
        run, _, text = (after or f"{share.run if share else ''}:").rpartition(":")
        if share is None or share.run != run:
            raise self._restarted()
        cursor, count = share.first if not text else _cursor_of(text), SCAN_COUNT
        while cursor is not None:
            batch = await self._blocking(self._server.scan, cursor, count)
            if batch.run != share.run:
                raise self._restarted()
            is_last = share.is_behind(batch.cursor)
            whole = replace(batch, cursor=0) if is_last else batch
            async for page in self._pages(whole, cursor, (0, 1), expired=expired):
                yield page
            if is_last:
                return
            count = _count_to_the_end(share, cursor, batch)
            cursor = batch.cursor

    async def _order(self) -> str:
        return await self._blocking(order_of, lambda section: self._server.command("INFO", section))

    def _restarted(self) -> StoreUnreachableError:
        msg = f"{self.location} was restarted since it was split, so its keys have another order"
        return StoreUnreachableError(msg, hint="run the same command again, for every part")

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry as it is stored, with a `problem` where the store would read nothing or fail."""
        name = JOINED.stored_key(collection, key).encode()
        stored = await self._blocking(self._server.get, name)
        if isinstance(stored, OtherType):
            return problem_entry(name, "it is not a string")
        return None if stored is None else _live(entry_of(name, stored, (collection, key)))

    async def put_if_absent(self, entry: Entry) -> bool:
        """Store *entry*, with the server's expiry as its own rounded up to the millisecond."""
        return await self._blocking(_put_if_absent, self._server, *_new(entry))

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """Store *entries*, all in one round trip but for those whose keys are there."""
        return await self._blocking(_put_many, self._server, entries)

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Store each value whose body is unchanged, all in one round trip."""
        refuse_problems(replacements)
        return await self._blocking(_replace_many, self._server, replacements) if replacements else []

    async def replace_confirmed(self, replacement: Replacement) -> Written:
        """Replace one entry, and wait for the replicas."""
        refuse_problem(replacement.entry)
        return await self._blocking(self._confirmed, lambda server: _replace_many(server, [replacement])[0])

    async def put_confirmed(self, entry: Entry) -> Written:
        """Put *entry* if absent, and wait for the replicas."""
        given = _new(entry)
        return await self._blocking(self._confirmed, lambda server: _put_if_absent(server, *given))

    def _confirmed(self, write: Callable[[RespServer], bool]) -> Written:
        """Let *write* happen on a connection of its own, which alone can say how far that has come."""
        with self._server.on_one_connection() as server:
            done = write(server)
            doubt = unconfirmed(server.command, timeout=server.timeout) if done else ""
            return Written(done, doubt)

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete the key if its body is unchanged."""
        refuse_problem(entry)
        if has_expired(entry.expires_at):
            return False
        return await self._blocking(self._server.run, DELETE, entry.locator, entry.stored)

    async def count(self) -> Count:
        """Count the keys of the database: an estimate."""
        return Count(await self._blocking(self._server.count), exact=False)

    async def store_time(self) -> StoreTime | None:
        """Ask the server for its time; `None` where this user may not."""
        return await self._blocking(self._server.time)

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """Let the server write its append-only file and its snapshot anew, those of all its databases."""

        async def ask(*command: str) -> Any:
            return await self._blocking(self._server.command, *command)

        return await purge_server(ask, self.location, dry_run=dry_run)

    async def close(self) -> None:
        """Close the driver's own connections; the store's stay open."""
        await in_thread(self._server.close)

    async def _blocking(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        def call() -> T:
            if not self._is_asked:
                self._evicts = self._server.evicts()
                self._is_asked = True
            return function(*args, **kwargs)

        return await in_thread(call)

    async def _start(self, after: str | None) -> tuple[int, Batch | None]:
        """Return where the scan begins and its first batch, `None` behind the end."""
        run, _, text = (after or ":0").rpartition(":")
        if text == _END:
            return 0, None
        batch = await self._blocking(self._server.scan, int(text))
        if int(text) == 0 or (run and run == batch.run):
            return int(text), batch
        return 0, await self._blocking(self._server.scan, 0)

    async def _pages(
        self, batch: Batch, start: int, partition: tuple[int, int], *, expired: bool
    ) -> AsyncIterator[Page]:
        """Yield the entries of *batch*, which begins at the cursor *start*."""
        keys = [key for key in batch.keys if is_in(partition, key)]
        while keys:
            read, entries = await self._blocking(self._entries, keys[:PAGE_SIZE], expired=expired)
            keys = keys[read:]
            # Until a batch is done, a scan that resumes has to see all of it again.
            position = start if keys else (batch.cursor or _END)
            if entries:
                yield Page(entries, f"{batch.run}:{position}", again=bool(keys))

    def _entries(self, keys: Sequence[bytes], *, expired: bool) -> tuple[int, list[Entry]]:
        """Return how many of *keys* were read, and their entries: the live ones, or also those *expired*."""
        values = self._server.values(keys, PAGE_BYTES)
        found = zip(keys, values, strict=False)
        entries = (entry_of(key, stored) for key, stored in found if stored is not None)
        return len(values), [e for e in entries if expired or not has_expired(e.expires_at)]


async def from_url(url: StoreUrl, *, create: bool) -> RespDriver:  # noqa: ARG001 - see below
    """
    Return the driver of the database that *url* names, once it has answered.

    With or without *create*: the server has a database of that number or not, and nothing is created.

    Raises:
        UnsupportedStoreError: the URL says something that would go unheeded.
        StoreNotFoundError: the server has no database of that number.
        StoreUnreachableError: it does not answer, or does not let us in.
    """
    driver = RespDriver(RespServer.at(Address.of_url(url.scheme, url.location), url.scheme))
    try:
        await driver.count()
    except BaseException:
        await driver.close()
        raise
    return driver


def _cursor_of(text: str) -> int | None:
    return None if text == _END else int(text)


def _count_to_the_end(share: KeyShare, cursor: int, batch: Batch) -> int:
    """Return how many keys to ask for behind *batch*: no more than are left in *share*, by what it had."""
    left, way = share.left(batch.cursor), share.way(cursor, batch.cursor)
    return min(SCAN_COUNT, max(1, -(-left * max(1, len(batch.keys)) // way)))


def _new(entry: Entry) -> tuple[bytes, bytes, bytes]:
    key, body = written(entry)
    return key.encode(), body.encode(), _expiry(entry.expires_at)


def _put_many(server: RespServer, entries: Sequence[Entry]) -> list[Put]:
    puts, new = prepared(entries, _new)
    beside = []
    for number, is_done in zip(list(new), server.put(list(new.values())), strict=True):
        puts[number] = is_done
        if not is_done:
            beside.append(number)
    for start in range(0, len(beside), AT_ONCE):
        few = beside[start : start + AT_ONCE]
        held = server.get_many([new[number][0] for number in few])
        for number, there in zip(few, held, strict=True):
            # Gone again or expired, it does not count; that is rare, and looked at once more.
            if not _is_live(new[number][0], there):
                puts[number] = _put_if_absent(server, *new[number])
    return puts


def _is_live(key: bytes, held: bytes | OtherType | None) -> bool:
    if isinstance(held, OtherType):
        return True
    return held is not None and _live(entry_of(key, held)) is not None


def _put_if_absent(server: RespServer, key: bytes, body: bytes, expiry: bytes) -> bool:
    while True:
        if server.put([(key, body, expiry)]) == [True]:
            return True
        held = server.get(key)
        if _is_live(key, held):
            return False
        # The server lets go of an expired entry only when its own time has come.
        if isinstance(held, bytes) and server.swap([(key, held, body, expiry)]) == [True]:
            return True


def _replace_many(server: RespServer, replacements: Sequence[Replacement]) -> list[bool]:
    live = [not has_expired(r.entry.expires_at) for r in replacements]
    done = iter(server.swap([_swap(r) for r in compress(replacements, live)]))
    return [is_live and next(done) for is_live in live]


def _swap(replacement: Replacement) -> tuple[bytes, bytes, bytes, bytes]:
    entry, expires_at = replacement.entry, replacement.expires_at
    return entry.locator, entry.stored, patched(replacement).encode(), _expiry(expires_at)


def _live(entry: Entry) -> Entry | None:
    return None if has_expired(entry.expires_at) else entry


def _expiry(time: datetime | _Keep | None) -> bytes:
    """Return the expiry as a script takes it: rounded up, so that the server never drops a live entry."""
    if time is None:
        return b""
    if not isinstance(time, datetime):
        return b"keep"
    return b"%d" % -((_EPOCH - time) // timedelta(milliseconds=1))
