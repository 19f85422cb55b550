"""Which bucket a driver reaches, as who, and what it says where there is none."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiobotocore.session import get_session
from key_value.aio._utils.serialization import BasicSerializationAdapter
from key_value.aio.stores.s3 import S3Store
from tests.backends import UNSTABLE
from tests.drivers.entries import SMALL, entry, fetched, scanned
from tests.drivers.s3.server import REGION
from tests.servers import free_port

from kvseal.drivers import driver_for, driver_from_url
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from tests.drivers.s3.server import S3Server

    from kvseal.drivers.s3.driver import S3Driver

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]
ROOT = Path(__file__).parents[3]


class TestStores:
    """From a store the driver takes where it connects, and not its connection."""

    async def test_before_the_store_is_set_up(self, s3_server: S3Server) -> None:
        """A bucket that the store would make reads as empty, and the first put makes it."""
        name = "made-by-a-driver"
        driver = driver_for(S3Store(bucket_name=name, **s3_server.settings()))
        assert await driver.get("coll", "key") is None
        assert [] == await scanned(driver)
        assert 0 == (await driver.count()).entries

        assert await driver.put_if_absent(entry())

        assert {"coll/key", "kvseal-probe"} == set(s3_server.keys(name))
        await driver.close()

    async def test_a_client_of_the_application(self, s3_server: S3Server, s3_bucket: str) -> None:
        """A store with a client of the application's own is reached where that client connects, as who it is."""
        async with get_session().create_client("s3", **s3_server.settings()) as client:
            store = S3Store(client=client, bucket_name=s3_bucket)
            driver = driver_for(store)
            await driver.put_if_absent(entry(value=SMALL))

            assert SMALL == await store.get("key", collection="coll")
            await driver.close()
            assert SMALL == await store.get("key", collection="coll")

    async def test_after_a_fork(self, s3_server: S3Server, s3_bucket: str) -> None:
        """A child process makes connections of its own, while the parent's are in use."""
        script = f"""
import asyncio, os, sys
from kvseal.drivers import driver_from_url
async def main():
    driver = await driver_from_url({s3_server.location(s3_bucket)!r})
    found = await driver.get("coll", "key")
    assert found.value == {{"n": 0}}
    return driver
driver = asyncio.run(main())
child = os.fork()
for _ in range(20):
    assert asyncio.run(driver.get("coll", "key")).value == {{"n": 0}}
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)
"""
        driver = await driver_from_url(s3_server.location(s3_bucket))
        await driver.put_if_absent(entry())
        await driver.close()

        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True
        )

        assert (0, b"") == (done.returncode, done.stderr)

    @pytest.mark.parametrize("how", ["adapter", "object keys", "bucket", "release"])
    async def test_stores_that_are_not_followed(self, how: str) -> None:
        """A store that keeps entries in another way, or does not say where, has no driver."""

        class Adapter(BasicSerializationAdapter):
            """Another way to write bodies."""

        class Prefixed(S3Store):
            """Another way to make object keys."""

            def _get_s3_key(self, *, collection: str, key: str) -> str:
                return f"prefix/{collection}/{key}"

        kind = Prefixed if how == "object keys" else S3Store
        name = "bucket--use1-az4--x-s3" if how == "bucket" else "bucket"
        store: Any = kind(bucket_name=name, region_name=REGION)
        if how == "adapter":
            store._serialization_adapter = Adapter()
        if how == "release":
            del store._client_settings

        with pytest.raises(UnsupportedStoreError) as raised:
            driver_for(store)

        assert raised.value.hint


class TestURLs:
    """`s3://BUCKET?region=…&endpoint=…`, which has no credentials."""

    async def test_a_missing_bucket(self, s3_server: S3Server) -> None:
        """A bucket that does not exist is not made unless that is asked for."""
        with pytest.raises(StoreNotFoundError, match="there is no bucket none-such"):
            await driver_from_url(s3_server.location("none-such"))
        with pytest.raises(s3_server.raw.exceptions.ClientError, match="404"):
            s3_server.raw.head_bucket(Bucket="none-such")

        for _ in range(2):
            driver = await driver_from_url(s3_server.location("none-such"), create=True)
            await driver.close()
        s3_server.raw.head_bucket(Bucket="none-such")

    async def test_a_bucket_that_has_gone(self, s3_server: S3Server) -> None:
        """A bucket that is deleted while a driver is at work is missed, and not empty."""
        s3_server.raw.create_bucket(Bucket="goes-away")
        driver = await driver_from_url(s3_server.location("goes-away"))
        s3_server.raw.delete_bucket(Bucket="goes-away")

        with pytest.raises(StoreNotFoundError):
            await driver.get("coll", "key")
        with pytest.raises(StoreNotFoundError):
            await scanned(driver)
        with pytest.raises(StoreNotFoundError):
            await driver.put_if_absent(entry())
        await driver.close()

    @pytest.mark.parametrize(
        "location",
        [
            "s3:bucket",
            "s3://",
            "s3://bucket/prefix",
            "s3://key:secret@bucket",
            "s3://bucket?prefix=a",
            "s3://bucket?names=other",
            "s3://bucket?region=a&region=b",
            "s3://bucket?endpoint=http://user:hunter2@host",
            "s3://bucket?aws_secret_access_key=hunter2",
        ],
    )
    async def test_other_urls(self, location: str) -> None:
        """A URL that would go half unheeded is refused, and a secret in it is not quoted."""
        with pytest.raises(UnsupportedStoreError) as raised:
            await driver_from_url(location)

        assert raised.value.hint
        assert "hunter2" not in str(raised.value) + raised.value.hint

    async def test_no_service(self, s3_server: S3Server) -> None:
        """A service that does not answer is an error that names the place."""
        url = f"s3://bucket?region={REGION}&endpoint=http://127.0.0.1:{free_port()}"
        with pytest.raises(StoreUnreachableError, match=r"s3://bucket\?region=us-east-1") as raised:
            await driver_from_url(url)

        assert "endpoint" in raised.value.hint

    async def test_no_credentials(
        self, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without credentials in the SDK's own chain the error says that, and how they are given."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        with pytest.raises(StoreUnreachableError, match="no credentials"):
            await driver_from_url(s3_server.location(s3_bucket))

    @pytest.mark.parametrize("names", ["plain", "hashed"])
    async def test_rules_of_names(self, s3_server: S3Server, s3_bucket: str, names: str) -> None:
        """`names=` settles whether the store cuts long names, which is not guessed otherwise."""
        open_question = await driver_from_url(s3_server.location(s3_bucket))
        settled = await driver_from_url(f"{s3_server.location(s3_bucket)}&names={names}")

        with pytest.raises(StoreError, match="shortens"):
            await open_question.get("coll", "k" * 501)
        place = settled.place("coll", "k" * 501)
        assert {"plain": 506, "hashed": 505}[names] == len(place.key)
        await open_question.close()
        await settled.close()


async def test_a_closed_driver(driver: S3Driver) -> None:
    """A driver that was closed refuses to go on."""
    await driver.put_if_absent(entry())
    await fetched(driver)
    await driver.close()

    with pytest.raises(StoreError, match="is closed"):
        await driver.get("coll", "key")
    with pytest.raises(StoreError, match="is closed"):
        await scanned(driver)
