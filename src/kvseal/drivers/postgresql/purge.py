"""
What PostgreSQL keeps of overwritten values, and how it goes away.

An UPDATE leaves the old row in the table until VACUUM, and VACUUM leaves its bytes in the page until
something else needs the room.  VACUUM FULL writes the table anew.  It keeps a row that an open
transaction might still see, and says so only as a message; and it says only as a warning that it has
skipped a table.

ANALYZE, which PostgreSQL runs by itself, copies values of up to 1 KiB into its statistics.  So the table
is analyzed anew, and then the table of the statistics is written anew, too.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from kvseal.drivers.base import Purged
from kvseal.drivers.postgresql.pools import ANSWER_SECONDS, connection
from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Sequence

LOCK_TIMEOUT: Final = "10s"
"""How long the table is waited for: meanwhile, all other users of it wait, too."""
HALTS: Final = "No other process can read or write the table until it has been written anew"

NO_TABLE: Final = Purged(("nothing: there is no table yet",))

_STATISTICS: Final = "pg_catalog.pg_statistic"
_LONGEST: Final = 7 * 86400.0
_FIRST_NUMBER: Final = re.compile(r"\D*(\d+)")
_OWNER: Final = "purge as the owner of the table, or let them run VACUUM (FULL, ANALYZE) of it"
_LEFT: Final = (
    "the write-ahead log until its files are used again, its archive, replicas that lag behind, base"
    " backups and dumps, file system snapshots, and the blocks of deleted files"
)


async def purge_table(pool: asyncpg.Pool, table: str, location: str) -> Purged:
    """
    Write *table* anew, outside of any transaction.

    Raises:
        StoreUnreachableError: the user may not, or others hold on to the table; nothing was changed.
    """
    async with connection(pool) as held:
        # The pool resets both when it takes the connection back.
        settings = f"SET lock_timeout = '{LOCK_TIMEOUT}'; SET statement_timeout = 0"
        await held.execute(settings, timeout=ANSWER_SECONDS)
        try:
            messages = await _vacuumed(held, f"(FULL, VERBOSE, ANALYZE) {table}")
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as exc:
            msg = f"{location}: others have used the table for {LOCK_TIMEOUT} without a break"
            raise StoreUnreachableError(
                msg, hint="end their transactions, or purge at a quiet hour; nothing was changed"
            ) from exc
        if skipped := _warnings(messages):
            raise StoreUnreachableError(f"{location}: {skipped[0]}", hint=_OWNER)
        return await _rest(held, table, _kept(messages))


async def _rest(connection: Any, table: str, kept: int) -> Purged:
    """Write the statistics anew and make a checkpoint, if we may, and return what became of it all."""
    done, left = [f"VACUUM FULL of {table}"], []
    try:
        messages = await _vacuumed(connection, f"(FULL, VERBOSE) {_STATISTICS}")
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        skipped = True
    else:
        skipped, kept = bool(_warnings(messages)), kept + _kept(messages)
    if skipped:
        left.append(
            f"samples of values in the statistics: as the database's owner, VACUUM FULL {_STATISTICS}"
        )
    else:
        done.append(f"ANALYZE, and VACUUM FULL of {_STATISTICS}")
    if kept:
        left.append(
            f"{kept} overwritten rows that an open transaction, a prepared one or a replication slot"
            " might still see: end it and purge again"
        )
    complete = not left
    try:
        await connection.execute("CHECKPOINT", timeout=_LONGEST)
        done.append("CHECKPOINT")
    except asyncpg.InsufficientPrivilegeError:
        left.append("CHECKPOINT, for which a member of pg_checkpoint is needed")
    return Purged(tuple(done), (*left, _LEFT), complete=complete, halts=HALTS)


def plan(table: str) -> Purged:
    """Return what `purge_table` would do."""
    steps = (f"VACUUM FULL of {table}", f"ANALYZE, and VACUUM FULL of {_STATISTICS}", "CHECKPOINT")
    return Purged(steps, (_LEFT,), halts=HALTS)


async def _vacuumed(connection: Any, what: str) -> Sequence[Any]:
    """Run VACUUM, and return what the server said of it."""
    messages: list[Any] = []

    def listen(_: Any, message: Any) -> None:
        messages.append(message)

    connection.add_log_listener(listen)
    try:
        await connection.execute(f"VACUUM {what}", timeout=_LONGEST)
        await asyncio.sleep(0)  # asyncpg calls its listeners in the next round of the loop.
    finally:
        connection.remove_log_listener(listen)
    return messages


def _warnings(messages: Sequence[Any]) -> list[str]:
    return [message.message for message in messages if message.severity_en == "WARNING"]


def _kept(messages: Sequence[Any]) -> int:
    """Return how many dead rows were kept: in whatever language, the first number of the only detail."""
    found = (_FIRST_NUMBER.match(m.detail) for m in messages if m.severity_en == "INFO" and m.detail)
    return sum(int(number[1]) for number in found if number)
