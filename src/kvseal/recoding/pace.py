"""
The pace of a recode: so that it does not slow down the users of the store, nor of the event loop.

`Pace` limits the rate, where the caller gives one.  `LoopShare` is for an application that recodes in the
event loop that also answers its requests.  A thread is no way out there: as long as it computes, the loop
gets the interpreter back only every 5 ms, and loses it with each of its system calls.  So while others use
the loop, pages are opened and sealed in it, for `SLICE` seconds at a time, and then it is left to them for
several times as long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from kvseal import clock
from kvseal.concurrency import in_thread, owns_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

T = TypeVar("T")
E = TypeVar("E")

SLICE: Final = 0.002
"""Seconds that others on the event loop may have to wait."""
_LEFT_TO_OTHERS: Final = 4
"""Times as long as a slice took."""
_WINDOW: Final = 0.02
"""Seconds between two looks at what others do."""
_BUSY: Final = 0.05
"""The share of a processor that others take of the loop, from which on they are noticed."""
_FEWEST: Final = 8
_SLICES_PER_SECOND: Final = 4


class Pace:
    """At most *rate* records per second, evenly; without a rate, no limit."""

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = clock.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    def slice(self, most: int) -> int:
        """Return the batch size: at most *most*, and at most the records of a quarter of a second."""
        return most if self._rate is None else max(1, min(most, int(self._rate / _SLICES_PER_SECOND)))

    async def take(self, records: int) -> None:
        """Wait until *records* more are allowed."""
        if self._rate is None:
            return
        now = self._clock()
        start = max(now, self._next)
        # Reserved before this task waits, because several pages share one pace.
        self._next = start + records / self._rate
        if start > now:
            await self._sleep(start - now)


class LoopShare:
    """The share of the running event loop, and of its thread's processor, that one recode takes."""

    def __init__(self) -> None:
        self._is_busy = not owns_loop.get()
        self._size = _FEWEST
        self._own = 0.0
        self._looked_at, self._cpu = clock.monotonic(), clock.thread_cpu()
        self._turn = asyncio.Lock()

    def slices(self, entries: Sequence[E], *, most: int) -> Iterator[Sequence[E]]:
        """Yield *entries* in parts, of at most *most* and of what is done in one slice by now."""
        start = 0
        while start < len(entries):
            end = start + (min(most, self._size) if self._is_busy else most)
            yield entries[start:end]
            start = end

    async def work(self, function: Callable[[Sequence[E]], T], entries: Sequence[E]) -> T:
        """Return what *function* returns for *entries*, which computes: in a thread if the loop is idle."""
        self._look()
        if not self._is_busy:
            return await in_thread(function, entries)
        # One at a time: pages in flight together would take the share several times.
        async with self._turn:
            began, cpu = clock.monotonic(), clock.thread_cpu()
            result = function(entries)
            took = clock.monotonic() - began
            self._own += clock.thread_cpu() - cpu
            if took > SLICE:
                self._size = max(1, len(entries) // 2)
            elif took < SLICE / 2 and len(entries) >= self._size:
                self._size *= 2
            await asyncio.sleep(took * _LEFT_TO_OTHERS)
        return result

    def _look(self) -> None:
        """Find out whether others use the loop."""
        seconds = clock.monotonic() - self._looked_at
        if owns_loop.get() or seconds < _WINDOW:
            return
        cpu = clock.thread_cpu()
        self._is_busy = cpu - self._cpu - self._own > _BUSY * seconds
        self._looked_at, self._cpu, self._own = clock.monotonic(), cpu, 0.0
