"""
For how long the event loop stands still while a vault is unlocked, rotated, or given many records.

A machine whose cores are busy wakes a coroutine late whatever the program does.  So the stall of
unlocking stands beside that of one Argon2id run in a thread with nothing around it, and that of a
batch beside an idle loop's.  Each is measured several times: what the code itself causes is
there every time, so the least figure is the code's.
"""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from key_value.aio.stores.disk import DiskStore

from benchmarks import peers
from benchmarks.ratio import Goal, Ratio
from benchmarks.shapes import flat
from benchmarks.ticker import stall_during
from benchmarks.unlocking import derivation
from kvseal import Secret, Vault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

MOST_MILLISECONDS: Final = 20
"""What unlocking and rotating a vault may take of the event loop at once."""

GOALS: Final = {
    work: Goal(f"the loop's stall during {work}, of one derivation's time", 0.5, at_most=True)
    for work in ("unlock", "rotate")
}
"""A derivation in the loop's own thread would be 1 and more; a time in milliseconds is no goal for CI."""

BATCHES: Final = {
    "1,000 of 1 KiB": (1000, 1024),
    "10,000 of 1 KiB": (10_000, 1024),
    "10,000 of 16 KiB": (10_000, 2**14),
    "10 of 1 MiB": (10, 2**20),
    "100 of 1 MiB": (100, 2**20),
}


@dataclass(frozen=True, slots=True)
class Stall:
    """What one kind of work did to the loop: a row of seconds for each time."""

    work: str
    beside: str
    """What the ticker was measured beside."""
    rows: Sequence[tuple[float, float, float, float]]
    """Stall and duration of the work, stall and duration of what it is beside."""

    @property
    def ratio(self) -> Ratio:
        """The work's stall by the duration of what it is beside."""
        return Ratio.of(stall / alone for stall, _, _, alone in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return milliseconds."""
        stall, takes, beside, _ = zip(*self.rows, strict=True)
        return {
            "work": self.work,
            "times": len(self.rows),
            "takes": round(median(takes) * 1000, 2),
            "stall": _milliseconds(stall),
            "beside": self.beside,
            "stall beside": _milliseconds(beside),
        }


async def of_keys(times: int) -> list[Stall]:
    """Return the stalls of unlocking and rotating a vault at its default cost."""
    async with _vault() as (store, secret):
        return [
            await _measure("unlock", times, partial(_unlock, store, secret)),
            await _measure("rotate", times, partial(_rotate, store, secret)),
        ]


async def of_batches(times: int) -> list[Stall]:
    """Return the stalls of batches over a store that never waits, so that sealing is all there is."""
    stalls = []
    for name, (count, size) in BATCHES.items():
        kv = peers.kvseal(peers.DictStore())
        keys, values = [f"user-{number}" for number in range(count)], [flat(size)] * count
        await kv.put_many(keys, values)
        stalls += [
            await _measure(f"put_many, {name}", times, partial(kv.put_many, keys, values)),
            await _measure(f"get_many, {name}", times, partial(kv.get_many, keys)),
        ]
    return stalls


async def _measure(work: str, times: int, start: Callable[[], Awaitable[object]]) -> Stall:
    is_batch = "many" in work
    rows = []
    for _ in range(times):
        gc.collect()
        stall, took = await stall_during(start())
        beside = asyncio.sleep(took) if is_batch else derivation()
        rows.append((stall, took, *await stall_during(beside)))
    return Stall(work, "an idle loop" if is_batch else "one Argon2id run in a thread", rows)


@asynccontextmanager
async def _vault() -> AsyncIterator[tuple[DiskStore, Secret]]:
    secret = Secret(os.urandom(32))
    with TemporaryDirectory(prefix="kvseal-benchmark-") as directory:
        store = DiskStore(directory=directory)
        await (await Vault.create(store, secret=secret)).close()
        yield store, secret
        await store.close()


async def _unlock(store: DiskStore, secret: Secret) -> None:
    await (await Vault.open(store, secret=secret)).close()


async def _rotate(store: DiskStore, secret: Secret) -> None:
    vault = await Vault.open(store, secret=secret)
    await vault.rotate(new_secret=secret)
    await vault.close()


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return {
        name: round(choose(seconds) * 1000, 2)
        for name, choose in (("least", min), ("median", median), ("most", max))
    }
