"""What a scan of a bucket finds: whose objects, under which names, and nothing left out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.s3 import S3CollectionSanitizationStrategy, S3KeySanitizationStrategy, S3Store
from tests.backends import UNSTABLE
from tests.drivers.entries import SMALL, entry, fetched, scanned
from tests.drivers.s3.answers import answer, between

from kvseal.drivers import driver_for, driver_from_url
from kvseal.drivers.base import Replacement
from kvseal.drivers.manifest import NamedDriver
from kvseal.drivers.s3 import bucket as buckets
from kvseal.drivers.s3 import driver as drivers
from kvseal.errors import StoreError, UnsupportedStoreError

if TYPE_CHECKING:
    from tests.drivers.s3.server import S3Server

    from kvseal.drivers.s3.driver import S3Driver

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]

BODY = b'{"value": {"n": 1}}'


def paths(entries: list[Any]) -> list[tuple[str | None, str | None, str | None]]:
    """Return names and path of each entry."""
    return [(found.collection, found.key, found.path) for found in entries]


async def test_ambiguous_names(store: S3Store, driver: S3Driver) -> None:
    """An object key with several slashes has no names but a path, and proves each split and no other name."""
    await store.put("b/c", SMALL, collection="a")

    (found,) = await scanned(driver)

    assert [(None, None, "a/b/c")] == paths([found])
    assert [True, True, False, False] == [driver.proves(found, key) for key in ("b/c", "c", "/c", "a/b/c")]
    assert [True, True, False] == [
        driver.place(*names) == found.locator for names in (("a", "b/c"), ("a/b", "c"), ("a", "b"))
    ]
    assert [True, False] == [
        driver.proves(replace(found, collection=collection), "b/c") for collection in ("a", "b")
    ]


async def test_names_are_written_down_once_they_are_known(store: S3Store, driver: S3Driver) -> None:
    """What a caller who knows the names writes has them, for every later scan; the store reads the value alone."""
    await store.put("host/path", SMALL, collection="clients", ttl=3600)
    found = await fetched(driver, "host/path", "clients")

    (done,) = await driver.replace_many([Replacement(found, {"n": 2})])

    assert done
    assert [("clients", "host/path", None)] == paths(await scanned(driver))
    assert {"n": 2} == await store.get("host/path", collection="clients")


async def test_a_manifest_names_them(store: S3Store, driver: S3Driver) -> None:
    """A manifest gives the names; of two that lead to one object it gives neither."""
    await store.put("host/path", SMALL, collection="clients")

    one = NamedDriver(driver, [("clients", "host/path"), ("clients", "other")])
    both = NamedDriver(driver, [("clients", "host/path"), ("clients/host", "path")])

    assert [("clients", "host/path")] == [(found.collection, found.key) for found in await scanned(one)]
    assert [(None, None)] == [(found.collection, found.key) for found in await scanned(both)]


async def test_given_collections(store: S3Store, s3_server: S3Server, s3_bucket: str) -> None:
    """Where the operator has named the collections, the names come back."""
    for collection, key in (("clients", "a/b"), ("tokens", "c"), ("mine/own", "d/e")):
        await store.put(key, SMALL, collection=collection)
    driver = await driver_from_url(f"{s3_server.location(s3_bucket)}&collections=clients,tokens,mine%2Fown")

    found = {(one.collection, one.key) for one in await scanned(driver)}

    assert {("clients", "a/b"), ("tokens", "c"), ("mine/own", "d/e")} == found
    await driver.close()


async def test_names_that_the_store_cuts(s3_server: S3Server, s3_bucket: str) -> None:
    """A store with the strategies for long names is followed, and what it cut does not come back."""
    # SeaweedFS has files and folders of 255 bytes, so they are cut sooner here.
    strategies = {
        "collection_sanitization_strategy": S3CollectionSanitizationStrategy(100),
        "key_sanitization_strategy": S3KeySanitizationStrategy(100),
    }
    async with S3Store(bucket_name=s3_bucket, **s3_server.settings(), **strategies) as store:
        driver = driver_for(store)
        await store.put("k" * 200, SMALL, collection="coll")
        (found,) = await scanned(driver)
        assert ("coll", None, True) == (found.collection, found.key, driver.proves(found, "k" * 200))

        await driver.replace_many([Replacement(replace(found, key="k" * 200), {"n": 2})])

        assert [("coll", "k" * 200, None)] == paths(await scanned(driver))
        assert {"n": 2} == await store.get("k" * 200, collection="coll")
        await driver.close()


async def test_the_body_of_another_entry(driver: S3Driver, s3_server: S3Server, s3_bucket: str) -> None:
    """A body that was copied to another object is a problem there, and no second entry of its name."""
    await driver.put_if_absent(entry("b/c", collection="a"))
    body = s3_server.raw.get_object(Bucket=s3_bucket, Key="a/b/c")["Body"].read()
    s3_server.raw.put_object(Bucket=s3_bucket, Key="a/copy", Body=body)

    entries = {found.locator.key: found for found in await scanned(driver)}

    assert ("a", "b/c", "") == (entries["a/b/c"].collection, entries["a/b/c"].key, entries["a/b/c"].problem)
    assert "it holds the body of 'a'/'b/c'" in entries["a/copy"].problem
    assert [True] == [found.problem != "" for found in [await fetched(driver, "copy", "a")]]


async def test_restored_by_its_path(driver: S3Driver, store: S3Store) -> None:
    """An entry without names goes back to its path, and to no path that would be another entry here."""
    await store.put("b/c", SMALL, collection="a")
    (found,) = await scanned(driver)
    await store.delete("b/c", collection="a")
    assert await driver.get_at(found) is None

    assert await driver.put_if_absent(found)

    assert SMALL == await store.get("b/c", collection="a")
    there = await driver.get_at(found)
    assert there is not None
    assert SMALL == there.value
    for path in ("a/b", "S_a-12345678/S_b.json", "a"):
        with pytest.raises(StoreError, match="would be another entry here"):
            await driver.put_if_absent(replace(found, path=path))


async def test_objects_of_others(driver: S3Driver, s3_server: S3Server, s3_bucket: str) -> None:
    """Objects without a slash and marks of folders are not mentioned; what may be an entry is."""
    for key, body in (("alone", BODY), ("coll/", b""), ("coll/key", BODY), ("assets/logo", b"\x89PNG")):
        s3_server.raw.put_object(Bucket=s3_bucket, Key=key, Body=body)

    found = {(one.key, one.problem[:13]) for one in await scanned(driver)}

    assert {("key", ""), ("logo", "'assets/logo'")} == found


async def test_an_object_that_is_too_large(
    driver: S3Driver, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object beyond any record is a problem, and is not read into memory."""
    monkeypatch.setattr(buckets, "LARGEST", 100)
    s3_server.raw.put_object(Bucket=s3_bucket, Key="coll/video", Body=b"x" * 101)

    (found,) = await scanned(driver)

    assert ("video", b"") == (found.key, found.stored)
    assert "it has 101 bytes" in found.problem


async def test_an_archived_object(driver: S3Driver) -> None:
    """An object in an archive is a problem, and not missing."""
    await driver.put_if_absent(entry())

    with between(driver, "GetObject", lambda request: answer(request, 403, "InvalidObjectState")):
        (found,) = await scanned(driver)

    assert ("coll", "key", None) == (found.collection, found.key, found.value)
    assert "archived" in found.problem


async def test_listed_and_not_given_out(driver: S3Driver) -> None:
    """What a server lists under a key by which it does not give it out is a problem, and not missing."""
    await driver.put_if_absent(entry())

    with between(driver, "GetObject", lambda request: answer(request, 404, "NoSuchKey")):
        (found,) = await scanned(driver)

    assert "lists it, but does not give it out" in found.problem


async def test_deleted_since_it_was_listed(driver: S3Driver, s3_server: S3Server, s3_bucket: str) -> None:
    """What is deleted between listing and reading is not there."""
    await driver.put_if_absent(entry())

    def meanwhile(_: Any) -> None:
        s3_server.raw.delete_object(Bucket=s3_bucket, Key="coll/key")

    with between(driver, "GetObject", meanwhile):
        assert [] == await scanned(driver)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_keys_that_are_folders_too(
    driver: S3Driver, s3_server: S3Server, s3_bucket: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However the listing is cut, a scan and every scan that resumes it find all keys, in an order of any kind.

    SeaweedFS, asked for what follows `a/b`, leaves `a/b/c` out, and lists `a/b` before `a-b/c`.
    """
    monkeypatch.setattr(buckets, "AT_ONCE", size)
    monkeypatch.setattr(drivers, "PAGE_SIZE", 2)
    keys = {"a/b", "a/b/c", "a/b/d", "a/b!", "a-b/c", "a/b0", "b/c", "b/c/d", "a!/1", "ü/1"}
    for key in keys:
        s3_server.raw.put_object(Bucket=s3_bucket, Key=key, Body=BODY)

    pages = [page async for page in driver.scan()]

    assert sorted(keys) == sorted(found.locator.key for page in pages for found in page.entries)
    for done in range(1, len(pages) + 1):
        rest = await scanned(driver, after=pages[done - 1].cursor)
        seen = [found.locator.key for page in pages[:done] for found in page.entries]
        assert sorted(keys) == sorted([*seen, *(found.locator.key for found in rest)])


async def test_a_cursor_that_the_server_has_forgotten(
    driver: S3Driver, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a server does not know its own continuation any more, the scan goes on behind the last key."""
    monkeypatch.setattr(buckets, "AT_ONCE", 3)
    for n in range(8):
        s3_server.raw.put_object(Bucket=s3_bucket, Key=f"coll/{n}", Body=BODY)
    pages = [page async for page in driver.scan()]

    def forget(request: Any) -> Any:
        return answer(request, 400, "InvalidArgument") if "%2F2" in request.url else None

    with between(driver, "ListObjectsV2", forget):
        rest = await scanned(driver, after=pages[1].cursor)

    assert ["6", "7"] == [found.key for found in rest]


async def test_a_server_without_an_order(driver: S3Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing in no order could leave something out unnoticed, so it is refused."""
    listing = buckets.Listing([("b/1", 1), ("a/1", 1)], None)
    monkeypatch.setattr(driver._bucket, "listing", lambda *_: listing)

    with pytest.raises(UnsupportedStoreError, match="in no order"):
        await scanned(driver)


async def test_a_page_by_size(
    driver: S3Driver, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page ends with the object that takes it past its bytes, as the listing says before anything is read."""
    monkeypatch.setattr(drivers, "PAGE_BYTES", 2 * len(BODY))
    for n in range(5):
        s3_server.raw.put_object(Bucket=s3_bucket, Key=f"coll/{n}", Body=BODY)

    assert [2, 2, 1] == [len(page.entries) async for page in driver.scan()]
