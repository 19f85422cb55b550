"""The file tree driver: the contract, over stores with every rule of names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.filetree import (
    FileTreeStore,
)
from key_value.aio.stores.filetree import store as upstream
from tests.drivers.contract import DriverContract
from tests.drivers.entries import Backend
from tests.drivers.filetree.trees import TOO_LONG_OR_NO_FILE, trust, v1_store, write_in_one_thread

from kvseal.drivers import driver_from_url
from kvseal.drivers.base import PAGE_SIZE
from kvseal.drivers.filetree.driver import FileTreeDriver

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


class TestFileTreeDriver(DriverContract):
    """Every promise of a driver, found from a store object without strategies."""

    splits = True
    many = 3 * PAGE_SIZE  # `TestScan` goes past 10,000, without a temporary file for each.
    unsupported_names = TOO_LONG_OR_NO_FILE

    @pytest.fixture(autouse=True)
    def _fast_store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Spare the threads and the disk: the contract puts some ten thousand entries through the store."""
        monkeypatch.setattr(upstream, "write_file_atomic", write_in_one_thread)
        monkeypatch.setattr(upstream, "validate_path_within_directory", trust)
        monkeypatch.setattr(os, "fsync", lambda _: None)

    @pytest.fixture
    async def backend(self, store: FileTreeStore, driver: FileTreeDriver, directory: Path) -> Backend:
        """Return an empty file tree store."""

        async def write_raw(collection: str, key: str, text: str, _: datetime | None) -> None:
            await store.put("other", {}, collection=collection)
            await store.delete("other", collection=collection)
            (directory / collection / f"{key}.json").write_text(text)

        return Backend(store, driver, write_raw)


@pytest.mark.long
@pytest.mark.exhaustive
class TestFileTreeDriverV1(TestFileTreeDriver):
    """Every promise of a driver, found from a store object with the V1 strategies."""

    many = 2 * PAGE_SIZE

    @pytest.fixture
    def store(self, directory: Path) -> FileTreeStore:
        """Return an empty store that sanitizes names."""
        return v1_store(directory)

    async def test_odd_names(self) -> None:
        """See `TestNames.test_odd_names_in_v1`: a scan gives most of these names not back."""


@pytest.mark.long
@pytest.mark.exhaustive
class TestFileTreeDriverFromURL(TestFileTreeDriver):
    """Every promise of a driver, found from the URL of a store in which nothing shows its rule."""

    many = 2 * PAGE_SIZE
    unsupported_names = TOO_LONG_OR_NO_FILE

    @pytest.fixture
    async def driver(self, store: FileTreeStore, directory: Path) -> FileTreeDriver:
        """Return the driver of the directory."""
        driver = await driver_from_url(f"filetree:{directory}?names=plain", create=True)
        assert isinstance(driver, FileTreeDriver)
        return driver
