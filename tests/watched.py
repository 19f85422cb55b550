"""A vault to watch: its clock is the test's, and its way to the vault meta can be cut."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from key_value.aio.stores.memory import MemoryStore
from tests.fakes import HookedDriver
from tests.keys.made import CHEAP, SECRET

from kvseal import Vault
from kvseal.drivers import driver_for
from kvseal.errors import StoreUnreachableError
from kvseal.vault.freshness import LIMIT, REFRESH_AFTER, Freshness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass
class Watched:
    """A vault over two stores; `now` is its monotonic clock."""

    data: MemoryStore = field(default_factory=MemoryStore)
    meta: MemoryStore = field(default_factory=MemoryStore)
    now: float = 1000.0
    is_cut: bool = False
    looks: int = 0

    async def opened(self) -> Vault:
        """Create the vault, and open it by a way that can be cut."""
        await (await Vault.create(self.data, secret=SECRET, kdf=CHEAP, meta_store=self.meta)).close()

        async def around(_: str, operation: Callable[[], Awaitable[Any]]) -> Any:
            self.looks += 1
            if self.is_cut:
                msg = "no route to redis://operator:hunter2@kv.internal"
                raise StoreUnreachableError(msg)
            return await operation()

        vault = await Vault.open(
            self.data, secret=SECRET, meta_store=HookedDriver(driver_for(self.meta), around)
        )
        vault.freshness = Freshness(clock=lambda: self.now)
        self.looks = 0
        return vault

    def let_pass(self, seconds: float = LIMIT * REFRESH_AFTER) -> None:
        """Let so much time pass, by default as much as makes a keyring stale."""
        self.now += seconds


def lasting(told: dict[str, Any]) -> dict[str, Any]:
    """Return what a health tells but for the ages, which the clock changes between two looks."""
    return {name: value for name, value in told.items() if not name.endswith("_age")}


@dataclass
class Answer:
    """What an ASGI application has answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


async def ask(app: Any, path: str = "/health", *, method: str = "GET", root_path: str = "") -> Answer:
    """Send one request as a server does, and check that the answer is one that the specification allows."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": root_path,
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)

    start, *bodies = sent
    assert "http.response.start" == start["type"]
    assert {"http.response.body"} == {message["type"] for message in bodies}
    assert not bodies[-1].get("more_body", False)
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], headers, b"".join(message.get("body", b"") for message in bodies))
