"""A table that FastMCP-like code has written with Fernet, migrated by vaultctl while users are online; and backups."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import UNSTABLE, Place
from tests.backup.made import FUTURE, LARGE, everything, put_all
from tests.backup.made import entry as made
from tests.drivers.dynamodb.faults import Faults
from tests.drivers.dynamodb.tables import item
from tests.drivers.entries import fetched
from tests.processes import CHEAP, NEW
from tests.recoding.test_hold_flip import job, until_all_write
from tests.recoding.test_no_downtime import check_values, deployed, fill, untouched_times
from tests.recoding.worlds import KEY, fernet, formats_of, old

from kvseal import EnvelopeEncryptionWrapper, Vault
from kvseal.backup import backup, restore
from kvseal.cli.app import run
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
FASTMCP: dict[str, dict[str, Any]] = {
    "mcp-upstream-tokens": {"access_token": "gho_1", "refresh_token": "ghr_1", "expires_in": 3600},
    "mcp-oauth-proxy-clients": {"client_id": "https://client.example/oauth", "redirect_uris": ["http://a"]},
    "mcp-oauth-transactions": {"state": "s" * 400},
}


@pytest.fixture
def vaultctl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared_dynamodb: Server, table: str
) -> Any:
    """Return what runs vaultctl on the table, and returns its exit code and all that it printed."""
    monkeypatch.setenv("VAULTCTL_STORE", shared_dynamodb.url(table))
    monkeypatch.setenv("VAULTCTL_SECRET", "env:NEW_SECRET")
    monkeypatch.setenv("NEW_SECRET", NEW.reveal().decode())
    monkeypatch.setenv("OLD_FERNET_KEY", KEY.decode())

    async def vaultctl(line: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run, line.split())
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return vaultctl


async def test_users_online(
    shared_dynamodb: Server, table: str, store: DynamoDBStore, vaultctl: Any, tmp_path: Path
) -> None:
    """
    Hold, flip, recode, finalize and verify, by vaultctl, beside applications in processes of their own.

    No read of theirs fails, nothing that they wrote is lost, and what they do not write keeps all of its times.
    """
    where = Place("dynamodb", shared_dynamodb.url(table))
    for collection, value in FASTMCP.items():
        await old(store).put("key", value, collection=collection, ttl=86_400.5)
    await fill(store)
    before = await untouched_times(where, store)

    def place_of(role: str, name: str) -> Any:
        return job(where, role, name, writes=2 if role == "old" else None)

    code, shown = await vaultctl(
        "migrate-from-fernet --fernet-key env:OLD_FERNET_KEY --import-keys --hold --argon2 1,8,1 --yes"
    )
    assert (0, True) == (code, "policy seal" in shown)
    jobs = [place_of("old", "old"), place_of("holding", "one"), place_of("holding", "two")]
    async with deployed(where, store, jobs) as running:
        former, *new = running
        await former.finish()
        boards = [await former.stop()]
        assert {1} == await formats_of(store)
        assert 0 == (await vaultctl("policy seal --yes"))[0]
        await until_all_write(store, new, sealed=True)
        dry, cost = await vaultctl("migrate-from-fernet --dry-run")
        recoded, _ = await vaultctl(f"migrate-from-fernet --backup {tmp_path}/backup --yes")
        again, finalized = await vaultctl("migrate-from-fernet --finalize --grace 0 --no-backup --yes")
        boards += [await one.stop() for one in new]

    assert [0, 0, 0] == [dry, recoded, again]
    assert "read units (3 scans of" in cost
    assert "finalized: nothing old is left" in finalized
    code, shown = await vaultctl("verify --json")
    assert (0, {"kvseal"}) == (code, set(json.loads(shown.splitlines()[-1])["formats"]))
    assert before == await untouched_times(where, store)
    vault = await Vault.open(store, secret=NEW)
    await check_values(vault, store, boards)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    for collection, value in FASTMCP.items():
        assert value == await kv.get("key", collection=collection)
    assert () == vault.status().legacy
    await kv.release()
    await vault.close()


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
