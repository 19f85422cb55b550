"""
Writes this folder's vault with py-key-value-aio 0.2.7: `EncryptionWrapper` over `DiskStore`.

    python migrations/0001-fernet-0.2.7/make.py

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

PACKAGE = "py-key-value-aio[disk]==0.2.7"
REQUIREMENTS = (PACKAGE, "cryptography>=46")

# Collection, key, value, whether it expires.  The default collection is what `None` becomes.
ENTRIES: list[tuple[str, str, dict[str, Any], bool]] = [
    ("default_collection", "settings", {"theme": "dark", "retries": 3}, False),
    ("sessions", "session-7", {"access_token": "test-token-7", "scopes": ["read", "write"]}, True),
    ("sessions", "nutzer/größe", {"text": "Ünïcödé \U0001f511", "lone": "\ud800", "nothing": None}, False),
    ("sessions", "", {"the key": "is empty"}, False),
    ("documents", "large", {"text": "0123456789abcdef" * 1200}, False),
    ("documents", "numbers", {"big": 2**70, "nan": float("nan"), "small": 5e-324, "minus": -0.0}, True),
]
# `collection::key` can be split here in two ways, and no body of this release says which is meant.
AMBIGUOUS = ("tenants", "a::b", {"who": "can tell?"})
DAMAGED = ("sessions", "damaged", {"access_token": "test-token-lost"})
PLAINTEXT = ("control", "version", {"version": 1})


async def main(folder: Path) -> None:
    """Write the vault and what it must open to."""
    from cryptography.fernet import Fernet
    from key_value.aio.stores.disk import DiskStore
    from key_value.aio.wrappers.encryption import EncryptionWrapper

    vault = freezing.emptied(folder)
    fernet_key = freezing.key(folder, "fernet.key", Fernet.generate_key)
    store = DiskStore(directory=vault)
    wrapper = EncryptionWrapper(store, encryption_key=fernet_key)
    for collection, key, value, expires in ENTRIES:
        name = None if collection == "default_collection" else collection
        await wrapper.put(key, value, collection=name, ttl=freezing.ttl() if expires else None)
        assert repr(value) == repr(await wrapper.get(key, collection=collection))  # NaN is not itself
    for collection, key, value in (AMBIGUOUS, DAMAGED):
        await wrapper.put(key, value, collection=collection)
    collection, key, value = DAMAGED
    stored = await store.get(key, collection=collection)
    assert stored is not None
    await store.put(key, freezing.damage(stored), collection=collection)
    await store.put(PLAINTEXT[1], PLAINTEXT[2], collection=PLAINTEXT[0])
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
            {"collection": PLAINTEXT[0], "key": PLAINTEXT[1], "skipped": True},
        ],
    )
    freezing.freeze(folder)


if __name__ == "__main__":
    into = freezing.folder_of(__file__)
    if freezing.step():
        asyncio.run(main(into))
    else:
        freezing.in_environment(__file__, into, "write", *REQUIREMENTS)
