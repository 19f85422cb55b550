"""`GET /health`: by itself, mounted in frameworks, and behind a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import urllib.request
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from tests.keys.made import CHEAP, SECRET
from tests.watched import Watched, ask, lasting

from kvseal import EnvelopeEncryptionWrapper, Vault
from kvseal.asgi import health_app
from kvseal.errors import StaleKeyringError
from kvseal.vault.freshness import REFRESH_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from key_value.aio.stores.memory import MemoryStore

    from kvseal.asgi import HealthApp


@pytest.fixture
async def vault(store: MemoryStore) -> Vault:
    """Return an open vault."""
    return await Vault.create(store, secret=SECRET, kdf=CHEAP)


async def test_get(vault: Vault) -> None:
    """A vault that serves answers 200 with its health, which nobody may keep."""
    answer = await ask(health_app(vault))

    assert 200 == answer.status
    assert lasting(vault.health().as_dict()) == lasting(answer.json)
    assert {
        "content-type": "application/json",
        "content-length": str(len(answer.body)),
        "cache-control": "no-store",
    } == answer.headers


async def test_head(vault: Vault) -> None:
    """HEAD answers as GET does, without the body."""
    answer = await ask(health_app(vault), method="HEAD")

    assert (200, b"") == (answer.status, answer.body)
    assert len(json.dumps(vault.health().as_dict())) == int(answer.headers["content-length"])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods(vault: Vault, method: str) -> None:
    """Whatever would change something is refused, and says what is not."""
    answer = await ask(health_app(vault), method=method)

    assert (405, "GET, HEAD") == (answer.status, answer.headers["allow"])
    assert vault.status().vault_id not in answer.body.decode()


@pytest.mark.parametrize(
    ("root_path", "path", "status"),
    [
        ("", "/health", 200),
        ("", "/", 404),
        ("", "", 404),
        ("", "/health/", 404),
        ("", "/healthy", 404),
        ("/internal", "/internal/health", 200),
        ("/internal", "/internal", 200),
        ("/internal", "/internal/", 200),
        ("/internal/", "/internal/health", 200),
        ("/internal", "/health", 200),
        ("/internal", "/", 200),
        ("/internal", "/internal/other", 404),
        ("/internal", "/internals/health", 404),
        ("/health", "/health", 200),
        ("/health", "/health/", 200),
    ],
)
async def test_paths(vault: Vault, root_path: str, path: str, status: int) -> None:
    """By itself it is at /health; mounted, at the prefix and at /health below it, whoever cuts the prefix."""
    assert status == (await ask(health_app(vault), path, root_path=root_path)).status


def starlette_mount(app: HealthApp) -> Any:
    """Mount at a prefix."""
    return Starlette(routes=[Mount("/internal", app)])


def starlette_route(app: HealthApp) -> Any:
    """Serve as an endpoint."""
    return Starlette(routes=[Route("/health", app)])


def fastapi_mount(app: HealthApp) -> Any:
    """Mount in FastAPI."""
    api = FastAPI()
    api.mount("/internal", app)
    return api


@pytest.mark.parametrize(
    ("mount", "path"),
    [
        (starlette_mount, "/internal/health"),
        (starlette_mount, "/internal/"),
        (starlette_route, "/health"),
        (fastapi_mount, "/internal/health"),
    ],
)
async def test_frameworks(vault: Vault, mount: Callable[[HealthApp], Any], path: str) -> None:
    """Starlette and FastAPI mount it as it is, and leave its answers to it."""
    app = mount(health_app(vault))

    assert lasting(vault.health().as_dict()) == lasting((await ask(app, path)).json)
    assert 404 == (await ask(app, f"{path.rstrip('/')}/nothing")).status
    assert 405 == (await ask(app, path, method="POST")).status
    await vault.lock()
    assert 503 == (await ask(app, path)).status


async def test_locked(vault: Vault) -> None:
    """A locked vault answers 503."""
    await vault.lock()

    answer = await ask(health_app(vault))

    assert (503, "locked") == (answer.status, answer.json["state"])


async def test_not_opened(store: MemoryStore) -> None:
    """A wrapper that has not opened its vault is able to serve, as far as anybody knows; a probe opens nothing."""
    kv = EnvelopeEncryptionWrapper(store, secret=SECRET, kdf=CHEAP)

    answer = await ask(health_app(kv))

    assert (200, "not opened") == (answer.status, answer.json["state"])
    assert None is kv._vault


async def test_rotation_due(vault: Vault) -> None:
    """A DEK that is too old is told, and no reason to take the process out of service."""
    answer = await ask(health_app(vault, max_dek_age=timedelta(seconds=-1)))

    assert (200, "rotation due") == (answer.status, answer.json["state"])


@pytest.mark.parametrize("wrapped", [False, True], ids=["vault", "wrapper"])
async def test_a_stale_vault_recovers_by_its_probe(*, wrapped: bool) -> None:
    """Out of service nobody writes, so the probe reads the vault meta, seldom, and brings the vault back."""
    watched = Watched()
    vault = await watched.opened()
    app = health_app(EnvelopeEncryptionWrapper(watched.data, vault=vault) if wrapped else vault)
    watched.is_cut = True
    watched.let_pass()
    with pytest.raises(StaleKeyringError):
        await vault.confirm()
    before = watched.looks

    answers = [await ask(app) for _ in range(3)]

    assert [503] * 3 == [answer.status for answer in answers]
    assert before == watched.looks  # The last attempt was a moment ago.
    assert "hunter2" not in str(answers)

    watched.is_cut = False
    watched.let_pass(REFRESH_AFTER)
    assert (200, "ok") == ((back := await ask(app)).status, back.json["state"])


async def test_a_probe_of_a_healthy_vault_reads_nothing() -> None:
    """However often somebody asks, the store is left alone."""
    watched = Watched()
    vault = await watched.opened()
    watched.let_pass()

    await ask(health_app(vault))

    assert 0 == watched.looks


async def test_no_text_of_an_exception(vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong while health is told is logged, and not told to whoever asks."""

    class Broken(Vault):
        def health(self, **_: Any) -> Any:
            msg = "hunter2 at redis://kv.internal"
            raise RuntimeError(msg)

    vault.__class__ = Broken
    with caplog.at_level(logging.ERROR, "kvseal"):
        answer = await ask(health_app(vault))

    assert (503, {"state": "unknown"}) == (answer.status, answer.json)
    assert "hunter2" in caplog.text


async def talk(app: Any, kind: str, *received: str) -> list[Any]:
    """Let a server send messages of these types, and return what it is sent."""
    messages, sent = [{"type": one} for one in received], list[Any]()

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": kind, "asgi": {"version": "3.0"}}, receive, send)
    return sent


async def test_lifespan(vault: Vault) -> None:
    """The life of a server is followed to its end, and the vault stays open for whoever opened it."""
    sent = await talk(health_app(vault), "lifespan", "lifespan.startup", "lifespan.shutdown")

    assert [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}] == sent
    assert not vault.is_locked


async def test_websocket(vault: Vault) -> None:
    """A websocket is refused before it is open."""
    sent = await talk(health_app(vault), "websocket", "websocket.connect")

    assert [{"type": "websocket.close", "code": 1000}] == sent


async def test_unknown_protocol(vault: Vault) -> None:
    """A protocol that is none of these raises, as the specification asks."""
    with pytest.raises(NotImplementedError, match="telepathy"):
        await talk(health_app(vault), "telepathy")


@pytest.mark.processes
def test_needs_no_framework() -> None:
    """The application is imported and answers where no framework is installed."""
    blocked = ["starlette", "fastapi", "uvicorn", "opentelemetry", "httpx"]
    script = (
        f"import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\nimport kvseal.asgi\nprint(1)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert ("1\n", "") == (done.stdout, done.stderr)


@pytest.mark.servers
async def test_a_real_server(vault: Vault) -> None:
    """A real server, uvicorn, serves it on a port of its own, lifespan included."""
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(health_app(vault), port=0, lifespan="on", log_config=None, ws="none")
    )
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0)
        port = server.servers[0].sockets[0].getsockname()[1]
        text = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/health")
    finally:
        server.should_exit = True
        await serving

    told = json.loads(text)
    assert ("ok", vault.status().vault_id) == (told["state"], told["vault_id"])


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        body: bytes = response.read()
    return body
