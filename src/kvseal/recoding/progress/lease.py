"""
The lease: the right to work on one part of a recode, acquired before the first write, renewed, released.

It keeps two runs from doing the same work at the same time.  Correctness does not depend on it: a swap
never loses a write, so clocks that disagree cost time but no record.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kvseal import clock
from kvseal.concurrency import within
from kvseal.errors import LeaseHeldError, StoreError
from kvseal.recoding.progress.checkpoint import Checkpoint, CheckpointStore, Part
from kvseal.recoding.progress.lease_holder import LeaseHolder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kvseal.recoding.report import Tally
    from kvseal.vault.vault import Vault

SECONDS: Final = 30
"""How long a lease lasts after its last renewal."""
SECONDS_BETWEEN_RENEWALS: Final = 5
SECONDS_TO_RELEASE: Final = 5
_ATTEMPTS: Final = 256
"""Each of 1,024 parts renews its lease in the same entry; a run that loses a swap tries again."""

_log = logging.getLogger("kvseal")


class Lease:
    """One part of one plan, held by this run."""

    def __init__(
        self,
        vault: Vault,
        plan: str,
        command: str,
        partition: tuple[int, int],
        *,
        prepared: bool = False,
        clock: Callable[[], float] = clock.wall,
    ) -> None:
        self._prepared = prepared
        self._store = CheckpointStore(vault)
        self._plan = plan
        self._command = command
        self._index, self._count = partition
        self._clock = clock
        self._me = LeaseHolder.new()
        self._lost: LeaseHeldError | None = None
        self.part = Part()
        """The progress of this part; at first, that of an earlier run."""

    async def acquire(self) -> None:
        """
        Acquire the part, and load the progress of an earlier run of this plan.

        Raises:
            LeaseHeldError: another run works on it, or on another plan for this vault.
        """
        for _ in range(_ATTEMPTS):
            entry, found = await self._store.load()
            taken, left = self._taken(found)
            if await self._store.swap(entry, taken):
                self.part = left
                return
        raise _contended()

    def note(self, cursor: str | None, tally: Tally) -> None:
        """Note the progress of the part; the next renewal, or the release, stores it."""
        self.part = replace(self.part, cursor=cursor, tally=tally.copy())

    async def finish(self) -> None:
        """Release the part as done; if all parts are done, delete the checkpoint."""
        await self._update(lambda: Part(done=True, tally=self.part.tally), is_last=True)

    async def release(self) -> None:
        """Release the part with its progress."""
        with suppress(LeaseHeldError):
            await self._update(lambda: replace(self.part, holder=None, until=0))

    async def renew_for_ever(self, seconds: float = SECONDS_BETWEEN_RENEWALS) -> None:
        """Renew the lease every few seconds; if the store does not answer, try again later."""
        while self._lost is None:
            await asyncio.sleep(seconds)
            try:
                await self._update(self._held)
            except LeaseHeldError as exc:
                self._lost = exc
            except StoreError as exc:
                _log.warning("the lease of the recode could not be renewed: %s", exc)

    def check(self) -> None:
        """Raise `LeaseHeldError` if another run has acquired the part because this lease expired."""
        if self._lost is not None:
            raise self._lost

    def _held(self) -> Part:
        return replace(self.part, holder=self._me, until=self._now() + SECONDS * 1000)

    def _taken(self, found: Checkpoint | None) -> tuple[Checkpoint, Part]:
        """Return the checkpoint with this part held, and the part as it was before."""
        now = self._now()
        if found is None or (found.plan, len(found.parts)) != (self._plan, self._count):
            if found is not None and (holders := found.holders(now)):
                raise _held_by(holders[0], found.command)
            # No run works on the other plan any more; the headers show which of its records are done.
            found = self._new()
        left = found.parts[self._index]
        if left.holder is not None and not left.is_free(now):
            raise _held_by(left.holder, found.command)
        # A part that is done starts again from its beginning.
        left = Part() if left.done else replace(left, holder=None, until=0)
        self.part = left
        taken = replace(found, prepared=found.prepared or self._prepared)
        return taken.with_part(self._index, self._held()), left

    async def _update(self, part: Callable[[], Part], *, is_last: bool = False) -> None:
        for _ in range(_ATTEMPTS):
            entry, found = await self._store.load()
            mine = self._mine(found)
            changed = mine.with_part(self._index, part())
            if is_last and changed.is_done:
                if entry is None or await self._store.drop(entry):
                    return
            elif await self._store.swap(entry, changed):
                return
        raise _contended()

    def _mine(self, found: Checkpoint | None) -> Checkpoint:
        """Return *found* if this run still holds the part there, or a new checkpoint if there is none."""
        if found is None:
            # An evicting store dropped it, or a writer without the keys overwrote it.
            return self._new()
        holder = None
        if (found.plan, len(found.parts)) == (self._plan, self._count):
            holder = found.parts[self._index].holder
        if holder != self._me:
            raise _held_by(holder, found.command)
        return found

    def _new(self) -> Checkpoint:
        parts = (Part(),) * self._count
        return Checkpoint(self._plan, self._command, self._now(), parts, self._prepared)

    def _now(self) -> int:
        return int(self._clock() * 1000)


@asynccontextmanager
async def leased(lease: Lease | None) -> AsyncIterator[Lease | None]:
    """Hold *lease* while the block runs; mark it done at the end, or release it if the block ends early."""
    if lease is None:
        yield None
        return
    await _acquired(lease)
    renewing = asyncio.create_task(lease.renew_for_ever())
    try:
        yield lease
    except BaseException:
        await _stop(renewing)
        # Also on Ctrl-C.  If the store has failed, the lease expires.
        with suppress(StoreError, asyncio.TimeoutError):
            await within(SECONDS_TO_RELEASE, lease.release())
        raise
    await _stop(renewing)
    await lease.finish()


async def _acquired(lease: Lease) -> None:
    """Acquire *lease*; a caller that is cancelled meanwhile does not leave behind what is half done."""
    acquiring = asyncio.ensure_future(lease.acquire())
    try:
        await asyncio.shield(acquiring)
    except asyncio.CancelledError:
        # Its write may be under way, in a thread or on the wire, where no cancellation reaches it.
        with suppress(StoreError, LeaseHeldError, asyncio.TimeoutError):
            await within(SECONDS_TO_RELEASE, _taken_and_released(acquiring, lease))
        raise


async def _taken_and_released(acquiring: asyncio.Future[None], lease: Lease) -> None:
    await acquiring
    await lease.release()


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _held_by(holder: LeaseHolder | None, command: str) -> LeaseHeldError:
    who = "another run" if holder is None else str(holder)
    msg = f"{command} is being run on this vault by {who}"
    return LeaseHeldError(
        msg, hint=f"wait for it, or stop it; the lease of a run that has ended expires within {SECONDS} s"
    )


def _contended() -> LeaseHeldError:
    return LeaseHeldError("too many runs change the checkpoint at once", hint="use fewer partitions")
