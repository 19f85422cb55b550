"""
One walk of a recode over a store: pages in flight, at a given pace, with its progress.

Several pages are opened, sealed and written while the next one is read.  They finish in any
order.  The progress of the walk is the last page before which every page has finished: a
checkpoint lets the next run start there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from kvseal import clock
from kvseal.keys.meta import META_COLLECTION
from kvseal.observe.events import Failure, Progress
from kvseal.recoding.report import Tally
from kvseal.recoding.writing import book

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kvseal.drivers.base import Driver, Entry, Page
    from kvseal.observe.events import Listener
    from kvseal.recoding.census import Refresh
    from kvseal.recoding.decision import Decision
    from kvseal.recoding.pace import LoopShare, Pace
    from kvseal.recoding.progress.lease import Lease
    from kvseal.recoding.writing import Writing

PAGES_IN_FLIGHT: Final = 3
"""Pages that are opened, sealed and written while the next one is read."""
SECONDS_TO_FINISH: Final = 10
"""Seconds that a stopping run waits for the batches in flight."""


class Frontier:
    """The cursor up to which all pages have finished, although pages finish in any order."""

    def __init__(self, cursor: str | None, tally: Tally) -> None:
        self.cursor = cursor
        self.tally = tally
        self._begun = self._finished = 0
        self._ahead: dict[int, tuple[str, Tally]] = {}

    def begin(self) -> int:
        """Return the number of the next page."""
        self._begun += 1
        return self._begun - 1

    def finish(self, number: int, cursor: str, tally: Tally) -> None:
        """Note that page *number* has finished; a scan continues after it at *cursor*."""
        self._ahead[number] = cursor, tally
        while (page := self._ahead.pop(self._finished, None)) is not None:
            self.cursor, finished = page
            self.tally.add(finished)
            self._finished += 1

    @property
    def ahead(self) -> tuple[Tally, ...]:
        """The tallies of finished pages after the first unfinished one."""
        return tuple(tally for _, tally in self._ahead.values())


class Walk:
    """One pass over *partition* of a store, under *lease*."""

    def __init__(
        self,
        driver: Driver,
        writing: Writing,
        *,
        partition: tuple[int, int],
        lease: Lease | None,
        refresh: Refresh | None,
        confirm: Callable[[], Awaitable[None]],
        total: int | None,
        listener: Listener,
        share: LoopShare,
    ) -> None:
        self._driver = driver
        self._writing = writing
        self._partition = partition
        self._lease = lease
        self._refresh = refresh
        self._confirm = confirm
        self._total = total
        self._listener = listener
        self._share = share
        self._started = clock.monotonic()
        self._stopping = False
        self._waiting: set[asyncio.Task[None] | None] = set()

    async def run(self, cursor: str | None, tally: Tally, pace: Pace) -> Tally:
        """
        Recode page after page after *cursor*, and return *tally* with the counts of this walk added.

        The first error, or an interruption, ends the walk: the batches in flight finish, and then it is
        raised.
        """
        frontier = Frontier(cursor, tally)
        running: set[asyncio.Task[None]] = set()
        done: set[asyncio.Task[None]] = set()
        try:
            async for page in self._share.pages(self._driver.scan(after=cursor, partition=self._partition)):
                work = self._page(page, frontier.begin(), frontier, pace)
                running.add(asyncio.create_task(self._share.run(work)))
                if len(running) >= PAGES_IN_FLIGHT:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            # Not gathered: an interruption would then cancel the batches in flight.
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
        except BaseException:
            await self._stop(running, done)
            raise
        return frontier.tally

    async def _stop(self, running: set[asyncio.Task[None]], done: set[asyncio.Task[None]]) -> None:
        """Let the batches in flight finish, but do not wait for a backend that hangs."""
        self._stopping = True
        for task in running & self._waiting:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=SECONDS_TO_FINISH)
        for task in running:
            task.cancel()
        # Retrieve the other errors too, so that asyncio does not log them later.
        await asyncio.gather(*running, *done, return_exceptions=True)

    async def _page(self, page: Page, number: int, frontier: Frontier, pace: Pace) -> None:
        tally = Tally()
        if self._writing.meter is not None:
            self._writing.meter.scanned(page.entries)
        entries = [entry for entry in page.entries if entry.collection != META_COLLECTION]
        size = pace.slice(max(1, len(entries)))
        for start in range(0, len(entries), size):
            if self._stopping:
                return
            if self._lease is not None:
                self._lease.check()
            batch = entries[start : start + size]
            await self._take(len(batch), pace)
            for few in self._share.slices(batch, most=size):
                tally.scanned += len(few)
                changes = book(await self._decided(few), tally, self._listener)
                await self._writing.write(changes, tally)
        frontier.finish(number, page.cursor, tally)
        self._note(frontier)
        self._tell(frontier)

    async def _take(self, records: int, pace: Pace) -> None:
        """Wait for *pace*; nothing is in flight meanwhile, so stopping does not have to wait for it."""
        task = asyncio.current_task()
        self._waiting.add(task)
        try:
            await pace.take(records)
        finally:
            self._waiting.discard(task)

    async def _decided(self, entries: Sequence[Entry]) -> list[Decision]:
        await self._confirm()
        decisions = await self._share.work(self._decide_all, entries)
        if self._refresh is not None and any(isinstance(d, Failure) and d.unknown_dek for d in decisions):
            await self._refresh()
            decisions = await self._share.work(self._decide_all, entries)
        return decisions

    def _decide_all(self, entries: Sequence[Entry]) -> list[Decision]:
        return [self._writing.decide(entry) for entry in entries]

    def _note(self, frontier: Frontier) -> None:
        if self._lease is not None:
            self._lease.note(frontier.cursor, frontier.tally)

    def _tell(self, frontier: Frontier) -> None:
        so_far = frontier.tally.copy()
        for tally in frontier.ahead:
            so_far.add(tally)
        seconds = clock.monotonic() - self._started
        self._listener(
            Progress("recode", so_far.scanned, self._total, so_far.changed, so_far.failed, seconds)
        )
