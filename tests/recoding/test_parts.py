"""The parts of one recode: whichever attempt at a part dies where, the next one reports what the run has done."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from tests.crash.runs import BusyLease
from tests.fakes import Death, HookedDriver, Killed, PagedDriver
from tests.recoding.worlds import counts, damage, fernet, fill, formats_of, plant

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for, memory
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.recoding import SealedTarget, engine, open_recode, plan_migration, plan_reencryption, recode
from kvseal.recoding.progress.checkpoint import CheckpointStore
from kvseal.recoding.progress.lease import Lease
from kvseal.recoding.progress.lease_holder import LeaseHolder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from key_value.aio.stores.memory import MemoryStore

    from kvseal.drivers.base import Driver, Page
    from kvseal.recoding import Report

SECRET = Secret(b"the secret of the new vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
OLD = [f"old {number}" for number in range(7)]
NEW = [f"new {number}" for number in range(5)]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few records be several pages, and an attempt that died in this process count as gone."""
    monkeypatch.setattr(memory, "PAGE_SIZE", 2)
    monkeypatch.setattr(LeaseHolder, "is_gone", lambda _: True)


async def begun(store: MemoryStore) -> None:
    """Put records in the old format, and records that an application has sealed already."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await EnvelopeEncryptionWrapper(store, vault=vault).put_many(
        NEW, [{"v": key} for key in NEW], collection="c"
    )
    await fill(store, {key: {"v": key} for key in OLD})


async def attempt(driver: Driver, part: tuple[int, int] = (0, 1)) -> Report:
    """Recode one part, as a process of its own with a sealer of its own."""
    vault = await Vault.open(driver, secret=SECRET)
    plan = plan_migration(SealedTarget.of(vault), [fernet()], vault=vault)
    return await recode(driver, plan, partition=part)


async def of_part(driver: Driver, part: tuple[int, int]) -> dict[str, int]:
    """Return how many old records *part* has, and how many sealed ones."""
    found = [entry async for page in driver.scan(partition=part) for entry in page.entries]
    keys = [entry.key or "" for entry in found if entry.collection == "c"]
    old = sum(key.startswith("old") for key in keys)
    both = {"scanned": len(keys), "changed": old, "already": len(keys) - old}
    return {name: number for name, number in both.items() if number}


async def snapshot(driver: Driver) -> list[Any]:
    """Return every entry."""
    return [entry async for page in driver.scan() for entry in page.entries]


async def put_back(driver: Driver, entries: list[Any]) -> None:
    """Let the store hold *entries* and no other."""
    for entry in await snapshot(driver):
        assert await driver.delete_if_unchanged(entry)
    for entry in entries:
        assert await driver.put_if_absent(entry)


async def dies(driver: Driver, death: Death, part: tuple[int, int]) -> bool:
    """Whether an attempt at *part* dies as *death* says, rather than coming to its end before."""
    with suppress(Killed):
        await attempt(PagedDriver(driver, death), part)
    return death.came


EVERY = [
    pytest.param(
        lease,
        part,
        after,
        marks=() if (lease, part, after) == (BusyLease, (0, 2), True) else pytest.mark.exhaustive,
    )
    for lease in (Lease, BusyLease)
    for part in ((0, 1), (0, 2))
    for after in (False, True)
]
"""The lease is renewed at the end alone or after each page; an attempt dies before or after an operation."""


@pytest.mark.parametrize(("lease", "part", "after"), EVERY)
async def test_the_counts_of_a_part_that_was_killed(
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    lease: type[Lease],
    part: tuple[int, int],
    after: bool,
) -> None:
    """
    Wherever an attempt dies, the next one, of another process, reports what both have changed and no more.

    Only an attempt that dies once the checkpoint says that the run is over begins a new run.
    """
    monkeypatch.setattr(engine, "Lease", lease)
    driver = driver_for(store)
    await begun(store)
    expected, beginning = await of_part(driver, part), await snapshot(driver)
    for at in count(1):
        await put_back(driver, beginning)
        if not await dies(driver, Death(at, after=after), part):
            break
        head = (await CheckpointStore(await Vault.open(driver, secret=SECRET)).head())[1]
        is_over = at > 6 and (head is None or head.done)

        report = await attempt(driver, part)

        done = {"scanned": expected["scanned"], "already": expected["scanned"]}
        assert (done if is_over else expected) == counts(report), f"it died at operation {at}"
    assert at > 20


@pytest.mark.exhaustive
async def test_a_part_that_is_killed_twice(store: MemoryStore) -> None:
    """Two attempts that die, wherever each does, leave the third with the counts of all."""
    driver, part = driver_for(store), (0, 2)
    await begun(store)
    expected, beginning = await of_part(driver, part), await snapshot(driver)
    length = await operations_of(driver, part)
    for first in range(1, length, 3):
        for second in range(1, length, 2):
            await put_back(driver, beginning)
            await dies(driver, Death(first, after=True), part)
            await dies(driver, Death(second, after=True), part)

            assert expected == counts(await attempt(driver, part)), (first, second)


async def operations_of(driver: Driver, part: tuple[int, int]) -> int:
    """Return how many operations a whole attempt takes."""
    whole = Death()
    await attempt(PagedDriver(driver, whole), part)
    return len(whole.operations)


async def test_a_part_that_is_repeated(store: MemoryStore) -> None:
    """A part that is run again before the others are done reports the run; once all are done, a new run begins."""
    driver = driver_for(store)
    await begun(store)
    expected = [await of_part(driver, (index, 2)) for index in range(2)]
    first = await attempt(driver, (0, 2))
    repeated = await attempt(driver, (0, 2))
    second = await attempt(driver, (1, 2))
    anew = await attempt(driver, (1, 2))

    assert [expected[0], expected[0], expected[1]] == [counts(each) for each in (first, repeated, second)]
    assert 0 == anew.changed
    assert {2} == await formats_of(store)


async def test_what_others_sealed_meanwhile_is_not_counted(store: MemoryStore) -> None:
    """A record that an application seals between two attempts is none that this run has changed."""
    driver = driver_for(store)
    await begun(store)
    await dies(driver, Death(2, of="replace_many"), (0, 1))
    app = EnvelopeEncryptionWrapper(store, secret=SECRET, create=False)
    left = [entry.key async for page in driver.scan() for entry in page.entries if "old" in str(entry.key)]
    for key in left[-2:]:
        await app.put(key or "", {"v": "newer"}, collection="c")

    report = await attempt(driver)

    assert (len(OLD) + len(NEW), len(OLD) - 2) == (report.scanned, report.changed)


async def test_a_failure_that_was_met(store: MemoryStore) -> None:
    """An attempt after one that has failed on a record looks at all again, and still counts what both changed."""
    driver = driver_for(store)
    await begun(store)
    plant(store, "a", '{"value": {"__encrypted_data__": 7, "__encryption_version__": 1}}')
    beginning = await snapshot(driver)
    whole = await operations_of(driver, (0, 1))
    await put_back(driver, beginning)
    assert await dies(driver, Death(whole - 7), (0, 1))

    report = await attempt(driver)

    assert {"scanned": 13, "changed": len(OLD), "already": len(NEW), "failed": 1} == counts(report)


async def test_reencryption_counts(store: MemoryStore) -> None:
    """A re-encryption that was killed in the middle reports in its next attempt what both have re-sealed."""
    driver = driver_for(store)
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await EnvelopeEncryptionWrapper(store, vault=vault).put_many(OLD, [{"v": key} for key in OLD])
    await vault.rotate_dek()
    await EnvelopeEncryptionWrapper(store, vault=vault).put_many(NEW, [{"v": key} for key in NEW])

    async def run(death: Death) -> Report:
        own = await Vault.open(driver, secret=SECRET)
        return await recode(PagedDriver(driver, death), plan_reencryption(own))

    with pytest.raises(Killed):
        await run(Death(3, of="replace_many"))

    assert {"scanned": 12, "changed": 7, "already": 5} == counts(await run(Death()))


async def test_copies_count(store: MemoryStore) -> None:
    """Copies that an attempt has put and could not count are changes of the run, not of others."""
    driver, other = driver_for(store), memory.for_store(type(store)())
    await fill(store, {key: {"v": key} for key in OLD})
    vault = await Vault.create(other, secret=SECRET, kdf=CHEAP)
    await vault.close()

    async def run(death: Death) -> Report:
        own = await Vault.open(other, secret=SECRET)
        plan = plan_migration(SealedTarget.of(own), [fernet()], vault=own)
        return await recode(driver, plan, to=PagedDriver(other, death))

    with pytest.raises(Killed):
        await run(Death(4, of="put_if_absent"))

    assert {"scanned": 7, "changed": 7} == counts(await run(Death()))


async def test_a_second_pass_counts_nothing_again(store: MemoryStore) -> None:
    """What an earlier attempt has changed counts once, also where a live writer makes another pass necessary."""
    driver = driver_for(store)
    await begun(store)
    assert await dies(driver, Death(3, of="replace_many", after=True), (0, 1))
    scans = 0

    async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal scans
        scans += name == "scan"
        if name == "scan" and scans == 2:
            await fill(store, {"late": {"v": "late"}})
        return await do()

    report = await attempt(HookedDriver(driver, around))

    assert (4, {"scanned": 13, "changed": len(OLD) + 1, "already": len(NEW)}) == (scans, counts(report))


async def test_a_part_that_is_done_keeps_its_report(store: MemoryStore) -> None:
    """The counts of a part that is done are those of its report, with what its verify pass found."""
    driver = driver_for(store)
    await begun(store)
    part = (0, 2) if "already" in await of_part(driver, (0, 2)) else (1, 2)
    found = [entry.key or "" async for page in driver.scan(partition=part) for entry in page.entries]
    await damage(store, next(key for key in found if "new" in key))

    report = await attempt(driver, part)

    left = await open_recode(await Vault.open(driver, secret=SECRET))
    assert left is not None
    assert 1 == report.failed
    assert (True, report.tally) == (left.parts[part[0]].done, left.parts[part[0]].tally)


class Batched(DelegatingDriver):
    """Has no cursor within a batch of two pages, as a Redis server has none within what one SCAN found."""

    async def scan(self, *, after: str | None = None, **options: Any) -> AsyncIterator[Page]:
        """Scan; of two pages the first one is read again by a scan that goes on at its cursor."""
        start = after or ""
        pages = [page async for page in super().scan(after=after or None, **options)]
        for number, page in enumerate(pages):
            if number % 2 == 0 and number + 1 < len(pages):
                yield replace(page, cursor=start, again=True)
            else:
                start = page.cursor
                yield page


async def test_pages_that_are_read_again(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a backend has no cursor behind a page, an attempt that goes on counts none of its records twice."""
    monkeypatch.setattr(engine, "Lease", BusyLease)
    driver = Batched(driver_for(store))
    await begun(store)
    expected, beginning = await of_part(driver, (0, 2)), await snapshot(driver)
    deaths = 0
    while True:
        await put_back(driver, beginning)
        if not await dies(driver, Death(deaths + 1), (0, 2)):
            break
        deaths += 1

        assert expected == counts(await attempt(driver, (0, 2))), f"it died at operation {deaths}"
    assert deaths > 20
