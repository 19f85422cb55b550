"""A store and its driver in a directory of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.filetree import (
    FileTreeStore,
)

from kvseal.drivers import driver_for
from kvseal.drivers.filetree.driver import FileTreeDriver

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return where the store is."""
    return tmp_path / "store"


@pytest.fixture
def store(directory: Path) -> FileTreeStore:
    """Return an empty store that keeps names as they are."""
    return FileTreeStore(data_directory=directory)


@pytest.fixture
def driver(store: FileTreeStore) -> FileTreeDriver:
    """Return the driver of the store."""
    driver = driver_for(store)
    assert isinstance(driver, FileTreeDriver)
    return driver
