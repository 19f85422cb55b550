"""A bucket that FastMCP-like code has written with Fernet, migrated by vaultctl while users are online."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import UNSTABLE, Place
from tests.drivers.entries import scanned
from tests.processes import CHEAP, NEW
from tests.recoding.test_hold_flip import job, until_all_write
from tests.recoding.test_no_downtime import LEGACY, check_values, deployed, fill, untouched_times
from tests.recoding.worlds import KEY, fernet, formats_of, old

from kvseal import EnvelopeEncryptionWrapper, Vault, verify
from kvseal.cli.app import run
from kvseal.drivers.s3 import bucket as buckets
from kvseal.drivers.s3 import driver as drivers
from kvseal.recoding import migrate

if TYPE_CHECKING:
    from pathlib import Path

    from key_value.aio.stores.s3 import S3Store
    from tests.drivers.s3.server import S3Server

    from kvseal.drivers.s3.driver import S3Driver

pytestmark = [pytest.mark.servers, pytest.mark.processes, pytest.mark.filterwarnings(UNSTABLE)]

FASTMCP: dict[tuple[str, str], dict[str, Any]] = {
    ("mcp-upstream-tokens", "tokens-1"): {"access_token": "gho_1", "refresh_token": "ghr_1"},
    ("mcp-oauth-proxy-clients", "client.example/oauth"): {"client_id": "client.example/oauth"},
    ("mcp-oauth-transactions", "s" * 40): {"state": "s" * 400},
}
"""One of the clients is a URL, without its two slashes: SeaweedFS makes one of them."""


@pytest.fixture
def vaultctl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], s3_server: S3Server, s3_bucket: str
) -> Any:
    """Return what runs vaultctl on the bucket, and returns its exit code and all that it printed."""
    collections = ",".join(["c", *(collection for collection, _ in FASTMCP)])
    monkeypatch.setenv("VAULTCTL_STORE", f"{s3_server.location(s3_bucket)}&collections={collections}")
    monkeypatch.setenv("VAULTCTL_SECRET", "env:NEW_SECRET")
    monkeypatch.setenv("NEW_SECRET", NEW.reveal().decode())
    monkeypatch.setenv("OLD_FERNET_KEY", KEY.decode())

    async def vaultctl(line: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run, line.split())
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return vaultctl


@pytest.mark.long
async def test_users_online(
    s3_server: S3Server, s3_bucket: str, store: S3Store, vaultctl: Any, tmp_path: Path
) -> None:
    """
    Hold, flip, recode, finalize and verify, by vaultctl, beside applications in processes of their own.

    No read of theirs fails, nothing that they wrote is lost, and what they do not write keeps all of its times.
    """
    where = Place("s3", s3_server.location(s3_bucket))
    for (collection, key), value in FASTMCP.items():
        await old(store).put(key, value, collection=collection, ttl=86_400.5)
    await fill(store)
    before = await untouched_times(where, store)

    code, shown = await vaultctl(
        "migrate-from-fernet --fernet-key env:OLD_FERNET_KEY --import-keys --hold --argon2 1,8,1 --yes"
    )
    assert (0, True) == (code, "policy seal" in shown)
    jobs = [
        job(where, "old", "old", writes=1),
        job(where, "holding", "one"),
        job(where, "holding", "two"),
    ]
    async with deployed(where, store, jobs) as running:
        former, *new = running
        await former.finish()
        boards = [await former.stop()]
        assert {1} == await formats_of(store)
        assert 0 == (await vaultctl("policy seal --yes"))[0]
        await until_all_write(store, new, sealed=True)
        recoded, shown = await vaultctl(f"migrate-from-fernet --backup {tmp_path}/backup --yes")
        assert (0, shown) == (recoded, shown)
        again, finalized = await vaultctl("migrate-from-fernet --finalize --grace 0 --no-backup --yes")
        assert (0, finalized) == (again, finalized)
        boards += [await one.stop() for one in new]

    assert "finalized: nothing old is left" in finalized
    code, shown = await vaultctl("verify --json")
    assert (0, {"kvseal"}) == (code, set(json.loads(shown.splitlines()[-1])["formats"]))
    assert before == await untouched_times(where, store)
    vault = await Vault.open(store, secret=NEW)
    await check_values(vault, store, boards)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    for (collection, key), value in FASTMCP.items():
        assert value == await kv.get(key, collection=collection)
    assert () == vault.status().legacy
    await kv.release()
    await vault.close()


async def test_a_name_that_is_not_known(store: S3Store, driver: S3Driver) -> None:
    """
    A record whose names the object key leaves open is not sealed under a guess: it is named as a failure.

    The application, which knows the names, seals it when it reads it; then the migration is complete.
    """
    await old(store).put("a/b", {"n": 1}, collection="clients")
    await old(store).put("plain", {"n": 2}, collection="clients")

    report = (await migrate(driver, [fernet()], secret=NEW, kdf=CHEAP)).report

    assert report is not None
    assert (1, 1) == (report.changed, report.failed)
    assert {"n": 1} == await old(store).get("a/b", collection="clients")
    vault = await Vault.open(store, secret=NEW)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    assert {"n": 2} == await kv.get("plain", collection="clients")
    await vault.read_legacy_with([LEGACY])
    while not kv.resealed["resealed"]:
        assert {"n": 1} == await kv.get("a/b", collection="clients")
        await asyncio.sleep(0)
    proof = await verify(store, vault)

    assert (0, {"kvseal"}) == (proof.failed, set(proof.formats or {}))
    (found,) = [one for one in await scanned(driver) if one.path]
    assert ("clients/a/b", False) == (found.path, b"clients" in found.stored)
    await kv.release()
    await vault.close()


async def test_the_estimate(store: S3Store, driver: S3Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run counts the requests that read and write the records, and the run then makes as many writes."""
    for n in range(12):
        await old(store).put(f"key-{n}", {"n": n}, collection="c")
    await (await Vault.create(store, secret=NEW, kdf=CHEAP)).close()

    dry = (await migrate(driver, [fernet()], secret=NEW, kdf=CHEAP, dry_run=True)).report

    assert dry is not None
    assert dry.units is not None
    written: list[str] = []
    swap = driver._bucket.swap

    def counted(new: Any, place: Any) -> bool:
        if new.key.startswith("c/"):
            written.append(new.key)
        return swap(new, place)

    monkeypatch.setattr(driver._bucket, "swap", counted)
    await migrate(driver, [fernet()], secret=NEW, kdf=CHEAP)
    assert len(written) == dry.units.write
    assert 12 <= dry.units.scan <= 14


async def test_memory_of_a_scan(store: S3Store, driver: S3Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a scan holds does not depend on how many records there are, but on its pages alone."""
    monkeypatch.setattr(drivers, "PAGE_SIZE", 4)
    monkeypatch.setattr(buckets, "AT_ONCE", 8)

    async def peak() -> int:
        tracemalloc.start()
        async for page in driver.scan():
            assert len(page.entries) <= 4
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    for n in range(8):
        await store.put(f"key-{n}", {"x": "x" * 200_000}, collection="c")
    await peak()
    few = await peak()
    for n in range(8, 40):
        await store.put(f"key-{n}", {"x": "x" * 200_000}, collection="c")

    assert await peak() < few + 4 * 200_000
