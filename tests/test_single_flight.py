"""One run for all who ask meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from kvseal.concurrency import SingleFlight


class Work:
    """A coroutine function that waits until it may end, and counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = asyncio.Event()
        self.running = asyncio.Event()

    async def __call__(self) -> int:
        """Return the number of this run."""
        self.runs += 1
        number = self.runs
        self.running.set()
        await self.may_end.wait()
        return number


async def let_others_run() -> None:
    """Give every task that is ready its turn, a few times over."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_fifty_callers_share_one_run() -> None:
    """Whoever comes while it runs gets the result of that run."""
    flight, work = SingleFlight[int](), Work()
    callers = [asyncio.create_task(flight.run(work)) for _ in range(50)]
    await let_others_run()
    work.may_end.set()

    assert [1] * 50 == await asyncio.gather(*callers)
    assert 1 == work.runs


async def test_later_callers_run_anew() -> None:
    """Nothing is kept after the end of a run."""
    flight, work = SingleFlight[int](), Work()
    work.may_end.set()

    assert [1, 2] == [await flight.run(work), await flight.run(work)]


async def test_failure_is_everybodys_and_not_kept() -> None:
    """All who wait get the error, and the next caller tries again."""
    flight, work = SingleFlight[int](), Work()

    async def fail() -> int:
        await work()
        raise LookupError

    callers = [asyncio.create_task(flight.run(fail)) for _ in range(5)]
    await let_others_run()
    work.may_end.set()
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert [LookupError] * 5 == list(map(type, results))
    assert 1 == work.runs
    assert 2 == await flight.run(work)


async def test_cancelled_first_caller_hands_over() -> None:
    """When the caller that runs it is cancelled, one of those who wait runs it."""
    flight, work = SingleFlight[int](), Work()
    first, *others = [asyncio.create_task(flight.run(work)) for _ in range(5)]
    await work.running.wait()
    first.cancel()
    await let_others_run()
    work.may_end.set()

    assert [2] * 4 == await asyncio.gather(*others)
    assert first.cancelled()


async def test_cancelled_later_caller_changes_nothing() -> None:
    """When a caller that waits is cancelled, the run and the others go on."""
    flight, work = SingleFlight[int](), Work()
    first, second, third = [asyncio.create_task(flight.run(work)) for _ in range(3)]
    await let_others_run()
    second.cancel()
    await let_others_run()
    work.may_end.set()

    assert [1, 1] == await asyncio.gather(first, third)
    assert second.cancelled()


async def test_all_cancelled_at_once_all_end() -> None:
    """When everybody is cancelled, nobody takes over: cancellation is never swallowed."""
    flight, work = SingleFlight[int](), Work()
    callers = [asyncio.create_task(flight.run(work)) for _ in range(5)]
    await work.running.wait()
    await let_others_run()
    for caller in callers:
        caller.cancel()
    await let_others_run()

    assert [True] * 5 == [caller.cancelled() for caller in callers]
    assert 1 == work.runs


async def test_usable_after_everybody_was_cancelled() -> None:
    """A run that everybody gave up leaves nothing that a later caller would wait for."""
    flight, work = SingleFlight[int](), Work()
    caller = asyncio.create_task(flight.run(work))
    await work.running.wait()
    caller.cancel()
    await let_others_run()
    work.may_end.set()

    assert 2 == await flight.run(work)


async def test_coroutine_that_was_closed_hands_over() -> None:
    """A caller whose coroutine is closed in the middle hands over like a cancelled one."""
    flight, work = SingleFlight[int](), Work()
    abandoned = flight.run(work)
    abandoned.send(None)
    waiting = asyncio.create_task(flight.run(work))
    await let_others_run()
    abandoned.close()
    work.may_end.set()

    assert 2 == await waiting


def test_threads_with_loops_of_their_own_share_one_run() -> None:
    """Callers in other threads and event loops get the result of the one that runs."""
    joined, may_end = threading.Semaphore(0), threading.Event()
    runs: list[str] = []
    results: list[str] = []

    class Observed(SingleFlight[str]):
        """Tells when a caller has joined."""

        def _join(self) -> Any:
            try:
                return super()._join()
            finally:
                joined.release()

    flight = Observed()

    async def work() -> str:
        runs.append(threading.current_thread().name)
        await asyncio.to_thread(may_end.wait)
        return "done"

    threads = [
        threading.Thread(target=lambda: results.append(asyncio.run(flight.run(work)))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        joined.acquire()
    may_end.set()
    for thread in threads:
        thread.join()

    assert ["done"] * 5 == results
    assert 1 == len(runs)


@pytest.mark.processes
def test_forked_child_does_not_wait_for_its_parent() -> None:
    """A child that is forked during a run runs it itself."""
    script = """
import asyncio, os, warnings
warnings.simplefilter("ignore")
from kvseal.concurrency import SingleFlight

flight = SingleFlight()

async def child_work():
    return "child"

async def parent_work():
    child = os.fork()
    if child == 0:
        asyncio.events._set_running_loop(None)
        os._exit(0 if asyncio.run(flight.run(child_work)) == "child" else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(asyncio.run(flight.run(parent_work)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert ("0\n", "") == (done.stdout, done.stderr)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit], ids=lambda error: error.__name__)
async def test_interrupted_caller_hands_over(error: type[BaseException]) -> None:
    """What interrupts one caller is not thrown into the others: one of them runs it."""
    flight, work = SingleFlight[int](), Work()
    caught: list[type[BaseException]] = []

    async def interrupted() -> int:
        await work()
        raise error

    async def first() -> None:
        try:
            await flight.run(interrupted)
        except (KeyboardInterrupt, SystemExit) as exc:
            caught.append(type(exc))

    leader = asyncio.create_task(first())
    await work.running.wait()
    waiting = asyncio.create_task(flight.run(work))
    await let_others_run()
    work.may_end.set()
    await leader

    assert 2 == await waiting
    assert [error] == caught


def test_a_leader_whose_loop_stopped_is_relieved() -> None:
    """Where the leader's event loop does nothing any more, a caller in another one takes over."""
    flight = SingleFlight[str](leader_seconds=0.01)
    never, stopped = asyncio.Event(), asyncio.new_event_loop()
    leader = stopped.create_task(flight.run(never.wait))  # type: ignore[arg-type]
    stopped.run_until_complete(asyncio.sleep(0))

    async def work() -> str:
        return "relieved"

    assert "relieved" == asyncio.run(asyncio.wait_for(flight.run(work), 30))
    assert "relieved" == asyncio.run(asyncio.wait_for(flight.run(work), 30))

    leader.cancel()
    stopped.run_until_complete(asyncio.gather(leader, return_exceptions=True))
    stopped.close()


def test_a_leader_whose_loop_is_closed_is_relieved() -> None:
    """A loop that was closed over the leader does nothing any more, too."""
    flight = SingleFlight[str](leader_seconds=0.01)
    never, closed = asyncio.Event(), asyncio.new_event_loop()
    leader = closed.create_task(flight.run(never.wait))  # type: ignore[arg-type]
    closed.run_until_complete(asyncio.sleep(0))
    leader._log_destroy_pending = False  # type: ignore[attr-defined]
    closed.close()

    async def work() -> str:
        return "relieved"

    assert "relieved" == asyncio.run(asyncio.wait_for(flight.run(work), 30))


def test_a_slow_leader_is_waited_for() -> None:
    """A leader whose loop answers is not relieved, however long its run takes."""
    flight = SingleFlight[str](leader_seconds=0.1)
    runs, beats, leads = [], threading.Semaphore(0), threading.Event()

    async def slow() -> str:
        runs.append("slow")
        loop = asyncio.get_running_loop()
        threadsafe = loop.call_soon_threadsafe

        def observed(*args: Any, **kwargs: Any) -> Any:
            beats.release()
            return threadsafe(*args, **kwargs)

        loop.call_soon_threadsafe = observed  # type: ignore[method-assign]
        leads.set()
        # Only the callers that wait call into this loop, until it has happened five times.
        while beats._value < 5:  # noqa: ASYNC110 - other threads count
            await asyncio.sleep(0)
        loop.call_soon_threadsafe = threadsafe  # type: ignore[method-assign]
        return "slow"

    thread = threading.Thread(target=lambda: asyncio.run(flight.run(slow)))
    thread.start()
    leads.wait()

    assert "slow" == asyncio.run(asyncio.wait_for(flight.run(slow), 30))
    assert ["slow"] == runs
    thread.join()
