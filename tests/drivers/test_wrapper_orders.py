"""Which stacks a tool refuses or warns of, and what a search for a lost vault meta says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.passthrough_cache import PassthroughCacheWrapper
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from key_value.aio.wrappers.routing import CollectionRoutingWrapper
from tests.fakes import dump

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.drivers.factory import OwnedStoreDriver
from kvseal.drivers.reach import recodable_driver
from kvseal.errors import UnsupportedStackError, UnsupportedStoreError, VaultMetaLostError
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.vault.creation import check_creation
from kvseal.vault.metastore import MetaStore

if TYPE_CHECKING:
    from collections.abc import Callable

BLIND = "hides records, so no search shows"


class Squeezing(CompressionWrapper):
    """A subclass changes values just as its base class does."""


def compressed(store: Any) -> Any:
    """Return *store* below compression, with a wrapper on either side."""
    return PrefixKeysWrapper(Squeezing(PrefixKeysWrapper(store, "in"), min_size_to_compress=1), "out")


def routed(store: Any) -> Any:
    """Return *store* as the default of a router."""
    return CollectionRoutingWrapper({"c": MemoryStore()}, store)


HIDING: dict[str, Callable[[Any], Any]] = {"compressed": compressed, "routed": routed}


@pytest.mark.parametrize("stack", HIDING.values(), ids=HIDING)
def test_hidden_records_are_refused(stack: Callable[[Any], Any], store: MemoryStore) -> None:
    """A stack that hides records is refused with a hint, wherever in it the wrapper stands."""
    with pytest.raises(UnsupportedStackError) as caught:
        recodable_driver(stack(store), writes=False)

    assert "hand over" in caught.value.hint
    assert 2 == caught.value.exit_code
    assert {} == dump(store)


@pytest.mark.parametrize("stack", HIDING.values(), ids=HIDING)
def test_factories_are_looked_through(stack: Callable[[Any], Any], store: MemoryStore) -> None:
    """What `python:module:factory` makes is refused like the store object itself, also within a driver."""
    made = stack(store)
    owned = OwnedStoreDriver(made, driver_for(made))

    for driver in (owned, DelegatingDriver(owned)):
        with pytest.raises(UnsupportedStackError):
            recodable_driver(driver)


def test_the_rest_is_reached(store: MemoryStore) -> None:
    """A store whose records are seen as they lie, and every other driver, is reached."""
    driver = driver_for(store)
    plain = OwnedStoreDriver(PrefixKeysWrapper(store, "p"), driver)

    assert driver is recodable_driver(driver)
    assert plain is recodable_driver(plain)
    assert driver.location == recodable_driver(PrefixKeysWrapper(store, "p")).location
    assert driver.location == recodable_driver(ReadOnlyWrapper(store), writes=False).location


def test_no_driver_is_another_error() -> None:
    """A store that has no driver is still told apart from a stack that hides its records."""
    with pytest.raises(UnsupportedStoreError, match="no driver for a store of class object") as caught:
        recodable_driver(object())  # type: ignore[arg-type]

    assert UnsupportedStoreError is type(caught.value)


async def test_what_stands_above_kvseal_hides_nothing(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """A whole stack may be handed over: only what stands below its outermost kvseal matters."""
    vault = await Vault.create(store, secret=secret, kdf=cheap)

    assert recodable_driver(compressed(EnvelopeEncryptionWrapper(store, vault=vault)))
    with pytest.raises(UnsupportedStackError):
        recodable_driver(EnvelopeEncryptionWrapper(compressed(store), vault=vault))
    with pytest.raises(UnsupportedStackError):
        recodable_driver(
            EnvelopeEncryptionWrapper(compressed(EnvelopeEncryptionWrapper(store, vault=vault)), vault=vault)
        )


def test_copies_are_warned_of_once_more(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    """Where the tool works, it says which records it does not see; a refused one says nothing."""
    cached = PassthroughCacheWrapper(store, MemoryStore())

    recodable_driver(cached)
    assert "PassthroughCacheWrapper keeps records in a second store" in caplog.text

    caplog.clear()
    with pytest.raises(UnsupportedStackError):
        recodable_driver(routed(cached))
    assert "" == caplog.text


@pytest.mark.parametrize("apart", [False, True], ids=["meta with the records", "meta apart"])
@pytest.mark.parametrize("stack", HIDING.values(), ids=HIDING)
async def test_a_blind_search_says_so(
    stack: Callable[[Any], Any],
    apart: bool,
    store: MemoryStore,
    secret: Secret,
    cheap: Argon2idParams,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A vault can be created where older records would be hidden, and that nobody looked at them is logged."""
    old = await Vault.create(store, secret=secret, kdf=cheap)
    hiding = stack(store)
    await EnvelopeEncryptionWrapper(hiding, vault=old).put("k", {"v": 1}, collection="c")
    await store.delete(META_KEY, collection=META_COLLECTION)
    caplog.clear()

    new = await Vault.create(hiding, secret=secret, kdf=cheap, meta_store=MemoryStore() if apart else None)

    assert BLIND in caplog.text
    assert old.status().vault_id != new.status().vault_id


@pytest.mark.parametrize("stack", [lambda s: s, lambda s: PrefixKeysWrapper(s, "p"), compressed, routed])
async def test_a_search_that_finds_says_nothing_else(
    stack: Callable[[Any], Any],
    store: MemoryStore,
    secret: Secret,
    cheap: Argon2idParams,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Records that the search does see still stop the creation, without a warning beside the error."""
    old = await Vault.create(store, secret=secret, kdf=cheap)
    await EnvelopeEncryptionWrapper(store, vault=old).put("k", {"v": 1})
    await store.delete(META_KEY, collection=META_COLLECTION)

    with pytest.raises(VaultMetaLostError):
        await check_creation(MetaStore(stack(store)), None)
    assert BLIND not in caplog.text


@pytest.mark.parametrize("stack", [lambda s: s, lambda s: PrefixKeysWrapper(s, "p"), driver_for])
async def test_a_search_that_sees_everything_is_quiet(
    stack: Callable[[Any], Any], store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing is hidden, an empty store is simply empty."""
    await check_creation(MetaStore(stack(store)), None)

    assert "" == caplog.text
