"""A migration that is killed at any moment, by a signal that nobody can catch, and run again at once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from pymongo import MongoClient
from redis.asyncio import Redis
from tests.backends import DATABASE, UNSTABLE, Place, place, s3_module
from tests.drivers.dynamodb.server import emptied
from tests.processes import NEW
from tests.recoding.mortal import COLLECTION
from tests.recoding.worlds import damage, old

from kvseal import EnvelopeEncryptionWrapper, Vault
from kvseal.drivers import driver_for
from kvseal.envelope.stored import is_sealed
from kvseal.keys.meta import META_COLLECTION as META
from kvseal.recoding import open_recode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from datetime import datetime

    from kvseal.drivers.base import Driver, Entry

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings(UNSTABLE)]

KINDS = ("disk", "redis", "postgresql", "dynamodb", "mongodb", "filetree", "filetree-v1")
ROOT = Path(__file__).parents[2]
DAMAGED = "token:~"
"""The last one in most scans: a run that has met it is gone on with from the start."""
NEVER = 1 << 30
"""More lines than any migration prints."""
RECORDS = {
    "disk": 1_100,
    "redis": 1_100,
    "postgresql": 1_100,
    "dynamodb": 60,
    "mongodb": 120,
    "filetree": 100,
    "filetree-v1": 100,
    "s3": 60,
}
LONG = {
    "disk": 4_000,
    "redis": 4_000,
    "postgresql": 4_000,
    "dynamodb": 600,
    "mongodb": 2_000,
    "filetree": 600,
    "filetree-v1": 600,
    "s3": 600,
}

Times = tuple["datetime | None", "datetime | None"]


@pytest.fixture(params=[*KINDS, pytest.param("s3", marks=pytest.mark.long)])
def somewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Yield a place on every backend."""
    yield from place(request.param, request, tmp_path)


async def empty(where: Place) -> None:
    """Delete everything there, as an operator would."""
    if where.kind == "redis":
        client = Redis.from_url(where.where)
        await client.flushall()
        await client.aclose()
    elif where.kind == "dynamodb":
        emptied(where.where)
    elif where.kind == "postgresql":
        con = await asyncpg.connect(where.where)
        await con.execute("DROP TABLE IF EXISTS kv_store")
        await con.close()
    elif where.kind == "s3":
        s3_module().empty_at(where.where)
    elif where.kind == "mongodb":
        url, _, name = where.where.partition(DATABASE)
        with MongoClient[dict[str, Any]](url) as client:
            client.drop_database(name)
    else:
        shutil.rmtree(where.where)
        os.mkdir(where.where)  # noqa: PTH102 - a call that is known to be brief


async def fill(where: Place, keys: list[str]) -> None:
    """Write old records by the old wrapper, of which every third expires, and damage one."""
    async with where.opened() as store:
        app = old(store)
        for number, key in enumerate(keys):
            ttl = None if number % 3 else 100_000.25 + number
            await app.put(key, value_of(key), collection=COLLECTION, ttl=ttl)
        await damage(store, DAMAGED, collection=COLLECTION)


def value_of(key: str) -> dict[str, Any]:
    """Return the value at *key*, which names it."""
    return {"upstream_token_id": key, "token": f"secret of {key}"}


@asynccontextmanager
async def opened(where: Place) -> AsyncIterator[tuple[Any, Driver]]:
    """Yield the store there and its driver."""
    async with where.opened() as store:
        driver = driver_for(store)
        yield store, driver
        await driver.close()


async def entries(where: Place, keys: list[str]) -> dict[str, Entry]:
    """Return what lies there now: every key has to, and nothing else."""
    async with opened(where) as (_, driver):
        pages = [page async for page in driver.scan()]
        every = [entry for page in pages for entry in page.entries if entry.collection != META]
        named = {entry.key: entry for entry in every}
        # Where a file tree hashes names, a scan gives none back.
        found = {key: named.get(key) or await driver.get(COLLECTION, key) for key in keys}
    assert [] == [key for key, entry in found.items() if entry is None]
    assert len(keys) == len(every)
    return {key: entry for key, entry in found.items() if entry is not None}


def times_of(found: dict[str, Entry]) -> dict[str, Times]:
    """Return creation time and expiry of each entry."""
    return {key: (entry.created_at, entry.expires_at) for key, entry in found.items()}


def sealed_of(found: dict[str, Entry]) -> dict[str, Any]:
    """Return what is sealed, byte for byte."""
    return {key: entry.value for key, entry in found.items() if is_sealed(entry.value or {})}


class Mortals:
    """The process that forks migrations, see `tests.recoding.mortal`."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.recoding.mortal"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, where: Place, at: int, word: str = "") -> list[str]:
        """
        Run a migration and kill it when it has printed its *at*-th line that begins with *word*.

        Returns every line; the last one is its report if it came to its end before.
        """
        self._tell(f"{where.kind} {where.where}")
        pid = int(self._line().removeprefix("pid "))
        lines, met, line = [], 0, ""
        while met < at and (line := self._line()) != "ended":
            lines.append(line)
            met += line.startswith(word)
        if line != "ended":
            os.kill(pid, signal.SIGKILL)
            lines += iter(self._line, "ended")
        self._tell("")
        return lines

    def close(self) -> None:
        """End it."""
        self._parent.communicate()

    def _tell(self, line: str) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.write(line + "\n")
        self._parent.stdin.flush()

    def _line(self) -> str:
        assert self._parent.stdout is not None
        line = self._parent.stdout.readline()
        assert line, "it died; its error is above"
        return line.rstrip("\n")


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    """Yield what starts migrations."""
    mortals = Mortals()
    yield mortals
    mortals.close()


def is_finished(lines: list[str]) -> bool:
    """Whether a migration that printed *lines* came to its end."""
    return bool(lines) and lines[-1].startswith("{")


def moment(chance: random.Random) -> tuple[int, str]:
    """Choose when to kill: at the very start, before or at a write, in the verify pass, or anywhere."""
    kind = chance.random()
    if kind < 0.1:
        return 0, ""
    if kind < 0.5:
        return chance.randint(1, 12), "replace_many"
    if kind < 0.7:
        return chance.randint(1, 3), "verify"
    return chance.randint(1, 60), ""


async def check_end(where: Place, lines: list[str], before: dict[str, Entry]) -> None:
    """Check the report of the last run, and read everything as the application does."""
    report, good = json.loads(lines[-1]), [key for key in before if key != DAMAGED]
    counters = [report[name] for name in ("changed", "already", "skipped", "failed")]
    async with where.opened() as store:
        kv = EnvelopeEncryptionWrapper(store, secret=NEW, create=False)
        values = await kv.get_many(good, collection=COLLECTION)
        damaged = await store.get(DAMAGED, collection=COLLECTION)
        vault = await Vault.open(store, secret=NEW)
        left = await open_recode(vault)
        await vault.close()
        await kv.release()

    assert (len(before), len(before), 1) == (report["scanned"], sum(counters), report["failed"])
    assert ({"kvseal": len(good), "fernet": 1}, {"1": len(good)}) == (report["formats"], report["deks"])
    assert [value_of(key) for key in good] == values
    assert before[DAMAGED].value == damaged
    assert left is None


async def story(where: Place, records: int, mortals: Mortals, chance: random.Random, kills: int) -> int:
    """Kill the migration of one store again and again, until it ends or *kills* is used up; return the rest."""
    # As the name of a file, each of these would have to be hashed.
    keys = [*(f"token:{number}" for number in range(records - 1)), DAMAGED]
    await empty(where)
    await fill(where, keys)
    before = await entries(where, keys)
    sealed: dict[str, Any] = {}
    while True:
        at, word = moment(chance) if kills else (NEVER, "")
        lines = await asyncio.to_thread(mortals.run, where, at, word)
        now = await entries(where, keys)

        assert times_of(before) == times_of(now)
        assert sealed == {key: value for key, value in sealed_of(now).items() if key in sealed}
        sealed = sealed_of(now)
        if is_finished(lines):
            await check_end(where, lines, before)
            return kills
        assert kills, "the migration failed; its error is above"
        kills -= 1


@pytest.mark.parametrize(
    ("kills", "records"),
    [(4, RECORDS), pytest.param(50, LONG, marks=[pytest.mark.long, pytest.mark.timeout(7200)])],
    ids=["few", "fifty"],
)
async def test_kill_nine(somewhere: Place, mortals: Mortals, kills: int, records: dict[str, int]) -> None:
    """
    However often it is killed, the next run needs no wait, seals each record once and finishes the work.

    Names, values, creation times and expiries stay, the damaged record stays as it is, and the report of
    the last run is of all runs.
    """
    chance, left, stores = random.Random(somewhere.kind), kills, 0
    while left:
        left = await story(somewhere, records[somewhere.kind], mortals, chance, left)
        stores += 1
    print(f"{somewhere.kind}: {kills} kills, {stores} stores")  # noqa: T201 - what a long run is for
