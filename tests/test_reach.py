"""A test that is not marked for it starts no process and reaches no server: the guard over `make check`."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.reach import GUARD, UnmarkedError

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["pytester"]


def listen() -> None:
    """Be a server."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))


def connect() -> None:
    """Look for one, where none is."""
    with socket.socket() as client:
        client.connect(("127.0.0.1", 1))


def fork() -> None:
    """Fork, and end the child that should not be there."""
    if not os.fork():
        os._exit(0)


WAYS: dict[str, Callable[[], object]] = {
    "subprocess": lambda: subprocess.run(["true"], check=True),
    "asyncio": lambda: asyncio.run(asyncio.create_subprocess_exec("true")),
    "shell": lambda: os.system("true"),
    "fork": fork,
    "posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "spawn": lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
    "forkserver": lambda: multiprocessing.get_context("forkserver").Process(target=print).start(),
    "listen": listen,
    "connect": connect,
}


@pytest.mark.parametrize("way", WAYS)
def test_refused(way: str) -> None:
    """Whichever way a process or a connection is begun, it is refused before it is there."""
    with pytest.raises(UnmarkedError, match="without the marker"):
        WAYS[way]()

    assert GUARD.beyond
    GUARD.beyond.clear()


@pytest.mark.processes
def test_marked_for_processes() -> None:
    """A test that says so may start a process, and still reaches no server."""
    assert 0 == subprocess.run(["true"], check=True).returncode
    with pytest.raises(UnmarkedError, match=r"socket\.connect in a test without the marker servers"):
        connect()
    GUARD.beyond.clear()


@pytest.mark.servers
def test_marked_for_servers() -> None:
    """A test that says so may listen and connect."""
    listen()
    with pytest.raises(ConnectionRefusedError):
        connect()


OUTSIDE = """
import contextlib, subprocess
import pytest

def start():
    subprocess.run(["true"], check=True)

@pytest.fixture
def started():
    start()

def test_in_a_fixture(started):
    pass

def test_caught_by_the_code_under_test():
    with contextlib.suppress(Exception):
        start()

@pytest.mark.processes
def test_marked(started):
    start()

@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_of_every_backend(kind):
    pass
"""
# pytest-benchmark asks git for the project's name, so these two tests are marked themselves.
OPTIONS = ("-p", "tests.reach", "-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:cacheprovider")


@pytest.mark.processes
def test_reported(pytester: pytest.Pytester) -> None:
    """A refusal fails the test, in a fixture and where the code under test catches it, and no test that is marked."""
    pytester.makepyfile(OUTSIDE)

    result = pytester.runpytest_inprocess(*OPTIONS, "-k", "not backend")

    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*UnmarkedError: subprocess.Popen*"])


@pytest.mark.processes
def test_marked_by_a_parameter(pytester: pytest.Pytester) -> None:
    """Of a test of every backend, the case with a server is left out where servers are."""
    pytester.makepyfile(OUTSIDE)

    result = pytester.runpytest_inprocess(*OPTIONS, "-k", "backend", "-m", "not servers", "--collect-only")

    result.stdout.fnmatch_lines(["*test_of_every_backend[[]memory]*", "*1/5 tests collected*"])
