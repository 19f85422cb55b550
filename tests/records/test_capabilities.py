"""What a wrapper offers beside get and put: exactly what the store below does, minus what would lose the vault."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.protocols.key_value import (
    AsyncCullProtocol,
    AsyncDestroyCollectionProtocol,
    AsyncDestroyStoreProtocol,
    AsyncEnumerateCollectionsProtocol,
    AsyncEnumerateKeysProtocol,
    AsyncKeyValueProtocol,
)
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.stores.simple import SimpleStore
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from tests.fakes import BareStore, FullStore, dump
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.errors import ReservedNameError, VaultNotFoundError, WrongSecretError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROTOCOLS = {
    "keys": AsyncEnumerateKeysProtocol,
    "collections": AsyncEnumerateCollectionsProtocol,
    "cull": AsyncCullProtocol,
    "destroy_collection": AsyncDestroyCollectionProtocol,
    "async with": AbstractAsyncContextManager,
}
METHODS = ["keys", "collections", "cull", "destroy_collection", "setup", "close", "__aenter__", "__aexit__"]


def file_tree(path: Path) -> Any:
    """Return a file tree store, where its extra is installed."""
    return pytest.importorskip("key_value.aio.stores.filetree").FileTreeStore(data_directory=path)


STORES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _: MemoryStore(),
    "disk": lambda path: DiskStore(directory=path),
    "simple": lambda _: SimpleStore(),
    "file tree": file_tree,
    "bare": lambda _: BareStore(),
    "full": lambda _: FullStore(),
    "a wrapper stack": lambda _: PrefixKeysWrapper(FullStore(), prefix="p"),
}


@pytest.mark.filterwarnings("ignore:A configured store is unstable")
@pytest.mark.parametrize("name", STORES)
def test_offers_what_the_store_below_offers(name: str, tmp_path: Path, secret: Secret) -> None:
    """`isinstance` against the runtime protocols, and `hasattr`, say of the wrapper what is true of the store."""
    store = STORES[name](tmp_path)
    wrapper = EnvelopeEncryptionWrapper(key_value=store, secret=secret)

    offered = {protocol: isinstance(store, cls) for protocol, cls in PROTOCOLS.items()}
    assert offered == {protocol: isinstance(wrapper, cls) for protocol, cls in PROTOCOLS.items()}
    assert {method: hasattr(store, method) for method in METHODS} == {
        method: hasattr(wrapper, method) for method in METHODS
    }
    assert isinstance(wrapper, AsyncKeyValueProtocol)
    assert not isinstance(wrapper, AsyncDestroyStoreProtocol)
    assert not hasattr(wrapper, "destroy")
    if isinstance(store, DiskStore):
        store._cache.close()


def test_composed_classes_are_shared_and_named_alike(secret: Secret) -> None:
    """Wrappers over stores of one kind are of one class, which calls itself what it is."""
    one, other = (EnvelopeEncryptionWrapper(key_value=MemoryStore(), secret=secret) for _ in range(2))

    assert type(one) is type(other)
    assert EnvelopeEncryptionWrapper.__qualname__ == type(one).__qualname__
    assert issubclass(type(one), EnvelopeEncryptionWrapper)


def test_a_subclass_keeps_its_capabilities(secret: Secret) -> None:
    """Whoever derives from the wrapper gets the same composition."""

    class Own(EnvelopeEncryptionWrapper):
        pass

    assert isinstance(Own(key_value=MemoryStore(), secret=secret), Own)
    assert isinstance(Own(key_value=MemoryStore(), secret=secret), AsyncEnumerateKeysProtocol)
    assert not isinstance(Own(key_value=BareStore(), secret=secret), AsyncEnumerateKeysProtocol)


async def test_listing_hides_the_vault_meta(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Collections and keys are those of the records; a limit counts records' collections alone."""
    kv: Any = wrapped(await Vault.create(store, secret=secret, kdf=cheap))
    for collection in ("a", "b", "c"):
        await kv.put_many(["1", "2"], [{}, {}], collection=collection)

    assert ["a", "b", "c"] == await kv.collections()
    assert ["a", "b"] == await kv.collections(limit=2)
    assert ["a", "b", "c"] == await kv.collections(limit=3)
    assert ["1", "2"] == await kv.keys("a")
    assert ["1"] == await kv.keys("a", limit=1)
    assert [] == await kv.keys()
    with pytest.raises(ReservedNameError):
        await kv.keys("__vault_meta__")


async def test_a_default_collection_that_is_the_vault_metas(secret: Secret, cheap: Argon2idParams) -> None:
    """A store whose default collection is the vault meta's gives nothing away for `None`."""
    store = MemoryStore(default_collection="__vault_meta__")
    kv: Any = wrapped(await Vault.create(store, secret=secret, kdf=cheap))

    for operation in (kv.keys(), kv.get("__dek__"), kv.delete("__dek__"), kv.delete_many(["__dek__"])):
        with pytest.raises(ReservedNameError):
            await operation


async def test_destroying_a_collection_spares_the_vault(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Records go, the vault meta cannot."""
    kv: Any = wrapped(await Vault.create(store, secret=secret, kdf=cheap))
    await kv.put("k", {"v": 1}, collection="a")

    with pytest.raises(ReservedNameError):
        await kv.destroy_collection("__vault_meta__")

    assert await kv.destroy_collection("a")
    assert not await kv.destroy_collection("none")
    assert [("__vault_meta__", "__dek__")] == list(dump(store))


async def test_cull_is_passed_on(secret: Secret) -> None:
    """Culling needs no key, so it does not even open the vault."""
    store = FullStore()
    kv: Any = EnvelopeEncryptionWrapper(key_value=store, secret=secret)

    await kv.cull()

    assert ["cull"] == store.calls


async def test_setup_finds_what_is_wrong_at_start_up(secret: Secret, cheap: Argon2idParams) -> None:
    """`setup` sets the store up and unlocks the vault, so a missing vault or a wrong secret shows at once."""
    store = FullStore()
    missing: Any = EnvelopeEncryptionWrapper(key_value=store, secret=secret, create=False)
    with pytest.raises(VaultNotFoundError):
        await missing.setup()
    await Vault.create(store, secret=secret, kdf=cheap)
    wrong: Any = EnvelopeEncryptionWrapper(key_value=store, secret=Secret(b"wrong"))
    with pytest.raises(WrongSecretError):
        await wrong.setup()

    right: Any = EnvelopeEncryptionWrapper(key_value=store, secret=secret)
    await right.setup()

    assert 1 == (await right.vault()).status().revision


async def test_close_locks_the_vault_and_closes_the_store(secret: Secret, cheap: Argon2idParams) -> None:
    """`close` forgets the keys first; a later operation opens both again."""
    store = FullStore()
    kv: Any = EnvelopeEncryptionWrapper(key_value=store, secret=secret, kdf=cheap)
    await kv.put("k", {"v": 1})
    vault = await kv.vault()

    await kv.close()

    assert "close" == store.calls[-1]
    assert vault._keyring is None
    assert {"v": 1} == await kv.get("k")


async def test_async_with_closes_and_reopens(tmp_path: Path, secret: Secret, cheap: Argon2idParams) -> None:
    """Over a disk store, one wrapper goes through `async with` twice, and every record is there."""
    kv: Any = EnvelopeEncryptionWrapper(key_value=DiskStore(directory=tmp_path), secret=secret, kdf=cheap)

    async with kv as entered:
        assert kv is entered
        await kv.put("k", {"v": 1})
        vault = await kv.vault()
    assert vault._keyring is None

    async with kv:
        assert {"v": 1} == await kv.get("k")
    fresh: Any = EnvelopeEncryptionWrapper(
        key_value=DiskStore(directory=tmp_path), secret=secret, create=False
    )
    async with fresh:
        assert {"v": 1} == await fresh.get("k")


async def test_async_with_leaves_the_store_if_the_vault_does_not_open(
    secret: Secret, cheap: Argon2idParams
) -> None:
    """Entering with a wrong secret leaves no store entered."""
    store = FullStore()
    await Vault.create(store, secret=secret, kdf=cheap)
    store.calls.clear()
    kv: Any = EnvelopeEncryptionWrapper(key_value=store, secret=Secret(b"wrong"))

    with pytest.raises(WrongSecretError):
        async with kv:
            pass

    assert ["enter", "exit"] == [call for call in store.calls if call in {"enter", "exit"}]


async def test_async_with_hands_on_errors(secret: Secret, cheap: Argon2idParams) -> None:
    """An error in the body leaves through the store, and the keys are gone."""
    store = FullStore()
    kv: Any = EnvelopeEncryptionWrapper(key_value=store, secret=secret, kdf=cheap)

    vault = await kv.vault()

    with pytest.raises(LookupError):
        async with kv:
            raise LookupError

    assert "exit" == store.calls[-1]
    assert vault._keyring is None
