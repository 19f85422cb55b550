"""
Marks: which records of a part its earlier attempts have sealed.

An attempt that is killed has written records that no checkpoint counts yet.  The next attempt finds them
done, and has to count them as changed by this run, rather than as sealed before it or by an application.
They are known by their sealer: it draws the first half of the nonce once for many records, and no other
sealer draws the same.  A process notes that mark in the part before it writes the first record with it.

An application that recodes in its own process, through the vault of its wrapper, shares the sealer with it:
where such a process is killed, what it had put by then counts as changed, too.

A format without such a mark, the target of a rollback, counts what an attempt wrote after its last renewal
as done before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kvseal.recoding.progress.lease import Lease


class Marks:
    """What `mark_of` finds in stored values, known for the attempts at the part that *lease* holds."""

    def __init__(self, mark_of: Callable[[Mapping[str, Any]], str], lease: Lease | None) -> None:
        self._mark_of = mark_of
        self._lease = lease
        self._earlier: frozenset[str] = frozenset()
        self._noted: set[str] = set()
        self._noting = asyncio.Lock()

    def begin(self) -> None:
        """From now on, know the records of earlier attempts; the lease is held."""
        if self._lease is not None:
            self._earlier = frozenset(self._lease.part.marks)

    def end(self) -> None:
        """Know no record any more: each was counted, and a second pass over them counts none again."""
        self._earlier = frozenset()

    def is_earlier(self, stored: Mapping[str, Any] | None) -> bool:
        """Whether an earlier attempt has sealed *stored*."""
        return bool(self._earlier) and self._mark_of(stored or {}) in self._earlier

    async def note(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Have the marks of *values* in the checkpoint before these are written."""
        if self._lease is None:
            return
        found = {self._mark_of(value) for value in values} - {""}
        if found <= self._noted:
            return
        # One at a time: a page that is written at the same time waits until the mark is stored.
        async with self._noting:
            if not found <= self._noted:
                await self._lease.mark(found)
                self._noted |= found
