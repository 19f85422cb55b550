"""
What every `make.py` of a store that was encrypted by hand does alike: entries, a damaged one, a foreign one.

A `make.py` says how its application made a key and how it sealed a value, with the real libraries.
"""

from __future__ import annotations

import asyncio
import json
import os
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import freezing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    Seal = Callable[[dict[str, Any], str, str], Awaitable[Mapping[str, Any]]]

PACKAGES = ("py-key-value-aio[disk,memory]==0.5.0", "cryptography==50.0.2")
ENTRIES: list[tuple[str, str, dict[str, Any], bool]] = [
    ("sessions", "session-1", {"access_token": "test-token-1", "none": None}, True),
    ("sessions", "session-2", {"access_token": "test-token-2", "scopes": ["a", "b"]}, False),
    ("pfad/ä/::", "schlüssel \U0001f511 ::/..", {"text": "größer \U0001f511"}, True),
    ("documents", "odd", {"big": -(2**80), "nan": float("nan"), "": 1, "deep": [[{"a": {}}]]}, False),
    ("documents", "large", {"text": "0123456789abcdef" * 2049}, True),
]
DAMAGED = ("sessions", "damaged", {"access_token": "lost"})
FOREIGN = ("sessions", "foreign", {"access_token": "of another key"})


def text(value: Mapping[str, Any]) -> bytes:
    """Return *value* as an application writes it."""
    return json.dumps(value).encode()


def with_one_key(sealing_with: Callable[[bytes], Seal], size: int) -> Callable[[Path], tuple[Seal, Seal]]:
    """Return what `make` takes of an application with one key of *size* bytes."""

    def sealing(folder: Path) -> tuple[Seal, Seal]:
        freezing.key(folder, "master.key", lambda: os.urandom(16).hex().encode())
        key = b64decode(freezing.key(folder, "app.key", lambda: b64encode(os.urandom(size))))
        return sealing_with(key), sealing_with(bytes(size))

    return sealing


def make(file: str, sealing: Callable[[Path], tuple[Seal, Seal]], *packages: str, field: str) -> None:
    """
    Write the vault beside *file* with what *sealing* returns: the application's way and a stranger's.

    *field* is where the ciphertext is, of which one character is changed in the damaged entry.
    """
    folder = freezing.folder_of(file)
    if freezing.step():
        asyncio.run(_write(folder, *sealing(folder), field))
        return
    freezing.emptied(folder)
    freezing.in_environment(file, folder, "write", *PACKAGES, *packages)
    freezing.freeze(folder)


async def _write(folder: Path, seal: Seal, foreign: Seal, field: str) -> None:
    from key_value.aio.stores.disk import DiskStore

    store = DiskStore(directory=folder / "vault")

    async def put(collection: str, key: str, stored: Mapping[str, Any], *, expires: bool = False) -> None:
        await store.put(key, dict(stored), collection=collection, ttl=freezing.ttl() if expires else None)

    for collection, key, value, expires in ENTRIES:
        await put(collection, key, await seal(value, collection, key), expires=expires)
    collection, key, value = DAMAGED
    await put(collection, key, _damaged(await seal(value, collection, key), field))
    collection, key, value = FOREIGN
    await put(collection, key, await foreign(value, collection, key))
    await store.close()
    times = [freezing.disk_times(folder / "vault", collection, key) for collection, key, *_ in ENTRIES]
    freezing.expect(
        folder,
        [
            {"collection": collection, "key": key, "value": value, **time}
            for (collection, key, value, _), time in zip(ENTRIES, times, strict=True)
        ],
    )
    lost = [
        {"collection": collection, "key": key, "opens": False} for collection, key, _ in (DAMAGED, FOREIGN)
    ]
    freezing.expect(folder, lost)


def _damaged(stored: Mapping[str, Any], field: str) -> dict[str, Any]:
    outer, _, name = field.rpartition(".")
    if outer:
        return {**stored, outer: _damaged(stored[outer], name)}
    data = stored[name]
    middle = len(data) * 3 // 4
    other = "0" if data[middle] != "0" else "1"
    return {**stored, name: data[:middle] + other + data[middle + 1 :]}


def fernet(key: bytes) -> Seal:
    """Return what py-key-value's own wrapper stores under a Fernet key of 44 characters."""
    from cryptography.fernet import Fernet
    from key_value.aio.stores.memory import MemoryStore
    from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper

    async def seal(value: dict[str, Any], collection: str, name: str) -> Any:
        store = MemoryStore()
        await FernetEncryptionWrapper(store, fernet=Fernet(key)).put(name, value, collection=collection)
        return await store.get(name, collection=collection)

    return seal
