"""Scans of a table, and what its items say of their times."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.drivers.dynamodb.faults import Faults
from tests.drivers.dynamodb.tables import BulkStore, item
from tests.drivers.entries import CREATED, FUTURE, PAST, SMALL, entry, fetched, fill, numbers, scanned

from kvseal import clock
from kvseal.drivers import abilities
from kvseal.drivers.base import PAGE_SIZE, Replacement
from kvseal.drivers.body import write_body
from kvseal.drivers.dynamodb import scanning
from kvseal.drivers.dynamodb.driver import READS_LAG
from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.drivers.dynamodb.server import Server

    from kvseal.drivers.base import Entry
    from kvseal.drivers.dynamodb.driver import DynamoDBDriver

pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning"),
]


@pytest.fixture
async def bulk(shared_dynamodb: Server, table: str) -> AsyncIterator[BulkStore]:
    """Yield a store that fills the table quickly."""
    async with BulkStore(table_name=table, **shared_dynamodb.settings()) as store:
        yield store


async def test_expired(driver: DynamoDBDriver) -> None:
    """A scan of all entries has what has expired and nothing has removed yet, behind any page too."""
    count = PAGE_SIZE + 1
    batch = [entry(f"key-{n}", {"n": n}, expires_at=PAST) for n in range(count)]
    assert [True] * count == list(await abilities.put_many_if_absent(driver, batch))

    pages = [page async for page in driver.scan(expired=True)]
    rest = await scanned(driver, after=pages[0].cursor, expired=True)

    assert [] == await scanned(driver)
    assert 0 == (await driver.count()).entries
    assert dict.fromkeys(range(count), 1) == numbers([one for page in pages for one in page.entries])
    assert dict.fromkeys(range(count), 1) == numbers([*pages[0].entries, *rest])


async def test_newcomers_are_jumped_over(bulk: BulkStore, driver: DynamoDBDriver) -> None:
    """Behind the end that a collection had, a scan reads one page of newcomers, and then the next collection."""
    await fill(bulk, PAGE_SIZE + 10)
    for collection in ("before", "after", "more"):
        await bulk.put("key", {"n": -1}, collection=collection)
    faults, seen = Faults.of(driver), []

    async for page in driver.scan():
        seen += page.entries
        if page.entries[-1].collection == "coll" and len(page.entries) == PAGE_SIZE:
            keys = [f"z-{n}" for n in range(4 * PAGE_SIZE)]
            await bulk.put_many(keys, [{"n": -2} for _ in keys], collection="coll")

    found = numbers(seen)
    assert dict.fromkeys(range(PAGE_SIZE + 10), 1) == {n: found[n] for n in range(PAGE_SIZE + 10)}
    assert 3 == found[-1]
    assert faults.requests["Scan"] <= 4


async def test_many_collections(bulk: BulkStore, driver: DynamoDBDriver) -> None:
    """Small collections cost no request of their own."""
    for n in range(40):
        await bulk.put("key", {"n": n}, collection=f"coll-{n}")
    faults = Faults.of(driver)

    assert dict.fromkeys(range(40), 1) == numbers(await scanned(driver))
    assert {"Scan": 1} == faults.requests


async def test_reads_are_consistent(bulk: BulkStore, driver: DynamoDBDriver) -> None:
    """Every read of a driver asks for what was written last; the store's own reads may lag."""
    await fill(bulk, PAGE_SIZE + 1)
    faults = Faults.of(driver)

    await scanned(driver)
    await fetched(driver, "key-0")
    await driver.count()

    reads = [body for operation, body in faults.sent if operation in {"Scan", "GetItem", "Query"}]
    assert {"Scan", "GetItem", "Query"} == set(faults.requests)
    assert [True] * len(reads) == [body.get("ConsistentRead") for body in reads]
    assert READS_LAG > 0


class TestParts:
    """Parts that are read without the rest: together the whole, also of what is put after they were made."""

    @staticmethod
    async def within(driver: DynamoDBDriver, bounds: str, **options: Any) -> list[Entry]:
        """Return what is within *bounds*."""
        return [one async for page in driver.scan_within(bounds, **options) for one in page.entries]

    @pytest.mark.parametrize("most", [1000, 2], ids=["ranges", "segments"])
    async def test_split(
        self, bulk: BulkStore, driver: DynamoDBDriver, monkeypatch: pytest.MonkeyPatch, most: int
    ) -> None:
        """Each entry is in one part, each part goes on behind any of its pages, and is about as large as others."""
        monkeypatch.setattr(scanning, "PAGE_SIZE", 8)
        monkeypatch.setattr(scanning, "_SAMPLES", 32)
        monkeypatch.setattr(scanning, "MOST_COLLECTIONS", most)
        for number, count in enumerate((100, 3, 57)):
            keys = [f"key-{n}" for n in range(count)]
            await bulk.put_many(
                keys, [{"n": 1000 * number + n} for n in range(count)], collection=f"c-{number}"
            )
        before = numbers(await scanned(driver))

        parts = await driver.split(4)
        assert parts is not None
        for collection, key in (("a", "0"), ("c-0", "key-555"), ("c-1", "zz"), ("c-11", "k"), ("z", "z")):
            await bulk.put(key, {"n": -1}, collection=collection)
        found: list[Entry] = []
        for bounds in parts:
            assert await driver.is_split_so(bounds)
            pages = [page async for page in driver.scan_within(bounds)]
            mine = [one for page in pages for one in page.entries]
            for done, page in enumerate(pages, 1):
                seen = [one for earlier in pages[:done] for one in earlier.entries]
                assert mine == seen + await self.within(driver, bounds, after=page.cursor)
            found += mine

        names = [(one.collection, one.key) for one in found]
        assert len(names) == len(set(names))
        assert before + Counter({-1: 5}) == numbers(found)
        if most > 2:
            assert 20 < min([len(await self.within(driver, bounds)) for bounds in parts])

    async def test_what_a_part_reads(self, bulk: BulkStore, driver: DynamoDBDriver) -> None:
        """A part of one collection asks for its own keys alone."""
        await fill(bulk, 400)
        parts = await driver.split(4)
        assert parts is not None
        faults = Faults.of(driver)

        sizes = [len(await self.within(driver, bounds)) for bounds in parts]

        assert [100] * 4 == sizes
        assert {"Scan": 8, "Query": 5} == faults.requests

    async def test_newcomers(
        self, bulk: BulkStore, driver: DynamoDBDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last part ends, although more is put behind it after every page."""
        monkeypatch.setattr(scanning, "PAGE_SIZE", 8)
        await fill(bulk, 40)
        parts, rounds = await driver.split(2), 0
        assert parts is not None

        async for _ in driver.scan_within(parts[-1]):
            keys = [f"z-{rounds}-{n}" for n in range(9 if rounds < 10 else 0)]
            await bulk.put_many(keys, [{"n": -1} for _ in keys], collection="coll")
            rounds += 1

        assert rounds < 10

    async def test_little(self, driver: DynamoDBDriver) -> None:
        """A table with next to nothing in it is not split."""
        await driver.put_if_absent(entry())

        assert await driver.split(4) is None

    @pytest.mark.parametrize(
        "bounds", ["", "[]", "{}", '{"segment": 4, "of": 4}', '{"behind": ["a"], "up_to": null}', "no bounds"]
    )
    async def test_no_bounds(self, driver: DynamoDBDriver, bounds: str) -> None:
        """What are no bounds of a part is no part."""
        assert not await driver.is_split_so(bounds)
        with pytest.raises(StoreUnreachableError, match="bounds"):
            await self.within(driver, bounds)

    async def test_expired(self, driver: DynamoDBDriver) -> None:
        """A part leaves out what has expired, or has it if asked."""
        for n in range(8):
            await driver.put_if_absent(entry(f"key-{n}", {"n": n}, expires_at=PAST if n % 2 else None))
        parts = await driver.split(2)
        assert parts is not None

        every = [len(await self.within(driver, bounds, expired=True)) for bounds in parts]
        live = [len(await self.within(driver, bounds)) for bounds in parts]

        assert (8, 4) == (sum(every), sum(live))


class TestTimes:
    """The attribute `ttl` and the body both have the expiry."""

    @pytest.fixture
    def put(self, shared_dynamodb: Server, table: str) -> Any:
        """Return what puts an item past the driver: a body with an expiry, and the attribute."""

        def put(in_body: datetime | None, ttl: dict[str, str] | None, **fields: Any) -> None:
            body = write_body({"n": 0}, created_at=CREATED, expires_at=in_body, names=("coll", "key"))
            made = {**item("coll", "key", body, None), **({} if ttl is None else {"ttl": ttl}), **fields}
            shared_dynamodb.client().put_item(TableName=table, Item=made)

        return put

    async def test_microseconds(self, put: Any, driver: DynamoDBDriver) -> None:
        """Where both agree, the body's microseconds count; a replacement changes neither."""
        put(FUTURE, {"N": str(int(FUTURE.timestamp()))})
        found = await fetched(driver)

        assert [True] == list(await driver.replace_many([Replacement(found, SMALL)]))
        after = await fetched(driver)
        assert (FUTURE, FUTURE) == (found.expires_at, after.expires_at)
        assert found.locator == after.locator

    async def test_the_attribute_wins(self, put: Any, driver: DynamoDBDriver) -> None:
        """Where they differ, the attribute counts, as for the store."""
        later = FUTURE.replace(microsecond=0) + timedelta(days=1)
        put(FUTURE, {"N": str(int(later.timestamp()))})

        assert later == (await fetched(driver)).expires_at

    async def test_the_second_in_which_it_expires(
        self, put: Any, driver: DynamoDBDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The store stops reading at the whole second, and so does the driver."""
        second = FUTURE.replace(microsecond=0)
        put(second + timedelta(seconds=0.9), {"N": str(int(second.timestamp()))})
        monkeypatch.setattr(clock, "utc_now", lambda: second - timedelta(seconds=0.1))
        assert await driver.get("coll", "key") is not None

        monkeypatch.setattr(clock, "utc_now", lambda: second + timedelta(seconds=0.5))

        assert await driver.get("coll", "key") is None
        assert 1 == len(await scanned(driver, expired=True))

    async def test_the_body_alone(self, put: Any, driver: DynamoDBDriver) -> None:
        """An entry that has expired by its body alone is absent, and does not block a new one."""
        put(PAST, None)

        assert await driver.get("coll", "key") is None
        assert await driver.put_if_absent(entry(value=SMALL)) is True
        assert SMALL == (await fetched(driver)).value
        assert await driver.put_if_absent(entry()) is False

    @pytest.mark.parametrize("ttl", [{"N": "1.5"}, {"N": "99999999999999999"}, {"N": "-99999999999999"}])
    async def test_no_time(self, put: Any, driver: DynamoDBDriver, ttl: dict[str, str]) -> None:
        """An attribute that is no time, which the store fails on, is a problem."""
        put(FUTURE, ttl)

        assert "its ttl is not a time in whole seconds" == (await fetched(driver)).problem

    async def test_an_attribute_of_another_type(self, put: Any, driver: DynamoDBDriver) -> None:
        """What is no number says nothing to the store; it stays in a replacement, and is compared."""
        put(FUTURE, {"S": "never"})
        found = await fetched(driver)
        assert FUTURE == found.expires_at

        assert [True] == list(await driver.replace_many([Replacement(found, SMALL)]))
        assert {"S": "never"} == (await fetched(driver)).locator.ttl

    async def test_another_ttl_alone(self, put: Any, driver: DynamoDBDriver) -> None:
        """An attribute that was changed meanwhile is a conflict, alone and in a batch."""
        seconds = int(FUTURE.timestamp())
        put(FUTURE, {"N": str(seconds)})
        await driver.put_if_absent(entry("other"))
        stale, other = await fetched(driver), await fetched(driver, "other")
        put(FUTURE, {"N": str(seconds + 1)})

        assert [False] == list(await driver.replace_many([Replacement(stale, SMALL)]))
        assert [False, True] == list(
            await driver.replace_many([Replacement(stale, SMALL), Replacement(other, SMALL)])
        )
        assert await driver.delete_if_unchanged(stale) is False

    @pytest.mark.parametrize("after", [None, FUTURE + timedelta(days=1)])
    @pytest.mark.parametrize("before", [None, FUTURE])
    async def test_other_expiries_in_a_batch(
        self, driver: DynamoDBDriver, before: datetime | None, after: datetime | None
    ) -> None:
        """A batch sets and removes expiries, in the body and in the attribute."""
        for key in "ab":
            await driver.put_if_absent(entry(key, expires_at=before))
        entries = await scanned(driver)

        assert [True, True] == list(
            await driver.replace_many([Replacement(one, SMALL, after) for one in entries])
        )
        found = await scanned(driver)
        assert [after, after] == [one.expires_at for one in found]
        assert [after is None] * 2 == [one.locator.ttl is None for one in found]


class TestForeignItems:
    """Items that the store did not write."""

    async def test_a_moved_body(self, shared_dynamodb: Server, table: str, driver: DynamoDBDriver) -> None:
        """A body that another program moved under other names is a problem, and stays."""
        body = write_body({"n": 0}, created_at=CREATED, expires_at=None, names=("coll", "other"))
        shared_dynamodb.client().put_item(TableName=table, Item=item("coll", "key", body, None))

        (found,) = await scanned(driver)

        assert "it holds the body of 'coll'/'other'" == found.problem

    async def test_another_value(self, shared_dynamodb: Server, table: str, driver: DynamoDBDriver) -> None:
        """A value that is no text is a problem."""
        made = {**item("coll", "key", "", None), "value": {"M": {}}}
        shared_dynamodb.client().put_item(TableName=table, Item=made)

        assert "it has no text as its value" == (await fetched(driver)).problem
        assert await driver.put_if_absent(entry()) is False

    async def test_other_attributes_stay(
        self, shared_dynamodb: Server, table: str, driver: DynamoDBDriver
    ) -> None:
        """Attributes that the store does not know survive a replacement, alone and in a batch."""
        for key in "ab":
            made = {**item("coll", key, '{"value": {}}', None), "tag": {"S": "mine"}}
            shared_dynamodb.client().put_item(TableName=table, Item=made)
        entries = await scanned(driver)

        await driver.replace_many([Replacement(one, SMALL) for one in entries])
        await driver.replace_many([Replacement(await fetched(driver, "a"), {"n": 1})])

        held = shared_dynamodb.client().scan(TableName=table)["Items"]
        assert [{"S": "mine"}] * 2 == [one["tag"] for one in held]
