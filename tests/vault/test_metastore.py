"""What bad input gets: an error of its own, an exit code, and not a byte changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.stores.memory.store import MemoryCacheEntry
from tests.bad_input import CASES, ENVIRONMENT
from tests.fakes import BareStore, HookedDriver, dump, put_raw_meta, raw_meta
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry
from kvseal.envelope import kdf
from kvseal.errors import (
    Conflict,
    KDFParametersError,
    KvsealError,
    RolledBackMetaError,
    TamperedMetaError,
    VaultExistsError,
    VaultMetaError,
    VaultMetaLostError,
    VaultNotFoundError,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.vault.metastore import MetaStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

NEW = Secret(b"the new secret")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", CASES)
async def test_bad_input(name: str, tmp_path: Path) -> None:
    """Its own error, its exit code, and nothing changed."""
    case = CASES[name]
    store = await case.prepare(tmp_path)
    before = store.entries.copy() if isinstance(store, BareStore) else dump(store)

    with pytest.raises(KvsealError) as caught:
        await case.act(store)

    assert case.error is type(caught.value)
    assert case.exit_code == type(caught.value).exit_code
    assert before == (store.entries if isinstance(store, BareStore) else dump(store))
    if isinstance(store, DiskStore):
        store._cache.close()


async def test_nothing_is_created_in_an_empty_directory(tmp_path: Path) -> None:
    """`create=False` on an empty store raises at every operation and leaves no entry."""
    store = DiskStore(directory=tmp_path)
    wrapper = EnvelopeEncryptionWrapper(key_value=store, secret=NEW, create=False)

    for operation in (wrapper.get("k"), wrapper.put("k", {}), wrapper.get_many(["k"]), wrapper.ttl("k")):
        with pytest.raises(VaultNotFoundError):
            await operation

    assert ([], {}) == dump(store)
    store._cache.close()


@pytest.mark.parametrize(("field", "value"), [("m", 2**31), ("m", 2**32 - 1), ("t", 65), ("p", 65), ("m", 7)])
async def test_a_hostile_cost_is_refused_before_anything_is_derived(
    field: str,
    value: int,
    store: MemoryStore,
    secret: Secret,
    cheap: Argon2idParams,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Argon2id is never even called with parameters out of bounds."""
    await Vault.create(store, secret=secret, kdf=cheap)
    meta = await raw_meta(store)
    meta["slots"][0][field] = value
    await put_raw_meta(store, meta)
    called = []
    monkeypatch.setattr(kdf, "hash_secret_raw", lambda *args, **kwargs: called.append(kwargs))

    with pytest.raises(KDFParametersError):
        await Vault.open(store, secret=secret)

    assert [] == called


async def test_an_expensive_secret_is_not_read_for_a_missing_vault(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked for a secret where there is no vault to open."""
    asked = []
    monkeypatch.setitem(os.environ, "KVSEAL_MASTER_KEY", "x")
    monkeypatch.setattr("kvseal.vault.opening.secret_for_opening", asked.append)

    with pytest.raises(VaultNotFoundError):
        await Vault.open(store)

    assert [] == asked


CORRUPT = ["", "{", "[]", "null", '{"value": null}', '{"value": [1]}', "\x00", '{"value": {"kvseal": 1}}']


@pytest.mark.parametrize("body", CORRUPT)
async def test_a_corrupt_meta_is_never_taken_for_absent(
    body: str, store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Whatever the store makes of a corrupt body, no second vault is created over it."""
    await Vault.create(store, secret=secret, kdf=cheap)
    store._cache[META_COLLECTION]._cache[META_KEY] = MemoryCacheEntry(body, None)
    before = dump(store)

    for attempt in (Vault.create, Vault.open_or_create, Vault.open):
        options: Any = {} if attempt == Vault.open else {"kdf": cheap}
        with pytest.raises(VaultMetaError):
            await attempt(store, secret=secret, **options)

    assert before == dump(store)


async def test_a_store_that_hides_the_meta_changes_nothing(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """A store whose `get` answers `None` for an error is not asked: the driver looks at the raw entry."""

    class Hiding(MemoryStore):
        async def get(self, key: str, *, collection: str | None = None) -> None:
            """Answer as Vault and Keyring stores do for any error."""

    hiding = Hiding()
    first = await Vault.create(hiding, secret=secret, kdf=cheap)

    second = await Vault.open_or_create(hiding, secret=secret, kdf=cheap)

    assert first.status() == second.status()


async def test_a_missing_value_file_is_not_a_missing_meta(
    tmp_path: Path, secret: Secret, cheap: Argon2idParams
) -> None:
    """`DiskStore` reads a lost value file as `None`; kvseal says that the meta is unreadable."""
    store = DiskStore(directory=tmp_path)
    await Vault.create(store, secret=secret, kdf=cheap)
    meta = await raw_meta(store)
    await put_raw_meta(store, {**meta, "padding": "x" * 40_000})
    for path in tmp_path.rglob("*.val"):  # noqa: ASYNC240 - nothing else runs here
        path.unlink()
    assert await store.get(META_KEY, collection=META_COLLECTION) is None

    with pytest.raises(VaultMetaError, match="missing"):
        await Vault.open_or_create(store, secret=secret, kdf=cheap)

    store._cache.close()


async def test_an_expired_meta_beside_records_is_a_lost_meta(
    any_store: MemoryStore | DiskStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Somebody who puts an expiry on the meta gets no second vault over the records."""
    vault = await Vault.create(any_store, secret=secret, kdf=cheap)
    await wrapped(vault).put("k", {"v": 1})
    meta = await raw_meta(any_store)
    await any_store.delete(META_KEY, collection=META_COLLECTION)
    past = datetime.now(timezone.utc) - timedelta(days=1)
    driver = driver_for(any_store)
    await driver.put_if_absent(Entry(META_COLLECTION, META_KEY, meta, created_at=past, expires_at=past))

    with pytest.raises(VaultMetaLostError):
        await Vault.open_or_create(any_store, secret=secret, kdf=cheap)

    await driver.close()
    await vault.close()


async def test_a_record_that_has_expired_by_this_clock_is_an_orphan(
    any_store: MemoryStore | DiskStore, secret: Secret, cheap: Argon2idParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose clock is ahead makes no vault over records that are live by every other clock."""
    vault = await Vault.create(any_store, secret=secret, kdf=cheap)
    await wrapped(vault).put("k", {"v": 1}, ttl=3600)
    await any_store.delete(META_KEY, collection=META_COLLECTION)
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    monkeypatch.setattr("kvseal.clock.utc_now", lambda: tomorrow)

    with pytest.raises(VaultMetaLostError, match="there are sealed records such as"):
        await Vault.open_or_create(any_store, secret=secret, kdf=cheap)

    await vault.close()


async def test_orphans_are_looked_for_in_data_and_meta_store_alike(
    secret: Secret, cheap: Argon2idParams
) -> None:
    """A sealed record in the data store is found though the meta is to lie elsewhere; a driver does as well."""
    data, lost = MemoryStore(), MemoryStore()
    vault = await Vault.create(data, secret=secret, kdf=cheap, meta_store=lost)
    await EnvelopeEncryptionWrapper(data, vault=vault).put("k", {"v": 1})

    for store in (data, driver_for(data)):
        with pytest.raises(VaultMetaLostError, match="default_collection/k"):
            await Vault.create(store, secret=secret, kdf=cheap, meta_store=MemoryStore())


async def test_plaintext_and_fernet_records_are_no_orphans(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """A vault is created beside what is to be migrated into it."""
    await store.put("plain", {"v": 1})
    await store.put("fernet", {"__encrypted_data__": "Z0FBQUFB", "__encryption_version__": 1})

    await Vault.create(store, secret=secret, kdf=cheap)

    assert 3 == (await driver_for(store).count()).entries


async def test_a_vault_that_was_created_meanwhile_is_no_lost_meta(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Records that appear between the look at the meta and the scan belong to the vault that has won."""

    async def overtaken(name: str, operation: Any) -> Any:
        if name == "scan":
            await wrapped(await Vault.create(store, secret=secret, kdf=cheap)).put("k", {"v": 1})
        return await operation()

    with pytest.raises(VaultExistsError):
        await Vault.create(HookedDriver(driver_for(store), overtaken), secret=secret, kdf=cheap)


async def test_an_older_meta_put_back_is_refused(
    any_store: MemoryStore | DiskStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """What this process has seen is the least that it accepts, for opening and changing."""
    vault = await Vault.create(any_store, secret=secret, kdf=cheap)
    older = await raw_meta(any_store)
    await vault.rotate_dek()
    await put_raw_meta(any_store, older)

    for attempt in (
        vault.rotate(),
        vault.rotate_dek(),
        Vault.open(any_store, secret=secret),
    ):
        with pytest.raises(RolledBackMetaError, match="revision 1, but 2 was seen"):
            await attempt

    assert 2 == vault.keyring.active_dek
    await vault.close()


async def test_a_forged_revision_does_not_lock_anybody_out(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Only an authenticated revision counts as seen: a forged high one is refused and then forgotten."""
    await Vault.create(store, secret=secret, kdf=cheap)
    genuine = await raw_meta(store)
    await put_raw_meta(store, {**genuine, "revision": 1_000_000})
    with pytest.raises(TamperedMetaError):
        await Vault.open(store, secret=secret)

    await put_raw_meta(store, genuine)

    assert 1 == (await Vault.open(store, secret=secret)).status().revision


@pytest.mark.parametrize("place", ["beside", "instead"])
async def test_an_old_slot_pasted_into_the_new_meta_is_refused(
    place: str, store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """A rotated-away slot wraps the right root key still; the meta's MAC is what keeps it out."""
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    (old,) = (await raw_meta(store))["slots"]
    await vault.rotate(new_secret=NEW)
    meta = await raw_meta(store)
    slots = [old] if place == "instead" else [*meta["slots"], old]
    await put_raw_meta(store, {**meta, "slots": slots})

    with pytest.raises(TamperedMetaError):
        await Vault.open(store, secret=secret)
    with pytest.raises(TamperedMetaError):
        await vault.refresh()


async def test_a_meta_of_another_vault_is_refused_by_an_open_one(
    secret: Secret, cheap: Argon2idParams
) -> None:
    """An open vault does not follow its meta into another vault, even one with the same secret."""
    mine, other = MemoryStore(), MemoryStore()
    vault = await Vault.create(mine, secret=secret, kdf=cheap)
    await Vault.create(other, secret=secret, kdf=cheap)
    await put_raw_meta(mine, await raw_meta(other))

    for attempt in (vault.refresh(), vault.rotate(), vault.rotate_dek(), vault.end_legacy_reads()):
        with pytest.raises(TamperedMetaError):
            await attempt


@pytest.mark.exhaustive
async def test_every_changed_character_of_the_meta_is_noticed(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """No single character of the stored meta can be changed without an error."""
    await Vault.create(store, secret=secret, kdf=cheap)
    meta = await raw_meta(store)
    text = json.dumps(meta)
    unnoticed = []
    for at, character in enumerate(text):
        changed = text[:at] + ("1" if character != "1" else "2") + text[at + 1 :]
        try:
            value = json.loads(changed)
        except ValueError:
            continue
        if not isinstance(value, dict) or value == meta:
            continue
        await put_raw_meta(store, value)
        try:
            await Vault.open(store, secret=secret)
        except KvsealError:
            continue
        unnoticed.append((at, text[max(0, at - 20) : at + 20]))

    assert [] == unnoticed


async def test_change_is_a_compare_and_swap(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Of two changes from one state the second is refused, with nothing written."""
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    entry, _ = await vault.read_current(vault.way_in().root)
    await vault.rotate_dek()
    before = dump(store)

    with pytest.raises(Conflict, match="another process changed"):
        await MetaStore(store).change(entry, vault._meta)

    assert before == dump(store)


async def test_a_change_keeps_the_entry_without_expiry(
    any_store: MemoryStore | DiskStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """The vault meta never gets a time to live, whatever changes it."""
    vault = await Vault.create(any_store, secret=secret, kdf=cheap)
    await vault.rotate_dek()

    _, ttl = await any_store.ttl(META_KEY, collection=META_COLLECTION)

    assert ttl is None
    await vault.close()


@pytest.mark.processes
def test_forked_child_does_not_wait_for_the_parents_lock() -> None:
    """A fork while another thread remembers a revision leaves the child able to open a vault."""
    script = """
import os, threading
from kvseal.vault.seen import newest

held, done = threading.Event(), threading.Event()

def hold():
    with newest._lock:
        held.set()
        done.wait()

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    os._exit(0 if newest._lock.acquire(blocking=False) else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
done.set()
raise SystemExit(status)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=False)

    assert 0 == done.returncode


@pytest.mark.parametrize("genuine", [True, False], ids=["genuine", "forged"])
async def test_a_later_revision_over_a_new_vault(
    store: MemoryStore, cheap: Argon2idParams, *, genuine: bool
) -> None:
    """What lies over a new vault meta at once is believed if its MAC is right, and for no revision."""
    secret = Secret(b"the secret")

    async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        result = await operation()
        if name == "put_if_absent" and genuine:
            await (await Vault.open(store, secret=secret)).rotate_dek()
        elif name == "put_if_absent":
            meta = await raw_meta(store)
            policy = {**meta["policy"], "read_plaintext": True}
            await put_raw_meta(store, {**meta, "revision": 2, "policy": policy})
        return result

    creation = Vault.create(HookedDriver(driver_for(store), around), secret=secret, kdf=cheap)
    if genuine:
        vault = await creation
        assert (2, 2) == (vault.meta.revision, vault.keyring.active_dek)
        return
    with pytest.raises(TamperedMetaError):
        await creation
