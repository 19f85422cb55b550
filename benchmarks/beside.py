"""
How long requests take while the same event loop migrates the store that they use.

An application gets 2,000 requests a second at fixed times, whether or not the ones before have ended, so a
loop that stands still makes all of them late that come meanwhile.  Each reads or writes through kvseal, in a
store in memory: what is measured is how the loop is shared, and a server's times are none of that.
The same load runs alone, beside `recode` with its default settings, and beside one with a rate.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import warnings
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from key_value.aio.stores.memory import MemoryStore

from benchmarks.contest import Contest
from benchmarks.machine import machine
from benchmarks.shapes import flat
from kvseal import EnvelopeEncryptionWrapper
from kvseal.drivers import driver_for
from kvseal.recoding import SealedTarget, plan_migration, recode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

REQUESTS: Final = 2000
"""In each second."""
MOST_MILLISECONDS: Final = 15
"""The 99th percentile beside a recode with default settings."""
RATE: Final = 500

_RECORDS: Final = 20_000
_ROUNDS: Final = 3
_SECONDS_ALONE: Final = 4.0
_WARM_UP: Final = 0.3


@dataclass(frozen=True, slots=True)
class Load:
    """What became of the requests of one round, in seconds from when each was due."""

    latencies: Sequence[float]
    seconds: float

    def percentile(self, hundredth: int) -> float:
        """Return milliseconds."""
        return quantiles(self.latencies, n=100)[hundredth - 1] * 1000


class MemoryBackend:
    """A store in memory, and its copies."""

    def __init__(self) -> None:
        self._filled = MemoryStore(max_entries_per_collection=None)

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[MemoryStore]:
        """Yield the store that is filled once."""
        yield self._filled

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[MemoryStore]:
        """Yield a fresh copy."""
        store, driver = MemoryStore(max_entries_per_collection=None), driver_for(self._filled)
        copied = driver_for(store)
        async for page in driver.scan():
            for entry in page.entries:
                await copied.put_if_absent(entry)
        yield store


async def measure(records: int, rounds: int) -> dict[str, Any]:
    """Return the figures of each way, and how fast the recode was."""
    contest = Contest(MemoryBackend(), records)
    await contest.fill()
    ways: dict[str, list[Load]] = {"alone": [], "beside a recode": [], f"beside rate={RATE}": []}
    for _ in range(rounds):
        ways["alone"].append(await _alone(contest))
        ways["beside a recode"].append(await _beside(contest, None))
        ways[f"beside rate={RATE}"].append(await _beside(contest, RATE))
    return {
        "requests a second": REQUESTS,
        "records": records,
        "rounds": rounds,
        "goal": MOST_MILLISECONDS,
        "ways": {name: _figures(loads) for name, loads in ways.items()},
    }


def _figures(loads: Sequence[Load]) -> dict[str, float]:
    found = {f"p{n}": round(median(load.percentile(n) for load in loads), 2) for n in (50, 99)}
    return found | {"seconds": round(median(load.seconds for load in loads), 2)}


async def _alone(contest: Contest) -> Load:
    async with contest.sealing() as (store, vault):
        return await _under_load(EnvelopeEncryptionWrapper(store, vault=vault), asyncio.sleep(_SECONDS_ALONE))


async def _beside(contest: Contest, rate: float | None) -> Load:
    async with contest.sealing() as (store, vault):
        plan = plan_migration(SealedTarget.of(vault), [contest.codec()], vault=vault)
        work = recode(store, plan, rate=rate)
        if rate is not None:
            work = _at_most(work, _SECONDS_ALONE)
        return await _under_load(EnvelopeEncryptionWrapper(store, vault=vault), work)


async def _at_most(work: Any, seconds: float) -> None:
    """Do *work* for so long: at a low rate a round would take minutes."""
    with_deadline = asyncio.ensure_future(work)
    await asyncio.wait([with_deadline], timeout=seconds)
    with_deadline.cancel()
    await asyncio.gather(with_deadline, return_exceptions=True)


async def _under_load(kv: Any, work: Any) -> Load:
    """Return the latencies of requests that come while *work* is done."""
    value, keys = flat(1024), [f"request-{number}" for number in range(100)]
    for key in keys:
        await kv.put(key, value)
    gc.collect()
    latencies: list[float] = []
    requests: set[asyncio.Task[None]] = set()

    async def request(number: int, due: float) -> None:
        key = keys[number % len(keys)]
        await (kv.get(key) if number % 4 else kv.put(key, value))
        latencies.append(perf_counter() - due)

    async def arrivals() -> None:
        first = perf_counter()
        for number in count():
            due = first + number / REQUESTS
            if (early := due - perf_counter()) > 0:
                await asyncio.sleep(early)
            task = asyncio.create_task(request(number, due))
            requests.add(task)
            task.add_done_callback(requests.discard)

    load = asyncio.create_task(arrivals())
    await asyncio.sleep(_WARM_UP)
    latencies.clear()
    started = perf_counter()
    await work
    seconds = perf_counter() - started
    load.cancel()
    await asyncio.gather(load, *requests, return_exceptions=True)
    return Load(tuple(latencies), seconds)


def render(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the results page."""
    yield ""
    yield "## Requests beside a recode"
    yield ""
    yield (
        f"{figures['requests a second']:,} requests a second in the event loop that migrates "
        f"{figures['records']:,} records in memory; milliseconds from when each was due, medians of "
        f"{figures['rounds']} rounds (goal for a recode with default settings: p99 ≤ {figures['goal']})."
    )
    yield ""
    yield "| | p50 | p99 | the recode took |"
    yield "|---|---|---|---|"
    for name, row in figures["ways"].items():
        yield f"| {name} | {row['p50']:.1f} | {row['p99']:.1f} | {row['seconds']:.1f} s |"


def summary(figures: dict[str, Any]) -> Iterator[str]:
    """Yield what the project's README says."""
    alone, with_it = figures["ways"]["alone"], figures["ways"]["beside a recode"]
    missed = "" if with_it["p99"] <= figures["goal"] else ", missed"
    yield ""
    yield (
        f"{figures['requests a second']:,} requests a second have a p99 of {with_it['p99']:.1f} ms beside a "
        f"recode in the same loop (goal ≤ {figures['goal']}{missed}), {alone['p99']:.1f} ms without one."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured into FILE")
    parser.add_argument("--records", type=int, default=_RECORDS)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    figures = asyncio.run(measure(options.records, options.rounds))
    for name, row in figures["ways"].items():
        print(f"{name:20} p50 {row['p50']:6.2f} ms  p99 {row['p99']:6.2f} ms  in {row['seconds']:.1f} s")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
