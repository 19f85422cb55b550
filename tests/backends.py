"""Every backend with a driver as a place: a kind and a string, from which any process opens the real store."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.dynamodb import DynamoDBStore
from key_value.aio.stores.filetree import (
    FileTreeStore,
    FileTreeV1CollectionSanitizationStrategy,
    FileTreeV1KeySanitizationStrategy,
)
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.stores.mongodb import MongoDBStore
from key_value.aio.stores.postgresql import PostgreSQLStore
from key_value.aio.stores.redis import RedisStore
from pymongo import MongoClient
from redis.asyncio import Redis
from tests.drivers.dynamodb import server as dynamodb_server
from tests.servers import database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import pytest

KINDS = ("memory", "disk", "redis", "postgresql", "filetree")

UNSTABLE = "ignore:A configured store is unstable:UserWarning"

_memories: dict[str, MemoryStore] = {}

DATABASE = "?db_name="


def _of_mongodb_url(where: str) -> MongoDBStore:
    url, _, name = where.partition(DATABASE)
    return MongoDBStore(url=url, db_name=name)


_OPEN: dict[str, Callable[[str], Any]] = {
    "memory": lambda where: _memories.setdefault(where, MemoryStore()),
    "disk": lambda where: DiskStore(directory=where),
    "redis": lambda where: RedisStore(url=where),
    "postgresql": lambda where: PostgreSQLStore(url=where),
    "dynamodb": lambda where: DynamoDBStore(**dynamodb_server.settings_of(where)),
    "filetree": lambda where: FileTreeStore(data_directory=where),
    "s3": lambda where: s3_module().store_at(where),
    "mongodb": _of_mongodb_url,
    # As FastMCP makes it: names that a path cannot hold are hashed.
    "filetree-v1": lambda where: FileTreeStore(
        data_directory=where,
        key_sanitization_strategy=FileTreeV1KeySanitizationStrategy(Path(where)),
        collection_sanitization_strategy=FileTreeV1CollectionSanitizationStrategy(Path(where)),
    ),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one store is; `asdict` is what another process is told."""

    kind: str
    where: str

    @property
    def is_shared(self) -> bool:
        """Whether other processes reach it."""
        return self.kind != "memory"

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Any]:
        """Yield a store object of its own, except of memory, which has only the one."""
        store = _OPEN[self.kind](self.where)
        async with store if hasattr(store, "__aenter__") else _as_it_is(store):
            yield store

    async def native_times(self) -> dict[str, Any]:
        """Return what the backend itself notes about the time of every entry, beside what a body says."""
        return await _NATIVE_TIMES[self.kind](self.where)

    def as_json(self) -> dict[str, str]:
        """Return kind and string."""
        return asdict(self)


def s3_module() -> Any:
    # The library of this store takes half a second to import, which other tests' processes do without.
    from tests.drivers.s3 import server

    return server


def place(kind: str, request: pytest.FixtureRequest, directory: Path) -> Iterator[Place]:
    """Yield an empty store of *kind*, in a database of its own on a shared server if it needs one."""
    if kind == "redis":
        with request.getfixturevalue("shared_redis").database() as url:
            yield Place(kind, url)
    elif kind == "postgresql":
        with database(request.getfixturevalue("shared_postgresql")) as url:
            yield Place(kind, url)
    elif kind == "s3":
        server = request.getfixturevalue("shared_s3")
        with server.bucket() as name:
            yield Place(kind, server.location(name))
    elif kind == "dynamodb":
        server: dynamodb_server.Server = request.getfixturevalue("shared_dynamodb")
        with dynamodb_server.local(), server.table() as name:
            yield Place(kind, server.url(name))
    elif kind == "mongodb":
        server = request.getfixturevalue("shared_mongodb")
        with server.database() as name:
            yield Place(kind, f"{server.url}{DATABASE}{name}")
    else:
        (directory / "store").mkdir()
        yield Place(kind, str(directory / "store"))
        _memories.pop(str(directory / "store"), None)


@asynccontextmanager
async def _as_it_is(store: Any) -> AsyncIterator[Any]:
    yield store


async def _of_memory(where: str) -> dict[str, Any]:
    collections = _memories[where]._cache.values()
    return {key: held.expires_at for one in collections for key, held in one._cache.items()}


async def _of_disk(where: str) -> dict[str, Any]:
    with closing(sqlite3.connect(Path(where) / "cache.db")) as con:
        rows = con.execute("SELECT key, rowid, store_time, expire_time FROM Cache").fetchall()
    return {key.rpartition("::")[2]: times for key, *times in rows}


async def _of_redis(where: str) -> dict[str, Any]:
    client = Redis.from_url(where)
    keys = [key async for key in client.scan_iter()]
    times = {
        key.decode().rpartition("::")[2]: await client.execute_command("PEXPIRETIME", key) for key in keys
    }
    await client.aclose()
    return times


async def _of_postgresql(where: str) -> dict[str, Any]:
    con = await asyncpg.connect(where)
    rows = await con.fetch("SELECT key, ttl, created_at, expires_at FROM kv_store")
    await con.close()
    return {key: times for key, *times in rows}


async def _of_s3(where: str) -> dict[str, Any]:
    found: dict[str, Any] = s3_module().metadata_at(where)
    return found


async def _of_dynamodb(where: str) -> dict[str, Any]:
    return {key: item.get("ttl") for key, item in dynamodb_server.items(where).items()}


async def _of_mongodb(where: str) -> dict[str, Any]:
    url, _, name = where.partition(DATABASE)
    with MongoClient[dict[str, Any]](url) as client:
        found = [
            one
            for collection in client[name].list_collections()
            for one in client[name][collection["name"]].find()
        ]
    return {one["key"]: (one["_id"], one["created_at"], one.get("expires_at")) for one in found}


async def _of_files(_: str) -> dict[str, Any]:
    return {}


_NATIVE_TIMES = {
    "memory": _of_memory,
    "disk": _of_disk,
    "redis": _of_redis,
    "postgresql": _of_postgresql,
    "dynamodb": _of_dynamodb,
    "mongodb": _of_mongodb,
    "filetree": _of_files,
    "filetree-v1": _of_files,
    "s3": _of_s3,
}
