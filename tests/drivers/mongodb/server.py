"""
A server that speaks MongoDB's protocol: `mongod` where one is in the PATH, and otherwise SecantusDB.

No registry has MongoDB's own server. SecantusDB is another implementation over the same storage engine, which pip
installs; it takes one write at a time, and knows no `compact`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient
from tests.drivers.postgresql.server import drain, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ATTEMPTS = 5
READY = ("listening on", "Waiting for connections")
# Nothing expired goes away by itself while a test looks at it.
PARAMETERS = ("--setParameter", "ttlMonitorEnabled=false", "--setParameter", "enableTestCommands=1")
CONFIGURATION = "[storage]\nttl_sweep_seconds = 86400.0\n"


class MongoServer:
    """A server that can be stopped and started again on the same port, with what it has stored."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = 0
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._numbers = count()

    @property
    def is_real(self) -> bool:
        """Whether it is MongoDB's own."""
        return shutil.which("mongod") is not None

    @property
    def pid(self) -> int:
        """The process of the server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, the first time on a port that is free, and return when the server accepts connections."""
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            self._process = subprocess.Popen(
                self._command(port),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if _is_ready(self._process):
                self.port = port
                return
        pytest.fail("the server that speaks MongoDB's protocol does not start")

    def stop(self) -> None:
        """Stop the server, if it runs, and wait until it has written what it holds and is gone."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def restart(self, *options: str) -> None:
        """Stop the server and start it again with *options* more."""
        self.stop()
        self._options = (*self._options, *options)
        self.start()

    @property
    def url(self) -> str:
        """What a MongoDBStore is given."""
        return f"mongodb://127.0.0.1:{self.port}/"

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """Return a blocking client, to look at the server from outside."""
        return MongoClient(self.url, **options)

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Yield the name of a database that no other test has, and drop it afterwards."""
        name = f"test_{next(self._numbers)}"
        yield name
        with self.client() as client:
            client.drop_database(name)

    def _command(self, port: int) -> Sequence[str]:
        data = self._directory / "data"
        data.mkdir(exist_ok=True)
        if self.is_real:
            address = ["--bind_ip", "127.0.0.1", "--port", str(port)]
            return ["mongod", "--dbpath", str(data), *address, *PARAMETERS]
        configuration = self._directory / "secantusd.toml"
        configuration.write_text(CONFIGURATION)
        where = ["--config", str(configuration), "--storage-path", str(data), "--enable-test-commands"]
        return [_secantus(), *where, "--host", "127.0.0.1", "--port", str(port), *self._options]


def _secantus() -> str:
    path = Path(sys.executable).parent / "secantusd-py"
    if path.exists():
        return str(path)
    if os.environ.get("CI"):
        pytest.fail("SecantusDB is not installed, and CI is set")
    pytest.skip("no server that speaks MongoDB's protocol: pip install secantusdb")


def _is_ready(process: subprocess.Popen[str]) -> bool:
    """Wait until the server says that it is ready, which is true, or ends; then go on emptying its pipe."""
    pipe = process.stdout
    assert pipe is not None
    for line in pipe:
        if any(word in line for word in READY):
            threading.Thread(target=drain, args=[pipe], daemon=True).start()
            return True
    process.wait()
    pipe.close()
    return False


@contextlib.contextmanager
def running(*options: str) -> Iterator[MongoServer]:
    """Yield a running server, whose data is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="kvseal-mongodb-"))
    server = MongoServer(directory, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
