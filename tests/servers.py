"""
Real servers for tests: each on a free port of this machine, in a directory of its own, stopped by its pid.

Without the server's program a test is skipped, but where `CI` is set it fails: there the
program is there to be tested with.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
import redis

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

_ATTEMPTS = 5


class RedisServer:
    """A `redis-server` that persists nothing; `restart` is one on the same port with nothing in it."""

    def __init__(self, directory: Path, *options: str, tls: bool = False) -> None:
        self.directory = directory
        self.port = 0
        self._options = options
        self._tls = tls
        self._process: subprocess.Popen[str] | None = None

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

    def client(self, **options: object) -> redis.Redis:
        """Return a blocking client, to look at the server from outside."""
        return redis.Redis.from_url(self.url, **options)

    def _try(self) -> bool:
        ports = ["--port", "0", "--tls-port"] if self._tls else ["--port"]
        self._process = subprocess.Popen(
            [
                required("redis-server"),
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


def required(program: str) -> str:
    """Return the path of *program*, or skip the test; in CI, fail it."""
    path = shutil.which(program)
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{program} is not installed, and CI is set")
    pytest.skip(f"{program} is not installed")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
