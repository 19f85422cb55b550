"""A real PostgreSQL server for tests, from the operating system's packages: its own data, its own port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

READY = "ready to accept connections"
ATTEMPTS = 5
# Nobody needs the data after the tests, so nothing waits for a disk.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "deadlock_timeout": "100ms",
}
# `guarded` needs its password; everybody else is let in.
HBA = "host all guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"


def binaries() -> Path:
    """Return the directory of the newest server's programs; skips, or in CI fails, where there is none."""
    versions = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if versions:
        return max(versions, key=lambda path: [int(n) for n in path.parent.name.split(".")])
    reason = "no PostgreSQL server is installed: apt-get install postgresql"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Server:
    """A server that can be stopped and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self.port = 0
        self._bin = binaries()
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None
        # The server refuses to run as root.
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(directory, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._run(
            "initdb",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )
        (directory / "data" / "pg_hba.conf").write_text(HBA)

    def start(self) -> None:
        """Start the server, the first time on a port that is free, and wait until it is ready."""
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            options = [f"--{name}={value}" for name, value in SETTINGS.items()]
            self._process = self._popen("postgres", f"--port={port}", *options)
            if is_ready(self._process):
                self.port = port
                return
        pytest.fail("the PostgreSQL server does not start")

    def stop(self) -> None:
        """Stop the server at once, as if somebody pulled its plug, if it runs."""
        if self._process is not None:
            # SIGQUIT: end every session without a shutdown checkpoint.
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def url(self, user: str = "postgres", database: str = "postgres", query: str = "") -> str:
        """Return the URL of a database on this server."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}{query}"

    def _run(self, program: str, *options: str) -> None:
        process = self._popen(program, *options)
        output, _ = process.communicate()
        if process.returncode != 0:
            pytest.fail(f"{program} failed:\n{output}")

    def _popen(self, program: str, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._bin / program, "-D", self._directory / "data", *options],
            cwd=self._directory,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self._as_user,
        )


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_ready(process: subprocess.Popen[str]) -> bool:
    """Wait until the server says that it is ready, which is true, or ends; then go on emptying its pipe."""
    pipe = process.stdout
    assert pipe is not None
    for line in pipe:
        if READY in line:
            threading.Thread(target=drain, args=[pipe], daemon=True).start()
            return True
    process.wait()
    pipe.close()
    return False


def drain(pipe: Any) -> None:
    """Read what the server logs, so that it never waits for a reader, until it ends."""
    with pipe, contextlib.suppress(ValueError):
        for _ in pipe:
            pass


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Yield a running server, whose data is gone afterwards."""
    # Not below pytest's own directory, which the server's user cannot enter.
    directory = Path(tempfile.mkdtemp(prefix="kvseal-postgresql-"))
    try:
        server = Server(directory)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
