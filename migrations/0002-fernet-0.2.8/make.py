"""
Writes this folder's vault with py-key-value-aio 0.2.8: Fernet, with source material and salt.

    python migrations/0002-fernet-0.2.8/make.py

Needs Python 3.10 to 3.13 and a package index.  Names and values are the same each time; Fernet draws its
initialisation vectors and the store takes the time, so the bytes are not.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import freezing

PACKAGE = "py-key-value-aio[disk]==0.2.8"
REQUIREMENTS = (PACKAGE, "cryptography>=46")

ENTRIES: list[tuple[str, str, dict[str, Any], bool]] = [
    ("default_collection", "settings", {"theme": "light"}, False),
    ("sessions", "session-8", {"access_token": "test-token-8", "nested": {"deep": [1, [2, [3]]]}}, True),
    ("sessions", "ключ 8", {"text": "значение"}, False),
    ("documents", "large", {"text": "fedcba9876543210" * 1200}, True),
]
AMBIGUOUS = ("tenants::a", "b", {"who": "can tell?"})
DAMAGED = ("sessions", "damaged", {"access_token": "test-token-lost"})


async def main(folder: Path) -> None:
    """Write the vault and what it must open to."""
    from key_value.aio.stores.disk import DiskStore
    from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper

    vault = freezing.emptied(folder)
    material = freezing.key(folder, "source-material.key", lambda: b"a secret of nobody, \xc3\xa9")
    salt = freezing.key(folder, "salt.key", lambda: b"salt of nobody")
    store = DiskStore(directory=vault)
    wrapper = FernetEncryptionWrapper(store, source_material=material.decode(), salt=salt.decode())
    for collection, key, value, expires in ENTRIES:
        name = None if collection == "default_collection" else collection
        await wrapper.put(key, value, collection=name, ttl=freezing.ttl() if expires else None)
        assert value == await wrapper.get(key, collection=collection)
    for collection, key, value in (AMBIGUOUS, DAMAGED):
        await wrapper.put(key, value, collection=collection)
    collection, key, value = DAMAGED
    stored = await store.get(key, collection=collection)
    assert stored is not None
    await store.put(key, freezing.damage(stored), collection=collection)
    await store.close()
    del wrapper, store
    freezing.expect(
        folder,
        [
            {"collection": c, "key": k, "value": v, **freezing.disk_times(vault, c, k)}
            for c, k, v, _ in ENTRIES
        ],
    )
    freezing.expect(
        folder,
        [
            {"collection": None, "key": None, "opens": False},
            {"collection": DAMAGED[0], "key": DAMAGED[1], "opens": False},
        ],
    )
    freezing.freeze(folder)


if __name__ == "__main__":
    into = freezing.folder_of(__file__)
    if freezing.step():
        asyncio.run(main(into))
    else:
        freezing.in_environment(__file__, into, "write", *REQUIREMENTS)
