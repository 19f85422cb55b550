"""
Bound names are the names at the base store, wherever in a stack of wrappers kvseal stands.

Each stack says where its records lie; what lies there must open under exactly that name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.fallback import FallbackWrapper
from key_value.aio.wrappers.limit_size import LimitSizeWrapper
from key_value.aio.wrappers.logging import LoggingWrapper
from key_value.aio.wrappers.passthrough_cache import PassthroughCacheWrapper
from key_value.aio.wrappers.prefix_collections import PrefixCollectionsWrapper
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from key_value.aio.wrappers.retry import RetryWrapper
from key_value.aio.wrappers.routing import RoutingWrapper
from key_value.aio.wrappers.single_collection import SingleCollectionWrapper
from key_value.aio.wrappers.statistics import StatisticsWrapper
from key_value.aio.wrappers.ttl_clamp import TTLClampWrapper
from tests.fakes import BareStore, raw_meta

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.errors import ReservedNameError, TamperedRecordError, VaultExistsError

Layer = Callable[[Any], Any]
Names = tuple[str, str]

DEFAULT = "default_collection"
QUIET = logging.getLogger("kvseal-tests-quiet")

_collections: Layer = partial(PrefixCollectionsWrapper, prefix="t")
_collections_own: Layer = partial(PrefixCollectionsWrapper, prefix="t", default_collection="d")
_keys: Layer = partial(PrefixKeysWrapper, prefix="p")
_single: Layer = partial(SingleCollectionWrapper, single_collection="one")
_single_own: Layer = partial(
    SingleCollectionWrapper, single_collection="one", default_collection="d", separator="/"
)
_compression: Layer = CompressionWrapper
_statistics: Layer = StatisticsWrapper
_clamp: Layer = partial(TTLClampWrapper, min_ttl=1, max_ttl=1000)
_retry: Layer = RetryWrapper
_logging: Layer = partial(LoggingWrapper, logger=QUIET)
_limit: Layer = partial(LimitSizeWrapper, max_size=100_000)
_routing: Layer = partial(RoutingWrapper, lambda _: None)


def _fallback(store: Any) -> Any:
    return FallbackWrapper(store, MemoryStore())


def _cache(store: Any) -> Any:
    return PassthroughCacheWrapper(store, MemoryStore())


@dataclass(frozen=True)
class Stack:
    """Layers below and above kvseal, each innermost first, and where two records lie at the base store."""

    below: tuple[Layer, ...]
    above: tuple[Layer, ...]
    without_collection: Names
    """Where `("k", collection=None)` lies."""
    with_collection: Names
    """Where `("k", collection="c")` lies."""


PLAIN = ((DEFAULT, "k"), ("c", "k"))
STACKS: dict[str, Stack] = {
    "nothing": Stack((), (), *PLAIN),
    "collections below": Stack((_collections,), (), (f"t__{DEFAULT}", "k"), ("t__c", "k")),
    "collections above": Stack((), (_collections,), (f"t__{DEFAULT}", "k"), ("t__c", "k")),
    "collections with their own default below": Stack((_collections_own,), (), ("t__d", "k"), ("t__c", "k")),
    "collections with their own default above": Stack((), (_collections_own,), ("t__d", "k"), ("t__c", "k")),
    "keys below": Stack((_keys,), (), (DEFAULT, "p__k"), ("c", "p__k")),
    "keys above": Stack((), (_keys,), (DEFAULT, "p__k"), ("c", "p__k")),
    "single below": Stack((_single,), (), ("one", f"{DEFAULT}__k"), ("one", "c__k")),
    "single above": Stack((), (_single,), ("one", f"{DEFAULT}__k"), ("one", "c__k")),
    "single with its own names below": Stack((_single_own,), (), ("one", "d/k"), ("one", "c/k")),
    "single with its own names above": Stack((), (_single_own,), ("one", "d/k"), ("one", "c/k")),
    "compression": Stack((_compression,), (_compression,), *PLAIN),
    "statistics": Stack((_statistics,), (_statistics,), *PLAIN),
    "ttl clamp": Stack((_clamp,), (_clamp,), *PLAIN),
    "retry": Stack((_retry,), (_retry,), *PLAIN),
    "logging": Stack((_logging,), (_logging,), *PLAIN),
    "limit": Stack((_limit,), (_limit,), *PLAIN),
    "fallback": Stack((_fallback,), (_fallback,), *PLAIN),
    "cache": Stack((_cache,), (_cache,), *PLAIN),
    "routing": Stack((_routing,), (_routing,), *PLAIN),
    "prefixes of both kinds below": Stack(
        (_collections, _keys), (), (f"t__{DEFAULT}", "p__k"), ("t__c", "p__k")
    ),
    "prefixes of both kinds above": Stack(
        (), (_keys, _collections), (f"t__{DEFAULT}", "p__k"), ("t__c", "p__k")
    ),
    "one prefix below and one above": Stack(
        (_keys,), (_collections,), (f"t__{DEFAULT}", "p__k"), ("t__c", "p__k")
    ),
    "keys below single": Stack((_keys, _single), (), ("one", f"p__{DEFAULT}__k"), ("one", "p__c__k")),
    "single below keys": Stack((_single, _keys), (), ("one", f"{DEFAULT}__p__k"), ("one", "c__p__k")),
    "collections below single": Stack(
        (_collections, _single), (), ("t__one", f"{DEFAULT}__k"), ("t__one", "c__k")
    ),
    "single below collections": Stack(
        (_single, _collections), (), ("one", f"t__{DEFAULT}__k"), ("one", "t__c__k")
    ),
    "twice the same prefix": Stack((_keys, _keys), (_keys,), (DEFAULT, "p__p__p__k"), ("c", "p__p__p__k")),
    "renamers behind everything else": Stack(
        (_collections, _cache, _fallback, _routing, _retry, _statistics, _logging, _limit, _clamp),
        (),
        (f"t__{DEFAULT}", "k"),
        ("t__c", "k"),
    ),
    "renamers in front of everything else": Stack(
        (_cache, _fallback, _routing, _retry, _statistics, _compression, _keys),
        (_limit, _clamp),
        (DEFAULT, "p__k"),
        ("c", "p__k"),
    ),
}


def built(layers: tuple[Layer, ...], store: Any) -> Any:
    """Return *store* below all *layers*."""
    for layer in layers:
        store = layer(store)
    return store


@pytest.fixture
async def vault(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> Vault:
    """Return a new vault in the memory store."""
    return await Vault.create(store, secret=secret, kdf=cheap)


async def record_at(store: MemoryStore, names: Names) -> dict[str, Any]:
    """Return what lies at *names* of the base store."""
    record = await store.get(names[1], collection=names[0])
    assert record is not None, f"nothing lies at {names}"
    return record


@pytest.mark.parametrize("name", STACKS)
async def test_bound_names_are_those_at_the_base_store(name: str, store: MemoryStore, vault: Vault) -> None:
    """What lies at the base store opens under the very names under which it lies there."""
    stack = STACKS[name]
    kv = built(stack.above, EnvelopeEncryptionWrapper(built(stack.below, store), vault=vault))

    await kv.put("k", {"v": 1})
    await kv.put_many(["k"], [{"v": 2}], collection="c")

    codec = vault.keyring.codecs[""]
    for value, names in (({"v": 1}, stack.without_collection), ({"v": 2}, stack.with_collection)):
        assert (value, None) == codec.open(await record_at(store, names), *names)
    assert {"v": 1} == await kv.get("k")
    assert [{"v": 2}] == await kv.get_many(["k"], collection="c")
    assert {"v": 1} == (await kv.ttl("k"))[0]
    assert 2 == len(
        [n for c in await store.collections() if c != "__vault_meta__" for n in await store.keys(c)]
    )


EQUIVALENT = [
    ("collections below", "collections above"),
    ("collections with their own default below", "collections with their own default above"),
    ("keys below", "keys above"),
    ("single below", "single above"),
    ("single with its own names below", "single with its own names above"),
    ("prefixes of both kinds below", "prefixes of both kinds above"),
    ("prefixes of both kinds below", "one prefix below and one above"),
    ("nothing", "cache"),
    ("compression", "statistics"),
    ("collections below", "renamers behind everything else"),
    ("keys above", "renamers in front of everything else"),
]


@pytest.mark.parametrize(("one", "other"), EQUIVALENT, ids=[f"{one} = {other}" for one, other in EQUIVALENT])
async def test_equivalent_stacks_share_their_records(
    one: str, other: str, store: MemoryStore, vault: Vault
) -> None:
    """A record written through one stack opens through another that leads to the same names."""
    first, second = STACKS[one], STACKS[other]
    writer = built(first.above, EnvelopeEncryptionWrapper(built(first.below, store), vault=vault))
    reader = built(second.above, EnvelopeEncryptionWrapper(built(second.below, store), vault=vault))

    await writer.put("k", {"v": 1})
    await writer.put("k", {"v": 2}, collection="c")

    assert {"v": 1} == await reader.get("k")
    assert {"v": 2} == await reader.get("k", collection="c")


TENANTS: dict[str, Callable[[Any, str], Any]] = {
    "collections": lambda store, tenant: PrefixCollectionsWrapper(store, prefix=tenant),
    "keys": lambda store, tenant: PrefixKeysWrapper(store, prefix=tenant),
    "single": lambda store, tenant: SingleCollectionWrapper(store, single_collection=tenant),
}


@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize("kind", TENANTS)
async def test_tenants_cannot_swap_records(kind: str, side: str, store: MemoryStore, vault: Vault) -> None:
    """Whoever writes to the store cannot give one tenant's record to another, though both share a DEK."""
    rename = TENANTS[kind]

    def tenant(name: str) -> Any:
        return (
            EnvelopeEncryptionWrapper(rename(store, name), vault=vault)
            if side == "below"
            else rename(EnvelopeEncryptionWrapper(store, vault=vault), name)
        )

    alice, mallory = tenant("alice"), tenant("mallory")
    await alice.put("k", {"token": "a"})
    await mallory.put("k", {"token": "m"})
    places = [
        (collection, key)
        for collection in await store.collections()
        if collection != "__vault_meta__"
        for key in await store.keys(collection)
    ]
    one, two = places
    first, second = await record_at(store, one), await record_at(store, two)
    await store.put(one[1], second, collection=one[0])
    await store.put(two[1], first, collection=two[0])

    for kv in (alice, mallory):
        with pytest.raises(TamperedRecordError):
            await kv.get("k")


async def test_a_routed_collection_is_bound_by_its_own_name(store: MemoryStore, vault: Vault) -> None:
    """Behind a router, a collection that lies in another store than the default one opens there."""
    elsewhere = MemoryStore()
    kv = EnvelopeEncryptionWrapper(
        RoutingWrapper(lambda c: elsewhere if c == "c" else None, default_store=store), vault=vault
    )

    await kv.put("k", {"v": 1}, collection="c")

    assert {"v": 1} == await kv.get("k", collection="c")
    assert {"v": 1} == await EnvelopeEncryptionWrapper(elsewhere, vault=vault).get("k", collection="c")


async def test_the_vault_meta_lies_at_the_base_store(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Prefixes do not rename the vault meta, so every stack over one store finds the same vault."""
    one = EnvelopeEncryptionWrapper(
        key_value=PrefixCollectionsWrapper(store, prefix="a"), secret=secret, kdf=cheap
    )
    await one.put("k", {"v": 1})

    with pytest.raises(VaultExistsError):
        await Vault.create(PrefixKeysWrapper(store, prefix="b"), secret=secret, kdf=cheap)
    assert 1 == (await raw_meta(store))["revision"]


async def test_a_rename_onto_the_vault_meta_is_refused(store: MemoryStore, vault: Vault) -> None:
    """What counts is the name at the base store: no renamer leads to the vault meta's collection."""

    class Renamer(PrefixCollectionsWrapper):
        def _prefix_collection(self, collection: str | None) -> str:
            return "__vault_meta__" if collection == "mine" else super()._prefix_collection(collection)

    single = EnvelopeEncryptionWrapper(
        SingleCollectionWrapper(store, single_collection="__vault_meta__"), vault=vault
    )
    renamed = EnvelopeEncryptionWrapper(Renamer(store, prefix="t"), vault=vault)

    for operation in (
        single.get("k"),
        single.put("k", {}),
        single.delete("k", collection="c"),
        single.delete_many(["k"]),
        renamed.get("k", collection="mine"),
        renamed.put_many(["k"], [{}], collection="mine"),
        renamed.delete_many([], collection="mine"),
    ):
        with pytest.raises(ReservedNameError):
            await operation


async def test_a_reserved_name_that_is_renamed_is_nobodys(store: MemoryStore, vault: Vault) -> None:
    """Behind a prefix, a tenant's collection may be called anything: it is not the vault meta's."""
    kv = EnvelopeEncryptionWrapper(PrefixCollectionsWrapper(store, prefix="t"), vault=vault)

    await kv.put("k", {"v": 1}, collection="__vault_meta__")

    assert {"v": 1} == await kv.get("k", collection="__vault_meta__")


async def test_context_serves_where_names_are_not_enough(vault: Vault) -> None:
    """A wrapper that kvseal does not know renames unseen; two contexts keep its tenants apart."""

    class Unknown(BareStore):
        def __init__(self, tenant: str) -> None:
            super().__init__()
            self.entries, self._tenant = shared, tenant

        async def get(self, key: str, *, collection: str | None = None) -> dict[str, Any] | None:
            """Get what this tenant calls *key*."""
            return await super().get(f"{self._tenant}/{key}", collection=collection)

        async def put(self, key: str, value: Any, *, collection: str | None = None, ttl: Any = None) -> None:
            """Put what this tenant calls *key*."""
            await super().put(f"{self._tenant}/{key}", value, collection=collection, ttl=ttl)

    shared: dict[Any, Any] = {}
    alice = EnvelopeEncryptionWrapper(Unknown("alice"), vault=vault, context="alice")
    mallory = EnvelopeEncryptionWrapper(Unknown("mallory"), vault=vault, context="mallory")
    await alice.put("k", {"token": "a"})
    await mallory.put("k", {"token": "m"})

    shared[None, "alice/k"] = shared[None, "mallory/k"]

    assert {"token": "m"} == await mallory.get("k")
    with pytest.raises(TamperedRecordError):
        await alice.get("k")
