"""
The backends of the migration's benchmark: real servers, real files, and copies of a filled store.

A copy is made by the backend itself and is byte for byte what was copied, so that every
contestant migrates the same records and none finds what another one has left.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncpg
import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.dynamodb import DynamoDBStore
from key_value.aio.stores.filetree import FileTreeStore
from key_value.aio.stores.mongodb import MongoDBStore
from key_value.aio.stores.postgresql import PostgreSQLStore
from key_value.aio.stores.redis import RedisStore
from pymongo import IndexModel
from redis import Redis
from tests.drivers.dynamodb import server as dynamodb_server
from tests.drivers.mongodb import server as mongodb_server
from tests.drivers.postgresql import server as postgresql_server
from tests.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from tests.drivers.mongodb.server import MongoServer


SERVERS: Final = ("redis", "postgresql", "dynamodb", "mongodb")
NAMES: Final = ("redis", "postgresql", "disk", "filetree")
ON_DEMAND: Final = ("dynamodb", "mongodb")
"""Measured only if named: the server is another one than people run, and says little of that."""

_REDIS_COPY_AT_ONCE: Final = 1000


class Backend(Protocol):
    """One backend that holds a filled store and any number of copies of it, one at a time."""

    def filled(self) -> AbstractAsyncContextManager[Any]:
        """Open the store that is filled once."""
        ...

    def copy(self) -> AbstractAsyncContextManager[Any]:
        """Open a fresh copy of it, which is gone afterwards."""
        ...


class MissingServerError(Exception):
    """The server's program is not installed."""


@contextmanager
def backend(name: str) -> Iterator[Backend]:
    """
    Yield the backend *name*; its server and its files are gone afterwards.

    Raises:
        MissingServerError: there is no server of this kind on this machine.
    """
    try:
        with _OPEN[name]() as opened:
            yield opened
    except pytest.skip.Exception as exc:
        raise MissingServerError(str(exc)) from None


class RedisBackend:
    """Database 0 is filled, and database 1 is the copy."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """The URL of the copy."""
        return self._server.url.removesuffix("0") + "1"

    @property
    def urls(self) -> tuple[str, str]:
        """The URLs of two databases that hold nothing yet, for those who copy nothing."""
        return tuple(self._server.url.removesuffix("0") + number for number in "23")

    def client(self) -> Redis:
        """Return a client of the copy, from outside."""
        return Redis.from_url(self.url)

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[Any]:
        async with RedisStore(url=self._server.url) as store:
            yield store

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[Any]:
        self.copy_keys()
        async with RedisStore(url=self.url) as store:
            yield store
        with self.client() as client:
            client.flushdb()

    def copy_keys(self) -> None:
        """Let database 1 hold what database 0 does."""
        with self._server.client() as client:
            keys = list(client.scan_iter(count=_REDIS_COPY_AT_ONCE))
            for start in range(0, len(keys), _REDIS_COPY_AT_ONCE):
                pipeline = client.pipeline(transaction=False)
                for key in keys[start : start + _REDIS_COPY_AT_ONCE]:
                    pipeline.copy(key, key, destination_db=1)
                pipeline.execute()


class PostgreSQLBackend:
    """A table that is filled, and one that is its copy."""

    _TABLE: Final = "filled"
    _COPY: Final = "copied"

    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[Any]:
        async with self._store(self._TABLE) as store:
            yield store

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[Any]:
        async with self._store(self._COPY) as store:
            await self._run(
                f"INSERT INTO {self._COPY} SELECT * FROM {self._TABLE}",
                f"VACUUM ANALYZE {self._COPY}",
                "CHECKPOINT",
            )
            yield store
        await self._run(f"DROP TABLE {self._COPY}")

    def _store(self, table: str) -> PostgreSQLStore:
        with warnings.catch_warnings():
            # That its class is not stable yet.
            warnings.simplefilter("ignore")
            return PostgreSQLStore(url=self._url, table_name=table)

    async def _run(self, *statements: str) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


class DynamoDBBackend:
    """A table that is filled, and one that is its copy."""

    def __init__(self, server: dynamodb_server.Server) -> None:
        self._server = server
        self._filled = server.new_name()

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[Any]:
        async with self._store(self._filled) as store:
            yield store

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[Any]:
        with self._server.table() as name:
            self._server.put_all(name, dynamodb_server.items(self._server.url(self._filled)).values())
            async with self._store(name) as store:
                yield store

    def _store(self, name: str) -> DynamoDBStore:
        with warnings.catch_warnings():
            # That its class is not stable yet.
            warnings.simplefilter("ignore")
            return DynamoDBStore(table_name=name, **self._server.settings())


class MongoDBBackend:
    """A database that is filled, and one that is its copy."""

    _FILLED: Final = "filled"
    _COPY: Final = "copied"

    def __init__(self, server: MongoServer) -> None:
        self._server = server

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[Any]:
        async with self._store(self._FILLED) as store:
            yield store

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[Any]:
        with self._server.client() as client:
            for name in client[self._FILLED].list_collection_names():
                copied = client[self._COPY][name]
                copied.create_indexes([IndexModel("key"), IndexModel("expires_at", expireAfterSeconds=0)])
                copied.insert_many(client[self._FILLED][name].find())
            async with self._store(self._COPY) as store:
                yield store
            client.drop_database(self._COPY)

    def _store(self, database: str) -> MongoDBStore:
        with warnings.catch_warnings():
            # That its class is not stable yet.
            warnings.simplefilter("ignore")
            return MongoDBStore(url=self._server.url, db_name=database)


class DirectoryBackend:
    """A directory that is filled, and one that is its copy."""

    def __init__(self, directory: Path, store: Callable[[Path], Any]) -> None:
        self._directory = directory
        self._store = store
        self._copies = 0

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[Any]:
        async with self._store(self._directory / "filled") as store:
            yield store

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[Any]:
        self._copies += 1
        copy = self._directory / f"copy-{self._copies}"
        shutil.copytree(self._directory / "filled", copy)
        _point_infos_to(copy)
        async with self._store(copy) as store:
            yield store
        shutil.rmtree(copy)


def _point_infos_to(directory: Path) -> None:
    """A `FileTreeStore` finds its folders by the absolute paths in these files."""
    for path in directory.glob("*-info.json"):
        info = json.loads(path.read_text())
        info["directory"] = str(directory.resolve() / Path(info["directory"]).name)
        path.write_text(json.dumps(info, sort_keys=True))


@asynccontextmanager
async def _as_it_is(store: Any) -> AsyncIterator[Any]:
    yield store


@contextmanager
def _redis() -> Iterator[RedisBackend]:
    with TemporaryDirectory(prefix="kvseal-benchmark-") as directory, RedisServer(Path(directory)) as server:
        yield RedisBackend(server)


@contextmanager
def _postgresql() -> Iterator[PostgreSQLBackend]:
    with postgresql_server.running() as server:
        yield PostgreSQLBackend(server.url())


@contextmanager
def _dynamodb() -> Iterator[DynamoDBBackend]:
    with dynamodb_server.running() as server:
        yield DynamoDBBackend(server)


@contextmanager
def _mongodb() -> Iterator[MongoDBBackend]:
    with mongodb_server.running() as server:
        before = process_time_of(server.pid)
        yield MongoDBBackend(server)
        print(f"{'mongodb':10} the server took {process_time_of(server.pid) - before:.1f} s of CPU")


def process_time_of(pid: int) -> float:
    """Return the seconds of CPU that a process has had so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _disk() -> Iterator[DirectoryBackend]:
    with TemporaryDirectory(prefix="kvseal-benchmark-") as directory:
        yield DirectoryBackend(Path(directory), lambda path: DiskStore(directory=path))


@contextmanager
def _filetree() -> Iterator[DirectoryBackend]:
    with TemporaryDirectory(prefix="kvseal-benchmark-") as directory:
        yield DirectoryBackend(Path(directory), lambda path: _as_it_is(FileTreeStore(data_directory=path)))


_OPEN: Final[dict[str, Callable[[], AbstractContextManager[Any]]]] = {
    "redis": _redis,
    "postgresql": _postgresql,
    "dynamodb": _dynamodb,
    "mongodb": _mongodb,
    "disk": _disk,
    "filetree": _filetree,
}
