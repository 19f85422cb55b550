"""
A real login at a real FastMCP server, so that its stores hold what they hold in production.

`Upstream` is a small OAuth server on 127.0.0.1 (authorize, token, introspect), `server` a FastMCP
server whose `OAuthProxy` sends its clients there, and `Browser` a client that registers, consents,
is redirected, and exchanges its code.  Nothing but FastMCP's own public classes and its HTTP
endpoints is used, and it works with FastMCP 2.13 to 4.2.  Needs `fastmcp` and nothing of kvseal.

`Recorder` is for the frozen vaults: it notes what passes through FastMCP's own encryption wrapper, or
another one, and lets what would expire within minutes live until 2099.
"""

from __future__ import annotations

import base64
import hashlib
import http.cookiejar
import json
import re
import secrets
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLIENT_ID = "upstream-client"
REDIRECT = "http://127.0.0.1:33418/callback"
SCOPE = "read"


class Upstream:
    """The identity provider: knows which tokens it has issued, and counts what it is asked for."""

    def __init__(self, client_secret: str) -> None:
        self.client_secret = client_secret
        self.issued: dict[str, set[str]] = {"code": set(), "access": set(), "refresh": set()}
        self.asked: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def issue(self, kind: str) -> str:
        """Return a new code or token."""
        token = f"upstream-{kind}-{secrets.token_urlsafe(12)}"
        self.issued[kind].add(token)
        return token

    def tokens(self, form: dict[str, str]) -> dict[str, Any] | None:
        """Answer a token request, or refuse it."""
        kind = "code" if form["grant_type"] == "authorization_code" else "refresh"
        given = form.get("code") or form.get("refresh_token") or ""
        if given not in self.issued[kind]:
            return None
        self.issued[kind].remove(given)
        return {
            "access_token": self.issue("access"),
            "refresh_token": self.issue("refresh"),
            "token_type": "Bearer",
            "expires_in": 3600,
            "refresh_expires_in": 30 * 86_400,
            "scope": SCOPE,
        }


def _handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            answer = urllib.parse.urlencode({"code": upstream.issue("code"), "state": asked["state"]})
            self.send_response(302)
            self.send_header("location", f"{asked['redirect_uri']}?{answer}")
            self.end_headers()

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            form = dict(urllib.parse.parse_qsl(self.rfile.read(length).decode()))
            what = self.path.strip("/")
            upstream.asked[what] = upstream.asked.get(what, 0) + 1
            if what == "token":
                answer = upstream.tokens(form)
            else:
                active = form["token"] in upstream.issued["access"]
                answer = {"active": active, "client_id": CLIENT_ID, "sub": "ada", "scope": SCOPE}
            body = json.dumps(answer or {"error": "invalid_grant"}).encode()
            self.send_response(200 if answer else 400)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def server(upstream_url: str, client_secret: str, base_url: str, **options: Any) -> Any:
    """Return a FastMCP server with one tool, behind an OAuthProxy with the given *options*."""
    from fastmcp import FastMCP
    from fastmcp.server.auth.oauth_proxy import OAuthProxy
    from fastmcp.server.auth.providers.introspection import IntrospectionTokenVerifier

    proxy = OAuthProxy(
        upstream_authorization_endpoint=f"{upstream_url}/authorize",
        upstream_token_endpoint=f"{upstream_url}/token",
        upstream_client_id=CLIENT_ID,
        upstream_client_secret=client_secret,
        token_verifier=IntrospectionTokenVerifier(
            introspection_url=f"{upstream_url}/introspect",
            client_id=CLIENT_ID,
            client_secret=client_secret,
            required_scopes=[SCOPE],
        ),
        base_url=base_url,
        **options,
    )
    mcp = FastMCP("frozen", auth=proxy)

    @mcp.tool
    def answer() -> int:
        return 42

    return mcp


class Browser:
    """One user with one MCP client: cookies, a registration, a code and tokens."""

    def __init__(self, base_url: str) -> None:
        self._base = base_url
        self._verifier = secrets.token_urlsafe(48)
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()), _Stay()
        )
        self.client_id = ""

    def login(self) -> dict[str, Any]:
        """Register, consent and come back with tokens."""
        self.register()
        return self.exchange(self.authorize())

    def register(self) -> None:
        """Register as a new client."""
        wish = {
            "client_name": "frozen client",
            "redirect_uris": [REDIRECT],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
            "scope": SCOPE,
        }
        _, body, _ = self._ask("/register", json.dumps(wish), "application/json")
        self.client_id = json.loads(body)["client_id"]

    def start(self) -> str:
        """Begin a transaction; return the address of its consent page."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self._verifier.encode()).digest())
        wish = {
            "client_id": self.client_id,
            "redirect_uri": REDIRECT,
            "response_type": "code",
            "state": secrets.token_urlsafe(8),
            "scope": SCOPE,
            "code_challenge": challenge.rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return self._ask(f"/authorize?{urllib.parse.urlencode(wish)}")[2]

    def consent_page(self) -> tuple[str, str]:
        """Go as far as the consent page; return its transaction and its CSRF token."""
        _, page, _ = self._ask(self.start())
        found = dict(re.findall(r'name="(txn_id|csrf_token)"\s+value="([^"]+)"', page))
        return found["txn_id"], found["csrf_token"]

    def authorize(self) -> str:
        """Consent, and follow the redirects to the code."""
        transaction, token = self.consent_page()
        form = {"action": "approve", "txn_id": transaction, "csrf_token": token}
        _, _, where = self._ask("/consent", urllib.parse.urlencode(form))
        while not where.startswith(REDIRECT):
            _, _, where = self._ask(where)
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(where).query))["code"]

    def exchange(self, code: str) -> dict[str, Any]:
        """Return tokens for *code*."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT}
        return self._tokens({**form, "code_verifier": self._verifier})

    def refresh(self, refresh_token: str) -> dict[str, Any]:
        """Return new tokens."""
        return self._tokens({"grant_type": "refresh_token", "refresh_token": refresh_token})

    def status_of(self, access_token: str) -> int:
        """Return the HTTP status with which the server answers an MCP request with that token."""
        hello = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "frozen", "version": "1"},
            },
        }
        headers = {
            "authorization": f"Bearer {access_token}",
            "accept": "application/json, text/event-stream",
        }
        status, _, _ = self._ask("/mcp", json.dumps(hello), "application/json", headers)
        return status

    def _tokens(self, form: dict[str, str]) -> dict[str, Any]:
        form["client_id"] = self.client_id
        status, body, _ = self._ask("/token", urllib.parse.urlencode(form))
        if status != 200:  # noqa: PLR2004
            msg = f"{form['grant_type']} was refused with {status}: {body}"
            raise RuntimeError(msg)
        tokens: dict[str, Any] = json.loads(body)
        return tokens

    def _ask(
        self,
        where: str,
        body: str | None = None,
        content_type: str = "application/x-www-form-urlencoded",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str, str]:
        request = urllib.request.Request(
            urllib.parse.urljoin(self._base, where),
            None if body is None else body.encode(),
            {"content-type": content_type, **(headers or {})},
        )
        try:
            with self._opener.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode(), ""
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode(), answer.headers.get("location", "")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Report redirects instead of following them."""

    def redirect_request(self, *_: object) -> None:
        return None


@contextmanager
def serving(secret: str, **options: Any) -> Iterator[tuple[str, Any]]:
    """Run a server in a thread; yield its URL and its OAuthProxy, whose default store ends with the block."""
    import uvicorn

    upstream, listening = Upstream(secret), socket.create_server(("127.0.0.1", 0))
    base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    mcp = server(upstream.url, secret, base_url, **options)
    running = uvicorn.Server(uvicorn.Config(mcp.http_app(), log_level="warning"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield base_url, mcp.auth
    finally:
        running.should_exit = True
        thread.join()
        upstream.close()
        cache = getattr(mcp.auth._client_storage.key_value, "_cache", None)  # noqa: SLF001
        if cache is not None:
            cache.close()


class Recorder:
    """What FastMCP's encryption wrapper holds, by collection and key: an account of its own, not kvseal's."""

    def __init__(self, ttl: Callable[[], float]) -> None:
        self.held: dict[tuple[str, str], dict[str, Any]] = {}
        self.real_ttl: float | None = None
        """Seconds that take the place of every time to live, for entries that are to have expired."""
        self._ttl = ttl

    def attach(self, kind: Any = None) -> None:
        """Listen to every wrapper of this *kind* in this process; the default is py-key-value's Fernet."""
        from key_value.aio.wrappers.encryption import FernetEncryptionWrapper

        Wrapper = kind or FernetEncryptionWrapper  # noqa: N806 - a class
        recorder, put, delete = self, Wrapper.put, Wrapper.delete

        async def recorded_put(
            wrapper: Any, key: str, value: Any, *, collection: str | None = None, ttl: float | None = None
        ) -> None:
            lasting = None if ttl is None else recorder.real_ttl or recorder._ttl()
            await put(wrapper, key, value, collection=collection, ttl=lasting)
            if recorder.real_ttl is None or ttl is None:
                recorder.held[collection or "", key] = json.loads(json.dumps(dict(value)))

        async def recorded_delete(wrapper: Any, key: str, *, collection: str | None = None) -> bool:
            recorder.held.pop((collection or "", key), None)
            return bool(await delete(wrapper, key, collection=collection))

        Wrapper.put, Wrapper.delete = recorded_put, recorded_delete

    def lines(self) -> list[dict[str, Any]]:
        """Return what is held as lines of `expected.jsonl`."""
        return [{"collection": c, "key": k, "value": value} for (c, k), value in self.held.items()]


def move(home: Path, old: str, new: str) -> None:
    """Write *new* for *old* in the paths that the info files of the file tree stores below *home* have."""
    for info in home.rglob("*-info.json"):
        content = json.loads(info.read_text(encoding="utf-8"))
        content["directory"] = content["directory"].replace(old, new, 1)
        info.write_text(json.dumps(content), encoding="utf-8")
