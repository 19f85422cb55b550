"""
What a test may reach outside its own process: nothing, unless it is marked; a pytest plugin.

`processes` is for a test that starts a process, `servers` for one that talks over a socket, to a server or to a
service in a thread. `make check` runs all other tests. An audit hook holds each of them to that, in every run: the
interpreter reports each process and each connection to it, whichever library makes them.
"""

from __future__ import annotations

import multiprocessing.util
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

PROCESS_EVENTS = frozenset(
    {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "pty.spawn"}
)
SOCKET_EVENTS = frozenset({"socket.bind", "socket.connect"})

NEEDS = {
    "kms": "servers",
    "moto": "servers",
    "postgresql_url": "servers",
    "own_redis": "servers",
    "quick_vaultctl": "processes",
    "server": "servers",
    "shared_dynamodb": "servers",
    "shared_mongodb": "servers",
    "shared_postgresql": "servers",
    "shared_redis": "servers",
    "shared_s3": "servers",
    "shared_valkey": "servers",
    "transit": "servers",
}
"""What a test needs that uses a fixture, by the fixture's name."""

SERVERS = frozenset({"dynamodb", "mongodb", "redis", "postgresql", "s3", "valkey"})
"""Parameters that name a server: a test of every backend needs one where the backend is one of these."""


class UnmarkedError(AssertionError):
    """A test reaches out of its process and is not marked for it."""


@dataclass
class Guard:
    """What the test that runs may do, and what it did beyond."""

    may: frozenset[str] = frozenset({"processes", "servers"})
    beyond: list[str] = field(default_factory=list)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Refuse *event* if the running test is not marked for it."""
        if event in PROCESS_EVENTS:
            self.need({"processes", "servers"}, event)
        elif event in SOCKET_EVENTS:
            # A path is a Unix socket: multiprocessing has one between its processes.
            local = isinstance(arguments[1], (str, bytes))
            self.need({"servers", "processes"} if local else {"servers"}, event)

    def need(self, markers: set[str], event: str) -> None:
        """Refuse *event* unless the running test has one of *markers*."""
        if not self.may & markers:
            self.beyond.append(event)
            msg = f"{event} in a test without the marker {' or '.join(sorted(markers))}; see CONTRIBUTING.md"
            raise UnmarkedError(msg)


GUARD = Guard()
_spawn = multiprocessing.util.spawnv_passfds


def _spawn_if_allowed(*arguments: Any) -> int:
    # multiprocessing starts its servers in a way that raises no audit event.
    GUARD.need({"processes", "servers"}, "multiprocessing.util.spawnv_passfds")
    return _spawn(*arguments)


def pytest_configure() -> None:
    """Listen from now on; an audit hook cannot be taken away."""
    if multiprocessing.util.spawnv_passfds is not _spawn_if_allowed:
        multiprocessing.util.spawnv_passfds = _spawn_if_allowed
        sys.addaudithook(GUARD.hear)
        os.register_at_fork(after_in_child=_allow_everything)


def _allow_everything() -> None:
    """Let a child of a test do what it likes: it is there because the test may have it."""
    GUARD.may = frozenset({"processes", "servers"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests whose fixtures or parameters show what they need."""
    for item in items:
        for name in needs(item):
            item.add_marker(name)


def needs(item: pytest.Item) -> set[str]:
    """Return the markers that follow from the fixtures and parameters of *item*."""
    found = {NEEDS[name] for name in getattr(item, "fixturenames", ()) if name in NEEDS}
    callspec = getattr(item, "callspec", None)
    values = callspec.params.values() if callspec is not None else ()
    if any(isinstance(value, str) and value in SERVERS for value in values):
        found.add("servers")
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hold *item*, with the fixtures that are set up for it, to its markers."""
    before = GUARD.may
    GUARD.may = frozenset(name for name in ("processes", "servers") if item.get_closest_marker(name))
    GUARD.beyond.clear()
    try:
        return (yield)
    finally:
        GUARD.may = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Fail a test that reached out and had the refusal caught by the code under test."""
    result = yield
    if GUARD.beyond:
        raise UnmarkedError(", ".join(GUARD.beyond))
    return result
