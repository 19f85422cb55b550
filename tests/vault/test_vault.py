"""The vault: created once, opened by its secret, closed without a key left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from tests.fakes import BareStore, HookedDriver, dump, raw_meta, rewrite_policy
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Policy, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.envelope import kdf
from kvseal.envelope.record import Binding
from kvseal.errors import (
    Conflict,
    EvictingStoreError,
    LegacyRecordError,
    PlaintextRecordError,
    TamperedRecordError,
    VaultExistsError,
    VaultLockedError,
    WrongSecretError,
)
from kvseal.keys.keyring import Keyring, LegacyKey
from kvseal.keys.rootkey import RootKey
from kvseal.legacy import FERNET
from kvseal.legacy.fernet import parse_key
from kvseal.observe import counters
from kvseal.secrets.defaults import default_key_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

AnyStore = MemoryStore | DiskStore


async def forgotten() -> None:
    """Let the event loop drop the future that woke this task, which may hold a key, and collect."""
    await asyncio.sleep(0)
    gc.collect()


async def test_create_then_open(any_store: AnyStore, secret: Secret, cheap: Argon2idParams) -> None:
    """What was sealed through the created vault opens through the opened one."""
    created = await Vault.create(any_store, secret=secret, kdf=cheap)
    await wrapped(created).put("k", {"v": 1})
    await created.close()

    opened = await Vault.open(any_store, secret=secret)

    assert {"v": 1} == await wrapped(opened).get("k")
    await opened.close()


async def test_status(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """Status names revision, slots and DEKs, and is the same whoever opened the vault."""
    created = await Vault.create(store, secret=secret, kdf=cheap, label="laptop")

    status = created.status()

    assert (1, "memory:", 1) == (status.revision, status.location, status.active_dek)
    assert [("laptop", 1, 8, 1, True)] == [(s.label, s.t, s.m, s.p, s.opened) for s in status.slots]
    assert [(1, "active")] == [(dek.id, dek.state) for dek in status.deks]
    assert Policy().as_json() == status.policy
    assert status.as_dict() == (await Vault.open(store, secret=secret)).status().as_dict()


async def test_vault_meta_is_one_entry(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """A new vault is one stored entry, so that every change of it is one atomic write."""
    await Vault.create(store, secret=secret, kdf=cheap)

    assert [("__vault_meta__", "__dek__")] == list(dump(store))


async def test_open_or_create_opens_what_it_created(
    any_store: AnyStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """The second call opens the vault that the first one made."""
    first = await Vault.open_or_create(any_store, secret=secret, kdf=cheap)
    second = await Vault.open_or_create(any_store, secret=secret, kdf=cheap)

    assert first.status() == second.status()
    await first.close()
    await second.close()


async def test_a_driver_serves_as_a_store(any_store: AnyStore, secret: Secret, cheap: Argon2idParams) -> None:
    """Create and open take a driver, and leave it open for whoever brought it."""
    driver = driver_for(any_store)
    await (await Vault.create(driver, secret=secret, kdf=cheap)).close()

    vault = await Vault.open(driver, secret=secret)
    await vault.close()

    assert 1 == (await driver.count()).entries
    await driver.close()


async def test_meta_store_keeps_the_meta_out_of_the_data(
    secret: Secret, cheap: Argon2idParams, tmp_path: Path
) -> None:
    """With a meta store, the store itself holds records alone, and may be one without a driver."""
    data, meta_store = BareStore(), DiskStore(directory=tmp_path)
    vault = await Vault.create(data, secret=secret, kdf=cheap, meta_store=meta_store)
    await EnvelopeEncryptionWrapper(data, vault=vault).put("k", {"v": 1})

    again = await Vault.open(data, secret=secret, meta_store=meta_store)

    assert [(None, "k")] == list(data.entries)
    assert 1 == (await driver_for(meta_store).count()).entries
    assert {"v": 1} == await EnvelopeEncryptionWrapper(data, vault=again).get("k")


async def test_a_meta_store_of_its_own_makes_an_evicting_store_usable(
    secret: Secret, cheap: Argon2idParams
) -> None:
    """The vault meta survives where records are evicted."""
    store, meta_store = MemoryStore(max_entries_per_collection=1), MemoryStore()
    vault = await Vault.create(store, secret=secret, kdf=cheap, meta_store=meta_store)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)

    await kv.put_many(["a", "b"], [{"n": 1}, {"n": 2}])

    assert [None, {"n": 2}] == await kv.get_many(["a", "b"])


async def test_a_secret_is_generated_only_while_creating(store: MemoryStore, cheap: Argon2idParams) -> None:
    """With no secret anywhere, creation generates one, and opening then finds it."""
    await Vault.create(store, kdf=cheap)
    generated = default_key_file().read_bytes()

    await Vault.open(store)

    assert generated == default_key_file().read_bytes()
    assert generated.startswith(b"KVSEAL1-")


async def test_opening_never_generates(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """A vault whose secret is nowhere to be found is not opened with a new one."""
    await Vault.create(store, secret=secret, kdf=cheap)
    wrapper = EnvelopeEncryptionWrapper(key_value=store, kdf=cheap)

    with pytest.raises(Exception, match="no master secret"):
        await wrapper.get("k")

    assert not default_key_file().exists()


async def test_one_derivation_for_fifty_wrappers(
    any_store: AnyStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Fifty wrappers that unlock at once, and more later, share one derivation."""
    await (await Vault.create(any_store, secret=secret, kdf=cheap)).close()
    await forgotten()
    before = counters.derivations.number
    wrappers = [
        EnvelopeEncryptionWrapper(key_value=any_store, secret=Secret(secret.reveal())) for _ in range(50)
    ]

    await asyncio.gather(*(wrapper.get("k") for wrapper in wrappers))
    await EnvelopeEncryptionWrapper(key_value=any_store, secret=secret).get("k")

    assert before + 1 == counters.derivations.number
    for wrapper in wrappers:
        await wrapper.release()


async def test_derivation_is_not_on_the_event_loop(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every Argon2id run, of creating, opening and rotating, happens in another thread."""
    threads = []
    hash_secret_raw = kdf.hash_secret_raw

    def noted(*args: Any, **kwargs: Any) -> bytes:
        threads.append(threading.get_ident())
        return hash_secret_raw(*args, **kwargs)

    monkeypatch.setattr(kdf, "hash_secret_raw", noted)
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    await vault.rotate(new_secret=Secret(b"another one"))
    await vault.close()
    await forgotten()
    await Vault.open(store, secret=Secret(b"another one"))

    assert 5 == len(threads)
    assert threading.get_ident() not in threads


OPERATIONS: dict[str, Callable[[Vault], Awaitable[object]]] = {
    "refresh": lambda vault: vault.refresh(),
    "rotate": lambda vault: vault.rotate(),
    "rotate_dek": lambda vault: vault.rotate_dek(),
    "read_legacy_with": lambda vault: vault.read_legacy_with([]),
    "end_legacy_reads": lambda vault: vault.end_legacy_reads(),
    "wrapped get": lambda vault: wrapped(vault).get("k"),
    "wrapped put": lambda vault: wrapped(vault).put("k", {}),
    "wrapped get_many": lambda vault: wrapped(vault).get_many(["k"]),
    "wrapped ttl": lambda vault: wrapped(vault).ttl("k"),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_locked_vault_does_nothing(
    name: str, store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """After `lock`, everything that needs a key raises, and nothing is written."""
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    await wrapped(vault).put("k", {"v": 1})
    before = dump(store)

    await vault.lock()

    with pytest.raises(VaultLockedError):
        await OPERATIONS[name](vault)
    assert before == dump(store)


@pytest.mark.parametrize("end", ["lock", "close"])
async def test_no_key_is_reachable_after(
    end: str, any_store: AnyStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Root key, keyring and all that was built from them are gone, though vault and wrapper live on."""
    vault = await Vault.create(any_store, secret=secret, kdf=cheap)
    await vault.rotate_dek()
    await vault.read_legacy_with([LegacyKey(FERNET, bytes(32))])
    kv = wrapped(vault)
    await kv.put("k", {"v": 1}, ttl=60)
    await kv.get_many(["k", "other"])
    await any_store.put("old", {"__encrypted_data__": "Z0FBQUFB", "__encryption_version__": 1})
    with pytest.raises(TamperedRecordError):
        await kv.get("old")
    vault_id = vault.keyring.vault_id
    gone = [weakref.ref(vault.way_in().root), weakref.ref(vault.keyring)]

    await getattr(vault, end)()
    await forgotten()

    assert [None, None] == [reference() for reference in gone]
    alive = [thing for thing in gc.get_objects() if isinstance(thing, Keyring | RootKey)]
    assert [] == [thing for thing in alive if thing.vault_id == vault_id]
    assert vault._way_in is None


async def test_close_leaves_the_store_open(
    any_store: AnyStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Closing a vault releases what it opened itself, and nothing of the application's."""
    vault = await Vault.create(any_store, secret=secret, kdf=cheap)

    await vault.close()
    await vault.close()

    assert 1 == (await raw_meta(any_store))["kvseal"]


async def test_refresh_tells_whether_the_meta_changed(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """A vault learns of a change that another made, once."""
    one = await Vault.create(store, secret=secret, kdf=cheap)
    other = await Vault.open(store, secret=secret)
    await other.rotate_dek()

    assert [True, False] == [await one.refresh(), await one.refresh()]
    assert 2 == one.keyring.active_dek


@pytest.mark.parametrize("name", ["refresh", "rotate", "rotate_dek", "read_legacy_with"])
async def test_a_lock_holds_against_what_is_under_way(
    name: str, store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """An operation that ends after `lock` does not bring the keys back."""
    await (await Vault.create(store, secret=secret, kdf=cheap)).rotate_dek()
    operations = 0

    async def locking(_: str, operation: Any) -> Any:
        nonlocal operations
        operations += 1
        result = await operation()
        if operations == 2:
            await vault.lock()
        return result

    vault = await Vault.open(HookedDriver(driver_for(store), locking), secret=secret)
    await (await Vault.open(store, secret=secret)).rotate_dek()
    with suppress(Conflict):
        await OPERATIONS[name](vault)

    assert operations >= 2
    for held in (vault._way_in, vault._keyring):
        assert held is None


async def test_a_late_refresh_brings_back_no_older_policy(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """A look at the meta that ends after a change does not undo the change in memory, nor is it a rollback."""
    read, changed = asyncio.Event(), asyncio.Event()
    slow = False

    async def around(_: str, operation: Any) -> Any:
        result = await operation()
        if slow and not read.is_set():
            read.set()
            await changed.wait()
        return result

    vault = await Vault.create(HookedDriver(driver_for(store), around), secret=secret, kdf=cheap)
    await (await Vault.open(store, secret=secret)).read_legacy_with([], plaintext=True)
    slow = True
    late = asyncio.create_task(vault.refresh())
    await read.wait()

    await vault.end_legacy_reads()
    changed.set()
    await late

    assert not vault.keyring.policy.read_plaintext
    assert 3 == vault.status().revision


@pytest.mark.parametrize("binding", list(Binding))
async def test_binding_policies(
    binding: Binding, store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """What a policy binds, its vault reads where the binding allows, and the default policy only at home."""
    vault = await Vault.create(store, secret=secret, kdf=cheap, policy=Policy(binding=binding))
    kv = wrapped(vault)
    await kv.put("k", {"v": 1}, collection="c")
    record = await store.get("k", collection="c")
    assert record is not None
    await store.put("other", record, collection="c")
    await store.put("k", record, collection="other")

    async def readable(wrapper: EnvelopeEncryptionWrapper, key: str, collection: str) -> bool:
        try:
            return {"v": 1} == await wrapper.get(key, collection=collection)
        except TamperedRecordError:
            return False

    places = [("k", "c"), ("other", "c"), ("k", "other")]
    assert [True, binding > 0, binding > 1] == [await readable(kv, *place) for place in places]

    await rewrite_policy(vault, store, Policy())

    assert [binding == 0, False, False] == [await readable(kv, *place) for place in places]


async def test_a_weaker_policy_reads_stronger_records(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Records from before a policy was weakened are still read, and still only at their own name."""
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    kv = wrapped(vault)
    await kv.put("k", {"v": 1})
    await rewrite_policy(vault, store, Policy(binding=Binding.NONE))
    record = await store.get("k")
    assert record is not None
    await store.put("moved", record)

    assert {"v": 1} == await kv.get("k")
    with pytest.raises(TamperedRecordError):
        await kv.get("moved")


async def test_legacy_records_are_read_while_the_policy_says_so(
    any_store: AnyStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Fernet records open from `read_legacy_with` to `end_legacy_reads`, in every process of the vault."""
    key = Fernet.generate_key()
    await FernetEncryptionWrapper(key_value=any_store, fernet=Fernet(key)).put("old", {"v": 1})
    vault = await Vault.create(any_store, secret=secret, kdf=cheap)
    kv = wrapped(vault)
    with pytest.raises(LegacyRecordError):
        await kv.get("old")

    status = await vault.read_legacy_with([LegacyKey(FERNET, parse_key(key))])

    elsewhere = await Vault.open(any_store, secret=secret)
    assert [FERNET] == [held.kind for held in status.legacy]
    assert {"v": 1} == await kv.get("old")
    assert ({"v": 1}, None) == await wrapped(elsewhere).ttl("old")
    assert [{"v": 1}, None] == await wrapped(elsewhere).get_many(["old", "none"])

    await FernetEncryptionWrapper(key_value=any_store, fernet=Fernet(key)).put("old", {"v": 1})
    status = await vault.end_legacy_reads()

    assert [False] == [held.ended_at is None for held in status.legacy]
    with pytest.raises(LegacyRecordError):
        await kv.get("old")
    await vault.resume_legacy_reads()
    assert {"v": 1} == await kv.get("old")
    await FernetEncryptionWrapper(key_value=any_store, fernet=Fernet(key)).put("old", {"v": 1})
    ended = await vault.end_legacy_reads()
    assert () == (await vault.drop_legacy_keys({held.id for held in ended.legacy})).legacy
    with pytest.raises(LegacyRecordError):
        await kv.get("old")
    await vault.close()
    await elsewhere.close()


async def test_a_legacy_key_is_held_once(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """Giving the same key again, even twice at once, adds nothing; a second key is tried after the first."""
    first, second = Fernet.generate_key(), Fernet.generate_key()
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    keys = [LegacyKey(FERNET, parse_key(first)), LegacyKey(FERNET, parse_key(first))]
    await vault.read_legacy_with(keys)

    status = await vault.read_legacy_with([*keys, LegacyKey(FERNET, parse_key(second))])

    await FernetEncryptionWrapper(key_value=store, fernet=Fernet(second)).put("old", {"v": 2})
    assert 2 == len(status.legacy)
    assert {"v": 2} == await wrapped(vault).get("old")


async def test_plaintext_is_read_while_the_policy_says_so(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Unencrypted records are read only between `read_legacy_with(plaintext=True)` and its end."""
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    kv = wrapped(vault)
    await store.put("plain", {"v": 1})
    await vault.read_legacy_with([])
    with pytest.raises(PlaintextRecordError):
        await kv.get("plain")

    status = await vault.read_legacy_with([], plaintext=True)

    assert {"read_legacy": True, "read_plaintext": True, "binding": "collection+key"} == status.policy
    assert {"v": 1} == await kv.get("plain")

    await store.put("plain", {"v": 1})
    await vault.end_legacy_reads()

    with pytest.raises(PlaintextRecordError):
        await kv.get("plain")


async def test_create_refuses_a_second_vault(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """A vault is never created over another one, not even with the same secret."""
    await Vault.create(store, secret=secret, kdf=cheap)
    before = dump(store)

    with pytest.raises(VaultExistsError):
        await Vault.create(store, secret=secret, kdf=cheap)

    assert before == dump(store)


async def test_a_failed_unlock_is_not_remembered(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """After a wrong secret the right one opens, and the wrong one still does not."""
    await Vault.create(store, secret=secret, kdf=cheap)

    for _ in range(2):
        with pytest.raises(WrongSecretError):
            await Vault.open(store, secret=Secret(b"wrong"))
        assert 1 == (await Vault.open(store, secret=secret)).status().revision


@pytest.mark.parametrize("data", ["bare", "disk"])
async def test_meta_that_would_not_outlive_the_records(
    data: str, secret: Secret, cheap: Argon2idParams, tmp_path: Path
) -> None:
    """A vault meta in this process's memory beside a store that may last longer is refused; nothing is written."""
    store = BareStore() if data == "bare" else DiskStore(directory=tmp_path)
    meta_store = MemoryStore()

    with pytest.raises(EvictingStoreError, match="gone with this process"):
        await Vault.create(store, secret=secret, kdf=cheap, meta_store=meta_store)
    assert {} == dump(meta_store)


async def test_second_vault_beside_one_with_a_meta_store_of_its_own(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """A data store that has a vault meta is not given another one elsewhere."""
    await Vault.create(store, secret=secret, kdf=cheap)

    with pytest.raises(VaultExistsError, match="of its own"):
        await Vault.create(store, secret=secret, kdf=cheap, meta_store=MemoryStore())


async def test_store_that_has_begun_to_evict(
    secret: Secret, cheap: Argon2idParams, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening a vault in a store that evicts by now says so."""
    evicting = DiskStore(directory=tmp_path, max_size=10**6)
    await Vault.create(DiskStore(directory=tmp_path), secret=secret, kdf=cheap)

    await Vault.open(evicting, secret=secret)

    assert "drops entries when it is full" in caplog.text


async def test_new_secret_is_typed_twice(
    store: MemoryStore, cheap: Argon2idParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person types the secret of a new vault, and of a rotation, twice."""
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "typed"

    monkeypatch.setattr("getpass.getpass", ask)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    vault = await Vault.create(store, secret="prompt:", kdf=cheap)
    await vault.rotate(new_secret="prompt:")

    assert ["Master secret: ", "Again: "] * 2 == asked
