"""
What authsome writes into a home, by its own code: runs in the environments that a `make.py` builds.

No keyring is there, as on a server, so every version keeps its master key in a file.
"""

# What authsome's own commands call is private to its services.
# ruff: noqa: SLF001

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import freezing

if TYPE_CHECKING:
    from pathlib import Path

os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"

IDENTITY = "ada-lovelace-1815"
VAULT = "vault_1815"
COLLECTION = f"vault:{VAULT}"
DAMAGED = (COLLECTION, f"vault:{VAULT}:damaged:connection:default")


async def written_by_0_3(home: Path) -> None:
    """Write what 0.3 does: a provider, its client, and a connection with its metadata by identity."""
    from authsome.auth import AuthService
    from authsome.auth.models.connection import ProviderClientRecord
    from authsome.auth.models.provider import ProviderDefinition
    from authsome.server.dependencies import create_app_store, create_vault

    store = await create_app_store(home)
    auth = AuthService(vault=await create_vault(store), identity=IDENTITY)
    definition = {
        "name": "weather",
        "display_name": "Weather \u2600",
        "auth_type": "api_key",
        "flow": "api_key",
        "api_key": {"header_name": "X-Api-Key"},
    }
    await auth.register_provider(ProviderDefinition.model_validate(definition))
    await auth._save_provider_client_credentials(ProviderClientRecord.model_validate(_client("github")))
    await auth._save_connection(_connection("github", "default", {}))
    await auth._update_provider_metadata("github", "default")
    await store.close()


async def written_by_0_4(home: Path) -> None:
    """Write what 0.4 does: connections and metadata by vault id, one of them large, and one to be damaged."""
    from authsome.server.credential_service import AuthService
    from authsome.server.dependencies import create_app_store, create_vault

    store = await create_app_store(home)
    auth = AuthService(vault=await create_vault(store), identity=IDENTITY, principal_id="ada", vault_id=VAULT)
    for provider, name in (("github", "default"), ("gitlab", "w\u00f6rk:2"), ("damaged", "default")):
        await auth._save_connection(_connection(provider, name, {}))
        await auth._update_provider_metadata(provider, name)
    await auth._save_connection(_connection("large", "default", {"note": "0123456789abcdef" * 2049}))
    await store.close()


async def written_by_0_5(home: Path, provider: str, *, version: str) -> None:
    """Write what 0.5 and everything after it does: the same models, below its encryption wrapper."""
    from authsome.auth.models.connection import ProviderClientRecord, ProviderMetadataRecord
    from authsome.server.credential_repository import CredentialRepository
    from authsome.server.dependencies import create_vault

    vault = await create_vault(home)
    scope = {"identity": IDENTITY, "principal_id": "ada", "vault_id": VAULT}
    credentials = CredentialRepository(vault, **scope)
    await credentials.save_provider_client(ProviderClientRecord.model_validate(_client(provider)))
    await credentials.save_connection(_connection(provider, "default", {"written_by": version}))
    await credentials.save_provider_metadata(ProviderMetadataRecord(provider=provider))
    await vault._kv.key_value.close()


def freeze(folder: Path, home: Path) -> None:
    """Move store and key file of *home* into *folder*, damage one record, and write what must open."""
    server = home / "server"
    shutil.copytree(server / "kv_store", folder / "vault", dirs_exist_ok=True)
    keys = folder / "keys"
    keys.mkdir(exist_ok=True)
    shutil.copyfile(server / "master.key", keys / "master.key")
    (keys / "master.key").chmod(0o600)
    (keys / "kvseal.key").write_text(f"the test secret of {folder.name}\n", encoding="utf-8")
    (keys / "kvseal.key").chmod(0o600)
    opened = json.loads((home / "opened.json").read_text(encoding="utf-8"))
    freezing.expect(folder, [_expected(folder / "vault", *names, opened) for names in _names(folder)])
    if DAMAGED in _names(folder):
        _damage(folder / "vault" / "cache.db", "::".join(DAMAGED))
    shutil.rmtree(home)
    freezing.freeze(folder)


async def remember(home: Path) -> None:
    """Write down what this version of authsome itself reads for every entry, where it can read it."""
    from authsome.server import dependencies

    if hasattr(dependencies, "create_app_store"):
        vault = await dependencies.create_vault(await dependencies.create_app_store(home))
        store = vault._app_store.kv
    else:
        vault = await dependencies.create_vault(home)
        store = vault._kv.key_value
    path = home / "opened.json"
    opened = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for collection, key in _names_in(home / "server" / "kv_store"):
        stored = await store.get(key, collection=collection)
        flat = "__encrypted_data__" not in stored
        # A flat record reads as ciphertext from 0.5 on: what the earlier version said stands.
        if flat == hasattr(dependencies, "create_app_store") and not _is_control(collection, key, stored):
            opened[f"{collection}::{key}"] = {"data": await vault.get(key, collection=collection)}
    path.write_text(json.dumps(opened), encoding="utf-8")
    await store.close()


def _expected(vault: Path, collection: str, key: str, opened: dict[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {"collection": collection, "key": key}
    if (collection, key) == DAMAGED:
        return {**line, "opens": False}
    value = opened.get(f"{collection}::{key}")
    if value is None:
        return {**line, "skipped": True}
    return {**line, "value": value, **freezing.disk_times(vault, collection, key)}


def _is_control(collection: str, key: str, stored: dict[str, Any]) -> bool:
    names_control = key == "__index__" or (collection, key) == ("config", "version")
    return names_control and "__encrypted_data__" not in stored


def _names(folder: Path) -> list[tuple[str, str]]:
    return _names_in(folder / "vault")


def _names_in(directory: Path) -> list[tuple[str, str]]:
    con = sqlite3.connect(directory / "cache.db")
    rows = con.execute("SELECT value, filename FROM Cache ORDER BY rowid").fetchall()
    con.close()
    bodies = [
        json.loads((directory / name).read_text(encoding="utf-8") if name else value) for value, name in rows
    ]
    names = [(body["collection"], body["key"]) for body in bodies]
    return [one for one in names if one[0] != "__vault_meta__"]


def _damage(path: Path, row_key: str) -> None:
    con = sqlite3.connect(path)
    (text,) = con.execute("SELECT value FROM Cache WHERE key = ?", (row_key,)).fetchone()
    body = json.loads(text)
    ((field, data),) = [(f, v) for f, v in body["value"].items() if type(v) is str]
    middle = len(data) // 2
    body["value"][field] = data[:middle] + ("A" if data[middle] != "A" else "B") + data[middle + 1 :]
    con.execute("UPDATE Cache SET value = ? WHERE key = ?", (json.dumps(body, sort_keys=True), row_key))
    con.commit()
    con.close()


def _client(provider: str) -> dict[str, Any]:
    return {"provider": provider, "client_id": f"test-{provider}", "client_secret": "test-client-secret"}


def _connection(provider: str, name: str, metadata: dict[str, Any]) -> Any:
    from authsome.auth.models.connection import ConnectionRecord

    record = {
        "provider": provider,
        "connection_name": name,
        "auth_type": "oauth2",
        "status": "connected",
        "scopes": ["read", "write"],
        "access_token": f"test-access-token-of-{provider}",
        "refresh_token": "test-refresh-token",
        "expires_at": "2099-12-31T23:59:59Z",
        "metadata": metadata,
        "identity": IDENTITY,
    }
    return ConnectionRecord.model_validate(record)
