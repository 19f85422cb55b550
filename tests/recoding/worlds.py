"""Old vaults as the real upstream wrapper writes them, and what a migration made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.stores.memory.store import MemoryCacheEntry
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper

from kvseal.drivers import driver_for
from kvseal.drivers.base import Driver, Entry
from kvseal.envelope.stored import DATA_FIELD
from kvseal.keys.meta import META_COLLECTION as META
from kvseal.legacy import FernetCodec
from kvseal.legacy.fernet import parse_key
from kvseal.recoding.progress.checkpoint import CheckpointStore, Head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kvseal import Vault
    from kvseal.recoding import Report
    from kvseal.recoding.progress.part import Part

AnyStore = MemoryStore | DiskStore
Names = tuple[str, str]

KEY = b"b2xkIGtleSBvZiB0aGUgb2xkIGFwcGxpY2F0aW9uISE="
OTHER_KEY = b"YW5vdGhlciBhcHBsaWNhdGlvbidzIEZlcm5ldCBrZXk="


def old(store: Any, key: bytes = KEY) -> FernetEncryptionWrapper:
    """Return the old application's view of *store*."""
    return FernetEncryptionWrapper(store, fernet=Fernet(key))


def fernet(*keys: bytes) -> FernetCodec:
    """Return the codec of the old records, of `KEY` unless told otherwise."""
    return FernetCodec([parse_key(key) for key in keys or (KEY,)])


async def entries_of(store: AnyStore | Driver) -> dict[Names, Entry]:
    """Return every entry but the vault meta by its names."""
    driver = store if isinstance(store, Driver) else driver_for(store)
    found = [entry async for page in driver.scan() for entry in page.entries]
    if driver is not store:
        await driver.close()
    return {(entry.collection or "", entry.key or ""): entry for entry in found if entry.collection != META}


async def times_of(store: AnyStore) -> dict[Names, tuple[datetime | None, datetime | None]]:
    """Return creation time and expiry of every entry."""
    return {names: (e.created_at, e.expires_at) for names, e in (await entries_of(store)).items()}


async def formats_of(store: AnyStore) -> set[int | None]:
    """Return the encryption versions in *store*: 1 is Fernet, 2 is kvseal, `None` plaintext or unreadable."""
    entries = (await entries_of(store)).values()
    return {(entry.value or {}).get("__encryption_version__") for entry in entries}


async def damage(store: AnyStore, key: str, *, collection: str = "c") -> None:
    """Flip a character in the middle of a stored ciphertext, as a failing disk or an attacker would."""
    stored = await store.get(key, collection=collection)
    assert stored is not None
    text = stored[DATA_FIELD]
    middle = len(text) // 2
    flipped = "A" if text[middle] != "A" else "B"
    await store.put(
        key, {**stored, DATA_FIELD: text[:middle] + flipped + text[middle + 1 :]}, collection=collection
    )


def plant(store: MemoryStore, key: str, body: str, *, collection: str = "c") -> None:
    """Put a body into *store* that no store would write."""
    store._cache[collection]._cache[key] = MemoryCacheEntry(body, None)


def counts(report: Report) -> dict[str, int]:
    """Return the counters of *report* that are not zero."""
    every = {
        name: getattr(report, name)
        for name in ("scanned", "changed", "already", "skipped", "failed", "conflicts")
    }
    return {name: number for name, number in every.items() if number}


def adds_up(report: Report) -> bool:
    """Whether every scanned entry is counted in exactly one place."""
    return report.scanned == report.changed + report.already + report.skipped + report.failed


def failed(report: Report) -> Sequence[str | None]:
    """Return the keys of the failures, in order."""
    return sorted(str(failure.key) for failure in report.failures)


async def fill(store: AnyStore, values: Mapping[str, Mapping[str, Any]], *, key: bytes = KEY) -> None:
    """Put *values* through the old wrapper into collection `c`."""
    for name, value in values.items():
        await old(store, key).put(name, value, collection="c")


async def leave_checkpoint(vault: Vault, plan: str, *parts: Part, started_at: int = 0) -> Head:
    """Leave the checkpoint of a run of *plan* with *parts*, whose run is that one's, and return its head."""
    head = Head.new(plan, "migrate", len(parts), started_at=started_at, prepared=False)
    store = CheckpointStore(vault)
    assert await store.put_head(None, head)
    for index, part in enumerate(parts):
        assert await store.put_part(None, index, replace(part, run=head.run))
    return head


async def take_over(vault: Vault, **changes: Any) -> None:
    """Change the first part in the checkpoint, as a process does that takes it over."""
    store = CheckpointStore(vault)
    _, head = await store.head()
    assert head is not None
    entry, part = await store.part(head.run, 0)
    assert part is not None
    assert await store.put_part(entry, 0, replace(part, **changes))
