"""Documents that no driver would write: foreign ones, odd types, and `_id`s of every kind; and what has no room."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from uuid import UUID

import bson
import pytest
from bson import Binary, DatetimeMS, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.raw_bson import RawBSONDocument
from tests.drivers.entries import CREATED, FUTURE, SMALL, entry, fetched, scanned
from tests.drivers.mongodb.documents import MOMENT, document

from kvseal import EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import abilities, driver_from_url
from kvseal.drivers.base import Replacement
from kvseal.drivers.mongodb import collections
from kvseal.drivers.mongodb.documents import RAW, entry_of
from kvseal.drivers.mongodb.names import BY_OPTION
from kvseal.errors import EntryTooLargeError, StoreError, UnsealableValueError

if TYPE_CHECKING:
    from key_value.aio.stores.mongodb import MongoDBStore
    from tests.drivers.mongodb.server import MongoServer

    from kvseal.drivers.mongodb.driver import MongoDBDriver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")


# Other documents


async def test_documents_of_other_programs_are_left_alone(driver: MongoDBDriver, documents: Any) -> None:
    """What has no key as text, or neither a collection nor a value as the store writes it, is no entry."""
    documents["coll"].insert_one(document())
    documents["users"].insert_many(
        [{"name": "a"}, {"key": 7, "value": {"object": {}}}, {"key": "theme", "value": "dark"}]
    )
    documents.create_collection("view", viewOn="coll", pipeline=[])

    assert [("coll", "key")] == [(one.collection, one.key) for one in await scanned(driver)]
    assert 1 == (await driver.count()).entries


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        pytest.param({"value": None}, "no mapping", id="null"),
        pytest.param({"value": [1]}, "no mapping", id="array"),
        pytest.param({"value": {"string": "{}"}}, "no mapping", id="no object"),
        pytest.param({"value": {"object": 7}}, "no mapping", id="number"),
        pytest.param({"value": {"object": "hunter2 is no JSON"}}, "cannot be read", id="text"),
        pytest.param(
            {"value": {"object": {"a": [{"b": MOMENT}]}}}, "a DatetimeMS in it", id="date in the value"
        ),
        pytest.param({"value": {"object": {"a": b"hunter2"}}}, "a bytes in it", id="bytes in the value"),
        pytest.param(
            {"value": {"object": {"a": Decimal128("1.5")}}}, "Decimal128", id="decimal in the value"
        ),
        pytest.param({"created_at": "2024-01-01"}, "created_at is not a date", id="text as creation time"),
        pytest.param({"expires_at": 7}, "expires_at is not a date", id="number as expiry"),
        pytest.param({"expires_at": None}, "expires_at is not a date", id="null as expiry"),
        pytest.param({"created_at": None}, "created_at is not a date", id="null as creation time"),
        pytest.param({"collection": "another"}, "would not look for here", id="another collection"),
    ],
)
async def test_odd_documents(driver: MongoDBDriver, coll: Any, fields: dict[str, Any], problem: str) -> None:
    """What the store could not read, or not there, is a problem that quotes nothing, and stays as it is."""
    coll.insert_one(document(**fields))
    before = list(coll.find({}, {"_id": 1}))

    (broken,) = await scanned(driver)

    assert ("coll", "key", None) == (broken.collection, broken.key, broken.value)
    assert problem in broken.problem
    assert "hunter2" not in broken.problem + repr(broken)
    assert await driver.put_if_absent(entry()) is False
    with pytest.raises(StoreError, match="cannot be read"):
        await driver.replace_many([Replacement(broken, SMALL)])
    assert before == list(coll.find({}, {"_id": 1}))


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"value": {"object": '{"n": 1}'}}, id="value as text"),
        pytest.param({"collection": None}, id="without a collection"),
        pytest.param({"value": {"object": {"n": Int64(1)}}}, id="64 bits"),
    ],
)
async def test_what_the_store_reads_too(
    driver: MongoDBDriver, store: MongoDBStore, coll: Any, fields: dict[str, Any]
) -> None:
    """What the store reads is read, replaced and deleted, whoever wrote it so."""
    coll.insert_one(document(**fields, extra=[1.5]))

    (found,) = await scanned(driver)
    done = await driver.replace_many([Replacement(found, {"n": 2})])

    assert ("coll", "key", {"n": 1}) == (found.collection, found.key, found.value)
    assert [True] == list(done)
    assert {"n": 2} == await store.get("key", collection="coll")
    assert [1.5] == coll.find_one()["extra"]
    assert await driver.delete_if_unchanged(await fetched(driver))


@pytest.mark.parametrize("field", ["created_at", "expires_at"])
@pytest.mark.parametrize(
    ("before", "after"),
    [("missing", None), ("missing", MOMENT), (MOMENT, "missing"), (MOMENT, None)],
)
async def test_a_time_that_came_or_went_is_a_conflict(
    driver: MongoDBDriver, coll: Any, field: str, before: Any, after: Any
) -> None:
    """Nothing, a time and `null` are three things for a swap."""
    times = {None: None, MOMENT: FUTURE}

    def with_time(time: Any) -> dict[str, Any]:
        made = document(_id="i")
        made.pop(field, None)
        return made if time == "missing" else {**made, field: times[time]}

    coll.insert_one(with_time(before))
    (stale,) = await scanned(driver)
    coll.replace_one({}, with_time(after))

    assert [False] == list(await driver.replace_many([Replacement(stale, SMALL)]))
    assert await driver.delete_if_unchanged(stale) is False
    assert with_time(after)["value"] == coll.find_one()["value"]


async def test_order_of_fields(driver: MongoDBDriver, coll: Any) -> None:
    """The same fields in another order are another value."""
    coll.insert_one(document(value={"object": {"a": 1, "b": 2}}))
    (stale,) = await scanned(driver)
    coll.update_one({}, {"$set": {"value": {"object": {"b": 2, "a": 1}}}})

    assert [False] == list(await driver.replace_many([Replacement(stale, SMALL)]))


@pytest.mark.parametrize("key", ["$where", "a.b", "$set", "", "$"])
async def test_names_of_fields_that_are_operators(driver: MongoDBDriver, key: str) -> None:
    """A field of a value is a field, however it is called: put, compared, replaced and read."""
    await driver.put_if_absent(entry(value={key: {key: 1}}))

    done = await driver.replace_many([Replacement(await fetched(driver), {key: [{key: 2}]})])

    assert [True] == list(done)
    assert {key: [{key: 2}]} == (await fetched(driver)).value


# `_id`s

IDS = [
    MinKey(),
    None,
    -5,
    2.5,
    Int64(2**40),
    Decimal128("9000000000000000.5"),
    "",
    "text",
    "z" * 40,
    {"a": 1},
    {"a": {"$b": 2}},
    Binary.from_uuid(UUID(int=7)),
    Binary.from_uuid(UUID(int=8)),
    ObjectId("0" * 24),
    ObjectId("f" * 24),
    False,
    True,
    MOMENT,
    Timestamp(5, 6),
    MaxKey(),
]
"""Some of each type that MongoDB takes for an `_id`, in its order."""


async def test_scan_of_ids_of_every_type(
    driver: MongoDBDriver, coll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan and its parts see each document once, and resume behind each, whatever the types of `_id` are."""
    coll.insert_many([document(f"key-{n}", _id=id_) for n, id_ in enumerate(IDS)])
    keys = [f"key-{n}" for n in range(len(IDS))]

    for size in (1, 3, 7, 100):
        monkeypatch.setattr(collections, "PAGE_SIZE", size)
        pages = [page async for page in driver.scan()]
        assert keys == [one.key for page in pages for one in page.entries]
        for page in pages:
            rest = [one.key for one in await scanned(driver, after=page.cursor)]
            assert keys[keys.index(page.entries[-1].key or "") + 1 :] == rest
        parts = [one.key for n in range(3) for one in await scanned(driver, partition=(n, 3))]
        assert sorted(keys) == sorted(parts)


async def test_replace_under_ids_of_every_type(driver: MongoDBDriver, coll: Any) -> None:
    """A document is found again by its `_id`, of whatever type; a batch with a conflict knows which were done."""
    coll.insert_many([document(f"key-{n}", _id=id_) for n, id_ in enumerate(IDS)])
    found = await scanned(driver)
    coll.update_one({"key": "key-3"}, {"$set": {"value": {"object": {"newer": 1}}}})

    done = await driver.replace_many([Replacement(one, {"new": n}) for n, one in enumerate(found)])

    expected = [{"newer": 1} if n == 3 else {"new": n} for n in range(len(IDS))]
    assert [n != 3 for n in range(len(IDS))] == list(done)
    assert expected == [one.value for one in await scanned(driver)]


async def test_one_document_twice_in_a_batch(driver: MongoDBDriver) -> None:
    """Of two swaps of one document to one value the first is done, whatever else the batch has."""
    await driver.put_many_if_absent([entry("a"), entry("b")])
    a, b = await fetched(driver, "a"), await fetched(driver, "b")

    done = await driver.replace_many([Replacement(one, SMALL) for one in (a, b, a, b)])

    assert [True, True, False, False] == list(done)


async def test_id_of_a_put(driver: MongoDBDriver, coll: Any) -> None:
    """A driver's document has an `_id` that is made of its key alone: drivers of all releases agree on it."""
    await driver.put_if_absent(entry())

    assert "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683" == coll.find_one()["_id"]


# Limits


async def test_a_value_beyond_the_limit(driver: MongoDBDriver) -> None:
    """What has no room in a document is refused by an error of its own before anything is written."""
    await driver.put_many_if_absent([entry("a"), entry("b")])
    a, b = await fetched(driver, "a"), await fetched(driver, "b")
    too_large = {"v": "x" * (16 * 2**20)}

    with pytest.raises(EntryTooLargeError, match="16,777,216 at most"):
        await driver.replace_many([Replacement(a, SMALL), Replacement(b, too_large)])
    with pytest.raises(EntryTooLargeError):
        await driver.put_if_absent(entry("c", too_large))
    puts = await driver.put_many_if_absent([entry("c", too_large), entry("d")])

    assert [EntryTooLargeError, bool] == [type(put) for put in puts]
    assert ["a", "b", "d"] == sorted(one.key or "" for one in await scanned(driver))
    assert [a, b] == [await fetched(driver, "a"), await fetched(driver, "b")]


async def test_the_wrapper_refuses_it_too(store: MongoDBStore, driver: MongoDBDriver, cheap: Any) -> None:
    """A value whose record has no room is refused by `put` before the store is asked; one that has is stored."""
    vault = await Vault.create(driver, secret=Secret(b"a secret"), kdf=cheap)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)

    with pytest.raises(EntryTooLargeError):
        await kv.put("key", {"v": "\u2028" * (13 * 2**20)}, collection="coll")
    await kv.put("other", {"v": "x" * 2**20}, collection="coll")

    assert ["other"] == [one.key for one in await scanned(driver) if one.collection == "coll"]
    await kv.release()
    await vault.close()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"n": 2**63}, id="integer beyond 64 bits"),
        pytest.param({"n": "hunter2\ud800"}, id="half of a surrogate pair"),
        pytest.param({"hunter2\0": 1}, id="NUL in a name"),
        pytest.param({"at": MOMENT}, id="date"),
        pytest.param({"b": b"hunter2"}, id="bytes"),
        pytest.param({"id": ObjectId("0" * 24)}, id="ObjectId"),
    ],
)
async def test_values_that_are_refused(driver: MongoDBDriver, value: dict[str, Any]) -> None:
    """A value that would not come back as it was put is refused, without a word of what is in it."""
    await driver.put_if_absent(entry())
    found = await fetched(driver)

    with pytest.raises(UnsealableValueError) as put:
        await driver.put_if_absent(entry("other", value))
    with pytest.raises(UnsealableValueError) as replaced:
        await driver.replace_many([Replacement(found, value)])

    assert "hunter2" not in f"{put.value}{replaced.value}"
    assert [found] == await scanned(driver)


async def test_times_at_the_end_of_the_calendar(driver: MongoDBDriver, store: MongoDBStore) -> None:
    """The last microsecond of the year 9999 is not rounded up into the next year, which nothing could read."""
    last = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)
    await driver.put_if_absent(entry(expires_at=last))

    assert last.replace(microsecond=999_000) == (await fetched(driver)).expires_at
    assert {"n": 0} == await store.get("key", collection="coll")


async def test_rounded_times(driver: MongoDBDriver) -> None:
    """A creation time is rounded down and an expiry up, before 1970 as well."""
    early = datetime(1960, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=1)
    await driver.put_if_absent(entry("early", created_at=early))
    await driver.put_if_absent(entry(created_at=CREATED, expires_at=FUTURE))

    assert datetime(1960, 1, 1, tzinfo=timezone.utc) == (await fetched(driver, "early")).created_at
    found = await fetched(driver)
    assert (CREATED - timedelta(microseconds=457), FUTURE + timedelta(microseconds=211)) == (
        found.created_at,
        found.expires_at,
    )
    assert abilities.proves(driver, found, "key")


def test_a_time_beyond_the_calendar() -> None:
    """A date that Python cannot hold is a problem, not a crash; some servers refuse it."""
    made = RawBSONDocument(bson.encode(document(_id="i", expires_at=DatetimeMS(2**60))), RAW)

    broken = entry_of("coll", made, BY_OPTION["plain"])

    assert (None, "expires_at is outside of the years 1 to 9999") == (broken.value, broken.problem)


async def test_a_store_with_fastmcps_strategy(
    shared_mongodb: MongoServer, database: str, documents: Any
) -> None:
    """By `?names=v1` names lead where the strategy has them; without it nothing is taken for what it is not."""
    url = f"{shared_mongodb.url}?db_name={database}"
    v1 = await driver_from_url(f"{url}&names=v1", create=True)
    await v1.put_if_absent(entry("key", collection="mcp-upstream-tokens"))
    plain = await driver_from_url(url)

    (broken,) = await scanned(plain)

    assert "S_mcp_upstream_tokens-" in "".join(documents.list_collection_names())
    assert {"n": 0} == (await fetched(v1, "key", "mcp-upstream-tokens")).value
    assert "?names=v1" in broken.problem
    assert await plain.get("mcp-upstream-tokens", "key") is None
    await v1.close()
    await plain.close()
