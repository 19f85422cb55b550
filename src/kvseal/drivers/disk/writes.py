"""
Writes to rows of diskcache's `Cache` table, each of them on the condition that no other writer was faster.

diskcache's triggers keep the counters of the store right; what is written here is what they need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock
from kvseal.drivers.disk.rows import RAW_MODE, Row

if TYPE_CHECKING:
    import sqlite3

_UNCHANGED: Final = (
    "rowid = :rowid AND key = :key AND raw = 1 AND mode = :old_mode AND filename IS :old_filename"
    " AND expire_time IS :old_expire AND (expire_time IS NULL OR expire_time > :now)"
    " AND CAST(value AS BLOB) IS :old_value"
)
_SET: Final = "UPDATE Cache SET value = :value, mode = :mode, filename = :filename, size = :size"
_UPDATE: Final = f"{_SET}, expire_time = :expire WHERE {_UNCHANGED}"
# SQLite writes an index anew for every column that is named, whether or not it changes.
_UPDATE_BODY: Final = f"{_SET} WHERE {_UNCHANGED}"
_DELETE: Final = f"DELETE FROM Cache WHERE {_UNCHANGED}"  # noqa: S608 - constants all the way down
_INSERT: Final = (
    "INSERT INTO Cache(key, raw, store_time, expire_time, access_time, value, mode, filename, size)"
    " VALUES (:key, 1, :now, :expire, :now, :value, :mode, :filename, :size)"
    " ON CONFLICT (key, raw) DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where diskcache puts one body: in the row, or in a file that the row names."""

    value: str | None
    mode: int = RAW_MODE
    filename: str | None = None
    size: int = 0

    def columns(self) -> dict[str, Any]:
        """Return the columns of the row, by name."""
        return {"value": self.value, "mode": self.mode, "filename": self.filename, "size": self.size}


def insert(con: sqlite3.Connection, key: str, placed: Placed, *, expire_time: float | None) -> bool:
    """Insert a row unless there is one with this key, expired or not; return whether it was inserted."""
    values = {"key": key, "now": clock.wall(), "expire": expire_time, **placed.columns()}
    return con.execute(_INSERT, values).rowcount == 1


def update(con: sqlite3.Connection, row: Row, placed: Placed, *, expire_time: float | None) -> bool:
    """Give *row* another body and expiry, and leave all its other columns, if it is what was read."""
    values = {**_read(row), **placed.columns(), "expire": expire_time}
    statement = _UPDATE_BODY if expire_time == row.expire_time else _UPDATE
    return con.execute(statement, values).rowcount == 1


def delete(con: sqlite3.Connection, row: Row) -> bool:
    """Delete *row* if it is what was read."""
    return con.execute(_DELETE, _read(row)).rowcount == 1


def _read(row: Row) -> dict[str, Any]:
    return {
        "rowid": row.rowid,
        "key": None if row.key is None else row.key.decode(),
        "old_mode": row.mode,
        "old_filename": None if row.filename is None else row.filename.decode(),
        "old_expire": row.expire_time,
        "old_value": row.value,
        "now": clock.wall(),
    }
