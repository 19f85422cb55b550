"""The clockwork of the simulation: time, order, crashes and sleep are as the seed says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.simulation.loop import Host, Livelock, Process, SimLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    """Yield a loop that is closed in the end."""
    made = SimLoop(1)
    yield made
    made.close()


def _process(loop: SimLoop, name: str) -> Process:
    return Process(loop, name, Host(loop, name))


def _run(loop: SimLoop, work: Coroutine[object, object, object]) -> None:
    loop.run_until_complete(work)


def test_time_is_virtual(loop: SimLoop) -> None:
    """A year passes at once, and on time."""
    _run(loop, asyncio.sleep(365 * 86400))
    assert loop.now == 365 * 86400


def test_a_process_keeps_its_order(loop: SimLoop) -> None:
    """What one process has asked for first comes first, whatever the seed."""
    done: list[int] = []

    async def work() -> None:
        for number in range(50):
            asyncio.get_running_loop().call_soon(done.append, number)
        await asyncio.sleep(1)

    _run(loop, work())
    assert list(range(50)) == done


def _orders(seed: int) -> list[str]:
    loop, done = SimLoop(seed), []

    async def step(name: str) -> None:
        for _ in range(5):
            done.append(name)
            await asyncio.sleep(0)

    async def work() -> None:
        for name in ("a", "b"):
            _process(loop, name).spawn(step(name))
        await asyncio.sleep(1)

    _run(loop, work())
    loop.close()
    return done


def test_the_seed_draws_who_moves() -> None:
    """Two seeds interleave two processes in two ways, and one seed always in the same."""
    assert [_orders(1)] * 2 == [_orders(1), _orders(1)]
    assert len({tuple(_orders(seed)) for seed in range(8)}) > 1


def test_a_killed_process_does_nothing_more(loop: SimLoop) -> None:
    """Not even a `finally` runs, as with SIGKILL."""
    done: list[str] = []

    async def victim() -> None:
        try:
            await asyncio.sleep(1)
            done.append("went on")
        finally:
            done.append("cleaned up")

    async def work() -> None:
        process = _process(loop, "victim")
        process.spawn(victim())
        await asyncio.sleep(0.5)
        process.kill()
        await asyncio.sleep(5)
        assert done == []

    _run(loop, work())


@pytest.mark.parametrize(("asleep", "ends", "monotonic"), [(True, 110.0, 10.0), (False, 102.0, 102.0)])
def test_suspension(loop: SimLoop, asleep: bool, ends: float, monotonic: float) -> None:
    """Timers of a machine that sleeps are late by its sleep, and its monotonic clock has stood still."""
    process, seen = _process(loop, "sleeper"), []

    async def sleeper() -> None:
        begun = process.host.monotonic()
        await asyncio.sleep(10)
        seen.append((loop.now, process.host.monotonic() - begun))

    async def work() -> None:
        process.spawn(sleeper())
        await asyncio.sleep(2)
        process.suspend(100, asleep=asleep)
        await asyncio.sleep(300)

    _run(loop, work())
    assert [(ends, pytest.approx(monotonic))] == seen


def test_work_for_threads_is_done_inline(loop: SimLoop) -> None:
    """`to_thread` gives its result or its error back, in the process that asked."""

    def fails() -> None:
        msg = "in the thread"
        raise ValueError(msg)

    async def work() -> None:
        assert await asyncio.to_thread(lambda: 5) == 5
        with pytest.raises(ValueError, match="in the thread"):
            await asyncio.to_thread(fails)

    _run(loop, work())


def test_a_deadlock_is_reported(loop: SimLoop) -> None:
    """Where nobody can move and no time is waited for, the run ends with an error."""

    async def work() -> None:
        await loop.create_future()

    with pytest.raises(Livelock, match="nobody can move"):
        _run(loop, work())
