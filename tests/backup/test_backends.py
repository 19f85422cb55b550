"""From every backend into every other one, and into the same one after it was lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from tests.backup.made import CREATED, FUTURE, LARGE, entry, everything, put_all

from kvseal import Argon2idParams, Secret, Vault
from kvseal.backup import backup, restore
from kvseal.drivers import driver_for, driver_from_url
from kvseal.drivers.base import Times
from kvseal.records.by_name import get_record, put_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from tests.drivers.mongodb.server import MongoServer
    from tests.drivers.postgresql.server import Server
    from tests.drivers.s3.server import S3Server
    from tests.servers import RedisServer

    from kvseal.drivers.base import Driver, Entry

KINDS = ["memory", "disk", "filetree", "filetree v1", "redis", "postgresql"]
PAIRS = [*product(KINDS, KINDS), ("disk", "s3"), ("s3", "disk")]
"""From where to where; with S3, which is slow, from and to a disk alone."""
PLAINTEXT = [
    entry("a.b-c", {"n": 2**70, "f": 0.1, "t": True, "none": None}, expires_at=FUTURE),
    entry("large", LARGE, created_at=CREATED),
    entry("timeless", {"ключ": "värde 🔑"}, created_at=None),
]


@pytest.fixture
async def opened(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[str, int], Awaitable[Driver]]]:
    """Yield what opens the driver of an empty store of a kind, each number another one."""
    drivers: list[Driver] = []

    async def open_one(kind: str, number: int) -> Driver:
        if kind == "memory":
            return driver_for(MemoryStore())
        if kind == "redis":
            redis: RedisServer = request.getfixturevalue("redis_server")
            url = f"redis://127.0.0.1:{redis.port}/{number}"
        elif kind == "mongodb":
            mongodb: MongoServer = request.getfixturevalue("shared_mongodb")
            url = f"{mongodb.url}?db_name=backup_{number}"
        elif kind == "postgresql":
            server: Server = request.getfixturevalue("shared_postgresql")
            url = server.url(query=f"?table=backup_{number}")
        elif kind == "s3":
            s3: S3Server = request.getfixturevalue("s3_server")
            url = s3.location(f"backup-{number}")
        else:
            names = {"disk": "", "filetree": "?names=plain", "filetree v1": "?names=v1"}[kind]
            url = f"{kind.partition(' ')[0]}:{tmp_path}/{number}{names}"
        drivers.append(await driver_from_url(url, create=True))
        await destroy(drivers[-1])
        return drivers[-1]

    yield open_one
    for driver in drivers:
        await driver.close()


async def destroy(driver: Driver) -> None:
    """Delete every entry."""
    async for page in driver.scan():
        for found in page.entries:
            assert await driver.delete_if_unchanged(found)


async def fill(
    driver: Driver, secret: Secret, kdf: Argon2idParams, plaintext: Sequence[Entry] = PLAINTEXT
) -> None:
    """Put a vault, sealed records and *plaintext* into the store."""
    vault = await Vault.create(driver, secret=secret, kdf=kdf)
    codec = vault.keyring.codecs[""]
    await put_record(driver, codec, "c", "sealed", {"n": 1}, ttl=3600)
    await put_record(driver, codec, "c", "sealed-large", LARGE)
    await vault.close()
    await put_all(driver, plaintext)


async def assert_opens(driver: Driver, secret: Secret) -> None:
    """The vault opens, and so do its records."""
    vault = await Vault.open(driver, secret=secret)
    codec = vault.keyring.codecs[""]
    assert [{"n": 1}, LARGE] == [
        await get_record(driver, codec, "c", key) for key in ("sealed", "sealed-large")
    ]
    await vault.close()


@pytest.mark.parametrize(("kind", "to"), PAIRS)
async def test_into_another_store(
    opened: Any, tmp_path: Path, secret: Secret, cheap: Argon2idParams, kind: str, to: str
) -> None:
    """Values, creation times and expiries are the same to the microsecond, whatever the two backends."""
    source, target = await opened(kind, 1), await opened(to, 2)
    await fill(source, secret, cheap)

    saved = await backup(source, tmp_path / "file")
    report = await restore(tmp_path / "file", target)

    assert (6, 6, 0) == (saved.saved, report.restored, report.failed)
    assert await everything(source) == await everything(target)
    await assert_opens(target, secret)
    assert 6 == (await restore(tmp_path / "file", target)).already


@pytest.mark.parametrize("kind", [*KINDS, "s3"])
async def test_into_the_same_store(
    opened: Any, tmp_path: Path, secret: Secret, cheap: Argon2idParams, kind: str
) -> None:
    """What was destroyed in part comes back, beside what is still there."""
    store = await opened(kind, 1)
    await fill(store, secret, cheap)
    before = await everything(store)
    await backup(store, tmp_path / "file")
    for key in ("large", "sealed-large"):
        found = await store.get("c", key)
        assert await store.delete_if_unchanged(found)

    partly = await restore(tmp_path / "file", store)
    await destroy(store)
    wholly = await restore(tmp_path / "file", store)

    assert ((2, 4), (6, 0)) == tuple((r.restored, r.already) for r in (partly, wholly))
    assert before == await everything(store)
    await assert_opens(store, secret)


async def test_from_and_to_mongodb(
    opened: Any, tmp_path: Path, secret: Secret, cheap: Argon2idParams, shared_mongodb: MongoServer
) -> None:
    """There creation times are rounded down and expiries up to the millisecond, which the report says; back, all stays."""
    first, mongodb, last = await opened("disk", 1), await opened("mongodb", 2), await opened("disk", 3)
    await fill(
        first, secret, cheap, [PLAINTEXT[1], entry("odd", {"f": 0.1}, expires_at=FUTURE), PLAINTEXT[2]]
    )
    await backup(first, tmp_path / "first")

    there = await restore(tmp_path / "first", mongodb)
    again = await restore(tmp_path / "first", mongodb)
    await backup(mongodb, tmp_path / "second")
    back = await restore(tmp_path / "second", last)

    expected = {
        names: (value, kept(created_at, up=False), kept(expires_at, up=True))
        for names, (value, created_at, expires_at) in (await everything(first)).items()
    }
    assert expected == await everything(mongodb) == await everything(last)
    assert [(6, 0, Times.MILLISECONDS), (0, 6, Times.MILLISECONDS), (6, 0, Times.EXACT)] == [
        (one.restored, one.already, one.times) for one in (there, again, back)
    ]
    for store in (mongodb, last):
        await assert_opens(store, secret)


def kept(time: datetime | None, *, up: bool) -> datetime | None:
    """Return *time* to the millisecond."""
    if time is None:
        return None
    beyond = time.microsecond % 1000
    return time + timedelta(microseconds=(1000 if up and beyond else 0) - beyond)


async def test_the_backends_own_expiry(opened: Any, tmp_path: Path, redis_server: RedisServer) -> None:
    """Redis lets go of a restored entry when its time has come, to the millisecond that it counts in."""
    source, target = await opened("disk", 1), await opened("redis", 0)
    await put_all(source, PLAINTEXT)
    await backup(source, tmp_path / "file")

    await restore(tmp_path / "file", target)

    client = redis_server.client()
    assert round(FUTURE.timestamp() * 1000) == client.pexpiretime("c::a.b-c")
    assert -1 == client.ttl("c::large")
    client.close()


@pytest.mark.servers
async def test_a_location_without_its_password(
    opened: Any, tmp_path: Path, shared_postgresql: Server
) -> None:
    """The header says where the backup comes from, and nothing secret."""
    import zstandard

    url = shared_postgresql.url(query="?table=backup_1").replace("postgres@", "postgres:hunter2@")
    driver = await driver_from_url(url, create=True)
    await backup(driver, tmp_path / "file")
    await driver.close()

    text = zstandard.ZstdDecompressor().decompressobj().decompress((tmp_path / "file").read_bytes())
    assert b"hunter2" not in text
    assert b"127.0.0.1" in text


@pytest.mark.servers
async def test_what_the_backend_cannot_hold(opened: Any, tmp_path: Path) -> None:
    """A value that PostgreSQL cannot hold is named; the others are restored."""
    source, target = await opened("disk", 1), await opened("postgresql", 2)
    await put_all(source, [entry("odd", {"v": float("nan")}), entry("nul", {"v": "\0"}), *PLAINTEXT])
    await backup(source, tmp_path / "file")

    report = await restore(tmp_path / "file", target)

    assert (3, 2) == (report.restored, report.failed)
    assert {"odd", "nul"} == {failure.key for failure in report.failures}
