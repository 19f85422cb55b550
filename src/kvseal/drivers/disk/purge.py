"""
What diskcache keeps of values that were overwritten or deleted, and how it goes away.

SQLite leaves old bytes in free pages, in the gaps of pages that are in use, and in the write-ahead
log.  VACUUM writes the whole database anew and a truncating checkpoint empties the log.

Large values have files of their own.  A writer that dies after its commit leaves the old file
behind, and one that dies before it the new one: no row names either.  But a live writer makes its file
before the row that names it, too, so only files that have been there for `GRACE` are removed; any
writer has given up waiting for the database long before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvseal import clock
from kvseal.drivers.base import FILE_SYSTEM, GRACE, Purged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.drivers.disk.database import CacheDB
    from kvseal.drivers.disk.value_files import ValueFiles


@dataclass(frozen=True, slots=True)
class Swept:
    """How many value files that no row names were old enough to be removed, and how many were not."""

    removed: int
    young: int


def sweep(db: CacheDB, files: ValueFiles, *, dry_run: bool) -> Swept:
    """Remove what overwritten values have left in one directory; blocks."""
    before = clock.wall() - GRACE
    unnamed = db.unnamed(files.walk())
    old = [name for name, written in unnamed if written < before]
    young = [(name, written) for name, written in unnamed if written >= before]
    if not dry_run:
        for name in old:
            files.remove(name)
        db.vacuum()
    # Most writers that were under way are done by now.
    return Swept(len(old), sum(files.has(name) for name, _ in db.unnamed(young)))


def purged(swept: Sequence[Swept], *, dry_run: bool) -> Purged:
    """Return what became of every directory of one store."""
    removed, young = sum(one.removed for one in swept), sum(one.young for one in swept)
    of = "cache.db" if len(swept) == 1 else f"{len(swept)} databases"
    done = [f"VACUUM and a truncating checkpoint of {of}"]
    if removed:
        done.append(f"value files removed that no row named: {removed}")
    left = [FILE_SYSTEM]
    if young and not dry_run:
        left.insert(0, f"value files that no row names yet: {young}; purge again in an hour")
    return Purged(
        tuple(done),
        tuple(left),
        complete=not young,
        halts="Writers wait until the database has been written anew, and fail after a minute",
    )
