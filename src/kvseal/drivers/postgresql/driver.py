"""
The driver of `PostgreSQLStore`: one table, on connections of the driver's own where it can.

Found from a URL, or from a store that was given a URL or parameters, the driver connects by itself:
it works in every event loop and thread, and takes nothing from the application's pool.  Found from
a store over the application's own pool it borrows that pool, which works in the pool's event loop
alone; elsewhere it raises `StoreError` instead of breaking the pool's connections.

What is live is decided by the server's clock.  A store whose clock goes differently sees an entry
expire earlier or later by that difference.

A scan goes by the primary key up to the highest name that there was when it began.  Newcomers between
its position and that name could hold it up for ever, so a long scan looks once for the latest creation
time in the table and passes over what was created after it: the store keeps the creation time of an
entry that it writes again, so nothing that was there all the time is passed over.  Such a scan ends
once the writers' clocks have passed that time.

A table that does not exist is `StoreNotFoundError`.  It is made, by PostgreSQLStore itself, only where
a URL is opened to create a store, and where the store object would make it: there it reads as empty,
and putting the first entry makes it.  Nothing ever makes a database.
"""

from __future__ import annotations

import json
import warnings
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from key_value.aio.stores.postgresql import PostgreSQLStore

from kvseal import clock
from kvseal.concurrency import within
from kvseal.drivers.base import (
    KEEP,
    Capabilities,
    Count,
    Entry,
    Page,
    Replacement,
    StoreTime,
    content,
    prepared,
    refuse_problem,
    refuse_problems,
    void_bounds,
)
from kvseal.drivers.postgresql.pools import (
    ANSWER_SECONDS,
    LONGEST,
    RETRIABLE,
    BorrowedPool,
    OwnPools,
    connection,
    is_behind_bouncer,
    open_pool,
    translated,
)
from kvseal.drivers.postgresql.purge import NO_TABLE, plan, purge_table
from kvseal.drivers.postgresql.ranges import range_of, ranges
from kvseal.drivers.postgresql.rows import checked_names, entry_of, is_text, without_repeats, written
from kvseal.drivers.postgresql.scanning import pages
from kvseal.drivers.postgresql.table import Table
from kvseal.drivers.urls import strip_password
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from kvseal.drivers.base import Purged, Put
    from kvseal.drivers.postgresql.pools import Pools
    from kvseal.drivers.urls import StoreUrl

_DEFAULT_TABLE: Final = "kv_store"
_ATTEMPTS: Final = 10
_CREATED_BY_ANOTHER: Final = (
    asyncpg.UniqueViolationError,
    asyncpg.DuplicateTableError,
    asyncpg.DuplicateObjectError,
)
"""Even with IF NOT EXISTS, of two that create a table at once one fails: at its index, name or row type."""


class PostgreSQLDriver:
    """
    The entries of the table *table*.

    With *auto_create* a table that does not exist is empty, and made by the first put.
    """

    capabilities = Capabilities(
        atomic_replace=True,
        evicts=False,
        keeps_time=True,
    )

    def __init__(
        self,
        pools: Pools,
        *,
        location: str,
        table: str = _DEFAULT_TABLE,
        auto_create: bool = False,
    ) -> None:
        self.location = location
        self._pools = pools
        self._table = Table(table)
        self._auto_create = auto_create

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries in the order of names, each page by one statement; the cursor is names."""
        position: tuple[str, ...] = () if after is None else tuple(json.loads(after))
        async for page in self._pages(position, None, partition, expired=expired):
            yield page

    async def split(self, parts: int) -> Sequence[str] | None:
        """Return ranges of names that a sample of the table's blocks has about as many rows in."""
        rows = await self._query(self._table.sampled_tiles, parts, seconds=LONGEST)
        if len(rows) != parts - 1:
            return None
        return ranges([(row["collection"], row["key"]) for row in rows])

    async def is_split_so(self, bounds: str) -> bool:
        """Whether *bounds* are ranges of names; these hold for ever."""
        return range_of(bounds) is not None

    async def scan_within(
        self, bounds: str, *, after: str | None = None, expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries behind the lower and up to the upper names, in the order of names."""
        found = range_of(bounds)
        if found is None:
            raise void_bounds(self.location)
        lower, upper = found
        position = lower if after is None else tuple(json.loads(after))
        async for page in self._pages(position, upper or None, (0, 1), expired=expired):
            yield page

    async def _pages(
        self,
        position: tuple[str, ...],
        upper: tuple[str, ...] | None,
        partition: tuple[int, int],
        *,
        expired: bool,
    ) -> AsyncIterator[Page]:
        last = await self._query(self._table.last) if upper is None else ()
        end = tuple(last[0].values()) if last else upper
        if end:
            async for page in pages(self._query, self._table, position, end, partition, expired=expired):
                yield page

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry as it is stored, with a `problem` where it cannot be read."""
        rows = await self._query(self._table.get, *checked_names(collection, key))
        return entry_of(rows[0]) if rows else None

    async def put_if_absent(self, entry: Entry) -> bool:
        """Insert the row, or overwrite an expired one; the table is made where the store would make it."""
        return bool(await self._put(self._table.put, *_new_row(entry, as_text=await self._reads_text())))

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """Insert the rows in one statement, all or none of which happens; one more for each repeated name."""
        puts, new = prepared(entries, partial(_new_row, as_text=await self._reads_text()))
        for numbers in without_repeats({number: row[:2] for number, row in new.items()}):
            columns = [list(column) for column in zip(*(new[number] for number in numbers), strict=True)]
            for stored in await self._put(
                self._table.put_many, list(range(len(numbers))), *columns, seconds=LONGEST
            ):
                puts[numbers[stored["number"]]] = True
        return puts

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Replace in one statement, all or none of which happens; one more for each repeated name."""
        refuse_problems(replacements)
        texts = [written(r.value, as_text=is_text(r.entry.stored)) for r in replacements]
        done = [False] * len(replacements)
        places = (replacement.entry.locator for replacement in replacements)
        for numbers in without_repeats({n: (place.collection, place.key) for n, place in enumerate(places)}):
            rows = [_replacement_row(number, replacements[number], texts[number]) for number in numbers]
            columns = [list(column) for column in zip(*rows, strict=True)]
            seconds = ANSWER_SECONDS if len(numbers) == 1 else LONGEST
            for swapped in await self._query(self._table.replace, *columns, seconds=seconds):
                done[swapped["number"]] = True
        return done

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete the row if it is unchanged."""
        refuse_problem(entry)
        place = entry.locator
        was = (entry.stored.decode(), place.created_at, place.expires_at)
        return bool(await self._query(self._table.delete, place.collection, place.key, *was))

    async def count(self) -> Count:
        """Count the live rows, which reads the whole table."""
        rows = await self._query(self._table.count, seconds=LONGEST)
        return Count(rows[0]["count"] if rows else 0, exact=True)

    async def store_time(self) -> StoreTime:
        """Ask the server for its time, on a connection that is open already."""
        with translated(self.location):
            async with connection(await self._pools.pool()) as held:
                before = clock.monotonic()
                at: datetime = await held.fetchval("SELECT clock_timestamp()", timeout=ANSWER_SECONDS)
                return StoreTime(at, before, clock.monotonic())

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """Write the table anew, which keeps every other user of it waiting."""
        (row,) = await self._query(self._table.exists, self._table.name)
        if not row["found"]:
            if self._auto_create:
                return NO_TABLE
            raise self._not_found()
        if dry_run:
            return plan(self._table.name)
        if is_behind_bouncer(await self._pools.pool()):
            msg = f"{self.location}: a bouncer gives each statement of a purge to another server process"
            raise UnsupportedStoreError(msg, hint="purge with the URL of the server itself")
        with translated(self.location):
            return await purge_table(await self._pools.pool(), self._table.name, self.location)

    async def close(self) -> None:
        """Close the driver's own connections; the application's pool stays open."""
        await self._pools.close()

    async def expect_table(self) -> None:
        """Raise `StoreNotFoundError` if the table does not exist."""
        (row,) = await self._query(self._table.exists, self._table.name)
        if not row["found"]:
            raise self._not_found()

    async def create_table(self) -> None:
        """Let PostgreSQLStore make its table, unless it is there."""
        for _ in range(_ATTEMPTS):
            with translated(self.location):
                try:
                    store = _store(pool=await self._pools.pool(), table_name=self._table.name)
                    await within(ANSWER_SECONDS, store._setup())  # noqa: SLF001
                except _CREATED_BY_ANOTHER:
                    continue
            return
        msg = f"{self.location}: the table cannot be created, as others are creating it all the time"
        raise StoreUnreachableError(msg, hint="try again")

    async def _query(
        self, sql: str, *arguments: Any, seconds: float = ANSWER_SECONDS
    ) -> list[asyncpg.Record]:
        """Return the rows; none if there is no table and the store has yet to make it."""
        try:
            return await self._run(sql, *arguments, seconds=seconds)
        except asyncpg.UndefinedTableError as exc:
            if self._auto_create:
                return []
            raise self._not_found() from exc

    async def _put(self, sql: str, *arguments: Any, seconds: float = ANSWER_SECONDS) -> list[asyncpg.Record]:
        """Return the rows of an insertion, for which the table is made where the store would make it."""
        try:
            return await self._run(sql, *arguments, seconds=seconds)
        except asyncpg.UndefinedTableError as exc:
            if not self._auto_create:
                raise self._not_found() from exc
        await self.create_table()
        return await self._query(sql, *arguments, seconds=seconds)

    async def _run(self, sql: str, *arguments: Any, seconds: float = ANSWER_SECONDS) -> list[asyncpg.Record]:
        for _ in range(_ATTEMPTS):
            with translated(self.location):
                try:
                    async with connection(await self._pools.pool()) as held:
                        rows: list[asyncpg.Record] = await held.fetch(sql, *arguments, timeout=seconds)
                except RETRIABLE:
                    continue
                return rows
        msg = f"{self.location}: other writers were faster {_ATTEMPTS} times"
        raise StoreUnreachableError(msg, hint="try again with fewer writers")

    async def _reads_text(self) -> bool:
        with translated(self.location):
            return await self._pools.reads_text()

    def _not_found(self) -> StoreError:
        msg = f"{self.location}: there is no table {self._table.name}"
        return StoreNotFoundError(
            msg, hint="check the database and the table (?table=NAME), or create the store explicitly"
        )


def for_store(store: PostgreSQLStore) -> PostgreSQLDriver:
    """Return the driver of a store, whether or not it is set up."""
    table: str = store._table_name  # noqa: SLF001
    pools, where = _reached(store)
    return PostgreSQLDriver(
        pools,
        location=f"{where}?table={table}",
        table=table,
        auto_create=store._auto_create,  # noqa: SLF001
    )


def _reached(store: Any) -> tuple[Pools, str]:
    """Return how to connect to what *store* connects to, and its URL without a password."""
    if store._client_provided_by_user:  # noqa: SLF001
        return BorrowedPool(store._pool), "postgresql:pool"  # noqa: SLF001
    if type(store)._create_pool is not PostgreSQLStore._create_pool:  # noqa: SLF001
        # A subclass with its own way to connect ignores the parameters, which may lead elsewhere.
        return OwnPools(store._create_pool), f"postgresql:{type(store).__qualname__}"  # noqa: SLF001
    if store._url:  # noqa: SLF001
        return OwnPools(partial(open_pool, store._url)), _shown(store._url)  # noqa: SLF001
    names = ("host", "port", "database", "user", "password")
    parameters = {name: getattr(store, f"_{name}") for name in names}
    user = f"{store._user}@" if store._user else ""  # noqa: SLF001
    where = f"postgresql://{user}{store._host}:{store._port}/{store._database}"  # noqa: SLF001
    return OwnPools(partial(open_pool, **parameters)), where


async def from_url(url: StoreUrl, *, create: bool) -> PostgreSQLDriver:
    """
    Return the driver of the table that `//user:password@host:port/database?table=name` names.

    It exists, or with *create* is made now.  Everything but `table` and `pgbouncer` is as libpq has it, so
    the environment (`PGPASSWORD`, …), password files and the directory of a socket (`?host=/run/postgresql`)
    work.  Behind a bouncer in transaction mode, where a prepared statement may be
    another client's, `pgbouncer=true` prepares none.

    Raises:
        UnsupportedStoreError: that is not the URL of a table.
        StoreNotFoundError: there is no such database, or without *create* no such table.
        StoreUnreachableError: there is no server, or it refuses the user.
    """
    dsn, table, parameters = _dsn_and_table(url.location)
    driver = PostgreSQLDriver(
        OwnPools(partial(open_pool, dsn, **parameters)), location=f"{_shown(dsn)}?table={table}", table=table
    )
    try:
        await (driver.create_table() if create else driver.expect_table())
    except BaseException:
        await driver.close()
        raise
    return driver


def _dsn_and_table(location: str) -> tuple[str, str, dict[str, int]]:
    base, _, query = location.rpartition("?") if "?" in location else (location, "", "")
    options = query.split("&") if query else []
    tables = [option.removeprefix("table=") for option in options if option.startswith("table=")]
    bouncers = [option.removeprefix("pgbouncer=") for option in options if option.startswith("pgbouncer=")]
    others = "&".join(option for option in options if not option.startswith(("table=", "pgbouncer=")))
    hint = "write postgresql://USER@HOST:PORT/DATABASE?table=NAME"
    if not location.startswith("//") or len(tables) > 1 or bouncers not in ([], ["true"], ["false"]):
        msg = f"{_shown('postgresql:' + location)} is not the URL of a table"
        raise UnsupportedStoreError(msg, hint=hint)
    table = tables[0] if tables else _DEFAULT_TABLE
    try:
        _store(table_name=table or "?")
    except ValueError as exc:
        msg = f"{_shown('postgresql:' + location)}: {exc}"
        raise UnsupportedStoreError(msg, hint=hint) from exc
    dsn = f"postgresql:{base}?{others}" if others else f"postgresql:{base}"
    return dsn, table, {"statement_cache_size": 0} if bouncers == ["true"] else {}


def _shown(url: str) -> str:
    """Return *url* for messages, without a password and without options, some of which are secret too."""
    # The password goes first: if it holds a `?` of its own, what stands before that is a part of it.
    return strip_password(url).replace(":***@", "@").partition("?")[0]


def _store(**parameters: Any) -> PostgreSQLStore:
    """Return a store for a moment, without its warning that the class is not stable yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PostgreSQLStore(**parameters)


def _ttl(expires_at: datetime | None) -> float | None:
    """Return what the store would write into the column `ttl`, which it never reads."""
    return None if expires_at is None else (expires_at - clock.utc_now()).total_seconds()


def _new_row(entry: Entry, *, as_text: bool) -> tuple[Any, ...]:
    collection, key, value = content(entry)
    names = checked_names(collection, key)
    text = written(value, as_text=as_text)
    return (*names, text, _ttl(entry.expires_at), entry.created_at, entry.expires_at)


def _replacement_row(number: int, replacement: Replacement, text: str) -> tuple[object, ...]:
    place = replacement.entry.locator
    stored = replacement.entry.stored.decode()
    read = (place.collection, place.key, stored, place.created_at, place.expires_at)
    expires_at = replacement.expires_at
    if expires_at is None or isinstance(expires_at, datetime):
        return (number, *read, text, False, _ttl(expires_at), expires_at)
    return (number, *read, text, expires_at is KEEP, None, None)
