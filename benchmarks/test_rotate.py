"""What must not grow with the number of records: a rotation's cost, and a scan's memory."""

from __future__ import annotations

import tracemalloc
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore

from benchmarks.peers import CHEAP
from benchmarks.shapes import flat
from kvseal import EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.drivers.base import PAGE_SIZE
from kvseal.keys.meta import META_COLLECTION

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from key_value.aio.protocols.key_value import AsyncKeyValue

_BATCH = 1000
_SHORT, _LONG = 2 * PAGE_SIZE, 10 * PAGE_SIZE
"""Records of the two scans whose memory is compared: both are longer than one page."""


async def fill(vault: Vault, store: AsyncKeyValue, records: int) -> None:
    """Put *records* sealed values."""
    kv, value = EnvelopeEncryptionWrapper(store, vault=vault), flat(64)
    for start in range(0, records, _BATCH):
        keys = [f"user-{number}" for number in range(start, min(records, start + _BATCH))]
        await kv.put_many(keys, [value] * len(keys))


async def raw(store: AsyncKeyValue) -> dict[tuple[str | None, str | None], bytes]:
    """Return the stored bytes of every entry, by its names."""
    entries = {}
    async for page in driver_for(store).scan():
        entries.update({(entry.collection, entry.key): entry.stored for entry in page.entries})
    return entries


@pytest.mark.parametrize("records", [10, 10_000])
def test_rotate(benchmark: Any, loop: asyncio.AbstractEventLoop, records: int) -> None:
    """A rotation to another secret changes the vault meta alone, however many records there are."""
    secrets = cycle([Secret(b"b" * 32), Secret(b"a" * 32)])
    store = MemoryStore(max_entries_per_collection=None)
    vault = loop.run_until_complete(Vault.create(store, secret=Secret(b"a" * 32), kdf=CHEAP))
    loop.run_until_complete(fill(vault, store, records))
    before = loop.run_until_complete(raw(store))
    benchmark.group = "rotate"

    benchmark.pedantic(
        lambda: loop.run_until_complete(vault.rotate(new_secret=next(secrets))), rounds=40, warmup_rounds=2
    )

    after = loop.run_until_complete(raw(store))
    changed = {names for names in before if before[names] != after[names]}
    benchmark.extra_info["entries"], benchmark.extra_info["changed"] = len(after), len(changed)
    assert before.keys() == after.keys()
    assert {(META_COLLECTION, "__dek__")} == changed
    assert records + 1 == len(after)


def test_scan_holds_one_page(benchmark: Any, loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    """A scan of five times as many records takes no more memory."""
    store = DiskStore(directory=tmp_path)
    vault = loop.run_until_complete(Vault.create(store, secret=Secret(b"a" * 32), kdf=CHEAP))

    async def peak_of_scan() -> int:
        tracemalloc.start()
        async for page in driver_for(store).scan():
            assert page.entries
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peaks = {}
    for records in (_SHORT, _LONG):
        loop.run_until_complete(fill(vault, store, records))
        loop.run_until_complete(peak_of_scan())
        peaks[records] = loop.run_until_complete(peak_of_scan())
    benchmark.group = "scan"
    benchmark.extra_info["peak bytes"] = peaks

    benchmark.pedantic(lambda: loop.run_until_complete(raw(store)), rounds=3)

    few, many = peaks.values()
    assert many < 1.25 * few
    loop.run_until_complete(store.close())
