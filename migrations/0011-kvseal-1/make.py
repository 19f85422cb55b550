"""
Writes the vaults of this folder and of 0012 with kvseal 0.1.0: record format 1 and vault meta 1.

    .venv/bin/python migrations/0011-kvseal-1/make.py

Needs kvseal 0.1.0 with the extras disk and filetree.  Names and values are the same each time; keys, salts
and nonces are drawn and the store takes the time, so the bytes are not.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import freezing
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.filetree import FileTreeStore

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for

if TYPE_CHECKING:
    from key_value.aio.protocols.key_value import AsyncKeyValue

VERSION = "0.1.0"
TREE = "0012-kvseal-1-filetree"
KDF = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
"""The least there is: these vaults protect nothing, and a test opens them each time."""

# For each DEK what it sealed.
FIRST: list[tuple[str, str, dict[str, Any], bool]] = [
    ("default_collection", "settings", {"theme": "dark", "ratio": 0.1}, False),
    ("sessions", "session-1", {"access_token": "test-token-1"}, True),
    ("documents", "rewritten", {"by": 1}, False),
]
SECOND: list[tuple[str, str, dict[str, Any], bool]] = [
    ("sessions", "session-2", {"access_token": "test-token-2", "none": None}, True),
    ("documents", "extended", {"nan": float("nan"), "big": 2**70, "lone": "\ud800", "minus": -0.0}, False),
    ("documents", "nested", {"text": "größer", "deep": [[[]], {}]}, False),
    ("documents", "rewritten", {"by": 2}, False),
]
# No file can have these names everywhere, or is this small.
DISK_ONLY: list[tuple[str, str, dict[str, Any], bool]] = [
    ("documents", "ünïcödé \U0001f511", {"text": "Ünïcödé"}, True),
    ("tenants/a", "b::c", {"names": "are bound"}, False),
    ("documents", "large", {"text": "0123456789abcdef" * 2100}, True),
]


async def put(kv: AsyncKeyValue, entries: list[tuple[str, str, dict[str, Any], bool]]) -> None:
    """Put *entries* as an application does."""
    for collection, key, value, expires in entries:
        name = None if collection == "default_collection" else collection
        await kv.put(key, value, collection=name, ttl=freezing.ttl() if expires else None)


async def main(folder: Path, store: AsyncKeyValue, more: list[tuple[str, str, dict[str, Any], bool]]) -> None:
    """Write one vault and what it must open to."""
    secret = Secret(freezing.key(folder, "master.key", lambda: b"correct horse battery staple"))
    async with AsyncExitStack() as stack:
        vault = await Vault.create(store, secret=secret, kdf=KDF)
        stack.push_async_callback(vault.close)
        kv = EnvelopeEncryptionWrapper(store, vault=vault)
        await put(kv, FIRST)
        await vault.rotate_dek()
        await put(kv, [*SECOND, *more])
    last = {(c, k): v for c, k, v, _ in (*FIRST, *SECOND, *more)}
    driver = driver_for(store)
    for (collection, key), value in last.items():
        entry = await driver.get(collection, key)
        line: dict[str, Any] = {"collection": collection, "key": key, "value": value}
        line["created_at"] = entry.created_at.isoformat()
        if entry.expires_at is not None:
            line["expires_at"] = entry.expires_at.isoformat()
        freezing.expect(folder, [line])
    await driver.close()
    if isinstance(store, DiskStore):
        await store.close()


def without_this_machine(vault: Path) -> None:
    """Keep only the last part of the path in each info file: the store writes the whole."""
    for path in vault.rglob("*-info.json"):
        info = json.loads(path.read_text(encoding="utf-8"))
        info["directory"] = Path(info["directory"]).name
        path.write_text(json.dumps(info), encoding="utf-8")


if __name__ == "__main__":
    if version("kvseal") != VERSION:
        sys.exit(f"these vaults were frozen with kvseal {VERSION}, and this is {version('kvseal')}")
    disk = freezing.folder_of(__file__)
    tree = disk.parent / TREE
    asyncio.run(main(disk, DiskStore(directory=freezing.emptied(disk)), DISK_ONLY))
    freezing.freeze(disk)
    asyncio.run(main(tree, FileTreeStore(data_directory=freezing.emptied(tree)), []))
    without_this_machine(tree / "vault")
    freezing.freeze(tree)
