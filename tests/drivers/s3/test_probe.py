"""Servers that ignore conditions are refused before the first write, and rules that delete entries are seen."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.s3 import S3Store
from tests.backends import UNSTABLE
from tests.drivers.entries import entry, scanned
from tests.drivers.s3.answers import answer, between
from tests.drivers.s3.careless import CarelessServer
from tests.drivers.s3.server import S3Server

from kvseal import Vault
from kvseal.drivers import driver_for
from kvseal.drivers.s3.driver import S3Driver
from kvseal.errors import EvictingStoreError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kvseal import Argon2idParams, Secret

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]

ALL = ("put-none", "put-match", "delete-match")


@asynccontextmanager
async def driver_of(server: CarelessServer) -> AsyncIterator[S3Driver]:
    """Yield the driver of a bucket there."""
    store = S3Store(bucket_name="bucket", **S3Server(server.url).settings())
    driver = driver_for(store)
    assert isinstance(driver, S3Driver)
    yield driver
    await driver.close()


@pytest.mark.parametrize(
    ("honours", "named"),
    [
        ((), "If-None-Match of a put and If-Match of a put and If-Match of a delete"),
        (ALL[1:], "If-None-Match of a put,"),
        (ALL[::2], "If-Match of a put,"),
        (ALL[:2], "If-Match of a delete,"),
    ],
)
async def test_a_careless_server_is_refused(honours: tuple[str, ...], named: str) -> None:
    """A server that ignores a condition is refused before the first write, and what it ignores is named."""
    with CarelessServer(honours) as server:
        async with driver_of(server) as driver:
            with pytest.raises(UnsupportedStoreError, match=named):
                await driver.put_if_absent(entry())

        assert {"kvseal-probe"} >= server.objects.keys()


async def test_a_server_that_does_not_know_conditions() -> None:
    """A server that answers a condition with "not implemented" is refused too."""
    with CarelessServer(ALL, refuses_with=501) as server:
        async with driver_of(server) as driver:
            with pytest.raises(UnsupportedStoreError, match="the server ignores"):
                await driver.put_if_absent(entry())


async def test_a_careful_server_is_asked_once() -> None:
    """Reads ask nothing of the kind; the first write asks once, with an object that is no entry."""
    with CarelessServer(ALL) as server:
        async with driver_of(server) as driver:
            await driver.get("coll", "key")
            assert 0 == server.writes
            await driver.put_if_absent(entry())
            first = server.writes
            await driver.put_if_absent(entry("other"))

        assert (5, 6) == (first, server.writes)
        assert {"kvseal-probe", "coll/key", "coll/other"} == server.objects.keys()
        async with driver_of(server) as driver:
            await driver.put_if_absent(entry("third"))
        assert 10 == server.writes


async def test_the_probe_is_no_entry(driver: S3Driver) -> None:
    """Neither a scan nor a count mentions the object that the driver asks with."""
    await driver.put_if_absent(entry())

    assert ["key"] == [found.key for found in await scanned(driver)]
    assert 1 == (await driver.count()).entries


def rule(**fields: Any) -> dict[str, Any]:
    """Return a lifecycle rule that deletes objects of a month."""
    return {"Status": "Enabled", "Expiration": {"Days": 30}, "Filter": {"Prefix": ""}, **fields}


@pytest.mark.parametrize(
    ("rules", "evicts"),
    [
        ([], False),
        ([rule()], True),
        ([rule(Filter={}, Prefix="")], True),
        ([rule(Expiration={"Date": "2027-01-01"})], True),
        ([rule(Filter={"Prefix": "__vault"})], True),
        ([rule(Filter={"Prefix": "__vault_meta__/__dek__"})], True),
        ([rule(Filter={"And": {"Prefix": "", "ObjectSizeGreaterThan": 1}})], True),
        ([rule(Filter={"Prefix": "cache/"})], False),
        ([rule(Status="Disabled")], False),
        ([rule(Filter={"Tag": {"Key": "a", "Value": "b"}})], False),
        ([rule(Filter={"And": {"Prefix": "", "Tags": [{"Key": "a", "Value": "b"}]}})], False),
        ([rule(Expiration={"ExpiredObjectDeleteMarker": True})], False),
        ([rule(Filter={"Prefix": "cache/"}), rule()], True),
    ],
)
async def test_lifecycle_rules(
    driver: S3Driver, monkeypatch: pytest.MonkeyPatch, rules: list[dict[str, Any]], evicts: bool
) -> None:
    """A rule that would delete the vault meta by its age is one of a store that evicts; others are not."""
    from kvseal.drivers.aws import Answer

    asked = driver._bucket.ask

    def ask(operation: str, **given: Any) -> Answer:
        if operation == "get_bucket_lifecycle_configuration":
            return Answer({"Rules": rules})
        return asked(operation, **given)

    monkeypatch.setattr(driver._bucket, "ask", ask)
    assert driver.capabilities.evicts

    await driver.get("coll", "key")

    assert (evicts, "") == (driver.capabilities.evicts, driver.capabilities.conceals)


async def test_lifecycle_rules_that_may_not_be_read(driver: S3Driver) -> None:
    """Without the right to read the rules it is not known, and the right is named."""
    with between(
        driver, "GetBucketLifecycleConfiguration", lambda request: answer(request, 403, "AccessDenied")
    ):
        await driver.get("coll", "key")

    assert driver.capabilities.evicts
    assert "s3:GetLifecycleConfiguration" in driver.capabilities.conceals


async def test_no_vault_where_it_would_expire(
    store: S3Store, s3_server: S3Server, s3_bucket: str, secret: Secret, cheap: Argon2idParams
) -> None:
    """A vault is not made in a bucket whose rules would delete its meta one day."""
    rules = {"Rules": [{"ID": "month", **rule()}]}
    s3_server.raw.put_bucket_lifecycle_configuration(Bucket=s3_bucket, LifecycleConfiguration=rules)
    try:
        with pytest.raises(EvictingStoreError):
            await Vault.create(store, secret=secret, kdf=cheap)
    finally:
        s3_server.raw.delete_bucket_lifecycle(Bucket=s3_bucket)
