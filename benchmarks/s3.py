"""
How fast a migration of a bucket is, beside the loop that people write today: `python -m benchmarks.s3`.

Both migrate the same Fernet records of 1 KiB on SeaweedFS, in turns, each on a fresh bucket.  The seconds of
CPU of the server and of this process say what the time is made of: on a machine of two cores they share them.
With `--latency 20` each request of either takes 20 ms more, as on a network.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiobotocore.httpsession import AIOHTTPSession
from botocore.httpsession import URLLib3Session
from key_value.aio.stores.s3 import S3Store
from tests.drivers.s3.server import SeaweedServer

from benchmarks.contest import Contest
from kvseal.drivers import driver_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

GOAL: Final = 5
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Bucket:
    """A filled bucket, and copies of it that the server makes by itself."""

    def __init__(self, server: SeaweedServer) -> None:
        self._server = server
        self._numbers = count()

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[S3Store]:
        """Open the store that is filled once."""
        async with S3Store(bucket_name="filled", **self._server.settings()) as store:
            yield store

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[S3Store]:
        """Open a fresh copy, which is emptied afterwards."""
        name = f"copy-{next(self._numbers)}"
        self._server.raw.create_bucket(Bucket=name)
        with ThreadPoolExecutor(16) as threads:

            def copied(key: str) -> None:
                source = {"Bucket": "filled", "Key": key}
                self._server.raw.copy_object(Bucket=name, Key=key, CopySource=source)

            list(threads.map(copied, self._server.keys("filled")))
        async with S3Store(bucket_name=name, **self._server.settings()) as store:
            yield store
        self._server.empty(name)


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def be_far_away(seconds: float) -> None:
    """Let every request of this process, by either library, take so much longer."""
    send, send_async = URLLib3Session.send, AIOHTTPSession.send

    def later(self: URLLib3Session, request: Any) -> Any:
        time.sleep(seconds)
        return send(self, request)

    async def later_async(self: AIOHTTPSession, request: Any) -> Any:
        await asyncio.sleep(seconds)
        return await send_async(self, request)

    URLLib3Session.send = later
    AIOHTTPSession.send = later_async


class Taken(NamedTuple):
    """The seconds that a migration reports, and those of CPU, its copy's too."""

    seconds: float
    server: float
    own: float


async def cpu_while(server: SeaweedServer, migration: Awaitable[float]) -> Taken:
    """Return what *migration* takes."""
    before = cpu_of(server.pid), time.process_time()
    seconds = await migration
    return Taken(seconds, cpu_of(server.pid) - before[0], time.process_time() - before[1])


async def copied_only(contest: Contest) -> float:
    """Make a copy, and nothing of it."""
    async with contest.copy():
        return 0.0


async def peak_of_a_scan(store: S3Store) -> int:
    """Return the most bytes that a scan holds at a time."""
    driver = driver_for(store)
    tracemalloc.start()
    async for _ in driver.scan():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    await driver.close()
    return peak


async def measure(records: int, rounds: int) -> None:
    """Print each turn, and the median of the ratios."""
    with TemporaryDirectory() as directory, SeaweedServer(Path(directory)) as server:
        contest = Contest(Bucket(server), records)
        await contest.fill()
        await contest.recode(verify=False)  # Once for nothing: imports, caches, threads, volumes.
        ratios = []
        copying = await cpu_while(server, copied_only(contest))
        for _ in range(rounds):
            seconds = {}
            for name, migrate in (
                ("loop", contest.loop),
                ("recode", partial(contest.recode, verify=False)),
                ("with verify", partial(contest.recode, verify=True)),
            ):
                taken = await cpu_while(server, migrate())
                seconds[name] = taken.seconds
                theirs, own = taken.server - copying.server, taken.own - copying.own
                rate = f"{taken.seconds:6.2f} s  {records / taken.seconds:6.0f} records/s"
                cpu = f"server {theirs / records * 1e3:.1f}, own {own / records * 1e3:.1f}"
                print(f"{name:12} {rate}  ms of CPU a record: {cpu}")
            ratios.append(seconds["loop"] / seconds["recode"])
        print(
            f"recode on s3, {records:,} records: {median(ratios):.1f} times as fast as the loop (goal {GOAL})"
        )
        async with contest.copy() as store:
            print(
                f"a scan of {records:,} records holds {await peak_of_a_scan(store) / 2**20:.1f} MiB at most"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0, help="milliseconds that each request takes more")
    options = parser.parse_args(arguments)
    if options.latency:
        be_far_away(options.latency / 1000)
    warnings.simplefilter("ignore")
    asyncio.run(measure(options.records, options.rounds))


if __name__ == "__main__":
    main()
