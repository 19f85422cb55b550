"""A migration behind applications that never stop: no update is lost, and no time of an entry changes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import KINDS, UNSTABLE, Place, place
from tests.hammer import COLLECTION, Application, Board, Deployed, Job, summed
from tests.processes import CHEAP, NEW
from tests.recoding.worlds import KEY, fernet, old, times_of

from kvseal import EnvelopeEncryptionWrapper, Vault, verify
from kvseal.errors import LegacyRecordError
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy import FERNET
from kvseal.legacy.fernet import parse_key
from kvseal.recoding import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from kvseal.recoding import Report

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings(UNSTABLE)]

UNTOUCHED = [f"untouched-{number}" for number in range(120)]
HOT = {name: [*(f"{name}-{n}" for n in range(7)), f"{name}-large"] for name in ("one", "two", "old")}
EVERY = [key for keys in HOT.values() for key in keys]
LEGACY = LegacyKey(FERNET, parse_key(KEY))
WRITES = {
    "memory": 2_000,
    "disk": 1_500,
    "redis": 1_500,
    "postgresql": 700,
    "dynamodb": 80,
    "mongodb": 40,
    "filetree": 200,
}
"""So many take a second or two, in which the migration begins several times; a long run does 200,000."""
BUSY = "other processes changed it 16 times in a row; run again"

Running = Deployed | Application


@pytest.fixture(params=[*KINDS, "dynamodb", "mongodb"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Yield an empty store on every backend."""
    yield from place(request.param, request, tmp_path)


SLOW = pytest.param("dynamodb", marks=pytest.mark.long)


@pytest.fixture(params=[*(kind for kind in KINDS if kind != "memory"), SLOW])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Yield an empty store on every backend that processes share."""
    yield from place(request.param, request, tmp_path)


async def fill(store: Any) -> None:
    """Write everything once as the old application; every second entry that stays untouched expires."""
    app = old(store)
    for number, key in enumerate(UNTOUCHED):
        ttl = None if number % 2 else 100_000.25 + number
        await app.put(key, {"n": number}, collection=COLLECTION, ttl=ttl)
    for key in EVERY:
        await app.put(key, {"n": 0}, collection=COLLECTION)


@asynccontextmanager
async def deployed(where: Place, store: Any, jobs: Sequence[Job]) -> AsyncIterator[list[Running]]:
    """Yield applications that write, each in a process of its own if it can be."""
    if not where.is_shared:
        applications = [Application(job, store) for job in jobs]
        for application in applications:
            await application.start()
        yield [*applications]
        return
    processes = [Deployed.start(job) for job in jobs]
    try:
        for process in processes:
            await process.started()
        yield [*processes]
    finally:
        for process in processes:
            await process.kill()


async def migrated(store: Any) -> Report:
    """Run the migration once."""
    return (await migrate(store, [fernet()], secret=NEW)).report


def others_than(name: str) -> list[str]:
    """Return the keys of everybody else, and those that nobody writes: but for a third that nobody reads."""
    return [key for key in EVERY if key not in HOT[name]] + UNTOUCHED[::3] + UNTOUCHED[1::3]


async def untouched_times(where: Place, store: Any) -> dict[str, Any]:
    """Return creation time and expiry of what nobody writes, and what the backend itself notes."""
    times, native = await times_of(store), await where.native_times()
    return {key: (times[COLLECTION, key], native.get(key)) for key in UNTOUCHED}


async def hammered(where: Place, writes: int) -> tuple[dict[str, Any], int]:
    """Migrate until two new applications have written *writes* times, beside an old one; then check all."""
    each = -(-writes // (2 * len(HOT["one"])))
    async with where.opened() as store:
        await fill(store)
        before = await untouched_times(where, store)
        vault = await Vault.create(store, secret=NEW, kdf=CHEAP)
        await vault.read_legacy_with([LEGACY])
        told = {"place": where.as_json()}
        jobs = [
            Job(**told, role="new", keys=HOT[name], others=others_than(name), writes=each)
            for name in ("one", "two")
        ]
        jobs.append(Job(**told, role="old", keys=HOT["old"], audited=True))
        async with deployed(where, store, jobs) as running:
            *new, former = running
            done = asyncio.gather(*(one.finish() for one in new))
            runs = [await migrated(store)]
            while not done.done():
                runs.append(await migrated(store))
            await done
            boards = [await former.stop()]
            last = await migrated(store)
            boards += [await one.stop() for one in new]
        proof = await verify(store, vault)

        assert [] == [f for run in runs for f in run.failures if f.reason != BUSY]
        assert (0, 0) == (last.failed, proof.failed)
        assert {"kvseal"} == set(proof.formats or {})
        assert before == await untouched_times(where, store)
        await check_values(vault, store, boards)
        await vault.close()
    return summed(boards), len(runs)


def may_flash(kind: str, key: str) -> bool:
    """Whether the store itself may give an older value, or none, at the moment of a write."""
    return kind == "filetree" or (kind == "disk" and key.endswith("-large"))


async def check_values(vault: Vault, store: Any, boards: Sequence[Board]) -> None:
    """Check that the last number that anybody put is what everything reads as."""
    put = {key: number for board in boards for key, number in board.put.items()}
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    values = await kv.get_many([*UNTOUCHED, *EVERY], collection=COLLECTION)

    assert [*range(len(UNTOUCHED)), *(put[key] for key in EVERY)] == [(value or {})["n"] for value in values]
    assert [] == [line for board in boards for line in board.lost]
    await kv.release()


@pytest.mark.parametrize(
    "writes", [None, pytest.param(200_000, marks=[pytest.mark.long, pytest.mark.timeout(7200)])]
)
async def test_no_update_is_lost(anywhere: Place, writes: int | None) -> None:
    """
    Beside a running migration, two new applications and an old one lose no write and no deletion.

    A read that is older than an earlier one happens nowhere but in a file tree, whose driver says
    that it may; and diskcache reads nothing where the file of a large value is replaced, by whomever,
    between its two steps.  The same read a moment later is right.
    """
    writes = writes or WRITES[anywhere.kind]
    numbers, runs = await hammered(anywhere, writes)
    print(anywhere.kind, numbers, f"{runs} migrations")  # noqa: T201 - what a long run is for

    assert [] == numbers["lost"]
    assert writes <= numbers["writes"]
    assert numbers["resealed"]
    assert [] == [key for key in numbers["flashes"] if not may_flash(anywhere.kind, key)]


async def test_the_whole_story(shared: Place) -> None:
    """
    From an old application to a vault without legacy keys, and at every moment somebody writes.

    An old process hands over to new ones, the migration runs behind these, verification finds nothing
    legacy, and after the end of legacy reads every process refuses an old record; nothing is lost.
    """
    told = {"place": shared.as_json()}
    async with shared.opened() as store:
        await fill(store)
        before = await untouched_times(shared, store)
        former = [Job(**told, role="old", keys=HOT["one"])]
        async with deployed(shared, store, former) as running:
            vault = await Vault.create(store, secret=NEW, kdf=CHEAP)
            await vault.read_legacy_with([LEGACY])
            (left,) = [(await one.stop()).put for one in running]
        jobs = [
            Job(**told, role="new", keys=HOT["one"], others=others_than("one"), start=left),
            Job(**told, role="new", keys=HOT["two"], others=others_than("two")),
        ]
        async with deployed(shared, store, jobs) as running:
            migration = await migrated(store)
            proof = await verify(store, vault)
            await old(store).put("planted", {"n": 1}, collection=COLLECTION)
            allowed = [await one.outcome("planted") for one in running]
            await vault.end_legacy_reads()
            await old(store).put("planted", {"n": 2}, collection=COLLECTION)
            refused = [await one.outcome("planted") for one in running]
            boards = [await one.stop() for one in running]

        assert (0, {"kvseal"}) == (migration.failed, set(proof.formats or {}))
        assert ['{"n": 1}'] * 2 == allowed
        assert [LegacyRecordError.__name__] * 2 == refused
        assert [] == [key for key, number in left.items() if not 0 < number < boards[0].put[key]]
        assert before == await untouched_times(shared, store)
        await check_values(vault, store, [*boards, Board(put=dict.fromkeys(HOT["old"], 0))])
        assert [False] == [held.ended_at is None for held in vault.status().legacy]
        await vault.close()
