"""
The pace of a recode: so that it does not slow down the users of the store, nor of the event loop.

`Pace` limits the rate, where the caller gives one.  `LoopShare` is for an application that recodes in the
event loop that also answers its requests.  A thread of its own is not enough there: as long as it computes,
the loop gets the interpreter back only every 5 ms, and loses it with each of its system calls.  So while
others use the loop, pages are opened and sealed for `SLICE` seconds at a time, which is less than that, and
then the interpreter is left to them for several times as long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kvseal import clock
from kvseal.concurrency import in_thread, owns_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence

P = TypeVar("P")
T = TypeVar("T")
E = TypeVar("E")

SLICE: Final = 0.002
"""Seconds that others on the event loop may have to wait."""
_LEFT_TO_OTHERS: Final = 4
"""Times as long as a slice took."""
_WINDOW: Final = 0.02
"""Seconds between two looks at what others do."""
_BUSY: Final = 0.2
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


class _Metered:
    """Awaits *work*, and notes in *share* how long its steps keep the loop's thread."""

    __slots__ = ("_share", "_work")

    def __init__(self, work: Awaitable[T], share: LoopShare) -> None:
        self._work = work
        self._share = share

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        step, argument = steps.send, None
        while True:
            self._share.step_began = clock.thread_cpu()
            try:
                waits_for = step(argument)
            except StopIteration as exc:
                return exc.value
            finally:
                self._share.end_step()
            try:
                argument = yield waits_for
                step = steps.send
            except BaseException as exc:  # noqa: BLE001 - whatever it is, it is for the work
                step, argument = steps.throw, exc


class LoopShare:
    """The share of the running event loop, and of its thread's processor, that one recode takes."""

    def __init__(self) -> None:
        self._is_busy = not owns_loop.get()
        self._size = _FEWEST
        self._own = 0.0
        self.step_began: float | None = None
        self._looked_at, self._cpu = clock.monotonic(), clock.thread_cpu()
        self._turn = asyncio.Lock()

    async def run(self, work: Awaitable[T]) -> T:
        """Await *work*, whose steps are this recode's own use of the loop, and not that of others."""
        result: T = await _Metered(work, self)
        return result

    async def pages(self, scan: AsyncIterator[P]) -> AsyncIterator[P]:
        """Yield what *scan* yields; reading it is this recode's own use of the loop, too."""
        while True:
            try:
                page: P = await _Metered(scan.__anext__(), self)
            except StopAsyncIteration:
                return
            yield page

    def end_step(self) -> None:
        """Count the step that has just ended."""
        if self.step_began is not None:
            self._own += clock.thread_cpu() - self.step_began
            self.step_began = None

    def slices(self, entries: Sequence[E], *, most: int) -> Iterator[Sequence[E]]:
        """Yield *entries* in parts, of at most *most* and of what is done in one slice by now."""
        start = 0
        while start < len(entries):
            end = start + (min(most, self._size) if self._is_busy else most)
            yield entries[start:end]
            start = end

    async def work(self, function: Callable[[Sequence[E]], T], entries: Sequence[E]) -> T:
        """Return what *function* returns for *entries*, which computes, and so runs in a thread."""
        self._look()
        if not self._is_busy:
            return await in_thread(function, entries)
        # One at a time: pages in flight together would take the share several times.
        async with self._turn:
            result, took = await in_thread(_timed, function, entries)
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
        if self.step_began is not None:
            now = clock.thread_cpu()
            self._own += now - self.step_began
            self.step_began = now
        others = clock.thread_cpu() - self._cpu - self._own
        self._is_busy = others > _BUSY * seconds
        self._looked_at, self._cpu, self._own = clock.monotonic(), clock.thread_cpu(), 0.0


def _timed(function: Callable[[Sequence[E]], T], entries: Sequence[E]) -> tuple[T, float]:
    began = clock.monotonic()
    return function(entries), clock.monotonic() - began
