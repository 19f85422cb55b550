"""
Writes this folder's vault with py-key-value-aio 0.5.0: a `DiskStore` that nobody ever encrypted.

    python migrations/0004-plaintext/make.py

Needs Python 3.10 to 3.13 and a package index.  Names and values are the same each time; the store takes the
time, so the bytes are not.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import freezing

PACKAGE = "py-key-value-aio[disk]==0.5.0"

ENTRIES: list[tuple[str, str, dict[str, Any], bool]] = [
    ("default_collection", "settings", {"theme": "dark", "count": 3}, False),
    ("sessions", "session-1", {"access_token": "test-token-1", "scopes": ["read"]}, True),
    ("sessions", "a::b/ü", {"text": "Ünïcödé \U0001f511"}, False),
    ("documents", "empty", {}, False),
    (
        "documents",
        "looks like a body",
        {"value": {"a": 1}, "version": 1, "key": "k", "collection": "c"},
        True,
    ),
    ("documents", "large", {"text": "0123456789abcdef" * 2100}, False),
    ("documents", "numbers", {"big": 2**70, "nan": float("nan"), "inf": float("-inf"), "minus": -0.0}, False),
]
# One of the two fields of an encrypted value without the other: damaged, never to be taken for plaintext.
HALF = ("sessions", "half", {"__encryption_version__": 1, "access_token": "test-token-lost"})


def text(value: Any) -> str:
    """Return *value* as text, because NaN is not equal to itself."""
    return json.dumps(value, sort_keys=True)


async def main(folder: Path) -> None:
    """Write the vault and what it must open to."""
    from key_value.aio.stores.disk import DiskStore

    vault = freezing.emptied(folder)
    store = DiskStore(directory=vault)
    for collection, key, value, expires in ENTRIES:
        name = None if collection == "default_collection" else collection
        await store.put(key, value, collection=name, ttl=freezing.ttl() if expires else None)
        assert text(value) == text(await store.get(key, collection=collection))
    await store.put(HALF[1], HALF[2], collection=HALF[0])
    await store.close()
    freezing.expect(
        folder,
        [
            {"collection": c, "key": k, "value": v, **freezing.disk_times(vault, c, k)}
            for c, k, v, _ in ENTRIES
        ],
    )
    freezing.expect(folder, [{"collection": HALF[0], "key": HALF[1], "opens": False}])
    freezing.freeze(folder)


if __name__ == "__main__":
    into = freezing.folder_of(__file__)
    if freezing.step():
        asyncio.run(main(into))
    else:
        freezing.in_environment(__file__, into, "write", PACKAGE)
