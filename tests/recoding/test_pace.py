"""How fast a recode goes."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest
from tests.recoding.worlds import fernet, fill

from kvseal import Argon2idParams, Secret
from kvseal.recoding import engine, migrate
from kvseal.recoding.pace import Pace

if TYPE_CHECKING:
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

    # The verify pass sees the vault meta and the checkpoint, too.
    assert [20, *[5] * 4, 22] == taken
