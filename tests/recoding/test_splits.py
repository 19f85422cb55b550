"""A recode in parts that are split once: each reads its own part of the store, and void bounds begin a new run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.redis import RedisStore
from tests.backends import UNSTABLE
from tests.recoding.worlds import counts, fernet, fill, formats_of

from kvseal import Argon2idParams, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.errors import LeaseHeldError, RecodeError
from kvseal.recoding import (
    PlaintextRule,
    Progress,
    SealedTarget,
    migrate,
    open_recode,
    plan_migration,
    prepare,
    recode,
)
from kvseal.recoding.progress.lease import Lease
from kvseal.recoding.progress.lease_holder import LeaseHolder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.servers import RedisServer

    from kvseal.drivers.base import Driver, Page
    from kvseal.recoding import Event, Report
    from kvseal.recoding.progress.checkpoint import Checkpoint

pytestmark = pytest.mark.filterwarnings(UNSTABLE)
pytest_plugins = ["tests.drivers.redis.server"]

SECRET = Secret(b"the secret of the new vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
RECORDS = 40
PARTS = 4


class Watched(DelegatingDriver):
    """Remembers how it was scanned, and says that its bounds are void once that is set."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.scans: list[str] = []
        self.is_void = False

    async def scan(self, **options: Any) -> AsyncIterator[Page]:
        """Scan, and remember that it was the whole or a part by hash."""
        self.scans.append(f"{options.get('partition')}")
        async for page in super().scan(**options):
            yield page

    async def scan_within(self, bounds: str, **options: Any) -> AsyncIterator[Page]:
        """Scan, and remember the bounds."""
        self.scans.append(bounds)
        async for page in super().scan_within(bounds, **options):
            yield page

    async def is_split_so(self, bounds: str) -> bool:
        """Whether they hold and are not void."""
        return not self.is_void and await super().is_split_so(bounds)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[DiskStore]:
    """Yield a store of old records, which its driver splits."""
    store = DiskStore(directory=tmp_path / "store")
    await fill(store, {f"{n}": {"v": n} for n in range(RECORDS)})
    await (await Vault.create(store, secret=SECRET, kdf=CHEAP)).close()
    yield store
    await store.close()


@pytest.fixture
async def driver(disk: DiskStore) -> AsyncIterator[Watched]:
    """Yield the store's driver."""
    inner = driver_for(disk)
    yield Watched(inner)
    await inner.close()


async def part(driver: Driver, index: int, count: int = PARTS) -> Report:
    """Migrate one part."""
    vault = await Vault.open(driver, secret=SECRET)
    plan = plan_migration(
        SealedTarget.of(vault), [fernet()], vault=vault, plaintext=PlaintextRule.SEAL, verify=True
    )
    try:
        return await recode(driver, plan, partition=(index, count))
    finally:
        await vault.close()


async def opened(driver: Driver) -> Checkpoint:
    """Return the checkpoint."""
    vault = await Vault.open(driver, secret=SECRET)
    found = await open_recode(vault)
    await vault.close()
    assert found is not None
    return found


async def test_each_part_reads_its_own(driver: Watched, disk: DiskStore) -> None:
    """The process that begins the run splits the store, and walk and verify pass keep to the part's bounds."""
    first = await part(driver, 0)
    splits = (await opened(driver)).head.splits
    reports = [first, *[await part(driver, index) for index in range(1, PARTS)]]

    assert splits is not None
    assert [bounds for bounds in splits for _ in range(2)] == driver.scans
    assert RECORDS == sum(report.scanned for report in reports)
    assert all(report.changed for report in reports)
    assert {2} == await formats_of(disk)


async def test_the_whole_is_not_split(driver: Watched) -> None:
    """A run of one part scans all there is."""
    report = await part(driver, 0, 1)

    assert ({"scanned": RECORDS, "changed": RECORDS}, ["(0, 1)"] * 2) == (counts(report), driver.scans)


async def test_void_bounds_begin_a_new_run(driver: Watched, disk: DiskStore) -> None:
    """Once the backend has another order, no part of before is done, and every one is done again."""
    await part(driver, 0)
    before = (await opened(driver)).head
    driver.is_void = True
    second = await part(driver, 1)
    left = await opened(driver)
    driver.is_void = False
    reports = [second, *[await part(driver, index) for index in (0, 2, 3)]]

    assert before.run != left.head.run
    assert [False, True, False, False] == [each.done for each in left.parts]
    assert RECORDS == sum(report.scanned for report in reports)
    assert {2} == await formats_of(disk)
    assert await open_recode(await Vault.open(driver, secret=SECRET)) is None


async def test_void_bounds_beside_a_part_that_is_worked_on(
    driver: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a process still works by bounds that are void, no new run begins beside it."""
    monkeypatch.setattr(LeaseHolder, "is_gone", lambda _: False)
    await part(driver, 0)
    vault = await Vault.open(driver, secret=SECRET)
    plan = (await opened(driver)).head.plan
    await Lease(vault, plan, "migrate", (2, PARTS)).acquire()
    driver.is_void = True

    with pytest.raises(LeaseHeldError):
        await part(driver, 1)
    await vault.close()


async def migrated(driver: Driver, partition: tuple[int, int], phases: list[str]) -> Report:
    """Migrate one part as a command does, and note the phases of its progress."""

    def listen(event: Event) -> None:
        if isinstance(event, Progress):
            phases.append(event.phase)

    done = await migrate(driver, [fernet()], secret=SECRET, partition=partition, listener=listen)
    assert done.report is not None
    return done.report


async def prepared(driver: Driver, taken: list[str], parts: int = PARTS) -> None:
    """Prepare a migration in parts."""

    async def before(_: Any) -> None:
        taken.append("backup")

    await prepare(driver, [fernet()], secret=SECRET, parts=parts, before_writes=before)


async def test_parts_of_a_run_that_is_prepared(driver: Watched, disk: DiskStore) -> None:
    """The store is surveyed, backed up and split once, and each part is a recode and its verify pass alone."""
    taken: list[str] = []
    phases: list[str] = []
    await prepared(driver, taken)
    head = (await opened(driver)).head
    assert (PARTS, RECORDS, True, {1}) == (
        len(head.splits or ()),
        head.surveyed,
        head.prepared,
        await formats_of(disk) - {2, None},
    )

    reports = [await migrated(driver, (index, PARTS), phases) for index in range(PARTS)]

    assert ({"recode", "verify"}, ["backup"]) == (set(phases), taken)
    assert RECORDS == sum(report.scanned for report in reports)
    assert {2} == await formats_of(disk)


async def test_preparing_twice(driver: Watched) -> None:
    """To prepare again takes no second backup, and changes nothing of what parts have done."""
    taken: list[str] = []
    await prepared(driver, taken)
    first = (await opened(driver)).head
    await migrated(driver, (0, PARTS), [])
    await prepared(driver, taken)
    again = await opened(driver)

    assert (first.run, ["backup"]) == (again.head.run, taken)
    assert [True, False, False, False] == [each.done for each in again.parts]


@pytest.mark.parametrize(("index", "count"), [(0, 2), (0, 1)])
async def test_parts_of_another_number(driver: Watched, index: int, count: int) -> None:
    """A part of another number of parts, and the whole, is surveyed: for it nothing was prepared."""
    phases: list[str] = []
    await prepared(driver, [])
    await migrated(driver, (index, count), phases)

    assert "survey" in phases


async def test_a_part_without_a_key_surveys(driver: Watched) -> None:
    """A part that was started without the old key is refused as any migration is, and changes nothing."""
    await prepared(driver, [])

    with pytest.raises(RecodeError, match="no key for old records"):
        await migrate(driver, [], secret=SECRET, partition=(0, PARTS))


async def test_another_run_cannot_be_prepared_beside_one(
    driver: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a process works on a part of another number of parts, no run is begun."""
    monkeypatch.setattr(LeaseHolder, "is_gone", lambda _: False)
    await prepared(driver, [])
    vault = await Vault.open(driver, secret=SECRET)
    await Lease(vault, (await opened(driver)).head.plan, "migrate", (2, PARTS)).acquire()

    with pytest.raises(LeaseHeldError):
        await prepared(driver, [], parts=2)
    await vault.close()


@pytest.mark.long
@pytest.mark.servers
async def test_sixteen_parts_take_the_scans_of_one(own_redis: RedisServer) -> None:
    """Sixteen parts together call SCAN at most a tenth more often than one, and miss nothing."""
    count = 120_000

    async def calls(parts: int) -> tuple[int, list[Report]]:
        with own_redis.client() as raw:
            raw.flushall()
            body = b'{"value": {"v": %d}, "created_at": null, "expires_at": null}'
            for start in range(0, count, 10_000):
                raw.mset({f"c::{n}": body % n for n in range(start, start + 10_000)})
            store = RedisStore(url=own_redis.url)
            await (await Vault.create(store, secret=SECRET, kdf=CHEAP)).close()
            driver = driver_for(store)
            raw.config_resetstat()
            reports = [await part(driver, index, parts) for index in range(parts)]
            scans = raw.info("commandstats")["cmdstat_scan"]["calls"]
            await driver.close()
            return scans, reports

    (of_one, (whole,)), (of_many, reports) = await calls(1), await calls(16)
    scanned = sum(report.scanned for report in reports)
    print(f"SCAN: {of_one} for one part, {of_many} for 16; scanned {scanned} of {count}")  # noqa: T201

    assert count == whole.changed == sum(report.changed for report in reports)
    assert of_many <= 1.1 * of_one
    assert count <= scanned <= 1.02 * count
