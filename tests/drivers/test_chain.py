"""The wrapper chain: names at the base store, compared with where the wrappers really put an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.base import BaseWrapper
from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.fallback import FallbackWrapper
from key_value.aio.wrappers.limit_size import LimitSizeWrapper
from key_value.aio.wrappers.logging import LoggingWrapper
from key_value.aio.wrappers.passthrough_cache import PassthroughCacheWrapper
from key_value.aio.wrappers.prefix_collections import PrefixCollectionsWrapper
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from key_value.aio.wrappers.retry import RetryWrapper
from key_value.aio.wrappers.routing import CollectionRoutingWrapper, RoutingWrapper
from key_value.aio.wrappers.single_collection import SingleCollectionWrapper
from key_value.aio.wrappers.statistics import StatisticsWrapper
from key_value.aio.wrappers.timeout import TimeoutWrapper
from key_value.aio.wrappers.ttl_clamp import TTLClampWrapper

from kvseal.drivers.chain import Chain

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE = {"n": 1}


class ShoutingPrefix(PrefixKeysWrapper):
    """A subclass that renames in its own way."""

    def _prefix_key(self, key: str) -> str:
        return f"{self.prefix}!!{key}".upper()


class Unknown(BaseWrapper):
    """A wrapper of a class that kvseal has never heard of."""

    def __init__(self, key_value: Any) -> None:
        self.key_value = key_value


class Forwarding:
    """A wrapper that keeps the store below under a name of its own, and passes unknown attributes through."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Slotted:
    """A wrapper without a `__dict__`."""

    __slots__ = ("key_value",)

    def __init__(self, key_value: Any) -> None:
        self.key_value = key_value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.key_value, name)


STACKS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda s: s,
    "prefix collections": lambda s: PrefixCollectionsWrapper(s, "p"),
    "prefix collections, own default": lambda s: PrefixCollectionsWrapper(s, "p", default_collection="mine"),
    "prefix collections twice": lambda s: PrefixCollectionsWrapper(PrefixCollectionsWrapper(s, "in"), "out"),
    "prefix keys": lambda s: PrefixKeysWrapper(s, "p"),
    "prefix keys twice": lambda s: PrefixKeysWrapper(PrefixKeysWrapper(s, "in"), "out"),
    "single collection": lambda s: SingleCollectionWrapper(s, "one"),
    "single collection, own default and separator": lambda s: SingleCollectionWrapper(
        s, "one", default_collection="mine", separator="//"
    ),
    "empty single collection": lambda s: SingleCollectionWrapper(s, ""),
    "prefix collections over single": lambda s: PrefixCollectionsWrapper(
        SingleCollectionWrapper(s, "one"), "p"
    ),
    "single over prefix collections": lambda s: SingleCollectionWrapper(
        PrefixCollectionsWrapper(s, "p"), "one"
    ),
    "prefix keys over single": lambda s: PrefixKeysWrapper(SingleCollectionWrapper(s, "one"), "p"),
    "single over prefix keys": lambda s: SingleCollectionWrapper(PrefixKeysWrapper(s, "p"), "one"),
    "all three": lambda s: PrefixKeysWrapper(
        PrefixCollectionsWrapper(SingleCollectionWrapper(s, "one", separator=":"), "c"), "k"
    ),
    "subclass": lambda s: ShoutingPrefix(s, "p"),
    "those that rename nothing": lambda s: StatisticsWrapper(
        RetryWrapper(TimeoutWrapper(LimitSizeWrapper(TTLClampWrapper(s, 0, 10_000), max_size=9999)))
    ),
    "statistics over a prefix": lambda s: StatisticsWrapper(
        PrefixCollectionsWrapper(s, "p", default_collection="mine")
    ),
    "logging and compression between": lambda s: PrefixKeysWrapper(
        LoggingWrapper(CompressionWrapper(PrefixCollectionsWrapper(s, "c"), min_size_to_compress=9999)), "k"
    ),
    "fallback": lambda s: FallbackWrapper(PrefixKeysWrapper(s, "p"), MemoryStore()),
    "cache": lambda s: PrefixKeysWrapper(PassthroughCacheWrapper(s, MemoryStore()), "p"),
    "routing": lambda s: RoutingWrapper(lambda _: None, PrefixKeysWrapper(s, "p")),
    "collection routing": lambda s: CollectionRoutingWrapper({"elsewhere": MemoryStore()}, s),
    "unknown": lambda s: PrefixKeysWrapper(Unknown(PrefixCollectionsWrapper(s, "c")), "k"),
    "slotted": lambda s: Slotted(PrefixCollectionsWrapper(s, "c")),
}


@pytest.mark.parametrize("collection", [None, "", "coll", "a__b"])
@pytest.mark.parametrize("default", [None, "base-default"])
@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS.keys())
async def test_names_are_where_the_entry_is(
    stack: Callable[[Any], Any], default: str | None, collection: str | None
) -> None:
    """An entry put at the top of a stack lies at the base store under exactly the physical names."""
    base = MemoryStore(default_collection=default)
    top = stack(base)
    await top.put("key", VALUE, collection=collection)
    ((real_collection, entries),) = base._cache.items()
    (real_key,) = entries.keys()

    chain = Chain.of(top)

    assert base is chain.base
    assert (real_collection, real_key) == chain.physical(collection, "key")
    assert real_collection == chain.physical_collection(collection)
    assert (real_key != "key") == chain.renames_keys
    assert (default or "default_collection") == chain.default_collection


def test_wrappers_from_outside_in() -> None:
    """The walked wrappers are listed from the outermost on, without the base store."""
    base = MemoryStore()
    inner = PrefixKeysWrapper(base, "p")
    outer = StatisticsWrapper(inner)

    assert (outer, inner) == Chain.of(outer).wrappers
    assert () == Chain.of(base).wrappers


def test_a_cycle_ends() -> None:
    """A chain that bites its own tail is walked once around."""
    first, second = Unknown(None), Unknown(None)
    first.key_value, second.key_value = second, first

    chain = Chain.of(first)

    assert ((first,), second) == (chain.wrappers, chain.base)


def test_forwarded_attributes_skip_nothing() -> None:
    """The `key_value` of a store further down, which a wrapper only passes through, is not followed."""
    top = Forwarding(PrefixKeysWrapper(MemoryStore(), "p"))

    chain = Chain.of(top)

    assert (top, ()) == (chain.base, chain.wrappers)


def test_base_without_a_default_collection() -> None:
    """A base store that does not say what its default collection is has py-key-value's own."""
    chain = Chain.of(object())  # type: ignore[arg-type]

    assert ("default_collection", "key") == chain.physical(None, "key")
