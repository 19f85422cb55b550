"""What it takes until many wrappers of one process have read their first value: one key derivation."""

from __future__ import annotations

import asyncio
import gc
import os
from dataclasses import dataclass
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from argon2.low_level import Type, hash_secret_raw
from key_value.aio.stores.disk import DiskStore

from benchmarks import peers
from benchmarks.ratio import Goal, Ratio
from benchmarks.shapes import flat
from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret
from kvseal.observe import counters

if TYPE_CHECKING:
    from collections.abc import Sequence

WRAPPERS: Final = 50
COST: Final = Argon2idParams.RFC_9106_LOW_MEMORY


@dataclass(frozen=True, slots=True)
class Unlocking:
    """Seconds in turns: one derivation by itself, one wrapper's first `get`, and that of `WRAPPERS`."""

    rounds: Sequence[tuple[float, float, float]]
    derivations: int

    @property
    def ratio(self) -> Ratio:
        """How many times as long as for one wrapper it takes until all have read."""
        return Ratio.of(everyone / one for _, one, everyone in self.rounds)

    def as_json(self) -> dict[str, Any]:
        """Return what the report is made from."""
        alone, one, everyone = (median(column) for column in zip(*self.rounds, strict=True))
        return {
            "wrappers": WRAPPERS,
            "derivations": self.derivations,
            "cost": f"t={COST.time_cost}, m={COST.memory_cost // 1024} MiB, p={COST.parallelism}",
            "milliseconds": {
                "one derivation": round(alone * 1000, 1),
                "one wrapper": round(one * 1000, 1),
                "all wrappers": round(everyone * 1000, 1),
            },
            "ratio": self.ratio.rounded(),
            "of a derivation": Ratio.of(row[2] / row[0] for row in self.rounds).rounded(),
            "goal": GOAL.factor,
        }


GOAL: Final = Goal(f"first get of {WRAPPERS} wrappers, of one wrapper's time", 2, at_most=True)


async def measure(rounds: int) -> Unlocking:
    """Let a derivation, one wrapper and many take turns over a vault on a disk."""
    secret = Secret(os.urandom(32))
    with TemporaryDirectory(prefix="kvseal-benchmark-") as directory:
        store = DiskStore(directory=directory)
        kv = EnvelopeEncryptionWrapper(store, secret=secret, kdf=COST)
        await kv.put(peers.KEY, flat(1024))
        await kv.release()
        rows, derived = [], 0
        for _ in range(rounds):
            alone = await derivation()
            one, _ = await _first_gets(store, secret, 1)
            everyone, derived = await _first_gets(store, secret, WRAPPERS)
            rows.append((alone, one, everyone))
        await store.close()
    return Unlocking(rows, derived)


async def derivation() -> float:
    """Return the seconds of one Argon2id run in a thread, with nothing around it."""
    started = perf_counter()
    await asyncio.to_thread(
        hash_secret_raw,
        os.urandom(32),
        os.urandom(16),
        time_cost=COST.time_cost,
        memory_cost=COST.memory_cost,
        parallelism=COST.parallelism,
        hash_len=32,
        type=Type.ID,
    )
    return perf_counter() - started


async def _first_gets(store: DiskStore, secret: Secret, wrappers: int) -> tuple[float, int]:
    """Return the seconds until every wrapper has read its first value, and the derivations that it took."""
    # What others have unlocked is shared for as long as anybody holds it.
    gc.collect()
    before, started = counters.derivations.number, perf_counter()
    everyone = [EnvelopeEncryptionWrapper(store, secret=secret) for _ in range(wrappers)]
    values = await asyncio.gather(*(kv.get(peers.KEY) for kv in everyone))
    seconds, derived = perf_counter() - started, counters.derivations.number - before
    assert [flat(1024)] * wrappers == values
    assert derived == 1, f"{wrappers} wrappers took {derived} derivations"
    await asyncio.gather(*(kv.release() for kv in everyone))
    return seconds, derived
