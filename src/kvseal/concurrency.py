"""One run for all who ask meanwhile, across tasks, event loops and threads."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from kvseal import clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

T = TypeVar("T")


class _LeaderLeftError(Exception):
    """Whoever ran the function gave up before its end; somebody who waits has to take over."""


class SingleFlight(Generic[T]):
    """
    Runs a coroutine function at most once at a time; whoever comes while it runs gets its result.

    The first caller runs it in its own event loop.  When that caller is cancelled, one
    of those who wait takes over.  A failure is everybody's, and the next caller tries again.
    """

    __slots__ = ("_future", "_lock", "_pid")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._future: Future[T] | None = None
        self._pid = os.getpid()

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Return what *function* returns, to this caller or to the one it waits for."""
        while True:
            future, leads = self._join()
            if leads:
                return await self._lead(function, future)
            with suppress(_LeaderLeftError):
                return await asyncio.shield(asyncio.wrap_future(future))

    def _join(self) -> tuple[Future[T], bool]:
        if self._pid != os.getpid():
            # A forked child: the leader, and perhaps the lock's owner, stayed in the parent.
            self.__init__()  # type: ignore[misc]
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

    def _leave(self) -> None:
        with self._lock:
            self._future = None


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
