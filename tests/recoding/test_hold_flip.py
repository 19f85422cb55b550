"""
A rolling deployment that no user notices: old and new processes side by side, forwards and back.

Every process writes and reads all the time, each its own keys and everybody else's. A read that fails ends its
process, and with it the test; a wrong one is in its board.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import UNSTABLE, Place, place
from tests.hammer import COLLECTION, Deployed, Job, summed
from tests.processes import CHEAP, NEW
from tests.recoding.test_no_downtime import (
    EVERY,
    HOT,
    LEGACY,
    SLOW,
    UNTOUCHED,
    check_values,
    deployed,
    fill,
    may_flash,
    others_than,
    untouched_times,
)
from tests.recoding.worlds import fernet, formats_of, old

from kvseal import Vault, verify
from kvseal.drivers import driver_for
from kvseal.envelope.stored import is_sealed
from kvseal.recoding import import_keys, migrate, plan_rollback, recode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.hammer import Board

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings(UNSTABLE)]

WRITES = {"disk": 6, "redis": 12, "postgresql": 6, "dynamodb": 2, "mongodb": 3, "s3": 1}
"""Of each key in each part of the story; a long run has as many as make 100,000 operations."""
MANY = {"disk": 700, "redis": 700, "postgresql": 700, "dynamodb": 100, "mongodb": 100, "s3": 60}
SERVICES = [pytest.param(kind, marks=pytest.mark.long) for kind in ("mongodb", "s3")]


@pytest.fixture(params=["disk", "redis", "postgresql", SLOW, *SERVICES])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Yield an empty store on a backend that processes share."""
    yield from place(request.param, request, tmp_path)


def job(where: Place, role: str, name: str, *, writes: int | None = None, start: Any = None) -> Job:
    """Return what an application of *role* does with the keys of *name*, and everybody else's."""
    return Job(
        place=where.as_json(),
        role=role,
        keys=HOT[name],
        others=others_than(name),
        writes=writes,
        start=start or {},
    )


async def sealed_keys(store: Any) -> set[str]:
    """Return the keys of the applications whose value is sealed."""
    driver = driver_for(store)
    entries = [entry async for page in driver.scan() for entry in page.entries]
    await driver.close()
    return {entry.key for entry in entries if entry.key in EVERY and entry.value and is_sealed(entry.value)}


async def until_all_write(store: Any, running: Sequence[Any], *, sealed: bool) -> None:
    """Wait until the keys of every running application are written as the policy says by now."""
    hot = {*HOT["one"], *HOT["two"]} if len(running) > 1 else set(HOT["one"])
    while (await sealed_keys(store)) & hot != (hot if sealed else set()):  # noqa: ASYNC110 - others write
        await asyncio.sleep(0)


async def held_vault(store: Any) -> Vault:
    """Import the old key into a new vault that holds, and open it as an operator."""
    await import_keys(store, [LEGACY], hold=True, secret=NEW, kdf=CHEAP)
    return await Vault.open(store, secret=NEW)


def checked(boards: Sequence[Board], kind: str) -> dict[str, Any]:
    """Return the sum of *boards*, in which nothing is lost, and nothing flashes but where the store does so."""
    numbers = summed(boards)
    assert [] == numbers["lost"]
    assert [] == [key for key in numbers["flashes"] if not may_flash(kind, key)]
    return numbers


NONE = timedelta()
"""Every process was started after the flip, or looks at the vault meta all the time."""

CLEAN = 3
"""Passes that find nothing sealed: a swap that a read had begun before the flip has ended in the meantime."""

EACH = pytest.mark.parametrize(
    "writes",
    [WRITES, pytest.param(MANY, marks=[pytest.mark.long, pytest.mark.timeout(7200)])],
    ids=["few", "many"],
)


@EACH
async def test_hold_flip_recode_finalize(shared: Place, writes: dict[str, int]) -> None:
    """
    Old and new applications read everything of each other under hold; the new ones seal after the flip.

    The old one is gone before the flip. Behind the others the migration runs to its end, and no read fails.
    """
    each = writes[shared.kind]
    async with shared.opened() as store:
        await fill(store)
        before = await untouched_times(shared, store)
        vault = await held_vault(store)
        jobs = [
            job(shared, "old", "old", writes=each),
            job(shared, "holding", "one"),
            job(shared, "holding", "two"),
        ]
        async with deployed(shared, store, jobs) as running:
            former, *new = running
            await former.finish()
            boards = [await former.stop()]
            assert {1} == await formats_of(store)
            await vault.write_as("sealed")
            await until_all_write(store, new, sealed=True)
            finalized = False
            while not finalized:
                finalized = (
                    await migrate(store, [fernet()], secret=NEW, finalize=True, grace=NONE)
                ).finalized
            boards += [await one.stop() for one in new]
        proof = await verify(store, vault)

        assert (0, {"kvseal"}) == (proof.failed, set(proof.formats or {}))
        assert before == await untouched_times(shared, store)
        await check_values(vault, store, boards)
        await vault.close()
    numbers = checked(boards, shared.kind)
    print(shared.kind, numbers)  # noqa: T201 - what a long run is for


@EACH
async def test_fall_back_to_the_old_release(shared: Place, writes: dict[str, int]) -> None:
    """
    After a flip the vault holds again, the sealed records come back, and the old release reads everything.

    The new application writes all the time; the old one is deployed again beside it, and reads what it writes.
    """
    each = writes[shared.kind]
    async with shared.opened() as store:
        await fill(store)
        before = await untouched_times(shared, store)
        vault = await held_vault(store)
        async with deployed(shared, store, [job(shared, "holding", "one")]) as running:
            (new,) = running
            await vault.write_as("sealed")
            await until_all_write(store, running, sealed=True)
            await vault.write_as("fernet")
            await until_all_write(store, running, sealed=False)
            clean = 0
            while clean < CLEAN:
                changed = (await recode(store, plan_rollback(vault, fernet()))).changed
                clean = 0 if changed or await sealed_keys(store) else clean + 1
            former = Deployed.start(job(shared, "old", "old", writes=each))
            try:
                await former.started()
                await former.finish()
                boards = [await former.stop()]
            finally:
                await former.kill()
            boards.append(await new.stop())

        assert {1} == await formats_of(store)
        assert before == await untouched_times(shared, store)
        await vault.close()
        put = {key: number for board in boards for key, number in board.put.items()}
        values = await old(store).get_many([*UNTOUCHED, *HOT["one"], *HOT["old"]], collection=COLLECTION)
        expected = [*range(len(UNTOUCHED)), *(put[key] for key in (*HOT["one"], *HOT["old"]))]
        assert expected == [(value or {})["n"] for value in values]
    numbers = checked(boards, shared.kind)
    print(shared.kind, numbers)  # noqa: T201 - what a long run is for
