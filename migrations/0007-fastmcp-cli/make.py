"""
Writes this folder's vault with fastmcp 4.1.2 on py-key-value-aio 0.4.6.

    python migrations/0007-fastmcp-cli/make.py

Needs Python 3.11 and a package index.  The store is the one that the command line itself makes for
`FASTMCP_OAUTH_ENCRYPTION_KEY`, and its own token storage writes tokens into it as if three servers had
issued them; only times to live are longer than FastMCP's.  Each run writes other tokens.

One thing is changed by hand afterwards: the info files have the absolute path that their directory had,
and it is replaced by one below /srv/fastmcp.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fastmcp_flow as flow
import freezing

PACKAGES = ("fastmcp==4.1.2", "py-key-value-aio[filetree]==0.4.6")
HOME = "/srv/fastmcp"
SERVERS = ["https://mcp.example.com/mcp", "https://tools.example.org/"]
FORGOTTEN = "https://forgotten.example.net/mcp"
"""A server of which the recipe does not know: nothing in its records tells their keys."""


def main(folder: Path) -> None:
    """Store tokens for each server, and write down what the store holds."""
    from cryptography.fernet import Fernet

    home = folder / "vault"
    key = freezing.key(folder, "encryption.key", Fernet.generate_key)
    freezing.key(folder, "master.key", lambda: secrets.token_urlsafe(32).encode())
    os.environ.update(FASTMCP_HOME=str(home), FASTMCP_OAUTH_ENCRYPTION_KEY=key.decode())
    recorder = flow.Recorder(freezing.ttl)
    recorder.attach()
    for url in (*SERVERS, FORGOTTEN):
        asyncio.run(_log_in(url))
    flow.move(home, str(home), HOME)
    freezing.expect(
        folder,
        [
            {**line, "key": None if line["key"].startswith(FORGOTTEN) else line["key"]}
            for line in recorder.lines()
        ],
    )


async def _log_in(url: str) -> None:
    """Leave what a login at *url* leaves, through the client that the command line builds."""
    from fastmcp.cli.client import _build_client
    from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

    client: Any = _build_client(url)
    storage = client.transport.auth.token_storage_adapter
    await storage.set_client_info(
        OAuthClientInformationFull(
            client_id=secrets.token_hex(8),
            client_secret=None,
            redirect_uris=[flow.REDIRECT],
            token_endpoint_auth_method="none",
        )
    )
    token = f"frozen-{secrets.token_urlsafe(12)}"
    await storage.set_tokens(
        OAuthToken(access_token=token, refresh_token=f"{token}-refresh", expires_in=3600, scope=flow.SCOPE)
    )


if __name__ == "__main__":
    into = freezing.folder_of(__file__)
    if freezing.step():
        main(into)
    else:
        freezing.emptied(into)
        freezing.in_environment(__file__, into, "write", *PACKAGES)
        freezing.freeze(into)
