"""What a migration on Redis costs per record at ten thousand and at a million, and with two processes."""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from itertools import islice
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from cryptography.fernet import Fernet
from key_value.aio.stores.redis import RedisStore

from benchmarks.contest import SIZE, TTL
from benchmarks.peers import CHEAP, COLLECTION
from benchmarks.recoder import Recoder
from benchmarks.shapes import flat
from kvseal import Secret, Vault
from kvseal.drivers.body import write_body
from kvseal.legacy import FernetCodec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis import Redis

    from benchmarks.backends import RedisBackend

FEW: Final = 10_000
MANY: Final = 1_000_000
MAX_GROWTH: Final = 64 * 2**20
MIN_SPEEDUP: Final = 1.6

_TOKENS: Final = 16
"""Different values; the same ones lie under many keys, because encrypting each would take longer."""
_AT_ONCE: Final = 500


class Filled:
    """Database 1 of a Redis server, with records that were encrypted before and a vault."""

    def __init__(self, backend: RedisBackend, records: int) -> None:
        self._backend = backend
        self._records = records
        self._key = urlsafe_b64decode(Fernet.generate_key())
        self._secret = os.urandom(32)

    async def fill(self) -> None:
        """Write all records anew, past every wrapper, and make the vault."""
        codec = FernetCodec([self._key])
        values = [codec.seal(flat(SIZE)) for _ in range(_TOKENS)]
        entries = ((f"user-{number:08}", values[number % _TOKENS]) for number in range(self._records))
        with self._backend.client() as client:
            client.flushdb()
            insert(client, entries, ttl=TTL)
        async with RedisStore(url=self._backend.url) as store:
            await (await Vault.create(store, secret=Secret(self._secret), kdf=CHEAP)).close()

    async def migrate(self, processes: int = 1) -> tuple[float, list[dict[str, Any]]]:
        """Fill, let so many *processes* share the migration, and return the seconds and what each says."""
        await self.fill()
        with ExitStack() as stack:
            recoders = [
                stack.enter_context(Recoder(self._backend.url, self._key, self._secret, (part, processes)))
                for part in range(processes)
            ]
            for recoder in recoders:
                recoder.wait_until_ready()
            started = perf_counter()
            for recoder in recoders:
                recoder.start()
            results = [recoder.result() for recoder in recoders]
            seconds = perf_counter() - started
        assert self._records == sum(result["changed"] for result in results), results
        return seconds, results


def insert(client: Redis, entries: Iterable[tuple[str, dict[str, Any]]], *, ttl: int | None = None) -> None:
    """Write stored values under their keys as a `RedisStore` does, past it and every wrapper."""
    now = datetime.now(timezone.utc)
    expires_at = None if ttl is None else now + timedelta(seconds=ttl)
    entries = iter(entries)
    while some := list(islice(entries, _AT_ONCE)):
        pipeline = client.pipeline(transaction=False)
        for key, value in some:
            names = COLLECTION, key
            body = write_body(value, created_at=now, expires_at=expires_at, names=names)
            pipeline.set("::".join(names), body, ex=ttl)
        pipeline.execute()


async def million(backend: RedisBackend, *, rounds: int = 5) -> dict[str, Any]:
    """Return cost and memory growth at `FEW` records, as medians of *rounds*, and once at `MANY`."""
    few = [(await Filled(backend, FEW).migrate())[1][0] for _ in range(rounds)]
    (many,) = (await Filled(backend, MANY).migrate())[1]
    return {
        "rows": [
            _row(FEW, {name: median(one[name] for one in few) for name in many}),
            _row(MANY, many),
        ],
        "most growth": MAX_GROWTH,
    }


async def partitions(backend: RedisBackend, records: int, *, rounds: int) -> dict[str, Any]:
    """Return how many times as fast two processes are as one, in turns."""
    filled = Filled(backend, records)
    pairs = [((await filled.migrate(1)), (await filled.migrate(2))) for _ in range(rounds)]
    speedups = [one / two for (one, _), (two, _) in pairs]
    return {
        "records": records,
        "rounds": rounds,
        "seconds": {
            "1": round(median(one for (one, _), _ in pairs), 3),
            "2": round(median(two for _, (two, _) in pairs), 3),
        },
        "cpu seconds of each": {
            "1": _cpu(one for (_, one), _ in pairs),
            "2": _cpu(two for _, (_, two) in pairs),
        },
        "speedup": {"median": median(speedups), "low": min(speedups), "high": max(speedups)},
        "goal": MIN_SPEEDUP,
    }


def _cpu(results: Iterable[list[dict[str, Any]]]) -> float:
    return round(median(max(one["cpu seconds"] for one in processes) for processes in results), 3)


def _row(records: int, result: dict[str, Any]) -> dict[str, Any]:
    return {
        "records": records,
        "microseconds": round(result["seconds"] / records * 1e6, 1),
        "cpu microseconds": round(result["cpu seconds"] / records * 1e6, 1),
        "growth": int(result["growth"]),
    }
