"""
Writes this folder's vault with py-key-value-aio 0.3.0, 0.4.0, 0.4.6 and 0.5.0, in turn in one store.

    python migrations/0003-fernet-0.5/make.py

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

PACKAGE = "py-key-value-aio[disk]=="
VERSIONS = ("0.3.0", "0.4.0", "0.4.6", "0.5.0")

# The application had one key, and from 0.4 on two: a MultiFernet that writes with the new one.
ENTRIES: dict[str, list[tuple[str, str, dict[str, Any], bool]]] = {
    "0.3.0": [
        ("default_collection", "settings", {"theme": "dark"}, False),
        ("sessions", "session-3", {"access_token": "test-token-3"}, True),
        ("tenants", "a::b", {"names": "are in the body"}, False),
        ("tenants::c", "d", {"names": "in the body, whichever way they could be split"}, True),
        ("documents", "big", {"n": 2**70}, False),
        ("sessions", "rewritten", {"by": "0.3.0"}, False),
    ],
    "0.4.0": [("sessions", "session-40", {"access_token": "test-token-40"}, True)],
    "0.4.6": [
        ("sessions", "session-46", {"access_token": "test-token-46"}, True),
        ("pfad/ä/::", "schlüssel \U0001f511 ::/..", {"text": "größer"}, False),
        ("sessions", "rewritten", {"by": "0.4.6", "again": True}, True),
    ],
    "0.5.0": [
        ("sessions", "session-5", {"access_token": "test-token-5", "none": None}, True),
        ("documents", "large", {"text": "0123456789abcdef" * 2049}, True),
        (
            "documents",
            "odd",
            {"big": -(2**80), "nan": float("nan"), "key": ["k"], "value": ["v"], "": 1},
            False,
        ),
    ],
}
DAMAGED = ("sessions", "damaged", {"access_token": "test-token-lost"})
FOREIGN = ("sessions", "foreign", {"access_token": "test-token-of-a-key-that-nobody-has"})
ZERO_KEY = b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


async def main(folder: Path, version: str) -> None:
    """Add what *version* writes to the vault and to what it must open to."""
    from cryptography.fernet import Fernet, MultiFernet
    from key_value.aio.stores.disk import DiskStore
    from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper

    vault = folder / "vault"
    old, new = (Fernet(freezing.key(folder, f"{name}.key", Fernet.generate_key)) for name in ("old", "new"))
    store = DiskStore(directory=vault)
    wrapper = FernetEncryptionWrapper(store, fernet=old if version == "0.3.0" else MultiFernet([new, old]))
    for collection, key, value, expires in ENTRIES[version]:
        name = None if collection == "default_collection" else collection
        await wrapper.put(key, value, collection=name, ttl=freezing.ttl() if expires else None)
        assert repr(value) == repr(await wrapper.get(key, collection=collection))  # NaN is not itself
    if version == VERSIONS[-1]:
        await wrapper.put(DAMAGED[1], DAMAGED[2], collection=DAMAGED[0])
        stored = await store.get(DAMAGED[1], collection=DAMAGED[0])
        assert stored is not None
        await store.put(DAMAGED[1], freezing.damage(stored), collection=DAMAGED[0])
        stranger = FernetEncryptionWrapper(store, fernet=Fernet(ZERO_KEY))
        await stranger.put(FOREIGN[1], FOREIGN[2], collection=FOREIGN[0])
    await store.close()


def expect(folder: Path) -> None:
    """Write down what the vault must open to; of an entry that was written twice, the later value."""
    last = {(c, k): v for version in VERSIONS for c, k, v, _ in ENTRIES[version]}
    freezing.expect(
        folder,
        [
            {"collection": c, "key": k, "value": v, **freezing.disk_times(folder / "vault", c, k)}
            for (c, k), v in last.items()
        ],
    )
    lost = [{"collection": c, "key": k, "opens": False} for c, k, _ in (DAMAGED, FOREIGN)]
    freezing.expect(folder, lost)


if __name__ == "__main__":
    into = freezing.folder_of(__file__)
    if freezing.step():
        asyncio.run(main(into, freezing.step()))
    else:
        freezing.emptied(into)
        for one in VERSIONS:
            freezing.in_environment(__file__, into, one, PACKAGE + one, "cryptography>=46")
        expect(into)
        freezing.freeze(into)
