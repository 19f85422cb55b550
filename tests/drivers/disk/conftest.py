"""A store and its driver in a directory of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.disk import DiskStore

from kvseal.drivers import driver_for
from kvseal.drivers.disk.driver import DiskDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return where the store is."""
    return tmp_path / "store"


@pytest.fixture
async def store(directory: Path) -> AsyncIterator[DiskStore]:
    """Yield an empty store."""
    store = DiskStore(directory=directory)
    yield store
    await store.close()


@pytest.fixture
async def driver(store: DiskStore) -> AsyncIterator[DiskDriver]:
    """Yield the driver of the store."""
    driver = driver_for(store)
    assert isinstance(driver, DiskDriver)
    yield driver
    await driver.close()
