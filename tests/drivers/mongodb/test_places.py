"""Where a driver looks: by URLs and by stores, and what is refused because it would look elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.mongodb import MongoDBStore
from key_value.aio.stores.mongodb.store import MongoDBSerializationAdapter
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from pymongo import AsyncMongoClient
from tests.certificates import self_signed
from tests.drivers.entries import SMALL, entry, fetched, scanned
from tests.drivers.mongodb.server import running

from kvseal.drivers import abilities, driver_for, driver_from_url, landing_of
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database
    from tests.drivers.mongodb.server import MongoServer

    from kvseal.drivers.mongodb.driver import MongoDBDriver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")

PASSWORD = "correct-horse-9d1f"
NOWHERE = "127.0.0.1:1"


class OtherAdapter(MongoDBSerializationAdapter):
    """A serializer of the application's own."""


# Without a server


@pytest.mark.parametrize(
    ("options", "location"),
    [
        (
            {"url": f"mongodb://app:{PASSWORD}@db.example/admin?tls=true"},
            "mongodb://app@db.example/admin/?db_name=d",
        ),
        ({"url": f"mongodb://app:{PASSWORD}@a:1,b:2/?replicaSet=r"}, "mongodb://app@a:1,b:2/?db_name=d"),
        ({"url": "db.example:7"}, "mongodb://db.example:7/?db_name=d"),
        ({}, "mongodb://localhost:27017/?db_name=d"),
    ],
)
async def test_location_of_a_store(options: dict[str, Any], location: str) -> None:
    """A driver says to which database a store leads, and no password; it takes nothing from the loop."""
    store = MongoDBStore(db_name="d", **options)
    driver = driver_for(PrefixKeysWrapper(store, "p"))

    assert location == driver.location
    assert PASSWORD not in repr(driver) + repr(vars(driver)["_connection"]._address)
    await driver.close()


async def test_location_of_a_client() -> None:
    """Host, port and password that a client was given as arguments are followed, and the last is not shown."""
    client: Any = AsyncMongoClient(["a", "b:2"], 7, username="app", password=PASSWORD, tz_aware=True)
    driver: Any = driver_for(MongoDBStore(client=client))

    arguments = driver._connection._address.arguments
    assert "mongodb://a:7,b:2/?db_name=kv-store-adapter" == driver.location
    assert ("app", PASSWORD, ["a", "b:2"], 7) == tuple(
        arguments[name] for name in ("username", "password", "host", "port")
    )
    assert "tz_aware" not in arguments
    await driver.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mongodb://h/?connectTimeoutMS=7", {"serverSelectionTimeoutMS", "socketTimeoutMS"}),
        ("mongodb://h/", {"serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS"}),
    ],
)
async def test_every_wait_has_an_end(url: str, expected: set[str]) -> None:
    """A wait that the URL has no limit for has kvseal's."""
    driver: Any = driver_for(MongoDBStore(url=url))

    assert {"host", "port", *expected} == set(driver._connection._address.arguments)


async def test_stores_that_cannot_be_followed() -> None:
    """Another serializer, another client and client-side encryption are refused by name."""
    store: Any = MongoDBStore(url=f"mongodb://{NOWHERE}")
    store._adapter = OtherAdapter()
    encrypting: Any = MongoDBStore(url=f"mongodb://{NOWHERE}")
    encrypting._client._init_kwargs["auto_encryption_opts"] = object()
    other: Any = MongoDBStore(url=f"mongodb://{NOWHERE}")
    other._client = object()

    for one, named in (
        (store, "OtherAdapter"),
        (encrypting, "auto_encryption_opts"),
        (other, "class object"),
    ):
        with pytest.raises(UnsupportedStoreError, match=named):
            driver_for(one)


@pytest.mark.parametrize(
    "url",
    [
        "mongodb:host/?db_name=d",
        f"mongodb://app:{PASSWORD}@host/?db_name=a&db_name=b",
        f"mongodb://app:{PASSWORD}@host/?db_name=",
        f"mongodb://app:{PASSWORD}@host/?names=v2",
        f"mongodb://app:{PASSWORD}@host:port/?db_name=d",
        f"mongodb://app:x@{PASSWORD}:@host/?db_name=d",
        f"mongodb://app:{PASSWORD}@host/?noSuchOption&db_name=d",
    ],
)
@pytest.mark.filterwarnings("ignore:Unknown option:UserWarning")
async def test_urls_that_are_refused(url: str) -> None:
    """A URL that means no database is refused before anything is asked, and its password is in no message."""
    with pytest.raises(UnsupportedStoreError) as caught:
        await driver_from_url(url)

    assert "mongodb://USER:PASSWORD@HOST:PORT/?db_name=NAME" in caught.value.hint
    assert PASSWORD not in f"{caught.value}{caught.value.hint}{caught.value.__cause__}"


@pytest.mark.parametrize("name", ["", "a$b", ".a", "a.", "system.users", "nul\0", "half\ud800"])
async def test_names_that_mongodb_has_not(name: str) -> None:
    """A collection that MongoDB cannot have is an error of kvseal's before anything is asked."""
    driver = driver_for(MongoDBStore(url=f"mongodb://{NOWHERE}"))

    with pytest.raises(StoreError):
        await driver.put_if_absent(entry(collection=name))
    with pytest.raises(StoreError):
        await driver.get(name, "key")
    with pytest.raises(StoreError):
        await driver.get("coll", "half\ud800")
    await driver.close()


def test_landing_of_a_plain_store() -> None:
    """Without a strategy each name is its own place, whatever stands in it."""
    landing = landing_of(MongoDBStore(url=f"mongodb://{NOWHERE}"))

    assert ("a.b", "c") == landing.place("a.b", "c")
    assert [True, False] == [
        landing.reaches(name, "__vault_meta__") for name in ("__vault_meta__", "__VAULT_META__")
    ]


# With a server


async def test_the_path_is_no_database(
    shared_mongodb: MongoServer, database: str, driver: MongoDBDriver
) -> None:
    """As for the store, a URL's path does not choose the database; without `db_name` it is the store's default."""
    await driver.put_if_absent(entry())

    with pytest.raises(StoreNotFoundError, match="kv-store-adapter") as caught:
        await driver_from_url(f"{shared_mongodb.url}{database}")

    assert "the path of a URL does not name" in caught.value.hint


async def test_a_database_that_is_not_there(shared_mongodb: MongoServer, database: str) -> None:
    """It is an error, and nothing is made unless that is asked for; made twice, it is one."""
    url = f"{shared_mongodb.url}?db_name={database}"
    with pytest.raises(StoreNotFoundError):
        await driver_from_url(url)
    with shared_mongodb.client() as client:
        assert database not in client.list_database_names()

    for create in (True, True, False):
        driver = await driver_from_url(url, create=create)
        assert [] == await scanned(driver)
        await driver.close()


async def test_a_collection_is_made_as_the_store_makes_it(
    store: MongoDBStore, driver: MongoDBDriver, documents: Database[dict[str, Any]]
) -> None:
    """It has the same indexes, so that entries expire; and the store uses it."""
    await store.put("key", SMALL, collection="by-store")
    await driver.put_if_absent(entry(collection="by-driver"))

    assert documents["by-store"].index_information() == documents["by-driver"].index_information()
    assert {"n": 0} == await store.get("key", collection="by-driver")


async def test_auto_create_is_followed(
    shared_mongodb: MongoServer, database: str, documents: Database[dict[str, Any]]
) -> None:
    """Where the store may make no collection, the driver makes none either, and says which is missing."""
    store = MongoDBStore(url=shared_mongodb.url, db_name=database, auto_create=False)
    driver = driver_for(store)
    with pytest.raises(StoreNotFoundError, match="no collection coll"):
        await driver.put_if_absent(entry())
    assert [] == documents.list_collection_names()

    documents.create_collection("coll")

    assert await driver.put_if_absent(entry())
    await driver.close()
    await store.close()


async def test_purge(
    driver: MongoDBDriver, shared_mongodb: MongoServer, documents: Database[dict[str, Any]]
) -> None:
    """The collections with entries are compacted, no others; what is left is said, and it is never complete."""
    documents["of another program"].insert_one({"a": 1})
    await driver.put_if_absent(entry())

    planned = await abilities.purge(driver, dry_run=True)
    purged = await abilities.purge(driver)

    assert (("compact of coll",), False) == (planned.done, planned.complete)
    assert not purged.complete
    assert "the oplog" in planned.left[-1]
    if shared_mongodb.is_real:
        assert planned == purged
    else:
        assert "compact of coll: " in purged.left[0]
        assert "no such command" in purged.left[0]


@pytest.mark.servers
@pytest.mark.long
async def test_tls(tmp_path: Path) -> None:
    """The server has to prove who it is; URL and store lead to the same database."""
    certificate = self_signed(tmp_path)
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(certificate.with_name("key")))
    with running(*files) as server:
        if server.is_real:
            pytest.skip("mongod takes its certificate by other options")
        tls = f"{server.url}?tls=true&tlsCAFile={certificate}"
        async with MongoDBStore(url=tls, db_name="d") as store:
            await store.put("key", SMALL, collection="coll")
            of_store = driver_for(store)
        of_url = await driver_from_url(f"{tls}&db_name=d")

        for driver in (of_store, of_url):
            assert SMALL == (await fetched(driver)).value
            await driver.close()
        with pytest.raises(StoreUnreachableError):
            await driver_from_url(f"{server.url}?tls=true&db_name=d&serverSelectionTimeoutMS=300")
