"""A migration of a bucket: names that are not known, what it is estimated to take, and the memory of a scan."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import UNSTABLE
from tests.drivers.entries import scanned
from tests.processes import CHEAP, NEW
from tests.recoding.test_no_downtime import LEGACY
from tests.recoding.worlds import fernet, old

from kvseal import EnvelopeEncryptionWrapper, Vault, verify
from kvseal.drivers.s3 import bucket as buckets
from kvseal.drivers.s3 import driver as drivers
from kvseal.recoding import migrate

if TYPE_CHECKING:
    from key_value.aio.stores.s3 import S3Store

    from kvseal.drivers.s3.driver import S3Driver

pytestmark = [pytest.mark.servers, pytest.mark.processes, pytest.mark.filterwarnings(UNSTABLE)]


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
