"""
Writes this folder's vault with fastmcp 4.2.3 on py-key-value-aio 0.5.0, and kvseal below: names inside.

    python migrations/0024-kvseal-names-inside/make.py

Needs Python 3.11 and a package index; kvseal is that of this checkout.  Real logins at a real
`OAuthProxy`, whose `client_storage` is kvseal's wrapper over a `FileTreeStore` with py-key-value's V1
strategies, as FastMCP itself makes it.  Only times to live are longer than FastMCP's.  Tokens, identifiers
and keys are random, so each run writes others.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fastmcp_flow as flow
import freezing

PACKAGES = ("fastmcp==4.2.3", "py-key-value-aio[filetree]==0.5.0", f"{freezing.ROOT.parent}[filetree]")
METADATA_URL = "https://app.example.com/oauth/client-metadata.json"


def main(folder: Path) -> None:
    """Log in three times, rotate the DEK, and log in once more; write down what the store holds."""
    from kvseal import EnvelopeEncryptionWrapper, Secret

    secret = Secret(freezing.key(folder, "master.key", lambda: secrets.token_urlsafe(32).encode()))
    freezing.key(folder, "next.key", lambda: secrets.token_urlsafe(32).encode())
    recorder = flow.Recorder(freezing.ttl)
    recorder.attach(EnvelopeEncryptionWrapper)
    asyncio.run(_create(folder / "vault", secret))
    with _serving(folder / "vault", secret) as (url, proxy):
        for _ in range(3):
            browser = flow.Browser(url)
            browser.refresh(browser.login()["refresh_token"])
        asyncio.run(_client_with_a_url(proxy))
    asyncio.run(_rotate(folder / "vault", secret))
    with _serving(folder / "vault", secret) as (url, _):
        flow.Browser(url).login()
    freezing.expect(folder, recorder.lines())
    for path in (folder / "vault").rglob("*-info.json"):
        info = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**info, "directory": Path(info["directory"]).name}), encoding="utf-8")


def _serving(directory: Path, secret: Any) -> Any:
    """Run a server whose storage is the store in *directory*, behind kvseal."""
    from kvseal import EnvelopeEncryptionWrapper

    os.environ["FASTMCP_HOME"] = tempfile.mkdtemp()
    storage = EnvelopeEncryptionWrapper(_store(directory), secret=secret, create=False)
    return flow.serving("frozen-upstream-secret", client_storage=storage)


def _store(directory: Path) -> Any:
    from key_value.aio.stores.filetree import (
        FileTreeStore,
        FileTreeV1CollectionSanitizationStrategy,
        FileTreeV1KeySanitizationStrategy,
    )

    return FileTreeStore(
        data_directory=directory,
        key_sanitization_strategy=FileTreeV1KeySanitizationStrategy(directory),
        collection_sanitization_strategy=FileTreeV1CollectionSanitizationStrategy(directory),
    )


async def _create(directory: Path, secret: Any) -> None:
    """Create the vault at the least cost there is: it protects nothing."""
    from kvseal import Argon2idParams, Vault

    cheap = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
    await (await Vault.create(_store(directory), secret=secret, kdf=cheap)).close()


async def _rotate(directory: Path, secret: Any) -> None:
    from kvseal import Vault

    vault = await Vault.open(_store(directory), secret=secret)
    await vault.rotate_dek()
    await vault.close()


async def _client_with_a_url(proxy: Any) -> None:
    """Store what a client whose identifier is the address of its metadata leaves; nothing is fetched."""
    from fastmcp.server.auth.oauth_proxy.models import ProxyDCRClient

    client = ProxyDCRClient(client_id=METADATA_URL, redirect_uris=[flow.REDIRECT], client_name="by URL")
    await proxy._client_store.put(key=METADATA_URL, value=client)  # noqa: SLF001 - as a registration does


if __name__ == "__main__":
    into = freezing.folder_of(__file__)
    if freezing.step():
        main(into)
    else:
        freezing.emptied(into)
        freezing.in_environment(__file__, into, "write", *PACKAGES)
        freezing.freeze(into)
