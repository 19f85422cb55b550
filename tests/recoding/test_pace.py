"""How fast a recode goes."""

from __future__ import annotations

import asyncio
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.recoding.worlds import fernet, fill

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.concurrency import owns_loop
from kvseal.errors import DEKNeededError
from kvseal.recoding import census, engine, migrate, retire, retirement, verify
from kvseal.recoding.pace import SLICE, LoopShare, Pace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from key_value.aio.stores.memory import MemoryStore

survey_module = sys.modules["kvseal.recoding.surveying"]
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)


class Time:
    """A clock that stands still until somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.slept.append(seconds)
        self.now += seconds


def pace_of(rate: float | None, time: Time) -> Pace:
    """Return a pace in *time*."""
    return Pace(rate, clock=time.clock, sleep=time.sleep)


async def test_it_is_kept() -> None:
    """Of 1,000 records at 50 a second, the last ones begin after 19.8 seconds, and never more than 50 in one."""
    time = Time()
    pace, begun = pace_of(50, time), []
    for _ in range(100):
        await pace.take(10)
        begun.append(time.now)

    assert 100 + 990 / 50 == pytest.approx(begun[-1])
    assert all(sum(10 for b in begun if start <= b < start + 0.999) <= 50 for start in begun)


async def test_what_was_not_used_is_not_saved_up() -> None:
    """After a pause it goes on at its rate, and not faster to catch up."""
    time = Time()
    pace = pace_of(10, time)
    await pace.take(10)
    time.now += 1000
    time.slept.clear()

    for _ in range(3):
        await pace.take(10)

    assert [1, 1] == pytest.approx(time.slept)


async def test_pages_in_flight_share_it() -> None:
    """Three that ask at once get their turns one after the other."""
    time = Time()
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    pace = Pace(10, clock=time.clock, sleep=wait)
    await asyncio.gather(*(pace.take(10) for _ in range(3)))

    assert [1, 2] == pytest.approx(waits)


@pytest.mark.parametrize(
    ("rate", "most", "expected"), [(None, 512, 512), (1000, 512, 250), (1000, 100, 100), (2, 512, 1)]
)
def test_slices(rate: float | None, most: int, expected: int) -> None:
    """A quarter of a second's worth at a time, so that it is even and can be stopped soon."""
    assert expected == Pace(rate).slice(most)


async def test_without_a_rate() -> None:
    """Nobody waits."""
    time = Time()
    await pace_of(None, time).take(10**9)

    assert [] == time.slept


async def test_every_pass_keeps_it(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The survey, the recode and the verify pass of a migration all go at its rate."""
    taken: list[int] = []

    class Counting(Pace):
        async def take(self, records: int) -> None:
            taken.append(records)

    await fill(store, {f"{n}": {"v": n} for n in range(20)})
    monkeypatch.setattr(survey_module, "Pace", Counting)
    monkeypatch.setattr(engine, "Pace", Counting)

    await migrate(store, [fernet()], secret=Secret(b"s"), kdf=CHEAP, rate=20)

    # The verify pass sees the vault meta and the checkpoint's head and part, too.
    assert [20, *[5] * 4, 23] == taken


async def test_proofs_keep_it(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads the whole store to prove something goes at the rate that it is given."""
    taken: list[tuple[float | None, int]] = []

    class Counting(Pace):
        async def take(self, records: int) -> None:
            taken.append((self._rate, records))

    vault = await Vault.create(store, secret=Secret(b"s"), kdf=CHEAP)
    await EnvelopeEncryptionWrapper(store, vault=vault).put_many(["a", "b"], [{"v": 1}, {"v": 2}])
    await vault.rotate_dek()
    monkeypatch.setattr(census, "Pace", Counting)
    monkeypatch.setattr(retirement, "Pace", Counting)

    await verify(store, vault, rate=5)
    with pytest.raises(DEKNeededError):
        await retire(store, vault, 1, grace=timedelta(), rate=7)

    assert [(5, 3), (7, 3)] == taken


class Loop:
    """An event loop's time: what works in it, in seconds of its thread, and what kvseal waits for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.cpu = 100.0
        self.slept: list[float] = []
        self.threads: set[str] = set()
        monkeypatch.setattr("kvseal.clock.monotonic", lambda: self.now)
        monkeypatch.setattr("kvseal.clock.thread_cpu", lambda: self.cpu)
        monkeypatch.setattr("kvseal.recoding.pace.asyncio.sleep", self.sleep)

    def works(self, seconds: float) -> None:
        """Let the loop's thread work for so long."""
        self.now += seconds
        self.cpu += seconds

    async def sleep(self, seconds: float) -> None:
        """Let time pass in which others take half of the loop."""
        self.slept.append(seconds)
        self.now += seconds
        self.cpu += seconds / 2

    def seals(self, entries: list[int]) -> int:
        """Work for 100 microseconds for each entry; return how many there were."""
        self.threads.add(threading.current_thread().name)
        self.now += len(entries) * 0.0001
        return len(entries)


async def test_a_busy_loop_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where requests use the loop, nothing keeps them waiting for longer than a slice, and most time is theirs."""
    loop, share = Loop(monkeypatch), LoopShare()

    done = [await share.work(loop.seals, few) for few in share.slices(list(range(5000)), most=512)]

    assert 5000 == sum(done)
    assert threading.main_thread().name not in loop.threads
    assert max(done) * 0.0001 <= SLICE
    assert sum(loop.slept) >= 3 * 5000 * 0.0001


async def test_a_value_longer_than_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Great values are taken one at a time, and the wait is as much longer."""
    loop, share = Loop(monkeypatch), LoopShare()

    def seals(entries: list[int]) -> int:
        loop.now += len(entries) * 0.01
        return len(entries)

    done = [await share.work(seals, few) for few in share.slices(list(range(50)), most=512)]

    assert 50 == sum(done)
    assert {1} == set(done[-20:])
    assert sum(loop.slept) >= 3 * 50 * 0.01


async def test_an_idle_loop_is_used_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once nothing else has used the loop for a moment, whole pages are done in a thread, without a pause."""
    loop, share = Loop(monkeypatch), LoopShare()
    loop.now += 1.0

    done = [await share.work(loop.seals, few) for few in share.slices(list(range(5000)), most=512)]
    done = [await share.work(loop.seals, few) for few in share.slices(list(range(5000)), most=512)]

    assert 512 == max(done)
    assert [] == loop.slept
    assert threading.main_thread().name not in loop.threads


async def test_a_loop_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vaultctl's loop is its own: what the drivers do in it is not the work of others."""
    loop = Loop(monkeypatch)
    token = owns_loop.set(True)
    share = LoopShare()
    loop.works(10.0)

    done = [await share.work(loop.seals, few) for few in share.slices(list(range(1024)), most=512)]
    owns_loop.reset(token)

    assert [512, 512] == done
    assert [] == loop.slept


async def test_its_own_work_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a recode itself does in the loop, between awaits and in pages that it reads, is not taken for others'."""
    loop, share = Loop(monkeypatch), LoopShare()

    async def reads() -> int:
        loop.works(0.5)
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, int))
        loop.works(0.5)
        return 1

    async def scan() -> AsyncIterator[int]:
        loop.works(0.5)
        yield await reads()

    assert [1] == [page async for page in share.pages(scan())]
    assert 1 == await share.run(reads())
    done = [await share.work(loop.seals, few) for few in share.slices(list(range(1024)), most=512)]
    loop.works(0.5)
    await share.work(loop.seals, [1])

    assert 512 == max(done)
    assert 1 == len(loop.slept)


async def test_an_error_reaches_the_work() -> None:
    """What is thrown into it while it waits, such as a cancellation, is the work's to handle."""
    share = LoopShare()
    told: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    task = asyncio.create_task(share.run(waits()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ["cancelled"] == told
