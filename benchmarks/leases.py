"""
How long it takes to renew the leases of all parts of one recode once, on a Redis server.

Two processes hold half of the parts each, and renew all of theirs at once, again and again.  A lease lasts
30 seconds and is renewed every 5, so all of them together have to take far less: at most one second.

    python -m benchmarks.leases                 256 parts
    python -m benchmarks.leases --parts 1024
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Final

from key_value.aio.stores.redis import RedisStore
from tests.servers import RedisServer

from kvseal import Argon2idParams, Secret, Vault
from kvseal.recoding.progress.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_SECONDS: Final = 1.0
_PROCESSES: Final = 2
_ROUNDS: Final = 5
_SECRET: Final = Secret(b"of a benchmark")
_CHEAP: Final = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)


async def _created(url: str) -> None:
    vault = await Vault.create(RedisStore(url=url), secret=_SECRET, kdf=_CHEAP)
    await vault.close()


async def _held(url: str, parts: Sequence[int], count: int) -> list[float]:
    """Hold *parts*, and return the time of each round of renewals, which begins with a line of input."""
    vault = await Vault.open(RedisStore(url=url), secret=_SECRET)
    leases = [Lease(vault, "benchmark", "migrate", (part, count)) for part in parts]
    for lease in leases:
        await lease.acquire()
    print("held", flush=True)
    seconds = []
    for _ in range(_ROUNDS):
        await asyncio.to_thread(sys.stdin.readline)
        started = perf_counter()
        await asyncio.gather(*(lease.renew() for lease in leases))
        seconds.append(perf_counter() - started)
        print("renewed", flush=True)
    await vault.close()
    return seconds


async def _rounds(url: str, count: int) -> list[float]:
    """Return the time of each round: that of the slower process."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.leases", "--parts", str(count), "--hold", f"{url} {number}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(_PROCESSES)
    ]
    for _ in range(_ROUNDS + 1):
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline()
        for process in processes:
            if process.stdin is not None:
                process.stdin.write(b"\n")
    ends = await asyncio.gather(*(process.communicate() for process in processes))
    return [max(both) for both in zip(*(json.loads(out) for out, _ in ends), strict=True)]


def main() -> int:
    """Measure, and return 1 if it took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=256)
    parser.add_argument("--hold", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.hold:
        url, _, number = asked.hold.partition(" ")
        parts = range(int(number), asked.parts, _PROCESSES)
        print(json.dumps(asyncio.run(_held(url, parts, asked.parts))))
        return 0
    with TemporaryDirectory() as directory, RedisServer(Path(directory)) as server, server.database() as url:
        asyncio.run(_created(url))
        seconds = asyncio.run(_rounds(url, asked.parts))
    print(f"{asked.parts} leases, {_PROCESSES} processes: {median(seconds):.2f} s of {MOST_SECONDS:g} s")
    print("each round:", ", ".join(f"{each:.2f}" for each in seconds))
    return int(median(seconds) > MOST_SECONDS)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
