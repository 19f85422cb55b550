"""
A run: one plan in a number of parts, which every process joins by the head of the checkpoint.

The first process writes the head, and splits the store.  Nothing else is agreed on: a part names the run,
and a process that finds another run in the head stops.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from kvseal.drivers.abilities import is_split_so, split
from kvseal.errors import LeaseHeldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvseal.drivers.base import Driver
    from kvseal.recoding.progress.checkpoint import CheckpointStore, Head
    from kvseal.recoding.progress.part import Part

SECONDS: Final = 30
"""How long a lease lasts after its last renewal."""
ATTEMPTS: Final = 256
"""Up to 1,024 parts may begin at once, and one writes the head; a process that loses a swap tries again."""


class Run:
    """The run that is like *head*; *splitter* is the driver of the store whose parts are scanned."""

    def __init__(
        self, store: CheckpointStore, head: Head, splitter: Driver | None, now: Callable[[], int]
    ) -> None:
        self._store = store
        self._splitter = splitter
        self._now = now
        self.head = head
        """What is in the checkpoint once the run is joined."""

    async def begin(self) -> None:
        """Join the run, so that its head is there for the processes that do its parts."""
        for _ in range(ATTEMPTS):
            if await self.join():
                return
        raise contended()

    async def join(self) -> bool:
        """
        Join the run in the checkpoint, or begin a new one; `False` if another process was faster.

        Raises:
            LeaseHeldError: a process works on a part of another run.
        """
        entry, found = await self._store.head()
        if found is not None and await self._goes_on(found):
            mine = self.head
            surveyed = found.surveyed if mine.surveyed is None else mine.surveyed
            joined = replace(found, prepared=found.prepared or mine.prepared, surveyed=surveyed)
            self.head, was_there = joined, joined == found
            return was_there or await self._store.put_head(entry, joined)
        if found is not None and not found.done:
            now = self._now()
            for part in await self._store.parts(found):
                if not part.is_free(now):
                    raise held_by(part, found.command)
        # No process works on the other run any more; the headers show which of its records are done.
        self.head = await self._begun()
        return await self._store.put_head(entry, self.head)

    async def is_joined(self) -> bool:
        """Whether the run is still the one in the checkpoint."""
        _, found = await self._store.head()
        return found is None or found.run == self.head.run

    async def keep(self) -> None:
        """Put the head back if it was dropped; raise `LeaseHeldError` if there is that of another run."""
        for _ in range(ATTEMPTS):
            entry, found = await self._store.head()
            if found is not None:
                if found.run != self.head.run:
                    raise held_by(None, found.command)
                return
            if await self._store.put_head(entry, self.head):
                return
        raise contended()

    async def _goes_on(self, found: Head) -> bool:
        """Whether *found* is a run of this plan, of which no bounds have become void."""
        if not found.goes_on_with(self.head.plan, self.head.count):
            return False
        if found.splits is None or self._splitter is None:
            return True
        return await is_split_so(self._splitter, found.splits[0])

    async def _begun(self) -> Head:
        """Return the head of a new run, with the bounds of its parts."""
        splits = None if self._splitter is None else await split(self._splitter, self.head.count)
        return self.head.anew(started_at=self._now(), splits=splits)


def held_by(part: Part | None, command: str) -> LeaseHeldError:
    """Return the error of a process that meets another one's lease, on *part* or on a part of another run."""
    who, until = "another run", None
    if part is not None and part.holder is not None:
        who, until = str(part.holder), datetime.fromtimestamp(part.until / 1000, timezone.utc)
    msg = f"{command} is being run on this vault by {who}"
    hint = f"wait for it, or stop it; a lease ends at most {SECONDS} s after its run: --wait-for-lease 1m"
    return LeaseHeldError(msg, hint=hint, until=until)


def contended() -> LeaseHeldError:
    """Return the error of a process that has lost every swap."""
    return LeaseHeldError("too many runs change the checkpoint at once", hint="use fewer partitions")
