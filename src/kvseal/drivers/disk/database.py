"""
diskcache's database, `cache.db`, read and written through SQLite alone.

diskcache unpickles keys and values as it reads them (CVE-2025-69872), so a row that
an attacker planted would run as code.  Here a row is bytes and numbers, whatever it says.
The schema and the triggers that keep diskcache's accounting right are the store's own.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import weakref
import zlib
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock
from kvseal.concurrency import after_fork
from kvseal.drivers.base import PAGE_BYTES, closed
from kvseal.drivers.disk.read_only import open_mode
from kvseal.drivers.disk.rows import Row
from kvseal.errors import StoreNotFoundError, StoreUnreachableError
from kvseal.errors.operating_system import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FILE_NAME: Final = "cache.db"

BUSY_TIMEOUT: Final = 60.0
"""Seconds to wait for another writer; diskcache waits as long."""

_SHORTEST_TURN: Final = 1.0
"""Seconds to wait for another thread, even where no process is waited for."""

# Text is taken as bytes, so that text which is not UTF-8 is a problem of its row and not of the scan.
_COLUMNS: Final = (
    "rowid, CAST(key AS BLOB), typeof(key) = 'text', raw, expire_time, size, mode, "
    "CAST(filename AS BLOB), CAST(value AS BLOB), typeof(value) = 'text'"
)
_LIVE: Final = "(expire_time IS NULL OR expire_time > :now)"
_SELECT: Final = f"SELECT {_COLUMNS} FROM Cache WHERE"  # noqa: S608 - constants all the way down
_EXPECTED: Final = (
    "SELECT rowid, key, raw, store_time, expire_time, access_time, access_count, tag, size, mode,"
    " filename, value FROM Cache LIMIT 0"
)


class CacheDB:
    """
    `cache.db` in *directory*, with a connection for readers and one for the writer.

    Every method blocks and may be called from any thread.  Nothing is opened before it is
    needed and nothing is ever created: a path with no store in it raises `StoreNotFoundError`.
    """

    def __init__(self, directory: Path, *, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self.path = directory / FILE_NAME
        self._reader = _Connection(self.path, "PRAGMA query_only=ON", busy_timeout)
        # What is acknowledged is on the disk, because the value it replaces is gone.
        self._writer = _Connection(self.path, "PRAGMA synchronous=FULL", busy_timeout, writes=True)

    def wait_at_most(self, seconds: float) -> None:
        """Wait no longer than that for a lock; called before anything is opened."""
        self._reader.busy_timeout = self._writer.busy_timeout = seconds

    def settings(self) -> dict[str, Any]:
        """Return diskcache's settings and counters."""
        with self._reader.used() as con:
            rows = con.execute("SELECT key, value FROM Settings").fetchall()
        return {_plain(key): _plain(value) for key, value in rows}

    def last_rowid(self) -> int | None:
        """Return the highest rowid there is: what is inserted from now on gets a higher one."""
        with self._reader.used() as con:
            (rowid,) = con.execute("SELECT max(rowid) FROM Cache").fetchone()
        return None if rowid is None else int(rowid)

    def page(
        self, *, after: int | None, last: int, partition: tuple[int, int], limit: int, expired: bool
    ) -> list[Row]:
        """
        Return the rows behind rowid *after* up to *last* in rowid order, at most *limit* of them.

        They are live, or with *expired* all that there are.

        The read transaction ends with the page, so a write-ahead log can be checkpointed between pages.
        """
        part, parts = partition
        mine = "" if parts == 1 else " AND kvseal_hash(CAST(key AS BLOB)) % :parts = :part"
        behind = "" if after is None else " AND rowid > :after"
        live = "true" if expired else _LIVE
        sql = f"{_SELECT} {live}{behind} AND rowid <= :last{mine} ORDER BY rowid LIMIT :limit"
        values = {
            "after": after,
            "last": last,
            "now": clock.wall(),
            "limit": limit,
            "part": part,
            "parts": parts,
        }
        rows: list[Row] = []
        held, behind_rowid = 0, after
        with self._reader.used() as con, contextlib.closing(con.execute(sql, values)) as cursor:
            for columns in cursor:
                rows.append(row := Row(*columns))
                if behind_rowid is not None and row.rowid <= behind_rowid:
                    # SQLite believes a damaged tree, and a scan would begin again and again.
                    raise self._damaged()
                behind_rowid = row.rowid
                held += _weight(row)
                if held >= PAGE_BYTES:
                    break
        return rows

    def _damaged(self) -> StoreUnreachableError:
        msg = f"{self.path}: database disk image is malformed: its rows are not in order"
        return StoreUnreachableError(msg, hint=_hint(msg))

    def row(self, rowid: int, *, expired: bool) -> Row | None:
        """Return the row with this rowid, which may be another entry than it was; live, or also *expired*."""
        return self._one("rowid = :rowid", {"rowid": rowid}, expired=expired)

    def row_of_key(self, key: str) -> Row | None:
        """Return the live row with this text as its key."""
        return self._one("key = :key AND raw = 1", {"key": key})

    def any_row_of_key(self, con: sqlite3.Connection, key: str) -> Row | None:
        """Return the row with this text as its key, live or not, as the writer sees it."""
        columns = con.execute(f"{_SELECT} key = ? AND raw = 1", (key,)).fetchone()
        return None if columns is None else Row(*columns)

    def count(self) -> int:
        """Return how many rows are live."""
        with self._reader.used() as con:
            sql = f"SELECT count(*) FROM Cache WHERE {_LIVE}"  # noqa: S608
            (number,) = con.execute(sql, {"now": clock.wall()}).fetchone()
        return int(number)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock of the database; commit at the end, or roll back if an exception leaves."""
        with self._writer.used() as con:
            con.execute("BEGIN IMMEDIATE")
            try:
                yield con
                con.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors, such as a full disk.
                if con.in_transaction:
                    con.execute("ROLLBACK")
                raise

    def vacuum(self) -> None:
        """
        Write the database anew, so that nothing that was overwritten or deleted is in its files.

        Rowids stay.  Writers wait for it, and it waits for readers.

        Raises:
            StoreUnreachableError: another process went on reading what was there before.
        """
        with self._writer.used() as con:
            con.execute("VACUUM")
            (is_busy, _, _) = con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            msg = f"{self.path}: another process went on reading, so the write-ahead log could not be emptied"
            raise StoreUnreachableError(msg, hint="end its transaction and run this again")

    def unnamed(self, files: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
        """Return those of *files*, names of value files with a time, that no row names by now."""
        with self._writer.used() as con:
            con.execute("CREATE TEMP TABLE kvseal_files (name TEXT PRIMARY KEY, written REAL)")
            try:
                con.executemany("INSERT OR IGNORE INTO temp.kvseal_files VALUES (?, ?)", files)
                rows = con.execute(
                    "SELECT name, written FROM temp.kvseal_files WHERE name NOT IN"
                    " (SELECT CAST(filename AS TEXT) FROM main.Cache WHERE filename IS NOT NULL)"
                ).fetchall()
            finally:
                con.execute("DROP TABLE temp.kvseal_files")
        return [(name.decode(), written) for name, written in rows]

    def close(self) -> None:
        """Close both connections, when their users are done."""
        self._reader.close()
        self._writer.close()

    def _one(self, condition: str, values: dict[str, Any], *, expired: bool = False) -> Row | None:
        with self._reader.used() as con:
            columns = con.execute(
                f"{_SELECT} {condition} AND {'true' if expired else _LIVE}", {**values, "now": clock.wall()}
            ).fetchone()
        return None if columns is None else Row(*columns)


class _Connection:
    """One SQLite connection for one thread at a time, opened when it is first used."""

    def __init__(self, path: Path, pragma: str, busy_timeout: float, *, writes: bool = False) -> None:
        self._path = path
        self._writes = writes
        self._pragma = pragma
        self.busy_timeout = busy_timeout
        self._lock = threading.Lock()
        self._con: sqlite3.Connection | None = None
        self._inherited: sqlite3.Connection | None = None
        self._closed = False
        _OPEN.add(self)

    @contextlib.contextmanager
    def used(self) -> Iterator[sqlite3.Connection]:
        # A thread that waits for the database has it for its busy timeout, and so have those behind it.
        lock = self._lock
        if not lock.acquire(timeout=max(self.busy_timeout, _SHORTEST_TURN)):
            msg = f"{self._path}: other threads have waited for the database for {self.busy_timeout:g} s"
            raise StoreUnreachableError(msg, hint=_hint("locked"))
        try:
            with _translated(self._path):
                if self._closed:
                    raise closed(str(self._path))
                if self._con is None:
                    self._con = self._opened()
                yield self._con
        finally:
            lock.release()

    def close(self) -> None:
        with self._lock:
            con, self._con, self._closed = self._con, None, True
            if con is not None:
                con.close()

    def forget_parent(self) -> None:
        """
        In a child process, open a connection of its own when the next one is needed.

        The parent's must not be used there nor even be closed, because it holds the parent's
        idea of locks and of the log; and a thread that held the lock does not exist any more.
        """
        self._inherited, self._con = self._con or self._inherited, None
        self._lock = threading.Lock()

    def _opened(self) -> sqlite3.Connection:
        _refuse_missing(self._path)
        con = sqlite3.connect(
            # The URI keeps `?` and `%` of a path literal.
            f"{self._path.absolute().as_uri()}?{open_mode(self._path, writes=self._writes)}",
            uri=True,
            timeout=self.busy_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            con.text_factory = bytes
            # A process that can write the file can write its schema, too.
            con.execute("PRAGMA trusted_schema=OFF")
            con.execute(self._pragma)
            con.create_function("kvseal_hash", 1, _hash, deterministic=True)
            _refuse_foreign(con, self._path)
        except BaseException:
            con.close()
            raise
        return con


_OPEN: Final[weakref.WeakSet[_Connection]] = weakref.WeakSet()


def _forget_parents() -> None:
    for connection in _OPEN:
        connection.forget_parent()


after_fork(_forget_parents)


def _plain(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _hash(key: bytes | None) -> int:
    return zlib.crc32(key or b"")


def _weight(row: Row) -> int:
    return len(row.value or b"") + (max(0, row.size) if row.filename and isinstance(row.size, int) else 0)


def _refuse_missing(path: Path) -> None:
    try:
        if path.is_file():
            return
        kind = "no cache.db in it" if path.parent.is_dir() else "no such directory"
    except OSError as exc:
        msg = f"cannot look at {path}: {reason_of(exc)}"
        raise StoreUnreachableError(msg) from exc
    msg = f"no disk store at {path.parent}: {kind}"
    raise StoreNotFoundError(msg, hint="check the path; nothing was created")


def _refuse_foreign(con: sqlite3.Connection, path: Path) -> None:
    try:
        tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('Cache', 'Settings')"
        ours = con.execute(tables).fetchone() == (2,) and con.execute(_EXPECTED) is not None
    except sqlite3.DatabaseError as exc:
        if not str(exc).startswith(("no such column", "file is not a database", "file is encrypted")):
            raise
        ours = False
    if not ours:
        msg = f"no disk store at {path.parent}: its cache.db is not one of diskcache's"
        raise StoreNotFoundError(msg, hint="check the path; nothing was changed")


_UNREADABLE_REASON: Final = "database disk image is malformed"
"""For a message of SQLite that quotes bytes of a damaged file: Python cannot read it, and 3.10 has none."""


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        reason = str(exc) or _UNREADABLE_REASON
        msg = f"{path}: {reason}"
        raise StoreUnreachableError(msg, hint=_hint(reason)) from exc
    except UnicodeDecodeError:
        msg = f"{path}: {_UNREADABLE_REASON}"
        raise StoreUnreachableError(msg, hint=_hint(msg)) from None


def _hint(message: str) -> str:
    if "locked" in message:
        return "another process holds the write lock of the store; end its transaction and run this again"
    if "malformed" in message or "not a database" in message:
        return (
            "the file is damaged; restore it from a backup, or salvage it with the sqlite3 shell's .recover"
        )
    if "readonly" in message or "unable to open" in message:
        return "check the owner and the permissions of the directory and the files in it"
    return ""
