"""A file tree that loses names, as FastMCP makes it, and what an application and an earlier kvseal leave in it."""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.drivers.filetree.trees import v1_store

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.envelope.stored import has_names_inside
from kvseal.keys.meta import META_COLLECTION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from key_value.aio.stores.filetree import FileTreeStore

    from kvseal.drivers.base import Entry

SECRET, CHEAP = Secret(b"correct horse battery"), Argon2idParams(1, 8, 1)
NOW = timedelta(0)
URL = "https://app.example.com/oauth/client-metadata.json"
CLIENTS, TOKENS, JTIS, REFRESH = (
    "mcp-oauth-proxy-clients",
    "mcp-upstream-tokens",
    "mcp-jti-mappings",
    "mcp-refresh-tokens",
)
Names = tuple[str, str]


async def a_login(kv: Any, held: dict[Names, Any], client: str) -> None:
    """Leave what a login at FastMCP's proxy leaves, keys of every kind, and refresh once."""
    token, upstream = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    entries: list[tuple[str, str, Any, float | None]] = [
        (CLIENTS, client, {"client_id": client}, None),
        (TOKENS, upstream, {"upstream_token_id": upstream, "n": 1}, 3600.0),
        (JTIS, secrets.token_urlsafe(32), {"upstream_token_id": upstream}, 3600.0),
        (REFRESH, hashlib.sha256(token.encode()).hexdigest(), {"client_id": client}, None),
        (TOKENS, upstream, {"upstream_token_id": upstream, "n": 2}, 7200.0),
    ]
    for collection, key, value, ttl in entries:
        await kv.put(key, value, collection=collection, ttl=ttl)
        held[collection, key] = value
    spent = secrets.token_urlsafe(32)
    await kv.put(spent, {"code": spent}, collection=JTIS)
    await kv.delete(spent, collection=JTIS)


async def entries_of(store: Any) -> list[Entry]:
    """Return every entry but the vault meta and a checkpoint, as a scan finds it."""
    found = [entry async for page in driver_for(store).scan() for entry in page.entries]
    return [entry for entry in found if entry.collection != META_COLLECTION]


async def held_in(kv: Any, names: Any) -> dict[Names, Any]:
    """Return what the application reads under each of *names*."""
    return {(collection, key): await kv.get(key, collection=collection) for collection, key in names}


def bodies(directory: Path) -> list[dict[str, Any]]:
    """Return the bodies of all records in a file tree."""
    files = [path for path in directory.rglob("*.json") if META_COLLECTION not in str(path)]
    return [json.loads(path.read_text()) for path in files if not path.name.endswith("-info.json")]


async def put_without_names(
    vault: Vault, store: Any, names: Names, value: dict[str, Any], expires_at: int | None = None
) -> dict[str, Any]:
    """Store a record as a kvseal that knew of no names inside has sealed it, and return that."""
    stored = vault.codecs[""].seal(value, *names, expires_at=expires_at)
    assert not has_names_inside(stored)
    await store.put(names[1], stored, collection=names[0], ttl=9000)
    return stored


async def stored_of(store: Any, names: Names) -> dict[str, Any]:
    """Return the stored mapping of a record."""
    stored = await store.get(names[1], collection=names[0])
    assert stored is not None
    return dict(stored)


class OverLosingStore:
    """Tests over a file tree that loses names, with the vault in it and the application's wrapper."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> FileTreeStore:
        """Return an empty file tree as FastMCP makes it."""
        return v1_store(tmp_path / "home")

    @pytest.fixture
    async def vault(self, store: FileTreeStore) -> AsyncIterator[Vault]:
        """Yield the vault of that store."""
        made = await Vault.create(store, secret=SECRET, kdf=CHEAP)
        yield made
        await made.close()

    @pytest.fixture
    def kv(self, store: FileTreeStore, vault: Vault) -> EnvelopeEncryptionWrapper:
        """Return what FastMCP gets as its `client_storage`."""
        return EnvelopeEncryptionWrapper(store, vault=vault)
