"""The disk driver: the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import diskcache
import pytest
from tests.drivers.contract import DriverContract
from tests.drivers.disk.caches import insert, store_over
from tests.drivers.entries import Backend

from kvseal.drivers import driver_from_url
from kvseal.drivers.base import PAGE_SIZE
from kvseal.drivers.disk.driver import DiskDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

    from key_value.aio.stores.disk import DiskStore


class TestDiskDriver(DriverContract):
    """Every promise of a driver, found from the store object."""

    splits = True

    @pytest.fixture
    async def backend(self, store: DiskStore, driver: DiskDriver, directory: Path) -> Backend:
        """Yield an empty disk store."""

        async def write_raw(collection: str, key: str, text: str, expires_at: datetime | None) -> None:
            expire_time = None if expires_at is None else expires_at.timestamp()
            insert(directory, f"{collection}::{key}", text, expire_time=expire_time)

        return Backend(store, driver, write_raw)


@pytest.mark.exhaustive
class TestDiskDriverFromURL(TestDiskDriver):
    """Every promise of a driver, found from the URL, with every value in a file."""

    many = 3 * PAGE_SIZE  # The other class goes past 10,000; so many files would only take time.

    @pytest.fixture
    async def store(self, directory: Path) -> AsyncIterator[DiskStore]:
        """Yield a store that keeps nothing but expiries in its rows."""
        cache = diskcache.Cache(directory, eviction_policy="none", disk_min_file_size=0)
        yield store_over(cache)
        cache.close()

    @pytest.fixture
    async def driver(self, store: DiskStore, directory: Path) -> AsyncIterator[DiskDriver]:
        """Yield the driver of the directory."""
        driver = await driver_from_url(f"disk:{directory}")
        assert isinstance(driver, DiskDriver)
        yield driver
        await driver.close()
