"""Long work on the event loop gives others their turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.memory import MemoryStore

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret
from kvseal.concurrency import slices_between_turns

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
