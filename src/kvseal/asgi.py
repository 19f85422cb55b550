"""
`GET /health` as an ASGI application that needs no framework.

Served by itself it answers at `/health`.  Mounted at a prefix it answers at the prefix, with or
without a slash, and at `/health` below it.  A client that can reach it learns the id of the vault, the
ages of its keys and the versions of its libraries, so only the monitoring should be able to reach it.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from kvseal.vault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from datetime import timedelta

    from kvseal.records.wrapper import EnvelopeEncryptionWrapper
    from kvseal.vault.health import Health

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

_OK: Final = 200
_NOT_FOUND: Final = 404
_NOT_ALLOWED: Final = 405
_UNAVAILABLE: Final = 503
_PATH: Final = "/health"

_log = logging.getLogger("kvseal")


class HealthApp:
    """
    Answers 200 while the vault can serve and 503 while it cannot, with `Health.as_dict()` as JSON.

    A probe opens nothing and derives nothing.  It only makes a vault that seals nothing read its meta again,
    within the limits of `kvseal.vault.freshness`: without traffic nothing else would.
    """

    def __init__(self, watched: Vault | EnvelopeEncryptionWrapper, max_dek_age: timedelta | None) -> None:
        self._watched = watched
        self._max_dek_age = max_dek_age

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan events of a server."""
        kind = scope["type"]
        if kind == "http":
            await self._answer(scope, send)
        elif kind == "lifespan":
            await _live(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            msg = f"the health application does not speak {kind!r}"
            raise NotImplementedError(msg)

    async def _answer(self, scope: Message, send: Send) -> None:
        method = scope["method"]
        if not _is_ours(scope):
            status, body = _NOT_FOUND, {"error": "not found"}
        elif method not in {"GET", "HEAD"}:
            status, body = _NOT_ALLOWED, {"error": "method not allowed"}
        else:
            status, body = await self._health()
        text = json.dumps(body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(text)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if status == _NOT_ALLOWED:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else text})

    async def _health(self) -> tuple[int, dict[str, Any]]:
        try:
            health = self._look()
            if health.state in {"stale", "meta refuted", "upgrade needed"}:
                watched = self._watched
                vault = watched if isinstance(watched, Vault) else await watched.vault()
                await vault.freshness.renew(vault.refresh)
                health = self._look()
        except Exception:  # noqa: BLE001 - a probe gets an answer after any error
            # The error may name the store, so it goes to the log and not to the client.
            _log.exception("the health of the vault could not be determined")
            return _UNAVAILABLE, {"state": "unknown"}
        return (_OK if health.serves else _UNAVAILABLE), health.as_dict()

    def _look(self) -> Health:
        return self._watched.health(max_dek_age=self._max_dek_age)


def health_app(
    watched: Vault | EnvelopeEncryptionWrapper, *, max_dek_age: timedelta | None = None
) -> HealthApp:
    """
    Return an ASGI application that serves the health of *watched*, an open vault or a wrapper.

    >>> Starlette(routes=[Mount("/internal", health_app(kv))])  # GET /internal/health
    """
    return HealthApp(watched, max_dek_age)


def _is_ours(scope: Message) -> bool:
    """Whether the path is ours: frameworks keep the prefix of a mount in it, or, older ones, remove it."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    if not root:
        return bool(path == _PATH)
    below = path.removeprefix(root) if path == root or path.startswith(f"{root}/") else path
    return below in {"", "/", _PATH}


async def _live(receive: Receive, send: Send) -> None:
    """Answer the lifespan events: there is nothing to start and nothing to stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
