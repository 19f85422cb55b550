"""
docs/wrappers.md, row by row: what each of py-key-value's wrappers does above and below kvseal.

Each test says which rows it shows; the last tests compare the table with what was shown,
with what upstream ships, and with what kvseal warns of and refuses.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pkgutil
import re
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_origin

import pytest
from cryptography.fernet import Fernet
from key_value.aio import wrappers
from key_value.aio.errors import EntryTooLargeError, ReadOnlyError
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.base import BaseWrapper
from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.default_value import DefaultValueWrapper
from key_value.aio.wrappers.encryption import FernetEncryptionWrapper
from key_value.aio.wrappers.fallback import FallbackWrapper
from key_value.aio.wrappers.limit_size import LimitSizeWrapper
from key_value.aio.wrappers.logging import LoggingWrapper
from key_value.aio.wrappers.passthrough_cache import PassthroughCacheWrapper
from key_value.aio.wrappers.prefix_collections import PrefixCollectionsWrapper
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from key_value.aio.wrappers.retry import RetryWrapper
from key_value.aio.wrappers.routing import CollectionRoutingWrapper, RoutingWrapper
from key_value.aio.wrappers.single_collection import SingleCollectionWrapper
from key_value.aio.wrappers.statistics import StatisticsWrapper
from key_value.aio.wrappers.timeout import TimeoutWrapper
from key_value.aio.wrappers.ttl_clamp import TTLClampWrapper
from tests.fakes import Clock, HookedDriver, dump, raw_meta

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Policy, Secret, Vault, verify
from kvseal.drivers import driver_for
from kvseal.drivers.base import replace
from kvseal.drivers.chain import NAMES_NONE
from kvseal.drivers.reach import recodable_driver
from kvseal.envelope.stored import DATA_FIELD, is_sealed
from kvseal.errors import (
    PlaintextRecordError,
    TamperedRecordError,
    UnsupportedStackError,
    VaultNotFoundError,
    WrongSecretError,
)
from kvseal.keys.meta import META_COLLECTION as META

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Names = tuple[str, str]
Stored = dict[str, Any]

PAGE: Final = Path(__file__).parents[2] / "docs" / "wrappers.md"
DEFAULT: Final = "default_collection"
GOOD, CARE, DANGEROUS = "good", "works with care", "dangerous"
PLAIN: Final = {"token": "of-somebody"}
OTHER: Final = {"token": "of-somebody-else"}

SHOWN: dict[tuple[str, str], str] = {}


def row(wrapper: str, side: str, verdict: str) -> Callable[[Any], Any]:
    """Mark a test as the one that shows what the table says of *wrapper* on *side* of kvseal."""

    def mark(test: Any) -> Any:
        assert (wrapper, side) not in SHOWN
        SHOWN[wrapper, side] = verdict
        return test

    return mark


class Watched(BaseWrapper):
    """A wrapper unknown to kvseal that remembers what passed and fails its first *failures* operations."""

    def __init__(self, key_value: Any, failures: int = 0) -> None:
        self.key_value = key_value
        self.failures = failures
        self.collections: set[str | None] = set()
        self.reads = 0
        self.written: list[Stored] = []

    def _pass(self, collection: str | None) -> None:
        self.collections.add(collection)
        if self.failures:
            self.failures -= 1
            raise ConnectionError

    async def get(self, key: str, *, collection: str | None = None) -> Stored | None:
        """Get, unless it is to fail."""
        self.reads += 1
        self._pass(collection)
        return await self.key_value.get(key, collection=collection)

    async def put(
        self, key: str, value: Mapping[str, Any], *, collection: str | None = None, ttl: Any = None
    ) -> None:
        """Put, unless it is to fail."""
        self.written.append(dict(value))
        self._pass(collection)
        await self.key_value.put(key, value, collection=collection, ttl=ttl)


@pytest.fixture
async def vault(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> Vault:
    """Return a new vault in the memory store."""
    return await Vault.create(store, secret=secret, kdf=cheap)


async def entries(store: MemoryStore) -> dict[Names, Stored]:
    """Return what lies in *store*, but not the vault meta."""
    driver = driver_for(store)
    return {
        (entry.collection or "", entry.key or ""): dict(entry.value or {})
        async for page in driver.scan()
        for entry in page.entries
        if entry.collection != META
    }


async def opened(vault: Vault, store: MemoryStore) -> dict[Names, Stored]:
    """Open everything in *store* under the very names at which it lies there."""
    codec = vault.keyring.codecs[""]
    return {names: codec.open(stored, *names)[0] for names, stored in (await entries(store)).items()}


async def damage(store: MemoryStore, key: str) -> None:
    """Flip a bit of the ciphertext at *key*."""
    stored = await store.get(key)
    assert stored is not None
    data = stored[DATA_FIELD]
    await store.put(key, {**stored, DATA_FIELD: data[:80] + ("B" if data[80] == "A" else "A") + data[81:]})


async def reencrypt(store: Any, vault: Vault) -> None:
    """Seal what a driver sees of *store* with a new DEK, as vaultctl does."""
    await vault.rotate_dek()
    driver, codec = recodable_driver(store), vault.keyring.codecs[""]
    for page in [page async for page in driver.scan()]:
        for entry in page.entries:
            if entry.collection != META:
                assert entry.value is not None
                assert entry.collection is not None
                assert entry.key is not None
                value, expires_at = codec.open(entry.value, entry.collection, entry.key)
                sealed = codec.seal(value, entry.collection, entry.key, expires_at)
                await replace(driver, entry, sealed)


async def proven(store: Any, vault: Vault) -> tuple[int, int, dict[int, int]]:
    """Return how many records `verify` sees in *store*, how many fail, and how many there are per DEK."""
    report = await verify(recodable_driver(store, writes=False), vault)
    return report.scanned, report.failed, dict(report.deks)


def length(stored: Mapping[str, Any]) -> int:
    """Return the length of *stored* as JSON."""
    return len(json.dumps(stored))


@row("CompressionWrapper", "above", CARE)
async def test_compression_above(store: MemoryStore, vault: Vault) -> None:
    """Compressed values are sealed; values of one length get records whose length tells them apart."""
    kv = CompressionWrapper(EnvelopeEncryptionWrapper(store, vault=vault), min_size_to_compress=1)

    await kv.put("even", {"v": "a" * 4000})
    await kv.put("mixed", {"v": os.urandom(2000).hex()})

    found = await entries(store)
    assert length(found[DEFAULT, "even"]) < length(found[DEFAULT, "mixed"]) / 10
    assert {"__compressed_data__"} <= set((await opened(vault, store))[DEFAULT, "even"])
    assert {"v": "a" * 4000} == await kv.get("even")
    assert (2, 0, {1: 2}) == await proven(kv, vault)


@row("CompressionWrapper", "below", DANGEROUS)
async def test_compression_below(store: MemoryStore, vault: Vault) -> None:
    """Records are hidden in compressed ones that are no smaller, and short ones are not hidden."""
    kv, bare = (
        EnvelopeEncryptionWrapper(CompressionWrapper(store), vault=vault),
        EnvelopeEncryptionWrapper(store, vault=vault),
    )

    await kv.put("long", {"v": "a" * 4000})
    await bare.put("bare", {"v": "a" * 4000})
    await kv.put("short", PLAIN)

    found = await entries(store)
    hidden = {key: not is_sealed(stored) for (_, key), stored in found.items()}
    assert {"long": True, "bare": False, "short": False} == hidden
    assert length(found[DEFAULT, "long"]) >= length(found[DEFAULT, "bare"])
    assert {"v": "a" * 4000} == await kv.get("long")


@row("FernetEncryptionWrapper", "above", CARE)
@row("BaseEncryptionWrapper", "above", CARE)
async def test_another_encryption_above(store: MemoryStore, vault: Vault) -> None:
    """What is sealed is the other encryption's value, which a new DEK leaves as it is."""
    kv = FernetEncryptionWrapper(
        EnvelopeEncryptionWrapper(store, vault=vault), fernet=Fernet(Fernet.generate_key())
    )

    await kv.put("k", PLAIN)
    before = await opened(vault, store)
    await reencrypt(kv, vault)

    assert before == await opened(vault, store)
    assert 1 == before[DEFAULT, "k"]["__encryption_version__"]
    assert before[DEFAULT, "k"] == await EnvelopeEncryptionWrapper(store, vault=vault).get("k")
    assert PLAIN == await kv.get("k")
    assert (1, 0, {2: 1}) == await proven(kv, vault)


@row("FernetEncryptionWrapper", "below", DANGEROUS)
@row("BaseEncryptionWrapper", "below", DANGEROUS)
async def test_another_encryption_below(
    store: MemoryStore, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the other encryption lies on the backend; a second kvseal hides records as well as any."""
    kv = EnvelopeEncryptionWrapper(
        FernetEncryptionWrapper(store, fernet=Fernet(Fernet.generate_key())), vault=vault
    )
    await kv.put("k", PLAIN)

    assert 1 == (await entries(store))[DEFAULT, "k"]["__encryption_version__"]
    assert PLAIN == await kv.get("k")

    caplog.clear()
    twice = EnvelopeEncryptionWrapper(EnvelopeEncryptionWrapper(store, vault=vault), vault=vault)
    assert "EnvelopeEncryptionWrapper below kvseal hides its records" in caplog.text
    with pytest.raises(UnsupportedStackError, match="EnvelopeEncryptionWrapper changes what is stored"):
        recodable_driver(twice)


@row("DefaultValueWrapper", "above", CARE)
async def test_default_above(store: MemoryStore, vault: Vault) -> None:
    """The default is not stored; what reads as missing reads as the default, if one lets it."""
    strict = DefaultValueWrapper(EnvelopeEncryptionWrapper(store, vault=vault), default_value=OTHER)
    lax = DefaultValueWrapper(
        EnvelopeEncryptionWrapper(store, vault=vault, raise_on_decryption_error=False), default_value=OTHER
    )

    assert OTHER == await strict.get("k")
    assert {} == await entries(store)
    await strict.put("k", PLAIN)
    await damage(store, "k")

    assert OTHER == await lax.get("k")
    with pytest.raises(TamperedRecordError):
        await strict.get("k")
    assert (1, 1, {1: 1}) == await proven(strict, vault)


@row("DefaultValueWrapper", "below", DANGEROUS)
async def test_default_below(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """The default is no record: reading a missing key fails, or serves it where plaintext is read."""
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    lenient = await Vault.create(MemoryStore(), secret=secret, kdf=cheap, policy=Policy(read_plaintext=True))
    stack = DefaultValueWrapper(store, default_value=OTHER)

    await EnvelopeEncryptionWrapper(stack, vault=vault).put("k", PLAIN)

    assert PLAIN == await EnvelopeEncryptionWrapper(stack, vault=vault).get("k")
    with pytest.raises(PlaintextRecordError):
        await EnvelopeEncryptionWrapper(stack, vault=vault).get("missing")
    assert OTHER == await EnvelopeEncryptionWrapper(stack, vault=lenient).get("missing")
    assert (1, 0, {1: 1}) == await proven(stack, vault)


@row("FallbackWrapper", "above", DANGEROUS)
async def test_fallback_above(store: MemoryStore, vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged record or a wrong secret is hidden behind an unsealed value, and writes go past kvseal."""
    fallback = MemoryStore()
    await fallback.put("k", OTHER)
    kv = FallbackWrapper(EnvelopeEncryptionWrapper(store, vault=vault), fallback)
    await kv.put("k", PLAIN)
    await damage(store, "k")
    locked_out = EnvelopeEncryptionWrapper(store, secret=Secret(b"wrong"), create=False)

    assert OTHER == await kv.get("k")
    assert OTHER == await FallbackWrapper(locked_out, fallback).get("k")
    await FallbackWrapper(locked_out, fallback, write_to_fallback=True).put("new", PLAIN)
    assert PLAIN == await fallback.get("new")
    with pytest.raises(TamperedRecordError):
        await FallbackWrapper(
            EnvelopeEncryptionWrapper(store, vault=vault), fallback, fallback_on=(ConnectionError,)
        ).get("k")
    with pytest.raises(WrongSecretError):
        await locked_out.get("k")
    assert (1, 1, {1: 1}) == await proven(kv, vault)
    assert "FallbackWrapper keeps records in a second store" in caplog.text


@row("FallbackWrapper", "below", CARE)
async def test_fallback_below(store: MemoryStore, vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """The fallback gets records, serves nothing else, and keeps its DEK when the primary gets a new one."""
    fallback, primary = MemoryStore(), Watched(store)
    stack = FallbackWrapper(primary, fallback, write_to_fallback=True)
    kv = EnvelopeEncryptionWrapper(stack, vault=vault)
    await kv.put("k", PLAIN)
    primary.failures = 1
    await kv.put("late", PLAIN)

    assert {(DEFAULT, "late"): PLAIN} == await opened(vault, fallback)
    primary.failures = 1
    assert PLAIN == await kv.get("late")
    await fallback.put("k", OTHER)
    primary.failures = 2
    with pytest.raises(PlaintextRecordError):
        await kv.get("k")

    await fallback.delete("k")
    await reencrypt(stack, vault)
    assert (1, 0, {2: 1}) == await proven(stack, vault)
    assert (1, 0, {1: 1}) == await proven(fallback, vault)
    assert "FallbackWrapper keeps records in a second store" in caplog.text


@row("LimitSizeWrapper", "above", CARE)
async def test_limit_above(store: MemoryStore, vault: Vault) -> None:
    """The limit is on the value, so that a longer record reaches the store."""
    kv = LimitSizeWrapper(EnvelopeEncryptionWrapper(store, vault=vault), max_size=1000)

    await kv.put("k", {"v": "a" * 900})

    assert length((await entries(store))[DEFAULT, "k"]) > 1000
    with pytest.raises(EntryTooLargeError):
        await kv.put("k", {"v": "a" * 1000})
    assert (1, 0, {1: 1}) == await proven(kv, vault)


@row("LimitSizeWrapper", "below", GOOD)
async def test_limit_below(store: MemoryStore, vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """The limit is on the record; one that drops without a word leaves the old value, and is warned of."""
    loud = EnvelopeEncryptionWrapper(LimitSizeWrapper(store, max_size=1000), vault=vault)
    with pytest.raises(EntryTooLargeError):
        await loud.put("k", {"v": "a" * 900})
    await loud.put("k", PLAIN)
    assert "" == caplog.text

    silent = EnvelopeEncryptionWrapper(
        LimitSizeWrapper(store, max_size=1000, raise_on_too_large=False), vault=vault
    )
    await silent.put("k", {"v": "a" * 900})

    assert PLAIN == await silent.get("k")
    assert "LimitSizeWrapper below kvseal drops records silently" in caplog.text
    caplog.clear()
    EnvelopeEncryptionWrapper(LimitSizeWrapper(store, min_size=1000), vault=vault)
    assert "LimitSizeWrapper below kvseal drops records silently" in caplog.text
    caplog.clear()
    EnvelopeEncryptionWrapper(LimitSizeWrapper(store, min_size=1, raise_on_too_small=True), vault=vault)
    assert "" == caplog.text
    assert (1, 0, {1: 1}) == await proven(silent, vault)


@pytest.mark.parametrize(("side", "shows"), [("above", True), ("below", False)])
@row("LoggingWrapper", "above", DANGEROUS)
@row("LoggingWrapper", "below", GOOD)
async def test_logging(
    side: str, shows: bool, store: MemoryStore, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    """Above, values come into the log though they were not asked for; below, only records do."""
    caplog.set_level(logging.INFO)

    def logged(store: Any) -> Any:
        return LoggingWrapper(store, log_values=False)

    kv = (
        logged(EnvelopeEncryptionWrapper(store, vault=vault))
        if side == "above"
        else EnvelopeEncryptionWrapper(logged(store), vault=vault)
    )
    await kv.put("k", PLAIN)
    assert PLAIN == await kv.get("k")

    assert shows == (PLAIN["token"] in caplog.text)
    assert shows != (DATA_FIELD in caplog.text)
    assert {(DEFAULT, "k"): PLAIN} == await opened(vault, store)
    assert (1, 0, {1: 1}) == await proven(kv, vault)


@row("PassthroughCacheWrapper", "above", DANGEROUS)
async def test_cache_above(store: MemoryStore, vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """Plaintext lies in the cache, and is served when the record is damaged and the vault locked."""
    cache = MemoryStore()
    kv = PassthroughCacheWrapper(EnvelopeEncryptionWrapper(store, vault=vault), cache)
    await kv.put("k", PLAIN)
    assert PLAIN == await kv.get("k")

    assert {(DEFAULT, "k"): PLAIN} == await entries(cache)
    await damage(store, "k")
    assert (1, 1, {1: 1}) == await proven(kv, vault)
    await vault.lock()
    assert PLAIN == await kv.get("k")
    assert 1700 < ((await cache.ttl("k"))[1] or 0) <= 1800
    assert "PassthroughCacheWrapper keeps records in a second store" in caplog.text


@row("PassthroughCacheWrapper", "below", CARE)
async def test_cache_below(store: MemoryStore, vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """Records lie in the cache, and are served under their old DEK when the store has a new one."""
    cache = MemoryStore()
    stack = PassthroughCacheWrapper(store, cache)
    kv = EnvelopeEncryptionWrapper(stack, vault=vault)
    await kv.put("k", PLAIN)
    assert PLAIN == await kv.get("k")

    assert {(DEFAULT, "k"): PLAIN} == await opened(vault, cache)
    await reencrypt(stack, vault)
    assert (1, 0, {2: 1}) == await proven(stack, vault)
    assert (1, 0, {1: 1}) == await proven(cache, vault)
    await store.delete("k")
    assert PLAIN == await kv.get("k")
    assert 1700 < ((await cache.ttl("k"))[1] or 0) <= 1800
    assert "PassthroughCacheWrapper keeps records in a second store" in caplog.text


RENAMED: dict[str, tuple[Callable[[Any, str], Any], Callable[[str], Names]]] = {
    "PrefixCollectionsWrapper": (PrefixCollectionsWrapper, lambda name: (f"{name}__{DEFAULT}", "k")),
    "PrefixKeysWrapper": (PrefixKeysWrapper, lambda name: (DEFAULT, f"{name}__k")),
    "SingleCollectionWrapper": (SingleCollectionWrapper, lambda name: (name, f"{DEFAULT}__k")),
}


@pytest.mark.parametrize(("wrapper", "side"), list(product(RENAMED, ("above", "below"))))
@row("PrefixCollectionsWrapper", "above", GOOD)
@row("PrefixCollectionsWrapper", "below", GOOD)
@row("PrefixKeysWrapper", "above", GOOD)
@row("PrefixKeysWrapper", "below", GOOD)
@row("SingleCollectionWrapper", "above", GOOD)
@row("SingleCollectionWrapper", "below", GOOD)
async def test_renamers(wrapper: str, side: str, store: MemoryStore, vault: Vault) -> None:
    """Both orders write one record, bound to the tenant; tenants cannot swap theirs, and share a vault."""
    rename, place = RENAMED[wrapper]

    def tenant(name: str, side: str = side) -> Any:
        return (
            rename(EnvelopeEncryptionWrapper(store, vault=vault), name)
            if side == "above"
            else EnvelopeEncryptionWrapper(rename(store, name), vault=vault)
        )

    await tenant("one").put("k", PLAIN)
    await tenant("two").put("k", OTHER)

    assert {place("one"): PLAIN, place("two"): OTHER} == await opened(vault, store)
    assert PLAIN == await tenant("one", "below" if side == "above" else "above").get("k")
    assert (2, 0, {1: 2}) == await proven(tenant("one"), vault)
    assert 1 == (await raw_meta(store))["revision"]
    (collection, key), (other_collection, other_key) = place("one"), place("two")
    await store.put(key, (await entries(store))[other_collection, other_key], collection=collection)
    with pytest.raises(TamperedRecordError):
        await tenant("one").get("k")


@pytest.mark.parametrize("side", ["above", "below"])
async def test_separators_are_ambiguous(side: str, store: MemoryStore, vault: Vault) -> None:
    """Names that a prefixing wrapper composes alike are one entry, which kvseal cannot tell apart."""

    def stacked(rename: Callable[[Any], Any]) -> Any:
        return (
            rename(EnvelopeEncryptionWrapper(store, vault=vault))
            if side == "above"
            else EnvelopeEncryptionWrapper(rename(store), vault=vault)
        )

    await stacked(lambda s: PrefixKeysWrapper(s, "x")).put("y__k", PLAIN)
    single = stacked(lambda s: SingleCollectionWrapper(s, "one"))
    await single.put("b__k", OTHER, collection="a")

    assert PLAIN == await stacked(lambda s: PrefixKeysWrapper(s, "x__y")).get("k")
    assert OTHER == await single.get("k", collection="a__b")
    assert 2 == len(await entries(store))


@row("ReadOnlyWrapper", "above", CARE)
async def test_read_only_above(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """The wrapper does not know of it, and its first read makes a vault, unless it is told not to."""
    careful = EnvelopeEncryptionWrapper(store, secret=secret, kdf=cheap, create=False)
    with pytest.raises(VaultNotFoundError):
        await ReadOnlyWrapper(careful).get("k")
    assert {} == dump(store)

    inner = EnvelopeEncryptionWrapper(store, secret=secret, kdf=cheap)
    kv = ReadOnlyWrapper(inner)
    assert None is await kv.get("k")

    assert 1 == (await raw_meta(store))["revision"]
    with pytest.raises(ReadOnlyError):
        await kv.put("k", PLAIN)
    with pytest.raises(UnsupportedStackError, match="ReadOnlyWrapper forbids writing"):
        recodable_driver(kv)
    assert (0, 0, {}) == await proven(kv, await inner.vault())


@row("ReadOnlyWrapper", "below", GOOD)
async def test_read_only_below(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """No vault is made past it; what is there is read and verified, and nothing may re-seal it."""
    stack = ReadOnlyWrapper(store)
    kv = EnvelopeEncryptionWrapper(stack, secret=secret, kdf=cheap)
    with pytest.raises(VaultNotFoundError):
        await kv.get("k")
    assert {} == dump(store)

    vault = await Vault.create(store, secret=secret, kdf=cheap)
    await EnvelopeEncryptionWrapper(store, vault=vault).put("k", PLAIN)
    before = dump(store)

    assert PLAIN == await kv.get("k")
    with pytest.raises(ReadOnlyError):
        await kv.put("k", OTHER)
    with pytest.raises(UnsupportedStackError, match="ReadOnlyWrapper forbids writing") as caught:
        recodable_driver(stack)
    assert "hand over the store below it" == caught.value.hint
    assert (1, 0, {1: 1}) == await proven(stack, vault)
    assert before == dump(store)


@row("RetryWrapper", "above", GOOD)
async def test_retry_above(store: MemoryStore, vault: Vault) -> None:
    """Every try seals anew, and what is wrong with a record is not tried again."""
    watched = Watched(store, failures=1)
    kv = RetryWrapper(EnvelopeEncryptionWrapper(watched, vault=vault), initial_delay=0.0)

    await kv.put("k", PLAIN)

    first, second = watched.written
    assert first != second
    assert {(DEFAULT, "k"): PLAIN} == await opened(vault, store)
    assert (1, 0, {1: 1}) == await proven(kv, vault)
    await damage(store, "k")
    with pytest.raises(TamperedRecordError):
        await kv.get("k")
    assert 1 == watched.reads


@row("RetryWrapper", "below", GOOD)
async def test_retry_below(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """Every try stores the same record, and the vault meta comes another way."""
    watched = Watched(store, failures=1)
    kv = EnvelopeEncryptionWrapper(RetryWrapper(watched, initial_delay=0.0), secret=secret, kdf=cheap)

    await kv.put("k", PLAIN)

    first, second = watched.written
    assert first == second
    assert {None} == watched.collections
    assert PLAIN == await kv.get("k")
    assert (1, 0, {1: 1}) == await proven(kv, await kv.vault())


def router(kind: str, elsewhere: Any, default: Any) -> Any:
    """Return a router of *kind* that leads the collection `c` *elsewhere*."""
    if kind == "CollectionRoutingWrapper":
        return CollectionRoutingWrapper({"c": elsewhere}, default)
    return RoutingWrapper(lambda collection: elsewhere if collection == "c" else None, default)


ROUTERS = ["RoutingWrapper", "CollectionRoutingWrapper"]


@pytest.mark.parametrize("kind", ROUTERS)
@row("RoutingWrapper", "above", CARE)
@row("CollectionRoutingWrapper", "above", CARE)
async def test_routing_above(kind: str, store: MemoryStore, vault: Vault) -> None:
    """Only the stores that are wrapped get records; the others get plaintext."""
    bare, wrapped = MemoryStore(), MemoryStore()
    kv = router(kind, bare, EnvelopeEncryptionWrapper(store, vault=vault))
    safe = router(
        kind, EnvelopeEncryptionWrapper(wrapped, vault=vault), EnvelopeEncryptionWrapper(store, vault=vault)
    )

    await kv.put("k", PLAIN)
    await kv.put("k", OTHER, collection="c")
    await safe.put("k", OTHER, collection="c")

    assert {(DEFAULT, "k"): PLAIN} == await opened(vault, store)
    assert {("c", "k"): OTHER} == await entries(bare)
    assert {("c", "k"): OTHER} == await opened(vault, wrapped)


@pytest.mark.parametrize("kind", ROUTERS)
@row("RoutingWrapper", "below", CARE)
@row("CollectionRoutingWrapper", "below", CARE)
async def test_routing_below(kind: str, store: MemoryStore, vault: Vault) -> None:
    """Every store gets records, the vault is in one, and tools are handed each; but a route may not rename."""
    elsewhere = MemoryStore()
    stack = router(kind, elsewhere, store)
    kv = EnvelopeEncryptionWrapper(stack, vault=vault)
    await kv.put("k", PLAIN)
    await kv.put("k", OTHER, collection="c")

    assert {("c", "k"): OTHER} == await opened(vault, elsewhere)
    assert {(DEFAULT, "k"): PLAIN} == await opened(vault, store)
    with pytest.raises(UnsupportedStackError, match=kind) as caught:
        recodable_driver(stack)
    assert "hand over each base store on its own" == caught.value.hint
    assert (1, 0, {1: 1}) == await proven(store, vault)
    assert (1, 0, {1: 1}) == await proven(elsewhere, vault)

    renaming = EnvelopeEncryptionWrapper(router(kind, PrefixKeysWrapper(elsewhere, "p"), store), vault=vault)
    await renaming.put("k", OTHER, collection="c")
    assert OTHER == await renaming.get("k", collection="c")
    assert (2, 1, {1: 2}) == await proven(elsewhere, vault)


@pytest.mark.parametrize("side", ["above", "below"])
@row("StatisticsWrapper", "above", GOOD)
@row("StatisticsWrapper", "below", GOOD)
async def test_statistics(side: str, secret: Secret, cheap: Argon2idParams) -> None:
    """It counts and changes nothing, except that upstream's 0.4 names the collection that has no name."""
    store = MemoryStore(default_collection="mine")
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    counter = StatisticsWrapper(EnvelopeEncryptionWrapper(store, vault=vault) if side == "above" else store)
    kv = counter if side == "above" else EnvelopeEncryptionWrapper(counter, vault=vault)

    await kv.put("k", PLAIN)

    assert {(DEFAULT if NAMES_NONE else "mine", "k"): PLAIN} == await opened(vault, store)
    assert PLAIN == await kv.get("k")
    assert 1 == counter.statistics.get_collection(DEFAULT).put.count
    assert (1, 0, {1: 1}) == await proven(kv, vault)


@pytest.mark.parametrize(("default", "warned"), [(None, False), (DEFAULT, False), ("mine", True)])
async def test_statistics_of_the_old_upstream(
    default: str | None,
    warned: bool,
    vault: Vault,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it names the collection, and the store's default is another, that is warned of."""
    monkeypatch.setattr("kvseal.drivers.wrapper_orders.NAMES_NONE", (StatisticsWrapper,))

    EnvelopeEncryptionWrapper(StatisticsWrapper(MemoryStore(default_collection=default)), vault=vault)

    assert warned == ("StatisticsWrapper below kvseal puts what has no collection" in caplog.text)


@row("TimeoutWrapper", "above", CARE)
async def test_timeout_above(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """The first operation fails where the vault does not open in time; after `unlock` it does not."""
    answers = asyncio.Event()

    async def around(_: str, operation: Callable[[], Any]) -> Any:
        await answers.wait()
        return await operation()

    meta_store = HookedDriver(driver_for(MemoryStore()), around)
    inner = EnvelopeEncryptionWrapper(store, secret=secret, kdf=cheap, meta_store=meta_store)
    with pytest.raises(asyncio.TimeoutError):
        await TimeoutWrapper(inner, timeout=0.01).put("k", PLAIN)
    assert {} == await entries(store)

    answers.set()
    await inner.unlock()
    kv = TimeoutWrapper(inner, timeout=60.0)
    await kv.put("k", PLAIN)
    assert (1, 0, {1: 1}) == await proven(kv, await inner.vault())


@row("TimeoutWrapper", "below", GOOD)
async def test_timeout_below(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """The vault opens with no time at all; only the store's own operations have to be in time."""

    class Hung(Watched):
        async def get(self, key: str, *, collection: str | None = None) -> Stored | None:
            await super().get(key, collection=collection)
            return await asyncio.Future()

    watched = Hung(store)
    kv = EnvelopeEncryptionWrapper(TimeoutWrapper(watched, timeout=0.0), secret=secret, kdf=cheap)
    await kv.unlock()
    with pytest.raises(asyncio.TimeoutError):
        await kv.get("k")

    assert 1 == (await raw_meta(store))["revision"]
    assert META not in watched.collections
    await EnvelopeEncryptionWrapper(TimeoutWrapper(store, timeout=60.0), vault=await kv.vault()).put(
        "k", PLAIN
    )
    assert (1, 0, {1: 1}) == await proven(kv, await kv.vault())


async def expiry_of(vault: Vault, store: MemoryStore, key: str) -> int | None:
    """Return the expiry that is sealed in the record at *key*."""
    return vault.keyring.codecs[""].open((await entries(store))[DEFAULT, key], DEFAULT, key)[1]


@row("TTLClampWrapper", "above", GOOD)
async def test_clamp_above(store: MemoryStore, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sealed is the clamped expiry."""
    clock = Clock(monkeypatch)
    kv = TTLClampWrapper(
        EnvelopeEncryptionWrapper(store, vault=vault), min_ttl=50, max_ttl=60, missing_ttl=55
    )

    await kv.put("long", PLAIN, ttl=3600)
    await kv.put("short", PLAIN, ttl=1)
    await kv.put("none", PLAIN)

    sealed = [await expiry_of(vault, store, key) for key in ("long", "short", "none")]
    assert [clock.milliseconds + seconds * 1000 for seconds in (60, 50, 55)] == sealed
    assert (3, 0, {1: 3}) == await proven(kv, vault)


@row("TTLClampWrapper", "below", CARE)
async def test_clamp_below(store: MemoryStore, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sealed is the expiry that was asked for, and stays so; a record ends at the earlier one."""
    clock = Clock(monkeypatch)
    stack = TTLClampWrapper(store, min_ttl=50, max_ttl=60, missing_ttl=55)
    kv = EnvelopeEncryptionWrapper(stack, vault=vault)

    await kv.put("long", PLAIN, ttl=3600)
    await kv.put("short", PLAIN, ttl=1)
    await kv.put("none", PLAIN)
    await reencrypt(stack, vault)

    sealed = [await expiry_of(vault, store, key) for key in ("long", "short", "none")]
    assert [clock.milliseconds + 3_600_000, clock.milliseconds + 1000, None] == sealed
    remaining = [(await kv.ttl(key))[1] or 0 for key in ("long", "short", "none")]
    assert remaining[0] <= 60
    assert remaining[1] <= 1
    assert remaining[2] <= 55
    clock.advance(2)
    assert None is await kv.get("short")
    assert None is not await store.get("short")
    assert (3, 0, {2: 3}) == await proven(kv, vault)


BUILT: dict[str, Callable[[Any], Any]] = {
    "BaseEncryptionWrapper": lambda s: FernetEncryptionWrapper(s, fernet=Fernet(Fernet.generate_key())),
    "CollectionRoutingWrapper": lambda s: CollectionRoutingWrapper({}, s),
    "CompressionWrapper": CompressionWrapper,
    "DefaultValueWrapper": lambda s: DefaultValueWrapper(s, default_value=OTHER),
    "FallbackWrapper": lambda s: FallbackWrapper(s, MemoryStore()),
    "FernetEncryptionWrapper": lambda s: FernetEncryptionWrapper(s, fernet=Fernet(Fernet.generate_key())),
    "LimitSizeWrapper": lambda s: LimitSizeWrapper(s, max_size=100_000),
    "LoggingWrapper": LoggingWrapper,
    "PassthroughCacheWrapper": lambda s: PassthroughCacheWrapper(s, MemoryStore()),
    "PrefixCollectionsWrapper": lambda s: PrefixCollectionsWrapper(s, "p"),
    "PrefixKeysWrapper": lambda s: PrefixKeysWrapper(s, "p"),
    "ReadOnlyWrapper": ReadOnlyWrapper,
    "RetryWrapper": RetryWrapper,
    "RoutingWrapper": lambda s: RoutingWrapper(lambda _: None, s),
    "SingleCollectionWrapper": lambda s: SingleCollectionWrapper(s, "one"),
    "StatisticsWrapper": StatisticsWrapper,
    "TTLClampWrapper": lambda s: TTLClampWrapper(s, 1, 100),
    "TimeoutWrapper": TimeoutWrapper,
}


def table() -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the table of the page: (wrapper, side) → the parts of its verdict."""
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            names, side, _, _, verdict = (cell.strip() for cell in line.strip("|").split(" | "))
            for name in re.findall(r"`(\w+)`", names):
                assert (name, side) not in rows, f"two rows for {name} {side}"
                rows[name, side] = tuple(verdict.split(", "))
    return rows


def upstream() -> set[str]:
    """Return the names of the wrapper classes that the installed py-key-value ships."""
    found: set[str] = set()
    for module in pkgutil.walk_packages(wrappers.__path__, f"{wrappers.__name__}."):
        # On Python 3.10 `dict[str, str]` counts as a type.
        members = [m for m in vars(import_module(module.name)).values() if get_origin(m) is None]
        found |= {m.__name__ for m in members if isinstance(m, type) and issubclass(m, BaseWrapper)}
    return found - {"BaseWrapper"}


def test_table_is_what_is_tested() -> None:
    """The table has exactly the rows that the tests above show, with their verdicts."""
    assert SHOWN == {order: verdict[0] for order, verdict in table().items()}


def test_table_has_every_wrapper() -> None:
    """Every wrapper that py-key-value ships has its two rows."""
    assert set(product(upstream(), ("above", "below"))) == set(table())


@pytest.mark.parametrize(("name", "side"), table())
def test_warned_of_and_refused(
    name: str, side: str, vault: Vault, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What the table says is warned of and refused is, and nothing else; danger below is always warned of."""
    verdict, *consequences = table()[name, side]
    wrap = BUILT[name]

    kv = (
        wrap(EnvelopeEncryptionWrapper(store, vault=vault))
        if side == "above"
        else EnvelopeEncryptionWrapper(wrap(store), vault=vault)
    )

    logged = [record.getMessage() for record in caplog.records if record.name == "kvseal"]
    assert ("warned of" in consequences) == bool(logged)
    assert ("warned of" in consequences) == (f"{type(wrap(store)).__name__} below kvseal" in caplog.text)
    assert ("refused" in consequences) == refused(kv, before=dump(store), store=store)
    if side == "below":
        assert ("refused" in consequences) == refused(wrap(store), before=dump(store), store=store)
        assert verdict != DANGEROUS or "warned of" in consequences


def refused(stack: Any, *, before: Any, store: MemoryStore) -> bool:
    """Whether a tool that reads refuses *stack*; either way nothing may have happened to *store*."""
    try:
        recodable_driver(stack, writes=False)
    except UnsupportedStackError:
        return True
    finally:
        assert before == dump(store)
    return False


@pytest.mark.parametrize("name", BUILT)
def test_capabilities_are_lost(name: str, vault: Vault, store: MemoryStore) -> None:
    """No upstream wrapper passes on what a store offers beside get and put, and kvseal over it does not either."""
    offered: Sequence[str] = ("keys", "collections", "cull", "setup", "close", "destroy_collection")
    wrapped = BUILT[name](store)

    assert [] == [method for method in offered if hasattr(wrapped, method)]
    assert [] == [
        method for method in offered if hasattr(EnvelopeEncryptionWrapper(wrapped, vault=vault), method)
    ]
    assert [] != [
        method for method in offered if hasattr(EnvelopeEncryptionWrapper(store, vault=vault), method)
    ]
