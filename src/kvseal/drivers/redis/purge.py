"""
What a Redis or Valkey server keeps of overwritten values, and how it goes away.

The append-only file has every value that was ever set since it was last rewritten, and a snapshot
those of its moment.  The server can write both anew, in a child process beside its work.  A child
that is under way may have begun before the last overwriting, so it is waited for, and then another
one is begun.  Whether it has ended, and how, is asked of the server itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from kvseal.drivers.base import Purged
from kvseal.errors import StoreError, StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ATTEMPTS: Final = 100
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 1.0
_BUSY: Final = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled")
_FORBIDDEN: Final = (
    "grant the user +info +bgsave +bgrewriteaof; where a provider forbids them, let it take a new snapshot,"
    " and delete the older ones"
)
_NOTHING: Final = "nothing: the server writes neither an append-only file nor snapshots"
_LEFT: Final = (
    "copies of the server's files: backups, and the directory of an append-only file that was switched off;"
    " file system snapshots, and the blocks of deleted files"
)


class Ask(Protocol):
    """Sends one command; raises `StoreError` where the server refuses it."""

    async def __call__(self, *command: str) -> Any:
        """Return the answer."""
        ...


async def purge_server(ask: Ask, location: str, *, dry_run: bool) -> Purged:
    """
    Let the server write its files anew.

    Raises:
        StoreUnreachableError: it does not let us, or could not.
    """
    try:
        info = await ask("INFO", "persistence")
        replicas = int((await ask("INFO", "replication")).get("connected_slaves", 0))
    except StoreError as exc:
        raise _forbidden(exc) from exc
    done = []
    for is_kept, command, status, what in (
        (info.get("aof_enabled") == 1, "BGREWRITEAOF", "aof_last_bgrewrite_status", "append-only file"),
        (await _keeps_snapshots(ask, info), "BGSAVE", "rdb_last_bgsave_status", "snapshot"),
    ):
        if is_kept:
            done.append(f"{command}: the {what} written anew")
            if not dry_run:
                await _write_anew(ask, command, status, f"{location}: the {what}")
    left = (f"the files of {replicas} replicas: the same commands there",) if replicas else ()
    return Purged(tuple(done) or (_NOTHING,), (*left, _LEFT))


async def _keeps_snapshots(ask: Ask, info: Mapping[str, Any]) -> bool:
    """Whether there is a snapshot to be replaced, as far as the server says; where it does not, there is."""
    try:
        _, times = await ask("CONFIG", "GET", "save")
    except (StoreError, ValueError):
        return True
    was_saved = bool(times) or int(info.get("rdb_saves", 0)) > 0
    # What was loaded at the start came from a snapshot, unless it came from an append-only file.
    return was_saved or (not info.get("aof_enabled") and int(info.get("rdb_last_load_keys_loaded", 0)) > 0)


async def _write_anew(ask: Ask, command: str, status: str, what: str) -> None:
    for _ in range(_ATTEMPTS):
        await _idle(ask)
        try:
            await ask(command)
        except StoreError as exc:
            if "already in progress" not in str(exc) and "another child" not in str(exc).lower():
                raise _forbidden(exc) from exc
        else:
            break
    else:
        msg = f"{what} could not be written anew: others let the server write it all the time"
        raise StoreUnreachableError(msg, hint="run this again")
    if (await _idle(ask)).get(status) != "ok":
        msg = f"{what} could not be written anew"
        raise StoreUnreachableError(msg, hint="look at the server's log and its free space and memory")


async def _idle(ask: Ask) -> Mapping[str, Any]:
    """Return the server's state once no child writes a file, which it ends by itself."""
    pause = _FIRST_PAUSE
    while True:
        info: Mapping[str, Any] = await ask("INFO", "persistence")
        if not any(info.get(name) for name in _BUSY):
            return info
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _forbidden(exc: StoreError) -> StoreUnreachableError:
    return StoreUnreachableError(str(exc), hint=_FORBIDDEN)
