"""
Writes this folder's vault with fastmcp 3.4.10, then 4.1.2, both on py-key-value-aio 0.4.6.

    python migrations/0006-fastmcp-3-filetree/make.py

Needs Python 3.11 and a package index.  Real logins at a real `OAuthProxy` with a signing key and its default
store, a `FileTreeStore`; only times to live are longer than FastMCP's.  Tokens and identifiers are random,
so each run writes others.

One thing is changed by hand afterwards: the info files have the absolute path that their directory had,
and it is replaced by one below /srv/fastmcp.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fastmcp_flow as flow
import freezing

STEPS = {"first": "fastmcp==3.4.10", "second": "fastmcp==4.1.2"}
STORAGE = "py-key-value-aio[filetree]==0.4.6"
HOME = "/srv/fastmcp"
METADATA_URL = "https://app.example.com/oauth/client-metadata.json"


def main(folder: Path, step: str) -> None:
    """Log in at a server of *step*'s release, and write down what its store holds."""
    home = folder / "vault"
    os.environ["FASTMCP_HOME"] = str(home)
    key = freezing.key(folder, "signing.key", lambda: b"a signing key as people write them")
    freezing.key(folder, "master.key", lambda: secrets.token_urlsafe(32).encode())
    flow.move(home, HOME, str(home))
    recorder = flow.Recorder(freezing.ttl)
    recorder.attach()
    # The upstream secret is another one: with a signing key it has no part in the store's key.
    with flow.serving("frozen-upstream-secret", jwt_signing_key=key.decode()) as (url, proxy):
        flow.Browser(url).login()
        last = _leave_things_open(url, recorder)
        if step == "second":
            asyncio.run(_client_with_a_url(proxy))
    lines = recorder.lines()
    if step == "second":
        _damage(home, last)
        lines = [line for line in lines if line["key"] != last]
        lines.append({"collection": "mcp-oauth-proxy-clients", "key": None, "opens": False})
    flow.move(home, str(home), HOME)
    freezing.expect(folder, lines)


def _leave_things_open(url: str, recorder: flow.Recorder) -> str:
    """Leave a code, a consent page and an expired transaction; return the client that wanted the last."""
    refreshing, waiting, asking, late = (flow.Browser(url) for _ in range(4))
    refreshing.refresh(refreshing.login()["refresh_token"])
    waiting.register()
    waiting.authorize()
    asking.register()
    asking.consent_page()
    late.register()
    recorder.real_ttl = 0.001
    late.start()
    return late.client_id


async def _client_with_a_url(proxy: Any) -> None:
    """Store what a client whose identifier is the address of its metadata leaves; nothing is fetched."""
    from fastmcp.server.auth.oauth_proxy.models import ProxyDCRClient

    client = ProxyDCRClient(client_id=METADATA_URL, redirect_uris=[flow.REDIRECT], client_name="by URL")
    await proxy._client_store.put(key=METADATA_URL, value=client)  # noqa: SLF001 - as a registration does


def _damage(home: Path, client: str) -> None:
    (path,) = home.glob(f"oauth-proxy/*/S_mcp_oauth_proxy_clients-*/S_{client.replace('-', '_')}-*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["value"] = freezing.damage(content["value"])
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    into = freezing.folder_of(__file__)
    if freezing.step():
        main(into, freezing.step())
    else:
        freezing.emptied(into)
        for each, package in STEPS.items():
            freezing.in_environment(__file__, into, each, package, STORAGE)
        freezing.freeze(into)
