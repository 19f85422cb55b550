"""
The driver of `DuckDBStore`: one table, in the process that has the database open.

DuckDB admits one process at a time.  The driver works beside the store object's connection, on
cursors of its own, or, from a URL, on a database that no other process has open.

Every write is one statement, in a transaction of its own, and runs in the thread of the event
loop: an application whose writers run in that loop never finds one of its writes refused because
of the driver.  DuckDB lets no two transactions change the same row, so against writers in other
threads it stays a compare-and-swap, of which one may be refused.  While the application holds a
transaction open, the driver neither sees what it has written nor waits for it: a row that it has
changed is refused after some attempts, and of a row that the driver changes first, the
application's own change is what DuckDB refuses.

A value is read as the table holds it.  DuckDBStore hands dictionaries to DuckDB, which makes
something else of some: `{"key": ["a"], "value": ["b"]}` is stored as `{"a": "b"}`, `[1, "x"]` as
`["1", "x"]`.  That happened when it was put, and nothing in the table shows it.  What became a
list, as `{"": 1}` does in some releases, the store reads as missing and the driver as a problem.
A sealed record is two fields, and safe; a value that the driver itself writes is stored as JSON
text, unchanged.

A scan goes by a list of the names that there were when it began, which DuckDB keeps, and reads the
rows as they are when their turn comes.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any, Final

import duckdb

from kvseal.concurrency import in_thread
from kvseal.drivers.base import (
    KEEP,
    Capabilities,
    Count,
    Entry,
    OnThisMachine,
    Page,
    Purged,
    Replacement,
    prepared,
    refuse_problem,
    refuse_problems,
)
from kvseal.drivers.duckdb.connections import (
    CONFLICTS,
    NO_TABLE,
    Connections,
    create_file,
    open_file,
    rows,
    store_over,
)
from kvseal.drivers.duckdb.rows import (
    change_of,
    checked_names,
    entry_of,
    kinds_of,
    names_of,
    new_row,
    now,
    read_of,
    rounds_of,
    text_of,
)
from kvseal.drivers.duckdb.table import Table
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError
from kvseal.errors.operating_system import reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from key_value.aio.stores.duckdb import DuckDBStore

    from kvseal.drivers.base import Put
    from kvseal.drivers.urls import StoreUrl

_DEFAULT_TABLE: Final = "kv_entries"
_ATTEMPTS: Final = 20
_PAUSE: Final = 0.005
_NOT_PURGED: Final = (
    "the database file, which keeps overwritten values: backup, restore into a new one, and delete this one",
    "file system snapshots and backups, and the blocks of deleted files",
)
_LOCK: Final = threading.Lock()
"""Held over each write, so that drivers in several threads do not refuse each other."""


class DuckDBDriver(OnThisMachine):
    """
    The entries of the table *table*.

    With *auto_create* a table that does not exist is empty, and made by the first put.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        location: str,
        table: str,
        lasting: bool = True,
        auto_create: bool = False,
    ) -> None:
        self.location = location
        self.capabilities = Capabilities(
            atomic_replace=True,
            evicts=False,
            lasting=lasting,
            one_writer=True,
        )
        self._connections = connections
        self._table = Table(table)
        self._auto_create = auto_create

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries in the order of names; the cursor is names."""
        collection, key = (None, None) if after is None else json.loads(after)
        part, parts = partition
        names = {"collection": collection, "key": key, "part": part, "parts": parts}
        cursor = self._connections.open()
        try:
            listed = await self._read(
                cursor, self._table.list_names(is_first=after is None, expired=expired), names
            )
            pages = (await self._read(cursor, self._table.pages, {}))[0][0] if listed else 0
            for number in range(1, pages + 1):
                found = await self._read(cursor, self._table.page(expired=expired), {"page": number})
                if found:
                    yield Page([entry_of(row) for row in found], json.dumps(found[-1][:2]))
        finally:
            cursor.close()

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry as it is stored, with a `problem` where it cannot be read."""
        found = self._query(self._table.get, checked_names(collection, key))
        return entry_of(found[0]) if found else None

    async def put_if_absent(self, entry: Entry) -> bool:
        """Insert the row, in place of an expired one; the table is made where the store would make it."""
        row = new_row(entry)
        await self._make_table()
        # Two statements, two transactions: one that deletes and inserts a name is refused by DuckDB's index.
        await self._write(self._table.bury, row)
        return bool(await self._write(self._table.put, row))

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """Insert the rows in one statement, all or none of which happens; one more for each repeated name."""
        puts, new = await in_thread(prepared, entries, new_row)
        await self._make_table()
        for numbers in rounds_of((number, names_of(row), False) for number, row in new.items()):
            rows = {"rows": json.dumps([new[number] for number in numbers])}
            await self._write(self._table.bury_many, rows)
            stored = {tuple(row) for row in await self._write(self._table.put_many, rows)}
            for number in numbers:
                puts[number] = names_of(new[number]) in stored
        return puts

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Replace in one statement, all or none of which happens; one more for each repeated name."""
        refuse_problems(replacements)
        texts = await in_thread(lambda: [text_of(r.value) for r in replacements])
        done = [False] * len(replacements)
        for numbers in rounds_of(kinds_of(replacements)):
            changes = [change_of(replacements[number], texts[number]) for number in numbers]
            sql = self._table.replace(keeps_expiry=replacements[numbers[0]].expires_at is KEEP)
            swapped = {tuple(row) for row in await self._write(sql, {"rows": json.dumps(changes)})}
            for number in numbers:
                place = replacements[number].entry.locator
                done[number] = (place.collection, place.key) in swapped
        return done

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete the row if it is unchanged."""
        refuse_problem(entry)
        return bool(await self._write(self._table.delete, read_of(entry)))

    async def count(self) -> Count:
        """Count the live rows."""
        found = await in_thread(self._query, self._table.count, {})
        return Count(found[0][0] if found else 0, exact=True)

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """
        Bring what is in the write-ahead log into the database file, and say that this is not enough.

        DuckDB neither overwrites the blocks that it no longer needs nor the rows that were deleted, and
        a file that is in use cannot be replaced by a copy of what lives in it.
        """
        if not self.capabilities.lasting:
            return Purged(("nothing: the database is in this process's memory, and in no file",))
        if not dry_run:
            await self._write("CHECKPOINT", {})
        return Purged(("CHECKPOINT: the write-ahead log emptied",), _NOT_PURGED, complete=False)

    async def close(self) -> None:
        """Close the database if the driver has opened it; the application's connection stays open."""
        await in_thread(self._connections.close)

    def expect_table(self) -> None:
        """Raise `StoreNotFoundError` if the table does not exist, or is not a store's."""
        if not self.has_table():
            raise self._not_found()

    async def _make_table(self) -> None:
        if self._auto_create and not self.has_table():
            await self.create_table()

    async def create_table(self) -> None:
        """Make the table and its indexes as DuckDBStore would, unless they are there."""
        store: Any = store_over(object(), self._table.name)
        for sql in (
            store._get_create_table_sql(),  # noqa: SLF001
            store._get_create_collection_index_sql(),  # noqa: SLF001
            store._get_create_expires_index_sql(),  # noqa: SLF001
        ):
            await self._write(sql, {})

    def has_table(self) -> bool:
        """Whether there is the table; raises `StoreNotFoundError` if it has not the store's columns."""
        try:
            self._connections.rows(self._table.probe, {})
        except duckdb.CatalogException:
            return False
        except duckdb.BinderException as exc:
            raise self._not_found() from exc
        return True

    def _query(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        """Return the rows; none if there is no table and the store has yet to make it."""
        try:
            return self._connections.rows(sql, {**parameters, "now": now()})
        except NO_TABLE as exc:
            return self._nothing(exc)

    async def _read(
        self, cursor: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any]
    ) -> list[Any]:
        """Run a statement of a scan in a thread; like every reader it is in no writer's way."""
        values = {**parameters, "now": now()}
        try:
            return await in_thread(rows, cursor, sql, values, location=self.location)
        except NO_TABLE as exc:
            return self._nothing(exc)

    def _nothing(self, exc: duckdb.Error) -> list[Any]:
        """Return no rows where the store has yet to make its table, else raise."""
        if self._auto_create and isinstance(exc, duckdb.CatalogException):
            return []
        raise self._not_found() from exc

    async def _write(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        """Run a statement here, in the event loop's thread, where the application's own writers run."""
        for _ in range(_ATTEMPTS):
            try:
                with _LOCK:
                    return self._query(sql, parameters)
            except CONFLICTS:
                await asyncio.sleep(_PAUSE)
        msg = f"{self.location}: another transaction has changed the same entry and has not ended"
        raise StoreUnreachableError(msg, hint="end the application's transaction and try again")

    def _not_found(self) -> StoreError:
        msg = f"{self.location}: there is no table {self._table.name} of a DuckDBStore"
        return StoreNotFoundError(
            msg, hint="check the path and the table (?table=NAME), or create the store explicitly"
        )


def for_store(store: DuckDBStore) -> DuckDBDriver:
    """
    Return the driver of *store*, on cursors of its connection.

    Raises:
        StoreUnreachableError: the connection is closed, or its transaction has failed.
        UnsupportedStoreError: the table is a temporary one, which only that connection sees.
    """
    connection: Any = store._connection  # noqa: SLF001
    table: str = store._table_name  # noqa: SLF001
    search_path = ""
    if store._client_provided_by_user:  # noqa: SLF001
        search_path = _search_path(connection, table)
    connections = Connections(connection, location="duckdb:", search_path=search_path, owned=False)
    where = "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    path: str | None = connections.rows(where, {})[0][0]
    location = f"duckdb:{path or ':memory:'}?table={table}"
    return DuckDBDriver(
        Connections(connection, location=location, search_path=search_path, owned=False),
        location=location,
        table=table,
        lasting=path is not None,
        auto_create=store._auto_create,  # noqa: SLF001
    )


def _search_path(connection: Any, table: str) -> str:
    """Return where *connection* looks for tables, which the application may have set."""
    sql = """SELECT current_setting('search_path'),
        (SELECT count(*) FROM duckdb_tables() WHERE temporary AND table_name = $table)"""
    ((path, temporary),) = rows(connection, sql, {"table": table}, location="duckdb:")
    if temporary:
        msg = f"no driver for a DuckDBStore in a temporary table ({table})"
        raise UnsupportedStoreError(msg, hint="use a table that lasts, or give the vault a meta_store=")
    return str(path)


async def from_url(url: StoreUrl, *, create: bool) -> DuckDBDriver:
    """
    Return the driver of the table that `PATH?table=NAME` names; only with *create* may it be new.

    Raises:
        UnsupportedStoreError: that is not the URL of a table.
        StoreNotFoundError: there is no such database, or without *create* no such table.
        StoreUnreachableError: another process has the database open.
    """
    path, table = _path_and_table(url)
    store_over(object(), table)
    try:
        connection = await in_thread(create_file if create else open_file, path)
    except OSError as exc:
        msg = f"cannot open the DuckDB store at {path}: {reason_of(exc)}"
        raise StoreUnreachableError(msg, hint="check the path and its permissions") from exc
    shown = f"duckdb:{path}?table={table}"
    driver = DuckDBDriver(Connections(connection, location=shown, owned=True), location=shown, table=table)
    try:
        if create and not driver.has_table():
            await driver.create_table()
        driver.expect_table()
    except BaseException:
        await driver.close()
        raise
    return driver


def _path_and_table(url: StoreUrl) -> tuple[Path, str]:
    plain, table = url.option("table")
    if plain.location.startswith(":memory:"):
        msg = "a DuckDB database in memory lives in the process that made it, where no URL reaches it"
        raise UnsupportedStoreError(msg, hint="name a function that makes the store: python:module:factory")
    return plain.path(), _DEFAULT_TABLE if table is None else table
