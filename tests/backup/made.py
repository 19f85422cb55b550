"""Backup files of known content, and what lies in a store."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from zstandard import ZstdCompressor

from kvseal.backup.file import BackupReader, BackupWriter
from kvseal.backup.lines import Header
from kvseal.drivers.base import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kvseal.drivers.base import Driver

CREATED = datetime(2024, 2, 29, 23, 59, 59, 123457, tzinfo=timezone.utc)
PAST = datetime(2024, 3, 1, tzinfo=timezone.utc)
FUTURE = datetime(2099, 12, 31, 1, 2, 3, 456789, tzinfo=timezone.utc)
LARGE = {"large": "x" * 40_000}
HEADER = Header("kvseal 1.2.3", "disk:/kv", CREATED)
TRAILER_TYPE = b'{"type":"trailer"'


def entry(key: str = "k", value: dict[str, Any] | None = None, **fields: Any) -> Entry:
    """Return an entry of collection `c`."""
    names = {"collection": "c", "key": key, "created_at": CREATED, **fields}
    return Entry(value={"n": 1} if value is None else value, **names)


def backup_bytes(*entries: Entry) -> bytes:
    """Return a whole backup file."""
    file = io.BytesIO()
    writer = BackupWriter(file, HEADER)
    writer.add(entries)
    writer.finish()
    return file.getvalue()


def backup_file(directory: Path, *entries: Entry) -> Path:
    """Write a whole backup file and return its path."""
    path = directory / "made.kvseal"
    path.write_bytes(backup_bytes(*entries))
    return path


def frame(*lines: bytes, **options: Any) -> bytes:
    """Return any lines as a compressed file."""
    return ZstdCompressor(**options).compress(b"".join(line + b"\n" for line in lines))


def read(content: bytes) -> list[Entry]:
    """Return the entries of a backup file, which must be whole."""
    return [found for batch in BackupReader(io.BytesIO(content)).batches() for found in batch]


async def everything(driver: Driver) -> dict[Any, tuple[str, datetime | None, datetime | None]]:
    """Return names, or path, with value, creation time and expiry of every entry."""
    found = [entry async for page in driver.scan() for entry in page.entries]
    return {
        (e.collection, e.key, e.path): (json.dumps(e.value, sort_keys=True), e.created_at, e.expires_at)
        for e in found
    }


async def put_all(driver: Driver, entries: Iterable[Entry]) -> None:
    """Put entries that are absent."""
    for made in entries:
        assert await driver.put_if_absent(made)
