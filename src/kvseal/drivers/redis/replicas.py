"""
Whether what was written outlives this server: its replicas have it, and its append-only file.

WAIT and WAITAOF speak of what the very connection has written on which they are asked.  They go alone: in
MULTI or in a script they do not wait.  They prove receipt.  That a failover promotes the replica that has
it, they do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import NoPermissionError

from kvseal.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]
    """Returns what the server answers to one command; raises `StoreError` where it refuses."""

PATIENCE: Final = 2.0
"""Seconds that a change of the vault meta waits for either, at most."""


def unconfirmed(ask: Ask, *, timeout: float) -> str:
    """
    Wait until what *ask*'s connection has written is elsewhere too, and return in words what is not.

    *timeout* is how many seconds the connection waits for an answer.
    """
    patience = min(PATIENCE, timeout / 2)
    try:
        replicas = int(ask("INFO", "replication").get("connected_slaves", 0))
        if replicas and not ask("WAIT", str(replicas), _milliseconds(patience)):
            which = "the replica has not" if replicas == 1 else f"none of {replicas} replicas has"
            return f"{which} confirmed it within {patience:g} s, so a failover may lose it"
        if ask("INFO", "persistence").get("aof_enabled") == 1 and not _is_synced(ask, patience):
            return f"the append-only file did not have it within {patience:g} s, so a crash may lose it"
    except StoreError as exc:
        if isinstance(exc.__cause__, NoPermissionError):
            return ""
        return f"whether a replica has it is not known, because the server did not say: {exc.message}"
    return ""


def _is_synced(ask: Ask, patience: float) -> bool:
    """Whether the append-only file is on the disk; an older server than Redis 7.2 cannot say."""
    try:
        local, _ = ask("WAITAOF", "1", "0", _milliseconds(patience))
    except StoreError as exc:
        return "unknown command" in str(exc)
    return bool(local)


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))
