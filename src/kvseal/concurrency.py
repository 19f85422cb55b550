"""
Work that several callers share, and work that leaves others their turn.

`SingleFlight` is one run for all who ask meanwhile, across tasks, event loops and threads.  A forked child
has none of its parent's threads: `after_fork` is how a module that keeps a lock or a run notices it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakSet

from kvseal import clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

T = TypeVar("T")


class _LeaderLeftError(Exception):
    """The caller that ran the function gave up before its end; one that waits has to take over."""


def after_fork(callback: Callable[[], None]) -> None:
    """Have *callback* called in each forked child, before anything else runs there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)


class SingleFlight(Generic[T]):
    """
    Runs a coroutine function at most once at a time; a caller that comes while it runs gets its result.

    The first caller runs it in its own event loop.  When that caller is cancelled, one
    of those that wait takes over.  All of them get a failure, and the next caller tries again.
    """

    __slots__ = ("__weakref__", "_future", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._future: Future[T] | None = None
        _flights.add(self)

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Return what *function* returns, to this caller or to the one it waits for."""
        while True:
            future, leads = self._join()
            if leads:
                return await self._lead(function, future)
            with suppress(_LeaderLeftError):
                return await asyncio.shield(asyncio.wrap_future(future))

    def _join(self) -> tuple[Future[T], bool]:
        with self._lock:
            if self._future is not None:
                return self._future, False
            self._future = Future()
            return self._future, True

    async def _lead(self, function: Callable[[], Awaitable[T]], future: Future[T]) -> T:
        try:
            result = await function()
        except Exception as exc:
            self._leave()
            future.set_exception(exc)
            raise
        except BaseException:
            # Cancelled, interrupted or closed.  Cancelling *future* would look to those who wait
            # as if they were cancelled themselves, and hide from them when they really are.
            self._leave()
            future.set_exception(_LeaderLeftError())
            raise
        self._leave()
        future.set_result(result)
        return result

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._future = None

    def _leave(self) -> None:
        with self._lock:
            self._future = None


_flights: Final[WeakSet[SingleFlight[Any]]] = WeakSet()


def _begin_anew() -> None:
    """In a forked child: the leaders, and perhaps the owners of the locks, stayed in the parent."""
    for flight in _flights:
        flight._begin_anew()  # noqa: SLF001 - of this module


after_fork(_begin_anew)

TURN: Final = 0.002
"""Seconds after which others have their turn: more than a usual batch takes, so that one goes undivided."""
_AT_ONCE: Final = 8
"""Between two looks at the clock.  Even eight values of a megabyte take no longer than a few turns."""


async def slices_between_turns(length: int) -> AsyncIterator[slice]:
    """Yield slices that together are `range(length)`; when `TURN` is over, others run before the next one."""
    until = clock.monotonic() + TURN
    for start in range(0, length, _AT_ONCE):
        yield slice(start, start + _AT_ONCE)
        if clock.monotonic() >= until:
            await asyncio.sleep(0)
            until = clock.monotonic() + TURN
