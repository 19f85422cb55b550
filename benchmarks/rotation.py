"""
What a rotation costs beside few records and beside many: the same, since it touches the vault meta alone.

Two databases of one Redis server hold sealed records, written past every wrapper so that a million
take no time, and a vault each.  Rotations take turns, and the server counts what was written.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from key_value.aio.stores.redis import RedisStore
from redis import Redis
from tests.wrapping import wrapped

from benchmarks.peers import CHEAP, COLLECTION
from benchmarks.ratio import Goal, Ratio
from benchmarks.scale import insert
from benchmarks.shapes import flat
from kvseal import Secret, Vault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.backends import RedisBackend

FEW: Final = 10
MANY: Final = 1_000_000
QUICK: Final = 20_000
GOAL: Final = Goal("rotate with many records, of its time with ten", 1.1, at_most=True)


@dataclass(frozen=True, slots=True)
class Rotations:
    """Seconds of rotations in turns, with few records and with many, and what each wrote."""

    records: tuple[int, int]
    rounds: Sequence[tuple[float, float]]
    writes: tuple[int, int]
    """Entries written by one rotation."""

    @property
    def ratio(self) -> Ratio:
        """The time with many records by that with few."""
        return Ratio.of(many / few for few, many in self.rounds)

    def as_json(self) -> dict[str, Any]:
        """Return what the report is made from."""
        return {
            "records": list(self.records),
            "rounds": len(self.rounds),
            "milliseconds": [round(median(column) * 1000, 3) for column in zip(*self.rounds, strict=True)],
            "writes": list(self.writes),
            "ratio": self.ratio.rounded(),
            "goal": GOAL.factor,
        }


async def measure(backend: RedisBackend, many: int, rounds: int) -> Rotations:
    """Fill both databases and let their vaults be rotated in turns, to another secret and back."""
    records = FEW, many
    async with AsyncExitStack() as stack:
        vaults = []
        for url, count in zip(backend.urls, records, strict=True):
            store = await stack.enter_async_context(RedisStore(url=url))
            vault = await Vault.create(store, secret=Secret(b"a" * 32), kdf=CHEAP)
            stack.push_async_callback(vault.close)
            fill(url, vault, count)
            vaults.append(vault)
        with Redis.from_url(backend.urls[0]) as client:
            for vault in vaults:
                await _rotate(client, vault)
            turns = [await _turn(client, vaults) for _ in range(rounds)]
        for vault, count in zip(vaults, records, strict=True):
            await _check(vault, count)
    written = {tuple(writes for _, writes in turn) for turn in turns}
    assert len(written) == 1, f"rotations wrote {written} entries"
    return Rotations(records, [(few, much) for (few, _), (much, _) in turns], written.pop())


def fill(url: str, vault: Vault, records: int) -> None:
    """Write so many records that *vault* opens."""
    codec, value = vault.codecs[""], flat(64)
    names = [f"user-{number:08}" for number in range(records)]
    with Redis.from_url(url) as client:
        insert(client, ((name, codec.seal(value, COLLECTION, name)) for name in names))


async def _turn(client: Redis, vaults: Sequence[Vault]) -> tuple[tuple[float, int], ...]:
    """Rotate each of *vaults* once."""
    # Python 3.10 knows no asynchronous comprehension in one that is not.
    return tuple([await _rotate(client, vault) for vault in vaults])


async def _rotate(client: Redis, vault: Vault) -> tuple[float, int]:
    """Return the seconds, and how many entries the server has written."""
    before = _written(client)
    started = perf_counter()
    await vault.rotate(new_secret=Secret(os.urandom(32)))
    return perf_counter() - started, _written(client) - before


async def _check(vault: Vault, records: int) -> None:
    """A rotation that lost a record would be fast, too."""
    kv = wrapped(vault)
    for number in (0, records - 1):
        assert flat(64) == await kv.get(f"user-{number:08}")


def _written(client: Redis) -> int:
    """Return how many changes the server has made to any database since it was started."""
    return int(client.info("persistence")["rdb_changes_since_last_save"])
