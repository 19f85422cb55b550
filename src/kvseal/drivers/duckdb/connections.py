"""
How the driver of `DuckDBStore` gets to the database: by cursors of its own, one for each task.

A cursor is a connection of its own to the same database, within the process that has it open.  So
the driver is never a part of a transaction that the application has open, and never ends one; and
a result that the application is reading stays as it is.  Closing the application's connection
closes them all.

DuckDB's messages quote values, so only those are passed on that cannot.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import duckdb
from key_value.aio.stores.duckdb import DuckDBStore

from kvseal.drivers.base import closed
from kvseal.errors import (
    StoreNotFoundError,
    StoreUnreachableError,
    UnsealableValueError,
    UnsupportedStoreError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFLICTS: Final = (duckdb.TransactionException, duckdb.ConstraintException)
"""Another transaction has changed the same row, and perhaps not ended yet."""

NO_TABLE: Final = (duckdb.CatalogException, duckdb.BinderException)
"""There is no such table, or none with the store's columns."""

WAY_OUT: Final = (
    "DuckDB admits one process at a time: run it in the application's own process"
    " (await kvseal.recoding… on its store object), or stop the application"
)
_WITHOUT_VALUES: Final = (duckdb.IOException, duckdb.ConnectionException, duckdb.OutOfMemoryException)
# A database comes from outside: what is defined in it reaches no other file and loads no code.
_CONFIG: Final = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "lock_configuration": "true",
}


class Connections:
    """Cursors of *connection*, which is closed only if it is *owned*; *search_path* is that of its tables."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, *, location: str, search_path: str = "", owned: bool
    ) -> None:
        self._connection: duckdb.DuckDBPyConnection | None = connection
        self._location = location
        self._search_path = search_path
        self._owned = owned

    def open(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor that the caller closes."""
        if self._connection is None:
            raise closed(self._location)
        with translated(self._location):
            cursor = self._connection.cursor()
            if self._search_path:
                path = self._search_path.replace("'", "''")
                cursor.execute(f"SET search_path = '{path}'")
        return cursor

    def rows(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        """Run one statement, in a transaction of its own, and return its rows."""
        cursor = self.open()
        try:
            return rows(cursor, sql, parameters, location=self._location)
        finally:
            cursor.close()

    def close(self) -> None:
        """Close the connection if it is the driver's own."""
        connection, self._connection = self._connection, None
        if self._owned and connection is not None:
            with translated(self._location):
                connection.close()


def rows(
    cursor: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any], *, location: str
) -> list[Any]:
    """Run one statement on *cursor*; a missing table and a conflict are raised as DuckDB has them."""
    with translated(location):
        # DuckDB refuses parameters that a statement does not use.
        used = {name: value for name, value in parameters.items() if f"${name}" in sql}
        found: list[Any] = cursor.execute(sql, used).fetchall()
        return found


def open_file(path: Path) -> duckdb.DuckDBPyConnection:
    """
    Open the database *path*, which exists.

    Raises:
        StoreNotFoundError: there is no such file, or it is no DuckDB database.
        StoreUnreachableError: another process has it open.
    """
    if not path.is_file():
        msg = f"no DuckDB store at {path}: no such file"
        raise StoreNotFoundError(msg, hint="check the path; nothing was created")
    return _connect(path)


def create_file(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the database *path*, which is made for its owner alone if it does not exist."""
    is_new = not path.exists()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = _connect(path)
    if is_new:
        path.chmod(0o600)
    return connection


def store_over(connection: Any, table: str) -> DuckDBStore:
    """
    Return a store for a moment, without its warning that the class is not stable yet.

    Raises:
        UnsupportedStoreError: *table* is not a name that it takes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return DuckDBStore(connection=connection, table_name=table)
        except ValueError as exc:
            msg = f"duckdb: has no table {table!r}: {exc}"
            raise UnsupportedStoreError(msg, hint="write duckdb:PATH?table=NAME") from exc


@contextmanager
def translated(location: str) -> Iterator[None]:
    """Raise what DuckDB raises in kvseal's words, except for `CONFLICTS` and `NO_TABLE`."""
    try:
        yield
    except (*NO_TABLE, *CONFLICTS):
        raise
    except duckdb.ConversionException:
        msg = "DuckDB's JSON cannot hold the value: it has half of a surrogate pair"
        raise UnsealableValueError(msg, hint="keep it sealed, or leave the character out") from None
    except _WITHOUT_VALUES as exc:
        hint = WAY_OUT if "lock" in str(exc) or "configuration" in str(exc) else ""
        msg = f"{location}: {exc}"
        raise StoreUnreachableError(msg, hint=hint) from exc
    except duckdb.Error as exc:
        msg = f"{location}: DuckDB raised {type(exc).__name__}"
        raise StoreUnreachableError(msg, hint="look at it with DuckDB's own tools") from None


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    try:
        with translated(f"duckdb:{path}"):
            return duckdb.connect(str(path), config=dict(_CONFIG))
    except StoreUnreachableError as exc:
        if "not a valid DuckDB" not in str(exc):
            raise
        msg = f"no DuckDB store at {path}: the file is not a database"
        raise StoreNotFoundError(msg, hint="check the path; nothing was changed") from exc
