"""
Work that several callers share, work that leaves others their turn, and patience that ends.

`SingleFlight` is one run for all who ask meanwhile, across tasks, event loops and threads.  `in_thread` is
where kvseal blocks: in threads of its own, because abandoned work would keep those of the event loop's
default executor from the application.  `each_in_thread` asks a service many things at once, in other threads,
so that nothing else has to wait for all of them.  `within` waits for so long and no longer.  A forked child
has none of its parent's threads: `after_fork` is how a module that keeps a lock or a run notices it.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakSet

from typing_extensions import ParamSpec

from kvseal import clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

_WORKERS: Final = 16
"""Threads at most; each is started when it is first needed."""
REQUESTS_AT_ONCE: Final = 32
"""Threads that wait for a service, beside those: what one of them does takes milliseconds at most."""
_LEADER_SECONDS: Final = 5.0
"""After which an event loop that does nothing at all counts as stopped, for callers in other loops."""


class _LeaderLeftError(Exception):
    """The caller that ran the function gave up before its end; one that waits has to take over."""


def after_fork(callback: Callable[[], None]) -> None:
    """Have *callback* called in each forked child, before anything else runs there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what *function* returns, which blocks, and so runs in one of kvseal's own threads."""
    call = partial(contextvars.copy_context().run, partial(function, *args, **kwargs))
    return await asyncio.get_running_loop().run_in_executor(_workers(), call)


async def each_in_thread(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """
    Return what *function*, which waits for a service, returns for each of *items*, in order; many at once.

    After the first error no further one is begun; it is raised when those under way have ended.
    """
    results: dict[int, R] = {}
    numbers = itertools.count()
    is_over = threading.Event()

    def work() -> None:
        # Each takes the next number; a counter is safe for threads.
        for number in numbers:
            if number >= len(items) or is_over.is_set():
                return
            try:
                results[number] = function(items[number])
            except BaseException:
                is_over.set()
                raise

    loop, pool = asyncio.get_running_loop(), _requesters()
    workers = [
        loop.run_in_executor(pool, partial(contextvars.copy_context().run, work))
        for _ in range(min(REQUESTS_AT_ONCE, len(items)))
    ]
    try:
        ended = await asyncio.gather(*workers, return_exceptions=True)
    finally:
        is_over.set()
    for error in ended:
        if error is not None:
            raise error
    return [results[number] for number in range(len(items))]


_starting = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_requesting: ThreadPoolExecutor | None = None


def _workers() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603 - one for the process, as its threads are
    with _starting:
        if _pool is None:
            _pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="kvseal")
        return _pool


def _requesters() -> ThreadPoolExecutor:
    global _requesting  # noqa: PLW0603 - as above
    with _starting:
        if _requesting is None:
            _requesting = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="kvseal-requests")
        return _requesting


_abandoned: Final[set[asyncio.Future[Any]]] = set()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """
    Return what *work* returns, or cancel it after *seconds* and raise `TimeoutError`.

    The end of what was cancelled is not awaited, as `asyncio.wait_for` does: a library that asks its server
    to stop, and awaits the answer, would wait as long as the server is silent.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            msg = f"no answer within {seconds:g} s"
            raise asyncio.TimeoutError(msg)
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            _abandoned.add(task)
            task.add_done_callback(_abandoned.discard)
            task.add_done_callback(_retrieve)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Look at the error of *future*, which asyncio would log as one that has been overlooked."""
    if not future.cancelled():
        future.exception()


class _Run(Generic[T]):
    """One run of a function, by a leader in its own event loop."""

    __slots__ = ("_loop", "future")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: Future[T] = Future()
        # From now on no cancelled caller can cancel it for the others.
        self.future.set_running_or_notify_cancel()

    async def has_ended(self, seconds: float) -> bool:
        """Wait for the end; return `False` if the leader's loop does nothing for *seconds* before it."""
        waiting = asyncio.wrap_future(self.future)
        waiting.add_done_callback(_retrieve)
        is_here = self._loop is asyncio.get_running_loop()
        try:
            while True:
                beat = threading.Event()
                if not is_here:
                    with suppress(RuntimeError):  # It is closed.
                        self._loop.call_soon_threadsafe(beat.set)
                await asyncio.wait([waiting], timeout=None if is_here else seconds)
                if waiting.done() or not beat.is_set():
                    return waiting.done()
        finally:
            waiting.cancel()


class SingleFlight(Generic[T]):
    """
    Runs a coroutine function at most once at a time; a caller that comes while it runs gets its result.

    The first caller runs it in its own event loop.  When that caller is cancelled, or its loop does
    nothing for *leader_seconds*, one of those that wait takes over.  All of them get a failure, and the next
    caller tries again.
    """

    __slots__ = ("__weakref__", "_leader_seconds", "_lock", "_run")

    def __init__(self, *, leader_seconds: float = _LEADER_SECONDS) -> None:
        self._lock = threading.Lock()
        self._run: _Run[T] | None = None
        self._leader_seconds = leader_seconds
        _flights.add(self)

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Return what *function* returns, to this caller or to the one it waits for."""
        while True:
            run, leads = self._join()
            if leads:
                return await self._lead(function, run)
            if not await run.has_ended(self._leader_seconds):
                self._leave(run)
                continue
            with suppress(_LeaderLeftError):
                return run.future.result()

    def _join(self) -> tuple[_Run[T], bool]:
        with self._lock:
            if self._run is not None:
                return self._run, False
            self._run = _Run()
            return self._run, True

    async def _lead(self, function: Callable[[], Awaitable[T]], run: _Run[T]) -> T:
        try:
            result = await function()
        except Exception as exc:
            self._leave(run)
            run.future.set_exception(exc)
            raise
        except BaseException:
            # Cancelled, interrupted or closed.  Cancelling the future would look to those who wait
            # as if they were cancelled themselves, and hide from them when they really are.
            self._leave(run)
            run.future.set_exception(_LeaderLeftError())
            raise
        self._leave(run)
        run.future.set_result(result)
        return result

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._run = None

    def _leave(self, run: _Run[T]) -> None:
        """Let the next caller lead, unless another one has taken over from *run* already."""
        with self._lock:
            if self._run is run:
                self._run = None


_flights: Final[WeakSet[SingleFlight[Any]]] = WeakSet()


def _begin_anew() -> None:
    """In a forked child: leaders, threads, and perhaps the owners of the locks, stayed in the parent."""
    global _pool, _requesting, _starting
    _pool, _requesting, _starting = None, None, threading.Lock()
    for flight in _flights:
        flight._begin_anew()  # noqa: SLF001 - of this module


after_fork(_begin_anew)

owns_loop: contextvars.ContextVar[bool] = contextvars.ContextVar("kvseal_owns_loop", default=False)
"""Whether nothing but kvseal runs in this event loop, as in vaultctl."""

TURN: Final = 0.002
"""Seconds after which others have their turn: more than a usual batch takes, so that one goes undivided."""
_AT_ONCE: Final = 8
"""Between two looks at the clock, at most: what is small may be followed by what is large."""
_LOOKS: Final = 8
"""A turn has so many looks at the clock, or more, unless one thing alone takes longer."""


async def slices_between_turns(length: int) -> AsyncIterator[slice]:
    """
    Yield slices that together are `range(length)`; when `TURN` is over, others run before the next one.

    They run at the end too, if the work took more than a turn, so that what comes next begins a turn.
    """
    start, size, is_long = 0, 1, False
    last = clock.monotonic()
    until = last + TURN
    while start < length:
        yield slice(start, start + size)
        start += size
        now = clock.monotonic()
        size = min(2 * size, _AT_ONCE) if now - last < TURN / _LOOKS / 2 else max(size // 2, 1)
        last = now
        if now >= until or (is_long and start >= length):
            await asyncio.sleep(0)
            last, is_long = clock.monotonic(), True
            until = last + TURN
