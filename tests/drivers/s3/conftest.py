"""An empty bucket on a real server, a store and its driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.s3 import S3Store

from kvseal.drivers import driver_for
from kvseal.drivers.s3.driver import S3Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.drivers.s3.server import S3Server


PARTICULAR = frozenset(
    {
        "test_batch_with_conflicts",
        "test_conflict",
        "test_count",
        "test_delete_if_unchanged",
        "test_expired_is_absent",
        "test_expired_is_not_what_was_read",
        "test_leads",
        "test_loses_names",
        "test_no_lost_update",
        "test_odd_names",
        "test_partitions",
        "test_put_if_absent_race",
        "test_put_keeps_times",
        "test_put_many_if_absent_beside_what_is_there",
        "test_replace_with_another_expiry",
        "test_scan_beside_writers",
        "test_scan_of_what_has_expired",
        "test_scan_resumes_behind_a_cursor",
        "test_store_time",
    }
)
"""What of the contract `make test` runs on S3; each test makes two clients, so `make test-long` runs the rest."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to a long run what is not particular to S3."""
    for item in items:
        if item.nodeid.startswith("tests/drivers/s3/test_contract.py::") and (
            getattr(item, "originalname", "") not in PARTICULAR
        ):
            item.add_marker("long")


@pytest.fixture
async def store(s3_server: S3Server, s3_bucket: str) -> AsyncIterator[S3Store]:
    """Yield an empty store."""
    async with S3Store(bucket_name=s3_bucket, **s3_server.settings()) as store:
        yield store


@pytest.fixture
async def driver(store: S3Store) -> AsyncIterator[S3Driver]:
    """Yield the driver of the store."""
    driver = driver_for(store)
    assert isinstance(driver, S3Driver)
    yield driver
    await driver.close()
