"""
Writes `fastmcp.json`: what the default stores of real FastMCP releases hold, for secrets of every form.

    PYTHON generate_fastmcp.py RELEASE.json     in an environment with one release of fastmcp
    python generate_fastmcp.py --join RELEASE.json …

The vectors there were written with fastmcp 2.13.3, 2.14.7 (py-key-value-aio 0.3.0), 3.4.10 and 4.1.2
(0.4.6).  FastMCP derives the key and names the directory; nothing of kvseal is used.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

VALUE = {"jti": "an-identifier", "upstream_token_id": "x", "created_at": 1.5}
COLLECTION = "mcp-jti-mappings"
SECRETS = ("GOCSPX-0123456789abcdef", "schlüssel ключ 🔑", " spaces, and a line\nbreak ")
CLI_KEY = "ZnJvemVuIGtleSBvZiB0aGUgY29tbWFuZCBsaW5lISE="


def proxy(client_secret: str, signing_key: str | bytes | None) -> Any:
    """Return an OAuthProxy with its default store; it is never served."""
    from fastmcp.server.auth.oauth_proxy import OAuthProxy
    from fastmcp.server.auth.providers.jwt import StaticTokenVerifier

    return OAuthProxy(
        upstream_authorization_endpoint="https://idp.example.com/authorize",
        upstream_token_endpoint="https://idp.example.com/token",
        upstream_client_id="client",
        upstream_client_secret=client_secret,
        token_verifier=StaticTokenVerifier({}),
        base_url="https://mcp.example.com",
        jwt_signing_key=signing_key,
    )


async def vector(form: str, secret: str, wrapper: Any) -> dict[str, Any]:
    """Put a value through FastMCP's own wrapper, and take what lies below it."""
    store = wrapper.key_value
    await wrapper.put("an-identifier", VALUE, collection=COLLECTION)
    stored = await store.get("an-identifier", collection=COLLECTION)
    directory = getattr(store, "_data_directory", None)
    fingerprint = None if directory is None else Path(str(directory)).name
    return {
        "fastmcp": version("fastmcp"),
        "form": form,
        "secret": secret,
        "fingerprint": fingerprint,
        "stored": stored,
    }


async def vectors() -> list[dict[str, Any]]:
    """Return the vectors of the installed release."""
    found = []
    for secret in SECRETS:
        forms = {
            "client secret": proxy(secret, None),
            "text": proxy("another", secret),
            "bytes": proxy("another", secret.encode()),
        }
        found += [await vector(form, secret, made._client_storage) for form, made in forms.items()]
    if int(version("fastmcp").split(".")[0]) >= 4:
        from fastmcp.cli.client import _build_client

        wrapper = _build_client("https://mcp.example.com/mcp").transport.auth.token_storage_adapter
        found.append(await vector("command line", CLI_KEY, wrapper._key_value_store))
    return found


def write(path: str, found: list[dict[str, Any]]) -> None:
    """Write vectors to *path*."""
    content = {"value": VALUE, "vectors": found}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    if sys.argv[1] == "--join":
        parts = [json.loads(Path(part).read_text(encoding="ascii")) for part in sys.argv[2:]]
        joined = [each for part in parts for each in part["vectors"]]
        write(str(Path(__file__).with_name("fastmcp.json")), joined)
    else:
        with tempfile.TemporaryDirectory() as home:
            os.environ.update(FASTMCP_HOME=home, FASTMCP_OAUTH_ENCRYPTION_KEY=CLI_KEY)
            write(sys.argv[1], asyncio.run(vectors()))
