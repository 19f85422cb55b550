"""The S3 driver: the contract, on SeaweedFS."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from tests.backends import UNSTABLE
from tests.drivers.s3.contract import S3Contract

from kvseal.drivers import driver_from_url
from kvseal.drivers.base import PAGE_SIZE
from kvseal.drivers.s3.driver import S3Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from key_value.aio.stores.s3 import S3Store
    from tests.drivers.s3.server import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]


class TestS3Driver(S3Contract):
    """Every promise of a driver, found from the store object."""

    many: ClassVar[int] = 100
    unsupported_names = frozenset(
        {
            ("pl/ain", "a/../b"),  # SeaweedFS keeps objects as files: it refuses dot segments,
            ("plain", "."),
            ("plain", "k" * 300),  # has folders and files of 255 bytes,
            ("plain", 'it\'s "quoted" \\ back'),  # and takes a backslash for a slash.
        }
    )


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
