"""
The world's clockwork: an event loop with virtual time that runs many simulated processes on one thread.

Each callback carries a context, and the context names its process.  A process keeps asyncio's own order
(first in, first out); which process moves next is drawn from the seed.  Time stands still while any
process can move, and then jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from contextvars import ContextVar, copy_context
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

EPOCH = 1_900_000_000.0
"""The true wall clock at the beginning of every run."""
BOOT = 50_000.0
MOST_STEPS = 400_000

CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)
"""The simulated process that the running callback belongs to; `None` is the world itself."""


class Livelock(Exception):  # noqa: N818 - it names what the world is in
    """The run does not come to its end."""


class Host:
    """A machine: its clocks are wrong in their own way, and stand or run while it sleeps."""

    def __init__(self, loop: SimLoop, name: str, *, skew: float = 0.0, drift: float = 0.0) -> None:
        self.loop, self.name, self.skew, self.drift = loop, name, skew, drift
        self.slept = 0.0

    def wall(self) -> float:
        return EPOCH + self.loop.now * (1 + self.drift) + self.skew

    def boottime(self) -> float:
        return BOOT + self.loop.now * (1 + self.drift)

    def monotonic(self) -> float:
        """Linux's CLOCK_MONOTONIC: it does not count the time that the machine slept."""
        return self.boottime() - self.slept


class Process:
    """One simulated process: a queue, clocks, randomness and whatever kvseal keeps in module globals."""

    def __init__(self, loop: SimLoop, name: str, host: Host) -> None:
        self.loop, self.name, self.host = loop, name, host
        self.queue: deque[asyncio.Handle] = deque()
        self.is_alive, self.is_suspended, self.is_asleep = True, False, False
        self.parked: list[tuple[float, asyncio.TimerHandle]] = []
        self.state: dict[str, Any] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        self.random = Random(f"{loop.seed}/{name}")
        self.pid = len(loop.processes) + 1000
        self.context = copy_context()
        self.context.run(CURRENT.set, self)
        loop.processes.append(self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self.context.run(self.loop.create_task, work)
        self.tasks.append(task)
        task.add_done_callback(self.loop.look_at)
        return task

    def kill(self) -> None:
        """End like SIGKILL: no `finally` runs, nothing that waits is ever continued."""
        self.is_alive = False
        self.queue.clear()
        self.parked.clear()
        self.loop.settle(self)

    def suspend(self, seconds: float, *, asleep: bool) -> None:
        """Stop for *seconds*: by SIGSTOP, or *asleep* with the monotonic clock and every timer standing."""
        self.is_suspended, self.is_asleep = True, asleep
        if asleep:
            self.loop.park(self)
        self.loop.settle(self)
        self.loop.call_world(seconds, self._wake, seconds)

    def _wake(self, seconds: float) -> None:
        if self.is_asleep:
            self.host.slept += seconds
        self.is_suspended = self.is_asleep = False
        for left, handle in self.parked:
            self.loop.push(self.loop.now + left, handle)
        self.parked.clear()
        self.loop.settle(self)


class _Task(asyncio.Task):  # type: ignore[type-arg]
    """Sets of tasks iterate by hash: a number of its own makes that the same in every run."""

    def __init__(self, number: int, coro: Any, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class SimLoop(asyncio.BaseEventLoop):
    """An event loop whose time, order and threads are drawn from *seed*."""

    def __init__(self, seed: object) -> None:
        super().__init__()
        self.seed = seed
        self.now = 0.0
        self.steps = 0
        self.processes: list[Process] = []
        self.faults: list[BaseException] = []
        """What ended a task that was to catch everything: an error of the simulation itself."""
        self._draw = Random(f"{seed}/order").random
        self._thread_draw = Random(f"{seed}/threads").random
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._movers: list[Process] = []
        self._numbers = 0
        self._made: list[Any] = []
        self._world_context = copy_context()
        self.world = Process(self, "world", Host(self, "world"))
        self.world.context = self._world_context
        self.set_exception_handler(lambda *_: None)

    def time(self) -> float:
        return self.now

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._enqueue(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.push(when, handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_world(self, delay: float, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        """Call on behalf of the world, so that it happens even if the caller's process is killed."""
        return self.call_at(self.now + delay, callback, *args, context=self._world_context)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        self._numbers += 1
        task = _Task(self._numbers, coro, loop=self, **options)
        self._made.append(task)  # A killed task must not be finalised while the run goes on.
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run *func* in one step, at an instant that the seed draws."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as exc:  # noqa: BLE001 - it belongs to the one who waits
                if not future.done():
                    future.set_exception(exc)
            else:
                if not future.done():
                    future.set_result(result)

        draw = self._thread_draw()
        if draw < 0.7:
            self.call_soon(work)
        else:
            self.call_later((draw - 0.7) * 0.02, work)
        return future

    def push(self, when: float, handle: asyncio.TimerHandle) -> None:
        self._numbers += 1
        heapq.heappush(self._timers, (when, self._numbers, handle))

    def park(self, process: Process) -> None:
        """Take the timers of *process* out until it wakes."""
        kept = []
        for when, number, handle in self._timers:
            if self._owner(handle) is process:
                process.parked.append((when - self.now, handle))
            else:
                kept.append((when, number, handle))
        heapq.heapify(kept)
        self._timers = kept

    def settle(self, process: Process) -> None:
        """Let *process* move, or not, as its state says."""
        can_move = process.is_alive and not process.is_suspended and bool(process.queue)
        if can_move != (process in self._movers):
            (self._movers.append if can_move else self._movers.remove)(process)

    def look_at(self, task: asyncio.Task[Any]) -> None:
        """Keep what *task* ended with, if it was an error."""
        if not task.cancelled() and task.exception() is not None:
            self.faults.append(task.exception() or AssertionError())

    def _owner(self, handle: asyncio.Handle) -> Process:
        return handle._context.get(CURRENT) or self.world

    def _enqueue(self, handle: asyncio.Handle) -> None:
        process = handle._context.get(CURRENT) or self.world
        if process.is_alive:
            process.queue.append(handle)
            if len(process.queue) == 1 and not process.is_suspended:
                self._movers.append(process)

    def _run_once(self) -> None:
        movers = self._movers
        if not movers:
            self._advance()
            return
        process = movers[int(self._draw() * len(movers))] if len(movers) > 1 else movers[0]
        handle = process.queue.popleft()
        if not process.queue:
            movers.remove(process)
        if not handle._cancelled:
            self.steps += 1
            if self.steps > MOST_STEPS:
                msg = f"{MOST_STEPS} steps, at {self.now:.0f} s"
                raise Livelock(msg)
            handle._run()

    def _advance(self) -> None:
        if not self._timers:
            msg = "nobody can move, and nobody waits for a time"
            raise Livelock(msg)
        when, _, handle = heapq.heappop(self._timers)
        if not handle._cancelled:
            self.now = max(self.now, when)
            self._enqueue(handle)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def close(self) -> None:
        """End every process first: whatever is finalised later finds nothing that it could do."""
        for process in self.processes:
            process.kill()
        super().close()
