"""A server that stops, refuses, loses connections and has no majority; and what of it gets into messages."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.drivers.entries import LARGE, SMALL, entry, fetched, scanned
from tests.drivers.mongodb.server import running

from kvseal.drivers import abilities, driver_from_url
from kvseal.drivers.base import Replacement
from kvseal.drivers.mongodb import driver as module
from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.drivers.mongodb.server import MongoServer

    from kvseal.drivers.base import Driver

pytestmark = pytest.mark.servers

APP = "kvseal-under-test"
PASSWORD = "correct-horse-9d1f"
NO_MAJORITY = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication timed out"}


@pytest.fixture
async def tested(shared_mongodb: MongoServer, database: str) -> AsyncIterator[Driver]:
    """Yield a driver whose connections alone a failure is meant for."""
    driver = await driver_from_url(f"{shared_mongodb.url}?db_name={database}&appName={APP}", create=True)
    yield driver
    await driver.close()


@pytest.fixture
def failing(shared_mongodb: MongoServer) -> Iterator[Any]:
    """Yield what lets the server fail commands of the driver."""

    @contextmanager
    def fail(command: str, **data: Any) -> Iterator[None]:
        with shared_mongodb.client() as client:
            what = {"failCommands": [command], "appName": APP, **data}
            times = what.pop("times", None)
            mode = "alwaysOn" if times is None else {"times": times}
            client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": what})
            try:
                yield
            finally:
                client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    return fail


async def test_a_lost_connection(tested: Driver, failing: Any) -> None:
    """If the connection breaks, the question is asked once more, and each write is done once."""
    with failing("insert", closeConnection=True, times=1):
        assert [True, True] == list(await tested.put_many_if_absent([entry("a"), entry("b")]))
    a, b = await fetched(tested, "a"), await fetched(tested, "b")
    with failing("update", closeConnection=True, times=1):
        done = await tested.replace_many([Replacement(a, SMALL), Replacement(b, LARGE)])
    with failing("find", closeConnection=True, times=1):
        found = await scanned(tested)

    assert [True, True] == list(done)
    assert [SMALL, LARGE] == sorted((one.value for one in found), key=str, reverse=True)


async def test_no_majority(tested: Driver, failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a majority the vault meta is written with a doubt, and a record's write fails, to be done again."""
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    with failing("insert", writeConcernError=NO_MAJORITY):
        put = await abilities.put_confirmed(tested, entry("meta"))
        with pytest.raises(StoreUnreachableError, match="no majority of the replica set"):
            await tested.put_if_absent(entry("record"))
    meta, record = await fetched(tested, "meta"), await fetched(tested, "record")
    with failing("update", writeConcernError=NO_MAJORITY):
        replaced = await abilities.replace_confirmed(tested, Replacement(meta, SMALL))
        lost = await abilities.replace_confirmed(tested, Replacement(meta, LARGE))
        with pytest.raises(StoreUnreachableError, match="no majority of the replica set"):
            await tested.replace_many([Replacement(record, SMALL)])

    assert [(True, True), (True, True), (False, False)] == [
        (one.done, "a failover may lose it" in one.doubt) for one in (put, replaced, lost)
    ]
    assert {"meta": SMALL, "record": SMALL} == {one.key: one.value for one in await scanned(tested)}


async def test_confirmed_writes(tested: Driver) -> None:
    """Where a majority has it there is no doubt, and a write that was not done has none."""
    put = await abilities.put_confirmed(tested, entry())
    again = await abilities.put_confirmed(tested, entry())
    replaced = await abilities.replace_confirmed(tested, Replacement(await fetched(tested), SMALL))

    assert [(True, ""), (False, ""), (True, "")] == [(one.done, one.doubt) for one in (put, again, replaced)]


@pytest.mark.parametrize(
    ("command", "code", "hint"),
    [
        ("find", 13, "grant the user the role readWrite"),
        ("update", 13, "grant the user the role readWrite"),
        ("aggregate", 8000, "look at the server's log"),
    ],
)
async def test_what_the_server_refuses(
    tested: Driver, failing: Any, command: str, code: int, hint: str
) -> None:
    """A refusal of the server is kvseal's error with a next step, and quotes no value."""
    await tested.put_if_absent(entry(value={"v": "hunter2"}))
    found = await fetched(tested)
    asked = {
        "find": lambda: scanned(tested),
        "update": lambda: tested.replace_many([Replacement(found, SMALL)]),
        "aggregate": lambda: abilities.count(tested),
    }

    with failing(command, errorCode=code), pytest.raises(StoreUnreachableError) as caught:
        await asked[command]()

    assert hint in caught.value.hint
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}{caught.value.hint}"


async def test_a_validator_that_refuses(tested: Driver, documents: Any) -> None:
    """A collection may have a rule of its own: what breaks it is an error that quotes nothing of the document."""
    await tested.put_many_if_absent([entry("a"), entry("b")])
    documents.command("collMod", "coll", validator={"value.object.v": {"$ne": "hunter2"}})
    swaps = [Replacement(await fetched(tested, key), {"v": "hunter2"}) for key in "ab"]

    for attempt in (tested.replace_many(swaps), tested.put_if_absent(entry(value={"v": "hunter2"}))):
        with pytest.raises(StoreUnreachableError, match="validation") as caught:
            await attempt
        assert "hunter2" not in f"{caught.value}{caught.value.__cause__}{caught.value.hint}"


async def test_reads_go_to_the_primary(shared_mongodb: MongoServer, database: str) -> None:
    """A URL that prefers secondaries is followed in nothing but that."""
    driver = await driver_from_url(
        f"{shared_mongodb.url}?db_name={database}&readPreference=secondary", create=True
    )
    await driver.put_if_absent(entry())

    assert {"n": 0} == (await fetched(driver)).value
    await driver.close()


@pytest.mark.processes
async def test_a_forked_child(tested: Driver) -> None:
    """A child of a process that has used the driver uses it too, on connections of its own, and so does the parent."""
    await tested.put_if_absent(entry())
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            found = asyncio.run(fetched(tested))
            os.write(writer, str(found.value).encode())
            asyncio.run(tested.close())
        finally:
            os._exit(0)
    await asyncio.to_thread(os.waitpid, pid, 0)

    assert b"{'n': 0}" == os.read(reader, 100)
    assert {"n": 0} == (await fetched(tested)).value
    os.close(reader)
    os.close(writer)


async def test_a_server_that_stops_and_comes_back_with_passwords() -> None:
    """
    Without a server every operation says so; when it is back the same driver works, on what was stored.

    A user is let in by the password in the URL. A wrong one is refused, and no message shows either.
    """
    with running() as server:
        url = f"{server.url}?db_name=d&serverSelectionTimeoutMS=300"
        driver = await driver_from_url(url, create=True)
        await driver.put_if_absent(entry())
        found = await fetched(driver)
        with server.client() as client:
            client.admin.command("createUser", "app", pwd=PASSWORD, roles=["readWriteAnyDatabase"])
        server.stop()
        for operation in (
            driver.get("coll", "key"),
            driver.replace_many([Replacement(found, SMALL)]),
            driver.put_if_absent(entry("other")),
            abilities.count(driver),
            abilities.store_time(driver),
        ):
            with pytest.raises(StoreUnreachableError, match=f"127.0.0.1:{server.port}") as caught:
                await operation
            assert "check host and port" in caught.value.hint
        server.start()

        assert [found] == await scanned(driver)
        assert [True] == list(await driver.replace_many([Replacement(found, SMALL)]))
        await driver.close()
        if not server.is_real:  # mongod is told otherwise to ask for passwords.
            server.restart("--auth")
            await check_passwords(server)


async def check_passwords(server: MongoServer) -> None:
    """Check who is let in, and what is said to others."""
    address = f"127.0.0.1:{server.port}/?db_name=d"
    driver = await driver_from_url(f"mongodb://app:{PASSWORD}@{address}")
    with pytest.raises(StoreUnreachableError) as wrong:
        await driver_from_url(f"mongodb://app:not-{PASSWORD}@{address}")
    with pytest.raises(StoreUnreachableError) as without:
        await driver_from_url(f"mongodb://{address}")

    assert SMALL == (await fetched(driver)).value
    assert f"mongodb://app@127.0.0.1:{server.port}/?db_name=d" == driver.location
    texts = [f"{one.value}{one.value.hint}{one.value.__cause__}" for one in (wrong, without)]
    assert [] == [text for text in [*texts, repr(driver), driver.location] if PASSWORD in text]
    assert "check user, password and authSource" in wrong.value.hint
    await driver.close()
