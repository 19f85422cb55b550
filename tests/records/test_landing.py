"""No name reaches an entry of the vault or of another collection, however the store folds names."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from key_value.aio.errors import KeyValueOperationError
from key_value.aio.stores.disk import DiskStore, MultiDiskStore
from key_value.aio.stores.filetree import FileTreeStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.errors import ReservedNameError
from kvseal.keys.meta import META_COLLECTION, META_KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = Secret(b"the secret of the vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
STORES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _: MemoryStore(),
    "disk": lambda path: DiskStore(directory=path),
    "multidisk": lambda path: MultiDiskStore(base_directory=path),
    "filetree": lambda path: FileTreeStore(data_directory=path),
}
OPERATIONS: dict[str, Callable[[Any, str, str], Any]] = {
    "put": lambda kv, c, k: kv.put(k, {"v": 1}, collection=c),
    "put_many": lambda kv, c, k: kv.put_many([k], [{"v": 1}], collection=c),
    "delete": lambda kv, c, k: kv.delete(k, collection=c),
    "delete_many": lambda kv, c, k: kv.delete_many([k], collection=c),
    "get": lambda kv, c, k: kv.get(k, collection=c),
    "get_many": lambda kv, c, k: kv.get_many([k], collection=c),
    "ttl": lambda kv, c, k: kv.ttl(k, collection=c),
}
KNOWN = [
    ("filetree", "notes", f"../{META_COLLECTION}/{META_KEY}"),
    ("filetree", f"./{META_COLLECTION}", META_KEY),
    ("multidisk", f"{META_COLLECTION}:", META_KEY),
    ("multidisk", f"/{META_COLLECTION}", META_KEY),
    ("disk", f"{META_COLLECTION}::x", "k"),
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("kind", "collection", "key"), KNOWN, ids=[f"{k}-{c}-{n}" for k, c, n in KNOWN])
async def test_known_ways_to_the_vault_meta(
    kind: str, collection: str, key: str, operation: str, tmp_path: Path
) -> None:
    """Each way that a trial found is refused before the store is asked, by every operation."""
    store = STORES[kind](tmp_path)
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)

    with pytest.raises(ReservedNameError):
        await OPERATIONS[operation](kv, collection, key)

    assert not await vault.refresh()


async def test_a_prefix_that_makes_a_way(tmp_path: Path) -> None:
    """A wrapper that renames keys is seen through: what counts is where the renamed key lands."""
    store = FileTreeStore(data_directory=tmp_path)
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    kv = EnvelopeEncryptionWrapper(PrefixKeysWrapper(store, prefix=".."), vault=vault)

    with pytest.raises(ReservedNameError):
        await kv.put(f"/../{META_COLLECTION}/{META_KEY}", {"v": 1}, collection="notes")


PARTS = st.sampled_from(["..", ".", "/", "\\", ":", "::", "%2e", "\0", " ", "a", META_COLLECTION, META_KEY])
NAMES = st.lists(PARTS, min_size=1, max_size=6).map("".join)


@pytest.mark.parametrize("kind", STORES)
@given(collection=NAMES, key=NAMES)
@example(collection="notes", key=f"../{META_COLLECTION}/{META_KEY}")
@example(collection=f"{META_COLLECTION}..", key=META_KEY)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.exhaustive
async def test_no_name_reaches_the_vault(
    kind: str, collection: str, key: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is put and deleted, the vault opens afterwards, and a record of another collection reads."""
    store = STORES[kind](tmp_path_factory.mktemp("store"))
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    await kv.put("k", {"of": "another"}, collection="another")

    # What a store itself refuses, or cannot hold, does no harm.
    with suppress(ReservedNameError, KeyValueOperationError, OSError, ValueError):
        await kv.put(key, {"v": 1}, collection=collection)
    with suppress(ReservedNameError, KeyValueOperationError, OSError, ValueError):
        await kv.delete_many([key], collection=collection)

    assert not await vault.refresh()
    assert {"of": "another"} == await kv.get("k", collection="another")
    driver = driver_for(store)
    assert await driver.get(META_COLLECTION, META_KEY) is not None
    await driver.close()
