"""Disk stores on a real disk, and rows that diskcache never wrote."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from key_value.aio.stores.disk import DiskStore

if TYPE_CHECKING:
    from pathlib import Path

    import diskcache


NAMELESS = '{"created_at": "2023-01-01T00:00:00+00:00", "value": {"n": 1}, "version": 1}'


def run_sql(directory: Path, sql: str, *values: Any) -> list[Any]:
    """Run one statement on the store's database from outside."""
    con = sqlite3.connect(directory / "cache.db", isolation_level=None)
    try:
        return con.execute(sql, values).fetchall()
    finally:
        con.close()


def insert(directory: Path, key: object, value: object, **columns: Any) -> None:
    """Insert a row as it is, past every check."""
    row = {"key": key, "value": value, "raw": 1, "mode": 1, "store_time": time.time(), **columns}
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    run_sql(directory, f"INSERT INTO Cache({names}) VALUES ({marks})", *row.values())


def body(collection: str = "coll", key: str = "key", **value: Any) -> str:
    """Return the body of an entry as the store writes it."""
    return json.dumps({"collection": collection, "key": key, "value": value, "version": 1}, sort_keys=True)


def value_files(directory: Path) -> list[Path]:
    """Return the value files, which are all files but the database's own."""
    return sorted(p for p in directory.rglob("*") if p.is_file() and not p.name.startswith("cache.db"))


def python(script: str, *args: object) -> subprocess.Popen[str]:
    """Start a script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def store_over(cache: diskcache.Cache) -> DiskStore:
    """Return a store over the caller's own cache, which py-key-value 0.4 ignores while it is empty."""
    cache["something"] = 1
    store = DiskStore(disk_cache=cache)
    del cache["something"]
    return store
