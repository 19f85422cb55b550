"""
Writes `fastmcp.json`: what FastMCP's OAuth proxy keeps in its stores, made by its own models.

    PYTHON benchmarks/values/generate_fastmcp.py     in an environment with fastmcp and py-key-value-aio

Each model goes through the adapter that the proxy uses, and what that hands to the store is written
down.  The tokens are random text of a usual length; nothing of kvseal is used.
"""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from hashlib import shake_256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastmcp.server.auth.oauth_proxy.models import OAuthTransaction, ProxyDCRClient, UpstreamTokenSet
from key_value.aio.adapters.pydantic import PydanticAdapter
from key_value.aio.stores.memory import MemoryStore
from pydantic import AnyUrl

_NOW = 1_767_225_600.314159


def _random(name: str, size: int) -> str:
    """Return the same URL-safe text each time."""
    return urlsafe_b64encode(shake_256(name.encode()).digest(size)).decode().rstrip("=")


def _tokens() -> dict[str, Any]:
    """Return what an identity provider answers to a code: access token, refresh token and id token."""
    return {
        "access_token": "at-" + _random("access", 160),
        "expires_in": 3599,
        "refresh_token": "rt-" + _random("refresh", 72),
        "scope": "openid https://www.googleapis.com/auth/userinfo.email",
        "token_type": "Bearer",
        "id_token": ".".join(_random(part, size) for part, size in (("h", 72), ("b", 300), ("s", 256))),
    }


def models() -> list[Any]:
    """Return one of each, filled as the proxy fills them."""
    tokens = _tokens()
    client = "https://claude.ai/oauth/mcp-oauth-client-metadata"
    return [
        UpstreamTokenSet(
            upstream_token_id=_random("id", 32),
            access_token=tokens["access_token"],
            refresh_token=tokens["refresh_token"],
            refresh_token_expires_at=None,
            expires_at=_NOW + 3599,
            token_type="Bearer",
            scope=tokens["scope"],
            client_id=client,
            created_at=_NOW,
            raw_token_data=tokens,
        ),
        ProxyDCRClient(
            client_id=_random("client", 16),
            client_secret=None,
            redirect_uris=[
                AnyUrl("http://localhost:33418/callback"),
                AnyUrl("http://127.0.0.1:33418/callback"),
            ],
            grant_types=["authorization_code", "refresh_token"],
            scope="openid email profile",
            token_endpoint_auth_method="none",
            allowed_redirect_uri_patterns=["http://localhost:*", "http://127.0.0.1:*", "https://claude.ai/*"],
            client_name="Claude Code (mcp)",
        ),
        OAuthTransaction(
            txn_id=_random("transaction", 32),
            client_id=client,
            client_redirect_uri="http://localhost:33418/callback",
            client_state=_random("state", 32),
            code_challenge=_random("challenge", 32),
            code_challenge_method="S256",
            scopes=["openid", "email", "profile"],
            created_at=_NOW,
            resource="https://mcp.example.com/mcp",
            proxy_code_verifier=_random("verifier", 48),
            csrf_token=_random("csrf", 32),
            csrf_expires_at=_NOW + 900,
        ),
    ]


async def stored(model: Any) -> dict[str, Any]:
    """Return what the proxy's adapter puts into its store for *model*."""
    store = MemoryStore()
    await PydanticAdapter(store, type(model)).put("key", model, collection="c")
    value = await store.get("key", collection="c")
    assert value is not None
    return dict(value)


def main() -> None:
    """Write the file beside this one."""
    content = {
        "provenance": {
            "generated_by": Path(__file__).name,
            "fastmcp": version("fastmcp"),
            "py-key-value-aio": version("py-key-value-aio"),
        },
        "values": {type(model).__name__: asyncio.run(stored(model)) for model in models()},
    }
    text = json.dumps(content, indent=1) + "\n"
    Path(__file__).with_name("fastmcp.json").write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
