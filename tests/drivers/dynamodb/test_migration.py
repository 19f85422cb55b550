"""A migration of a DynamoDB table: what it is estimated to take, and the memory of a scan; and backups."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import UNSTABLE
from tests.backup.made import FUTURE, LARGE, everything, put_all
from tests.backup.made import entry as made
from tests.drivers.dynamodb.faults import Faults
from tests.drivers.dynamodb.tables import item
from tests.drivers.entries import fetched
from tests.processes import CHEAP, NEW
from tests.recoding.worlds import fernet, old

from kvseal import Vault
from kvseal.backup import backup, restore
from kvseal.drivers import driver_from_url
from kvseal.drivers.body import write_body
from kvseal.drivers.dynamodb import driver as module
from kvseal.recoding import migrate
from kvseal.records.by_name import get_record, put_record

if TYPE_CHECKING:
    from pathlib import Path

    from key_value.aio.stores.dynamodb import DynamoDBStore
    from tests.drivers.dynamodb.server import Server

    from kvseal.drivers.dynamodb.driver import DynamoDBDriver

pytestmark = [pytest.mark.servers, pytest.mark.processes, pytest.mark.filterwarnings(UNSTABLE)]

RECORDS = {"collection": {"S": "c"}}
CHARGED = ("scan", "update_item")


async def test_the_estimate(
    store: DynamoDBStore, driver: DynamoDBDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run says what the run then consumes, by the server's own count, of records in three sizes."""
    for number in range(30):
        value = {"v": "x" * (100, 900, 5000)[number % 3]}
        await old(store).put(f"key-{number}", value, collection="c", ttl=None if number % 2 else 3600)
    ask, consumed = module.AwsClient.ask, {"read": 0.0, "write": 0.0}

    def counting(self: Any, operation: str, **given: Any) -> Any:
        # The lease of the run is written, too, if that takes long.
        if operation not in CHARGED or given.get("Key", RECORDS)["collection"] != RECORDS["collection"]:
            return ask(self, operation, **given)
        answer = ask(self, operation, **given, ReturnConsumedCapacity="TOTAL")
        found = answer.body.get("ConsumedCapacity", [])
        units = sum(one["CapacityUnits"] for one in (found if isinstance(found, list) else [found]))
        consumed["read" if operation == "scan" else "write"] += units
        return answer

    options: dict[str, Any] = {"secret": NEW, "kdf": CHEAP}
    await (await Vault.create(store, secret=NEW, kdf=CHEAP)).close()
    dry = (await migrate(driver, [fernet()], dry_run=True, **options)).report
    assert dry is not None
    assert dry.units is not None
    monkeypatch.setattr(module.AwsClient, "ask", counting)
    # DynamoDB Local says nothing of what a batch consumes.
    driver._swapper._has_partiql = False
    await migrate(driver, [fernet()], **options)

    assert dry.units.write == consumed["write"]
    assert abs(dry.units.scanning - consumed["read"]) <= 0.1 * consumed["read"]


@pytest.mark.parametrize("to_disk", [False, True])
async def test_backups(driver: DynamoDBDriver, tmp_path: Path, to_disk: bool) -> None:
    """A backup goes from disk to DynamoDB and back with its vault: values and times to the microsecond."""
    disk = await driver_from_url(f"disk:{tmp_path}/store", create=True)
    source, target = (driver, disk) if to_disk else (disk, driver)
    vault = await Vault.create(source, secret=NEW, kdf=CHEAP)
    await put_record(source, vault.keyring.codecs[""], "c", "sealed", {"n": 1}, ttl=3600)
    await vault.close()
    await put_all(
        source, [made("a.b-c", {"n": 2**70}, expires_at=FUTURE), made("large", LARGE, created_at=None)]
    )

    saved = await backup(source, tmp_path / "file")
    report = await restore(tmp_path / "file", target)

    assert (4, 4, 0) == (saved.saved, report.restored, report.failed)
    assert await everything(source) == await everything(target)
    opened = await Vault.open(target, secret=NEW)
    assert {"n": 1} == await get_record(target, opened.keyring.codecs[""], "c", "sealed")
    assert 4 == (await restore(tmp_path / "file", target)).already
    await opened.close()
    await disk.close()


@pytest.mark.long
async def test_memory_of_many_records(driver: DynamoDBDriver, shared_dynamodb: Server, table: str) -> None:
    """A scan of ten times as many records takes no more memory."""
    peaks = []
    for count in (1_500, 15_000):
        body = write_body({"x": "x" * 600}, created_at=None, expires_at=None)
        shared_dynamodb.put_all(table, (item("c", f"key-{n}", body, None) for n in range(count)))
        tracemalloc.start()
        seen = 0
        async for page in driver.scan():
            seen += len(page.entries)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == seen
    print(peaks)  # noqa: T201 - what a long run is for

    assert peaks[1] < 1.3 * peaks[0]


async def test_memory_of_a_scan(store: DynamoDBStore, driver: DynamoDBDriver) -> None:
    """A page holds no more than the server's megabyte, however many large entries there are."""
    for number in range(12):
        await store.put(f"key-{number}", {"x": "x" * 300_000}, collection="c")
    faults = Faults.of(driver)

    sizes = [sum(len(one.stored) for one in page.entries) async for page in driver.scan()]

    assert 12 * 300_000 <= sum(sizes)
    assert max(sizes) <= 1_400_000
    assert 3 <= faults.requests["Scan"]
    assert await fetched(driver, "key-0", "c")
