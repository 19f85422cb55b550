"""Long work on the event loop gives others their turn."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.memory import MemoryStore

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, clock
from kvseal.concurrency import TURN, each_in_thread, slices_between_turns

if TYPE_CHECKING:
    from collections.abc import Awaitable

COUNT = 100
VALUE = {"text": "x" * 2**18}
"""A hundred of them are 25 MiB, far more than anybody encrypts in the time of a turn."""


class Another:
    """Somebody else on the event loop, who wants to run as often as possible."""

    def __init__(self) -> None:
        self._runs = 0

    async def runs_during(self, work: Awaitable[object]) -> int:
        """Return how often it ran while *work* was done."""
        task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        before = self._runs
        await work
        runs = self._runs - before
        task.cancel()
        return runs

    async def _run(self) -> None:
        while True:
            self._runs += 1
            await asyncio.sleep(0)


@pytest.fixture
async def kv(secret: Secret, cheap: Argon2idParams) -> EnvelopeEncryptionWrapper:
    """Return a wrapper whose vault is open and whose store never waits for anything."""
    kv = EnvelopeEncryptionWrapper(MemoryStore(), secret=secret, kdf=cheap)
    await kv.put_many([str(n) for n in range(COUNT)], [VALUE] * COUNT)
    return kv


async def test_batches_give_others_their_turn(kv: EnvelopeEncryptionWrapper) -> None:
    """While a batch of large values is sealed or opened, others on the event loop run in between."""
    keys = [str(n) for n in range(COUNT)]

    assert 1 < await Another().runs_during(kv.put_many(keys, [VALUE] * COUNT))
    assert 1 < await Another().runs_during(kv.get_many(keys))
    assert 1 < await Another().runs_during(kv.ttl_many(keys))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100])
async def test_every_index_has_its_turn_once(length: int) -> None:
    """The slices are all of a sequence, in order and without gaps."""
    things = list(range(length))
    seen: list[int] = []
    async for part in slices_between_turns(length):
        seen += things[part]

    assert things == seen


@pytest.mark.parametrize(
    "cost", [0.000_003, 0.000_1, 0.000_5, 0.01], ids=["3 us", "100 us", "500 us", "10 ms"]
)
def test_no_turn_is_much_longer_than_one(cost: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work takes a turn and an eighth at most, or one thing; what comes after long work has a turn of its own."""
    turns = turns_of([cost] * int(0.05 / cost), monkeypatch)

    assert max(turns) <= max(TURN * 9 / 8, cost) + 1e-9
    assert 0 == turns[-1]


def test_large_things_after_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where things become large all at once, eight of them are in one turn, and no eight again."""
    turns = turns_of([0.000_003] * 999 + [0.01] * 40, monkeypatch)

    assert [1, 2, 4, 8] == sorted({round(turn / 0.01) for turn in turns} - {0})
    assert 1 == sum(round(turn / 0.01) == 8 for turn in turns)


def turns_of(costs: list[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds of each turn in which things of these *costs* are done, and of what comes after them."""
    now = 0.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)

    async def work() -> None:
        nonlocal now
        async for part in slices_between_turns(len(costs)):
            now += sum(costs[part])

    turns, coroutine, is_over = [], work(), False
    while not is_over:
        before = now
        try:
            coroutine.send(None)
        except StopIteration:
            is_over = True
        turns.append(now - before)
    return turns


async def test_each_in_thread() -> None:
    """Every item has its result, in their order, and several run at once; no items are no work."""
    meeting = threading.Barrier(8)

    def work(number: int) -> int:
        if number < 8:
            meeting.wait(30)
        return number * number

    assert [number * number for number in range(100)] == await each_in_thread(work, range(100))
    assert [] == await each_in_thread(work, [])


async def test_each_in_thread_ends_with_an_error() -> None:
    """After the first error no further item is begun, and it is raised when those under way have ended."""
    begun: list[int] = []
    ended: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            msg = "the first one"
            raise ValueError(msg)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2000)
        ended.append(number)

    with pytest.raises(ValueError, match="the first one"):
        await each_in_thread(work, range(2000))

    assert len(begun) < 2000
    assert sorted(begun)[1:] == sorted(ended)
