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
from kvseal.recoding.progress.checkpoint import CheckpointStore, Head
from kvseal.recoding.progress.lease_holder import LeaseHolder
from kvseal.recoding.progress.part import MARKS_KEPT, Part
from kvseal.recoding.progress.run import ATTEMPTS, SECONDS, Run, contended, held_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from kvseal.drivers.base import Driver
    from kvseal.recoding.report import Tally
    from kvseal.vault.vault import Vault

SECONDS_BETWEEN_RENEWALS: Final = 5
SECONDS_TO_RELEASE: Final = 5
SECONDS_BETWEEN_TRIES: Final = 2
"""Between two looks at a lease that is waited for."""

_log = logging.getLogger("kvseal")


class Lease:
    """One part of one plan, held by this process; *splitter* is the driver of the store that is scanned."""

    def __init__(
        self,
        vault: Vault,
        plan: str,
        command: str,
        partition: tuple[int, int],
        *,
        prepared: bool = False,
        splitter: Driver | None = None,
        clock: Callable[[], float] = clock.wall,
    ) -> None:
        self._store = CheckpointStore(vault)
        self._index, self._count = partition
        self._clock = clock
        self._me = LeaseHolder.new()
        self._lost: LeaseHeldError | None = None
        head = Head.new(plan, command, self._count, started_at=self._now(), prepared=prepared)
        self._run = Run(self._store, head, splitter, self._now)
        self.part = Part(self._run.head.run)
        """The progress of this part; at first, that of an earlier attempt."""

    @property
    def bounds(self) -> str | None:
        """What bounds the scan of this part; `None` before the lease is held, and where nothing does."""
        return None if self._run.head.splits is None else self._run.head.splits[self._index]

    async def acquire(self) -> None:
        """
        Acquire the part, and load the progress of an earlier attempt at it.

        Raises:
            LeaseHeldError: another process works on it, or on another plan for this vault.
        """
        for _ in range(ATTEMPTS):
            if await self._run.join() and await self._take() and await self._run.is_joined():
                return
        raise contended()

    def note(self, cursor: str | None, tally: Tally) -> None:
        """Note the progress of the part; the next renewal, or the release, stores it."""
        self.part = replace(self.part, cursor=cursor, tally=tally.copy())

    async def mark(self, marks: Iterable[str]) -> None:
        """Store at once that this attempt seals records with *marks*."""
        kept = (*self.part.marks, *sorted({*marks}.difference(self.part.marks)))[-MARKS_KEPT:]
        self.part = replace(self.part, marks=kept)
        await self._update(self._held)

    async def finish(self) -> None:
        """Release the part as done; if all parts are done, delete the checkpoint."""
        await self._update(lambda: replace(self.part, holder=None, until=0, cursor=None, done=True))
        if await self._is_last():
            await self._store.end(self._run.head.run)

    async def release(self) -> None:
        """Release the part with its progress."""
        with suppress(LeaseHeldError):
            await self._update(lambda: replace(self.part, holder=None, until=0))

    async def renew_for_ever(self, seconds: float = SECONDS_BETWEEN_RENEWALS) -> None:
        """Renew the lease every few seconds; if the store does not answer, try again later."""
        while self._lost is None:
            await asyncio.sleep(seconds)
            try:
                await self.renew()
            except LeaseHeldError as exc:
                self._lost = exc
            except StoreError as exc:
                _log.warning("the lease of the recode could not be renewed: %s", exc)

    async def renew(self) -> None:
        """Store the progress and a later end of the lease; raises `LeaseHeldError` if it was lost."""
        await self._update(self._held)

    def check(self) -> None:
        """Raise `LeaseHeldError` if another process has acquired the part because this lease expired."""
        if self._lost is not None:
            raise self._lost

    def _held(self) -> Part:
        return replace(self.part, holder=self._me, until=self._now() + SECONDS * 1000)

    async def _take(self) -> bool:
        """Hold the part, and load what is left of it; `False` if another process was faster."""
        entry, left = await self._store.part(self._run.head.run, self._index)
        if left is None:
            left = Part(self._run.head.run)
        if not left.is_free(self._now()):
            raise held_by(left, self._run.head.command)
        # A part that is done starts again from its beginning, and counts again what this run has sealed.
        self.part = Part(left.run, marks=left.marks) if left.done else replace(left, holder=None, until=0)
        return await self._store.put_part(entry, self._index, self._held())

    async def _update(self, part: Callable[[], Part]) -> None:
        for _ in range(ATTEMPTS):
            await self._run.keep()
            entry, found = await self._store.part(self._run.head.run, self._index)
            if found is not None and found.holder != self._me:
                raise held_by(found, self._run.head.command)
            # Where there is none, an evicting store dropped it, or a writer without the keys overwrote it.
            if await self._store.put_part(entry, self._index, part()):
                return
        raise contended()

    async def _is_last(self) -> bool:
        """Whether every other part is done; the first that is not ends the search."""
        for step in range(1, self._count):
            _, part = await self._store.part(self._run.head.run, (self._index + step) % self._count)
            if part is None or not part.done:
                return False
        return True

    def _now(self) -> int:
        return int(self._clock() * 1000)


@asynccontextmanager
async def leased(lease: Lease | None, *, wait: float = 0.0) -> AsyncIterator[Lease | None]:
    """
    Hold *lease* while the block runs; mark it done at the end, or release it if the block ends early.

    While another process holds it, wait at most *wait* seconds for it.
    """
    if lease is None:
        yield None
        return
    await _acquired_within(lease, wait)
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


async def _acquired_within(lease: Lease, seconds: float) -> None:
    """Acquire *lease*, if need be after it was released or has expired, within *seconds*."""
    ends = clock.monotonic() + seconds
    while True:
        try:
            await _acquired(lease)
        except LeaseHeldError:
            left = ends - clock.monotonic()
            if left <= 0:
                raise
            await asyncio.sleep(min(left, SECONDS_BETWEEN_TRIES))
        else:
            return


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
