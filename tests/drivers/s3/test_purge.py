"""Purge of a bucket with versions, seen from outside: no older version of an entry has its old value."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.s3 import S3Store
from tests.backends import UNSTABLE
from tests.drivers.entries import SMALL, entry, fetched, scanned
from tests.drivers.s3.answers import answer, between

from kvseal.drivers import base, driver_for
from kvseal.drivers.s3 import purge as purging
from kvseal.drivers.s3.driver import S3Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.drivers.s3.server import S3Server

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]


@pytest.fixture(scope="module")
def versioned(shared_s3: S3Server) -> Iterator[str]:
    """Yield the name of a bucket that keeps versions."""
    with shared_s3.bucket("Enabled") as name:
        yield name


@pytest.fixture
def bucket(s3_server: S3Server, versioned: str) -> str:
    """Return the name of the bucket with nothing in it, and no versions."""
    for one in versions(s3_server, versioned):
        s3_server.raw.delete_object(Bucket=versioned, Key=one["Key"], VersionId=one["VersionId"])
    s3_server.raw.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Enabled"})
    return versioned


def versions(server: S3Server, bucket: str) -> list[Any]:
    """Return all versions and marks of deletion."""
    pages = server.raw.get_paginator("list_object_versions").paginate(Bucket=bucket)
    return [one for page in pages for kind in ("Versions", "DeleteMarkers") for one in page.get(kind, ())]


def bodies(server: S3Server, bucket: str) -> list[bytes]:
    """Return what every version holds."""
    pages = server.raw.get_paginator("list_object_versions").paginate(Bucket=bucket)
    return [
        server.raw.get_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])["Body"].read()
        for page in pages
        for one in page.get("Versions", ())
    ]


@asynccontextmanager
async def opened(server: S3Server, bucket: str) -> AsyncIterator[tuple[S3Store, S3Driver]]:
    """Yield the store in a bucket, and its driver."""
    async with S3Store(bucket_name=bucket, **server.settings()) as store:
        driver = driver_for(store)
        assert isinstance(driver, S3Driver)
        yield store, driver
        await driver.close()


async def overwritten(driver: S3Driver, key: str, text: str) -> None:
    """Put *text*, and replace it."""
    await driver.put_if_absent(entry(key, {"old": text}))
    await base.replace(driver, await fetched(driver, key), SMALL)


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
async def test_old_bytes_go(s3_server: S3Server, bucket: str, status: str) -> None:
    """Overwritten and deleted values are in older versions before, and in none afterwards; no entry changes."""
    async with opened(s3_server, bucket) as (store, driver):
        await overwritten(driver, "one", "secret-one")
        await overwritten(driver, "two", "secret-two")
        await driver.put_if_absent(entry("gone", {"old": "secret-gone"}))
        s3_server.raw.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
        await driver.delete_if_unchanged(await fetched(driver, "gone"))
        before = await scanned(driver)
        assert 3 == sum(b"secret-" in body for body in bodies(s3_server, bucket))

        planned = await driver.purge(dry_run=True)
        assert 3 == sum(b"secret-" in body for body in bodies(s3_server, bucket))
        purged = await driver.purge()

        assert [] == [body for body in bodies(s3_server, bucket) if b"secret-" in body]
        assert before == await scanned(driver)
        assert SMALL == await store.get("one", collection="coll")
        assert ("3 older versions to delete", "3 older versions deleted") == (planned.done[0], purged.done[0])
        assert (True, True) == (planned.complete, purged.complete)
        assert "Object Lock" in purged.left[-1]


async def test_versions_of_others_stay(s3_server: S3Server, bucket: str) -> None:
    """Older versions of objects that are no entries are left alone, and reported."""
    async with opened(s3_server, bucket) as (_, driver):
        await overwritten(driver, "one", "secret")
        for key in ("assets/logo", "alone"):
            for n in range(3):
                s3_server.raw.put_object(Bucket=bucket, Key=key, Body=b"\x89PNG %d" % n)

        purged = await driver.purge()

        assert ["1 older versions deleted"] == list(purged.done)
        assert "4 versions of objects that are no entries" in purged.left[0]
        assert 6 == sum(b"PNG" in body for body in bodies(s3_server, bucket))
        assert [] == [body for body in bodies(s3_server, bucket) if b"secret" in body]


async def test_many(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions of one key may be on two pages of a listing."""
    monkeypatch.setattr(purging, "_AT_ONCE", 2)
    async with opened(s3_server, bucket) as (store, driver):
        for n in range(5):
            for key in ("a", "b"):
                await store.put(key, {"secret": n}, collection="coll")
        await store.delete("b", collection="coll")

        purged = await driver.purge()

        assert "9 older versions deleted" == purged.done[0]
        assert [b'"secret": 4' in body for body in bodies(s3_server, bucket)] == [True]
        assert {"secret": 4} == await store.get("a", collection="coll")
        assert "0 older versions deleted" == (await driver.purge()).done[0]


async def test_what_the_service_refuses(s3_server: S3Server, bucket: str) -> None:
    """A version that the service does not delete is reported, and the purge is not complete."""
    async with opened(s3_server, bucket) as (_, driver):
        await overwritten(driver, "one", "secret")
        refusal = (
            """<DeleteResult><Error><Key>coll/one</Key><Code>AccessDenied</Code></Error></DeleteResult>"""
        )

        def refuse(request: Any) -> Any:
            made = answer(request, 200, "")
            made.raw._text = refusal.encode()
            return made

        with between(driver, "DeleteObjects", refuse):
            purged = await driver.purge()

        assert ("0 older versions deleted", False) == (purged.done[0], purged.complete)
        assert "1 versions that the service did not delete" in purged.left[0]


async def test_without_versions(driver: S3Driver) -> None:
    """A bucket that never had versions keeps none."""
    purged = await driver.purge()

    assert (("nothing: the bucket keeps no older versions",), True) == (purged.done, purged.complete)


async def test_a_right_that_is_missing(driver: S3Driver) -> None:
    """Whether there are older versions is not guessed."""
    with between(driver, "GetBucketVersioning", lambda request: answer(request, 403, "AccessDenied")):
        purged = await driver.purge()

    assert not purged.complete
    assert "s3:GetBucketVersioning" in purged.left[0]
