"""The S3 driver: the contract, on SeaweedFS."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from tests.backends import UNSTABLE
from tests.drivers.contract import DriverContract
from tests.drivers.entries import Backend

from kvseal.drivers import driver_from_url
from kvseal.drivers.base import PAGE_SIZE
from kvseal.drivers.s3 import bucket as buckets
from kvseal.drivers.s3 import driver as drivers
from kvseal.drivers.s3.driver import S3Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from key_value.aio.stores.s3 import S3Store
    from tests.drivers.s3.server import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]


@pytest.fixture
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pages be small: the store puts some eighty entries a second."""
    monkeypatch.setattr(drivers, "PAGE_SIZE", TestS3Driver.page)
    monkeypatch.setattr(buckets, "AT_ONCE", 12)


@pytest.mark.usefixtures("_small_pages")
class TestS3Driver(DriverContract):
    """Every promise of a driver, found from the store object."""

    page = 8
    many: ClassVar[int] = 100
    counts_exactly = False
    counts_expired = True
    store_clock = "server's"
    unsupported_names = frozenset(
        {
            ("pl/ain", "a/../b"),  # SeaweedFS keeps objects as files: it refuses dot segments,
            ("plain", "."),
            ("plain", "k" * 300),  # has folders and files of 255 bytes,
            ("plain", 'it\'s "quoted" \\ back'),  # and takes a backslash for a slash.
        }
    )

    def names_in_a_scan(self, collection: str, key: str) -> tuple[str | None, str | None]:
        """Return the names where the object key has one slash."""
        return (None, None) if "/" in collection + key else (collection, key)

    @pytest.fixture
    async def backend(self, store: S3Store, driver: S3Driver, s3_server: S3Server, s3_bucket: str) -> Backend:
        """Return an empty store."""

        async def write_raw(collection: str, key: str, body: str, _: datetime | None) -> None:
            s3_server.raw.put_object(Bucket=s3_bucket, Key=f"{collection}/{key}", Body=body.encode())

        return Backend(store, driver, write_raw)


@pytest.mark.long
class TestS3DriverFromURL(TestS3Driver):
    """Every promise of a driver, found from the URL, with pages of their real size, and more than a listing has."""

    page = PAGE_SIZE
    many = 2_500

    @pytest.fixture
    def _small_pages(self) -> None:
        """Leave the pages as they are."""

    @pytest.fixture
    async def driver(self, store: S3Store, s3_server: S3Server, s3_bucket: str) -> AsyncIterator[S3Driver]:
        """Yield the driver of the bucket."""
        driver = await driver_from_url(s3_server.location(s3_bucket))
        assert isinstance(driver, S3Driver)
        yield driver
        await driver.close()
