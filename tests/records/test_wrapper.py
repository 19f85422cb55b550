"""The wrapper: what is put comes back exactly, and nothing else ever does."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from key_value.aio.errors import DecryptionError, InvalidTTLError, SerializationError
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.encryption.base import BaseEncryptionWrapper
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from tests.fakes import BareStore, Clock, FullStore, dump, rewrite_policy
from tests.strategies import json_objects, same
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Policy, RecordError, Secret, Vault
from kvseal import expiry as expiry_module
from kvseal.envelope.stored import from_stored, to_stored
from kvseal.errors import (
    LegacyRecordError,
    MalformedRecordError,
    PlaintextRecordError,
    ReservedNameError,
    SecretReferenceError,
    TamperedRecordError,
    UnknownDEKError,
    UnknownFlagsError,
    UnknownRecordVersionError,
    UnknownSuiteError,
    UnreadableRecordsError,
    UnsealableValueError,
    VaultLockedError,
    VaultNotFoundError,
    WrongSecretError,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

Stored = dict[str, Any]


@pytest.fixture
async def vault(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> Vault:
    """Return a new vault in the memory store."""
    return await Vault.create(store, secret=secret, kdf=cheap)


@pytest.fixture
def kv(vault: Vault) -> EnvelopeEncryptionWrapper:
    """Return the memory store wrapped by its vault."""
    return wrapped(vault)


async def stored(store: MemoryStore, key: str) -> Stored:
    """Return the record that is stored at *key*."""
    value = await store.get(key)
    assert value is not None
    return value


@pytest.mark.exhaustive
@given(json_objects)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_object_comes_back_exactly(value: Stored) -> None:
    """NaN, huge integers, lone surrogates, -0.0, 1 beside 1.0 and beside true: all as they were put."""
    assert same(value, asyncio.run(_round_trip(value)))


async def _round_trip(value: Stored) -> Stored | None:
    store = MemoryStore()
    wrapper = EnvelopeEncryptionWrapper(
        key_value=store, secret=Secret(b"a secret"), kdf=Argon2idParams(1, 8, 1)
    )
    await wrapper.put("k", value)
    return await wrapper.get("k")


async def test_it_is_a_base_encryption_wrapper(store: MemoryStore, kv: EnvelopeEncryptionWrapper) -> None:
    """Code that looks for py-key-value's encryption wrappers, or for the store below, finds both."""
    assert isinstance(kv, BaseEncryptionWrapper)
    assert isinstance(kv, EnvelopeEncryptionWrapper)
    assert store is kv.key_value


async def test_the_default_collection_has_two_spellings(kv: EnvelopeEncryptionWrapper) -> None:
    """`get("k")` and `get("k", collection="default_collection")` are one record; so is an empty name."""
    await kv.put("k", {"v": 1})

    for collection in (None, "", "default_collection"):
        assert {"v": 1} == await kv.get("k", collection=collection)
        assert [{"v": 1}] == await kv.get_many(["k"], collection=collection)


async def test_a_default_collection_of_the_stores_own(secret: Secret, cheap: Argon2idParams) -> None:
    """`None` means what the base store says it means."""
    store = MemoryStore(default_collection="mine")
    kv = wrapped(await Vault.create(store, secret=secret, kdf=cheap))

    await kv.put("k", {"v": 1})

    assert {"v": 1} == await kv.get("k", collection="mine")


async def test_context_separates_wrappers_of_one_vault(store: MemoryStore, vault: Vault) -> None:
    """Records of one context do not open in another, nor without any."""
    await wrapped(vault, context="a").put("k", {"v": 1})

    assert {"v": 1} == await wrapped(vault, context="a").get("k")
    for context in ("", "b", "aa"):
        with pytest.raises(TamperedRecordError):
            await wrapped(vault, context=context).get("k")


async def test_context_of_a_wrapper_of_its_own(store: MemoryStore, vault: Vault, secret: Secret) -> None:
    """The constructor's `context=` is that of `Vault.wrap`."""
    await EnvelopeEncryptionWrapper(key_value=store, secret=secret, context="a").put("k", {"v": 1})

    assert {"v": 1} == await wrapped(vault, context="a").get("k")


# --- what strict mode refuses ---------------------------------------------------------------------


def changed(at: int, to: int) -> Callable[[Stored], Stored]:
    """Return what changes one byte of a stored record."""

    def change(value: Stored) -> Stored:
        record = bytearray(from_stored(value))
        record[at] = to if record[at] != to else to ^ 1
        return to_stored(bytes(record))

    return change


REFUSED: dict[str, tuple[Callable[[Stored], Mapping[str, Any]], type[RecordError]]] = {
    "plaintext": (lambda _: {"role": "admin"}, PlaintextRecordError),
    "an empty value": (lambda _: {}, PlaintextRecordError),
    "a Fernet record": (
        lambda _: {"__encrypted_data__": "Z0FBQUFB", "__encryption_version__": 1},
        LegacyRecordError,
    ),
    "a later encryption version": (
        lambda value: {**value, "__encryption_version__": 3},
        UnknownRecordVersionError,
    ),
    "a version that is no number": (
        lambda value: {**value, "__encryption_version__": 2.0},
        MalformedRecordError,
    ),
    "no version": (
        lambda value: {"__encrypted_data__": value["__encrypted_data__"]},
        MalformedRecordError,
    ),
    "a field more": (lambda value: {**value, "role": "admin"}, MalformedRecordError),
    "no base64": (lambda value: {**value, "__encrypted_data__": "!"}, MalformedRecordError),
    "truncated": (lambda value: to_stored(from_stored(value)[:40]), MalformedRecordError),
    "a byte more": (lambda value: to_stored(from_stored(value) + b"\0"), TamperedRecordError),
    "another format version": (changed(0, 2), UnknownRecordVersionError),
    "another suite": (changed(1, 9), UnknownSuiteError),
    "unknown flags": (changed(2, 0x80), UnknownFlagsError),
    "a weaker binding": (changed(2, 0x20), TamperedRecordError),
    "another encoding": (changed(2, 1), TamperedRecordError),
    "the reserved byte": (changed(3, 1), MalformedRecordError),
    "an unknown DEK": (changed(7, 9), UnknownDEKError),
    "DEK 0": (changed(7, 0), MalformedRecordError),
    "a changed nonce": (changed(8, 0), TamperedRecordError),
    "a changed ciphertext": (changed(32, 0), TamperedRecordError),
    "a changed tag": (changed(-1, 0), TamperedRecordError),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_strict_mode_refuses(name: str, store: MemoryStore, kv: EnvelopeEncryptionWrapper) -> None:
    """What was not sealed for this name in this vault is an error of its own, in every way of reading."""
    change, error = REFUSED[name]
    await kv.put("k", {"v": 1})
    await store.put("k", change(await stored(store, "k")))
    before = dump(store)

    for read in (kv.get("k"), kv.ttl("k")):
        with pytest.raises(error) as caught:
            await read
        assert (error, "default_collection", "k") == (
            type(caught.value),
            caught.value.collection,
            caught.value.key,
        )
    for read_many in (kv.get_many(["k"]), kv.ttl_many(["k"])):
        with pytest.raises(UnreadableRecordsError) as several:
            await read_many
        assert [error] == [type(one) for one in several.value.errors]
    assert before == dump(store)


async def test_records_are_bound_to_their_place(store: MemoryStore, kv: EnvelopeEncryptionWrapper) -> None:
    """Two records that change places, or a copy of one, are both refused."""
    await kv.put("alice", {"token": "a"})
    await kv.put("mallory", {"token": "m"})
    alice, mallory = await stored(store, "alice"), await stored(store, "mallory")
    await store.put_many(["alice", "mallory"], [mallory, alice])
    await store.put("alice", alice, collection="elsewhere")

    for key, collection in (("alice", None), ("mallory", None), ("alice", "elsewhere")):
        with pytest.raises(TamperedRecordError):
            await kv.get(key, collection=collection)


async def test_records_of_another_vault_are_refused(
    store: MemoryStore, kv: EnvelopeEncryptionWrapper, secret: Secret, cheap: Argon2idParams
) -> None:
    """A record of a vault with the very same secret, under the same name, does not open."""
    other = MemoryStore()
    await wrapped(await Vault.create(other, secret=secret, kdf=cheap)).put("k", {"v": 1})
    await store.put("k", await stored(other, "k"))

    with pytest.raises(TamperedRecordError):
        await kv.get("k")


async def test_errors_are_py_key_values_own(store: MemoryStore, kv: EnvelopeEncryptionWrapper) -> None:
    """Code that catches the other encryption wrappers' errors catches kvseal's."""
    await store.put("k", {"v": 1})

    with pytest.raises(DecryptionError):
        await kv.get("k")
    with pytest.raises(SerializationError):
        await kv.put("k", {1: 2})  # type: ignore[dict-item]


async def test_delete_takes_what_cannot_be_read(store: MemoryStore, kv: EnvelopeEncryptionWrapper) -> None:
    """A record that nobody can open can still be deleted."""
    await store.put_many(["a", "b", "c"], [{"v": 1}] * 3)

    assert await kv.delete("a")
    assert not await kv.delete("a")
    assert 2 == await kv.delete_many(["a", "b", "c"])


# --- values and bulk ------------------------------------------------------------------------------

UNSEALABLE: dict[str, Any] = {
    "a key that is a number": {1: "v"},
    "a nested key that is a number": {"a": [{"b": {1: "v"}}]},
    "a key that is None": {"a": {None: 1}},
    "bytes": {"a": b"v"},
    "a set": {"a": {1}},
    "a tuple": {"a": (1, 2)},
    "an object": {"a": object()},
    "a NaN beside a set": {"a": float("nan"), "b": {1}},
}


@pytest.mark.parametrize("name", UNSEALABLE)
@pytest.mark.parametrize("operation", ["put", "put_many"])
async def test_what_would_not_come_back_is_refused(
    name: str, operation: str, store: MemoryStore, kv: EnvelopeEncryptionWrapper
) -> None:
    """Before anything is written, also of the values that could have been sealed."""
    await kv.put("old", {"v": 1})
    before = dump(store)
    value = UNSEALABLE[name]

    with pytest.raises(UnsealableValueError):
        await (kv.put("old", value) if operation == "put" else kv.put_many(["old", "new"], [{"v": 2}, value]))

    assert before == dump(store)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "soon", True, -0.0, 1e12, 1e308])
@pytest.mark.parametrize("operation", ["put", "put_many"])
async def test_a_ttl_is_a_positive_number(
    ttl: Any, operation: str, store: MemoryStore, kv: EnvelopeEncryptionWrapper
) -> None:
    """Anything else is refused before anything is written."""
    before = dump(store)

    with pytest.raises(InvalidTTLError):
        await (kv.put("k", {}, ttl=ttl) if operation == "put" else kv.put_many(["k"], [{}], ttl=ttl))

    assert before == dump(store)


@pytest.mark.parametrize(("keys", "values"), [(["a"], []), ([], [{}]), (["a", "b"], [{}])])
async def test_put_many_wants_a_value_for_each_key(
    keys: list[str], values: list[Stored], store: MemoryStore, kv: EnvelopeEncryptionWrapper
) -> None:
    """Lists of different lengths are refused before anything is written."""
    before = dump(store)

    with pytest.raises(ValueError, match="put_many was given"):
        await kv.put_many(keys, values)

    assert before == dump(store)


@pytest.mark.parametrize("value", [OrderedDict(a=1), MappingProxyType({"a": 1}), Counter("a")])
async def test_any_mapping_is_sealed_as_an_object(value: Any, kv: EnvelopeEncryptionWrapper) -> None:
    """A mapping that is no `dict` comes back as the `dict` it is equal to."""
    await kv.put("k", value)

    got = await kv.get("k")

    assert {"a": 1} == got
    assert dict is type(got)


async def test_sealing_twice_gives_different_records(
    store: MemoryStore, kv: EnvelopeEncryptionWrapper
) -> None:
    """Nobody who sees the store learns that a value was put again."""
    records = []
    for _ in range(2):
        await kv.put("k", {"v": 1})
        records.append(await stored(store, "k"))

    assert records[0] != records[1]
    assert ["__encrypted_data__", "__encryption_version__"] == sorted(records[0])


async def test_many_reads_try_every_record(store: MemoryStore, kv: EnvelopeEncryptionWrapper) -> None:
    """One error names all records that failed, by kind, place and number."""
    keys = ["good", "plain", "missing", "moved", "fine"]
    for key in ("good", "moved", "fine"):
        await kv.put(key, {"v": key})
    await store.put("plain", {"v": 1})
    await store.put("moved", await stored(store, "good"))

    for read in (kv.get_many(keys), kv.ttl_many(keys)):
        with pytest.raises(UnreadableRecordsError, match="2 of 5 records") as caught:
            await read
        failed = [(type(error), error.key) for error in caught.value.errors]
        assert [(PlaintextRecordError, "plain"), (TamperedRecordError, "moved")] == failed
        assert "'plain'" in str(caught.value)
        assert "'moved'" in str(caught.value)


async def test_unreadable_records_can_read_as_missing(
    store: MemoryStore, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    """With `raise_on_decryption_error=False` each case is missing, counted by class and logged with its name."""
    kv = wrapped(vault, raise_on_decryption_error=False)
    await kv.put("good", {"v": 1})
    await store.put("plain", {"v": 1})
    await store.put("moved", await stored(store, "good"))

    with caplog.at_level(logging.WARNING, logger="kvseal"):
        got = [await kv.get("plain"), (await kv.ttl("moved"))[0]]
        many = await kv.get_many(["plain", "good", "moved"])
        ttls = await kv.ttl_many(["moved", "good"])

    assert [None, None] == got
    assert [None, {"v": 1}, None] == many
    assert [(None, None), ({"v": 1}, None)] == ttls
    assert Counter(PlaintextRecordError=2, TamperedRecordError=3) == kv.unreadable
    assert 5 == len(caplog.records)
    assert all("'plain'" in text or "'moved'" in text for text in caplog.messages)


async def test_raising_is_the_default(kv: EnvelopeEncryptionWrapper) -> None:
    """Nobody gets `None` for a record that was tampered with unless they asked for it."""
    assert kv.raise_on_decryption_error
    assert Counter() == kv.unreadable


# --- time -----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the wrapper's clock."""
    return Clock(monkeypatch)


@pytest.mark.parametrize("native", [None, 10_000_000.0])
async def test_the_sealed_expiry_holds(
    native: float | None, clock: Clock, store: MemoryStore, kv: EnvelopeEncryptionWrapper
) -> None:
    """A record past its ttl reads as missing though the store's own time to live was removed or prolonged."""
    await kv.put("k", {"v": 1}, ttl=60)
    await store.put("k", await stored(store, "k"), ttl=native)

    clock.advance(59.999)
    assert {"v": 1} == await kv.get("k")

    clock.advance(0.001)
    assert await kv.get("k") is None
    assert (None, None) == await kv.ttl("k")
    assert [None] == await kv.get_many(["k"])
    assert [(None, None)] == await kv.ttl_many(["k"])


async def test_ttl_is_the_nearer_of_both(
    clock: Clock, store: MemoryStore, kv: EnvelopeEncryptionWrapper
) -> None:
    """`ttl` tells the sealed remainder where the store would promise more, and the store's where less."""
    await kv.put("k", {"v": 1}, ttl=60)
    record = await stored(store, "k")
    clock.advance(20)

    await store.put("k", record)
    assert ({"v": 1}, 40.0) == await kv.ttl("k")

    await store.put("k", record, ttl=1000)
    assert [({"v": 1}, 40.0)] == await kv.ttl_many(["k"])

    await store.put("k", record, ttl=5)
    value, remaining = await kv.ttl("k")
    assert {"v": 1} == value
    assert remaining is not None
    assert 0 < remaining <= 5


async def test_no_ttl_is_no_ttl(clock: Clock, kv: EnvelopeEncryptionWrapper) -> None:
    """A record that was put without a ttl, or again without one, lives for ever."""
    await kv.put("k", {"v": 1}, ttl=60)
    await kv.put("k", {"v": 2})
    clock.advance(1e9)

    assert ({"v": 2}, None) == await kv.ttl("k")


async def test_put_many_seals_its_ttl(
    clock: Clock, store: MemoryStore, kv: EnvelopeEncryptionWrapper
) -> None:
    """Every record of a `put_many` expires with it, and the store is told, too."""
    await kv.put_many(["a", "b"], [{"n": 1}, {"n": 2}], ttl=30)
    natives = [ttl for _, ttl in await store.ttl_many(["a", "b"])]
    clock.advance(30)

    assert [None, None] == await kv.get_many(["a", "b"])
    assert all(ttl is not None and 0 < ttl <= 30 for ttl in natives)


async def test_expired_records_that_are_moved_are_still_refused(
    clock: Clock, store: MemoryStore, kv: EnvelopeEncryptionWrapper
) -> None:
    """Whether a record has expired is believed only of a record that opens."""
    await kv.put("k", {"v": 1}, ttl=1)
    await store.put("moved", await stored(store, "k"))
    clock.advance(60)

    with pytest.raises(TamperedRecordError):
        await kv.get("moved")


# --- the vault behind it --------------------------------------------------------------------------


async def test_the_constructor_touches_nothing(secret: Secret) -> None:
    """Not the store, not the meta store, not the secret's source."""
    store, meta_store = BareStore(), FullStore()

    EnvelopeEncryptionWrapper(key_value=store, secret="file:/nowhere/at/all", meta_store=meta_store)
    EnvelopeEncryptionWrapper(key_value=meta_store, secret="env:KVSEAL_NO_SUCH_VARIABLE")

    assert ([], [], {}) == (store.calls, meta_store.calls, dump(meta_store))


@pytest.mark.parametrize("text", ["hunter2", "", "correct horse", "ftp:x", "KVSEAL1-AAAAA", "env:"])
def test_a_bare_passphrase_is_refused_at_construction(text: str) -> None:
    """A `str` that is no reference never becomes a password, and is not repeated."""
    with pytest.raises(SecretReferenceError) as caught:
        EnvelopeEncryptionWrapper(key_value=MemoryStore(), secret=text)

    assert not text or text not in str(caught.value)


def test_a_secret_of_another_type_is_refused_at_construction() -> None:
    """Bytes are no `Secret` until somebody says so."""
    with pytest.raises(TypeError):
        EnvelopeEncryptionWrapper(key_value=MemoryStore(), secret=b"hunter2")  # type: ignore[arg-type]


async def test_a_reference_is_resolved_at_the_first_operation(
    store: MemoryStore, cheap: Argon2idParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reference points at is read when it is needed."""
    wrapper = EnvelopeEncryptionWrapper(key_value=store, secret="env:KVSEAL_TEST_SECRET", kdf=cheap)
    monkeypatch.setenv("KVSEAL_TEST_SECRET", "the secret")

    await wrapper.put("k", {"v": 1})

    assert {"v": 1} == await wrapped(await Vault.open(store, secret=Secret(b"the secret"))).get("k")


def test_one_wrapper_in_several_loops(secret: Secret, cheap: Argon2idParams) -> None:
    """Built before any event loop, it works in one after the other."""
    kv = EnvelopeEncryptionWrapper(key_value=MemoryStore(), secret=secret, kdf=cheap)

    asyncio.run(kv.put("k", {"v": 1}))

    assert {"v": 1} == asyncio.run(kv.get("k"))
    assert [{"v": 1}] == asyncio.run(kv.get_many(["k"]))


def test_one_wrapper_in_several_threads(tmp_path: Path, secret: Secret, cheap: Argon2idParams) -> None:
    """Eight threads, each with a loop of its own, open one vault and read each other's records."""
    store = DiskStore(directory=tmp_path)
    asyncio.run(store.setup())
    kv = EnvelopeEncryptionWrapper(key_value=store, secret=secret, kdf=cheap)
    start = threading.Barrier(8)
    results: list[Any] = [None] * 8

    async def work(number: int) -> Any:
        await kv.put(str(number), {"n": number})
        start.wait()
        return await kv.get_many([str(n) for n in range(8)])

    def run(number: int) -> None:
        start.wait()
        results[number] = asyncio.run(work(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [[{"n": n} for n in range(8)]] * 8 == results
    asyncio.run(kv.release())
    store._cache.close()


async def test_first_operations_at_once_open_one_vault(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Whatever comes while the vault is opened waits for it."""
    kv = EnvelopeEncryptionWrapper(key_value=store, secret=secret, kdf=cheap)

    await asyncio.gather(*(kv.put(str(n), {"n": n}) for n in range(50)))

    assert [{"n": n} for n in range(50)] == await kv.get_many([str(n) for n in range(50)])


async def test_a_failed_opening_is_tried_again(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrapper that met a wrong secret works once the source has the right one."""
    await Vault.create(store, secret=secret, kdf=cheap)
    kv = EnvelopeEncryptionWrapper(key_value=store, secret="env:KVSEAL_TEST_SECRET")
    monkeypatch.setenv("KVSEAL_TEST_SECRET", "wrong")
    with pytest.raises(WrongSecretError):
        await kv.put("k", {"v": 1})

    monkeypatch.setenv("KVSEAL_TEST_SECRET", secret.reveal().decode())
    await kv.put("k", {"v": 1})

    assert {"v": 1} == await kv.get("k")


async def test_an_unknown_dek_is_looked_up_once(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who meet the first record of a DEK that another process made wait for one look at the meta."""
    reader = await Vault.create(store, secret=secret, kdf=cheap)
    writer = await Vault.open(store, secret=secret)
    await writer.rotate_dek()
    await wrapped(writer).put_many([str(n) for n in range(20)], [{"n": n} for n in range(20)])
    kv, refreshes = wrapped(reader), 0
    refresh = reader.refresh

    async def counted() -> bool:
        nonlocal refreshes
        refreshes += 1
        await asyncio.sleep(0)
        return await refresh()

    monkeypatch.setattr(reader, "refresh", counted)

    got = await asyncio.gather(*(kv.get(str(n)) for n in range(20)))

    assert [{"n": n} for n in range(20)] == got
    assert 1 == refreshes


async def test_a_reader_who_comes_late_to_a_refresh_still_reads(
    secret: Secret, cheap: Argon2idParams
) -> None:
    """A read that began before another one's refresh and ends after it gives the record, not an error."""
    slow, at_store = asyncio.Event(), asyncio.Event()

    class SlowStore(MemoryStore):
        async def get(self, key: str, *, collection: str | None = None) -> Stored | None:
            """Keep one reader waiting."""
            if key == "slow":
                at_store.set()
                await slow.wait()
            return await super().get(key, collection=collection)

    store = SlowStore()
    reader = await Vault.create(store, secret=secret, kdf=cheap)
    kv = wrapped(reader)
    late = asyncio.create_task(kv.get("slow"))
    await at_store.wait()
    writer = await Vault.open(store, secret=secret)
    await writer.rotate_dek()
    await wrapped(writer).put_many(["slow", "fast"], [{"v": 1}, {"v": 2}])
    assert {"v": 2} == await kv.get("fast")

    slow.set()

    assert {"v": 1} == await late


async def test_a_reader_who_comes_late_to_a_refresh_reads_nothing_expired(
    clock: Clock, store: MemoryStore, vault: Vault, secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record of a DEK that another reader has just learnt of is missing once its sealed expiry has passed."""
    writer = await Vault.open(store, secret=secret)
    await writer.rotate_dek()
    await wrapped(writer).put("k", {"v": 1}, ttl=10)
    await store.put("k", await stored(store, "k"))
    clock.advance(10)
    get = store.get

    async def late(key: str, *, collection: str | None = None) -> Stored | None:
        found = await get(key, collection=collection)
        await vault.refresh()  # As another reader does meanwhile.
        return found

    monkeypatch.setattr(store, "get", late)

    assert await wrapped(vault).get("k") is None


async def test_a_refreshed_record_keeps_its_expiry(
    clock: Clock, store: MemoryStore, vault: Vault, secret: Secret
) -> None:
    """A record of a new DEK that has expired is missing for the reader who just learnt of the DEK, too."""
    writer = await Vault.open(store, secret=secret)
    await writer.rotate_dek()
    await wrapped(writer).put_many(["a", "b"], [{"v": 1}, {"v": 2}], ttl=10)
    await store.put_many(["a", "b"], [await stored(store, "a"), await stored(store, "b")])
    clock.advance(10)

    assert await wrapped(vault).get("a") is None
    assert (None, None) == await wrapped(vault).ttl("b")


async def test_a_refresh_takes_the_new_policy_with_it(
    store: MemoryStore, vault: Vault, secret: Secret
) -> None:
    """What a change of another process allowed is allowed here from the first refresh on."""
    other = await Vault.open(store, secret=secret)
    await rewrite_policy(other, store, Policy(read_plaintext=True))
    await store.put("plain", {"v": 1})
    assert await vault.refresh()

    assert {"v": 1} == await wrapped(vault).get("plain")


async def test_release_forgets_and_reopens(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """After `release` the wrapper's vault is locked, and the next operation opens a new one."""
    kv = EnvelopeEncryptionWrapper(key_value=store, secret=secret, kdf=cheap)
    await kv.put("k", {"v": 1})
    first = await kv.vault()

    await kv.release()
    await kv.release()

    with pytest.raises(VaultLockedError):
        _ = first.keyring
    assert {"v": 1} == await kv.get("k")
    assert first is not await kv.vault()


async def test_release_leaves_a_vault_that_was_given(vault: Vault) -> None:
    """A wrapper made by `Vault.wrap` does not lock the vault of all the others."""
    kv = wrapped(vault)
    await kv.put("k", {"v": 1})

    await kv.release()

    assert {"v": 1} == await wrapped(vault).get("k")


RESERVED: dict[str, Callable[[EnvelopeEncryptionWrapper], Awaitable[object]]] = {
    "get": lambda kv: kv.get(META_KEY, collection=META_COLLECTION),
    "ttl": lambda kv: kv.ttl(META_KEY, collection=META_COLLECTION),
    "put": lambda kv: kv.put(META_KEY, {}, collection=META_COLLECTION),
    "delete": lambda kv: kv.delete(META_KEY, collection=META_COLLECTION),
    "get_many": lambda kv: kv.get_many([META_KEY], collection=META_COLLECTION),
    "ttl_many": lambda kv: kv.ttl_many([META_KEY], collection=META_COLLECTION),
    "put_many": lambda kv: kv.put_many([META_KEY], [{}], collection=META_COLLECTION),
    "put_many of nothing": lambda kv: kv.put_many([], [], collection=META_COLLECTION),
    "get_many of nothing": lambda kv: kv.get_many([], collection=META_COLLECTION),
    "ttl_many of nothing": lambda kv: kv.ttl_many([], collection=META_COLLECTION),
    "delete_many": lambda kv: kv.delete_many([META_KEY], collection=META_COLLECTION),
    "delete_many of nothing": lambda kv: kv.delete_many([], collection=META_COLLECTION),
    "another key": lambda kv: kv.put("mine", {}, collection=META_COLLECTION),
}


@pytest.mark.parametrize("name", RESERVED)
async def test_the_vault_metas_collection_is_refused(
    name: str, store: MemoryStore, kv: EnvelopeEncryptionWrapper
) -> None:
    """No operation reaches the vault meta through the wrapper; the meta stays as it was."""
    before = dump(store)

    with pytest.raises(ReservedNameError):
        await RESERVED[name](kv)

    assert before == dump(store)


async def test_read_only_store_gets_no_vault(secret: Secret, cheap: Argon2idParams) -> None:
    """Over a wrapper that forbids writing, a missing vault is an error and not created past it."""
    store = MemoryStore()
    kv = EnvelopeEncryptionWrapper(ReadOnlyWrapper(store), secret=secret, kdf=cheap)

    with pytest.raises(VaultNotFoundError):
        await kv.get("k")
    assert {} == dump(store)


async def test_compression_below_is_warned_of(secret: Secret, caplog: pytest.LogCaptureFixture) -> None:
    """A wrapper below that changes what is stored is named at construction; above, it is fine."""
    kv = EnvelopeEncryptionWrapper(CompressionWrapper(MemoryStore()), secret=secret)
    assert "CompressionWrapper below kvseal hides its records" in caplog.text

    caplog.clear()
    CompressionWrapper(EnvelopeEncryptionWrapper(MemoryStore(), secret=secret))
    assert "" == caplog.text
    assert isinstance(kv, EnvelopeEncryptionWrapper)


async def test_expiry_begins_when_the_vault_is_open(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that the first operation spends on unlocking is not taken from the record's."""
    kv = EnvelopeEncryptionWrapper(store, secret=secret, kdf=cheap)
    events: list[str] = []
    open_vault, expiry_of = kv._open_vault, expiry_module.expiry_of
    monkeypatch.setattr(kv, "_open_vault", lambda: events.append("open") or open_vault())
    monkeypatch.setattr(expiry_module, "expiry_of", lambda ttl: events.append("expiry") or expiry_of(ttl))

    await kv.put("k", {"n": 1}, ttl=10)

    assert ["open", "expiry"] == events
