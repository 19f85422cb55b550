"""The contract of drivers on a server of S3's: what each of them has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.drivers.contract import DriverContract
from tests.drivers.entries import Backend

from kvseal.drivers.s3 import bucket as buckets
from kvseal.drivers.s3 import driver as drivers

if TYPE_CHECKING:
    from datetime import datetime

    from key_value.aio.stores.s3 import S3Store
    from tests.drivers.s3.server import S3Server

    from kvseal.drivers.s3.driver import S3Driver


class S3Contract(DriverContract):
    """Every promise of a driver, with small pages: the store puts some eighty entries a second."""

    page = 8
    counts_exactly = False
    counts_expired = True
    store_clock = "server's"

    @pytest.fixture(autouse=True)
    def _small_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let pages be small."""
        monkeypatch.setattr(drivers, "PAGE_SIZE", self.page)
        monkeypatch.setattr(buckets, "AT_ONCE", 12)

    def names_in_a_scan(self, collection: str, key: str) -> tuple[str | None, str | None]:
        """Return the names where the object key has one slash."""
        return (None, None) if "/" in collection + key else (collection, key)

    @pytest.fixture
    async def backend(self, store: S3Store, driver: S3Driver, s3_server: S3Server, s3_bucket: str) -> Backend:
        """Return an empty store."""

        async def write_raw(collection: str, key: str, body: str, _: datetime | None) -> None:
            s3_server.raw.put_object(Bucket=s3_bucket, Key=f"{collection}/{key}", Body=body.encode())

        return Backend(store, driver, write_raw)
