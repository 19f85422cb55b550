"""How a vault is: told from memory, without a word that is a secret or leads to one."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.backends.openssl.backend import backend
from key_value.aio.stores.disk import DiskStore
from tests.keys.made import CHEAP, SECRET
from tests.watched import Watched, lasting

from kvseal import EnvelopeEncryptionWrapper, Vault
from kvseal.errors import StaleKeyringError
from kvseal.vault.freshness import REFRESH_AFTER

if TYPE_CHECKING:
    from pathlib import Path

    from key_value.aio.stores.memory import MemoryStore

DAY = timedelta(days=1)


async def test_what_is_told(store: MemoryStore) -> None:
    """An open vault tells its id, revision, active DEK, the ages of its keys, and who computes."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await vault.rotate_dek()

    told = vault.health().as_dict()

    ages = {told.pop(name) for name in ("active_dek_age", "keyslot_age", "meta_age")}
    assert all(0 <= age <= 60 for age in ages)
    assert {
        "schema": 1,
        "state": "ok",
        "crypto": {
            "source": f"cryptography {version('cryptography')}",
            "backend": backend.openssl_version_text(),
            "kdf": f"argon2-cffi {version('argon2-cffi')}",
        },
        "backend": "memory",
        "vault_id": vault.status().vault_id,
        "revision": 2,
        "active_dek": 2,
        "retired_dek_opens": 0,
    } == told


async def test_it_is_frozen(store: MemoryStore) -> None:
    """What was told does not change."""
    health = (await Vault.create(store, secret=SECRET, kdf=CHEAP)).health()

    with pytest.raises(FrozenInstanceError):
        health.state = "ok"  # type: ignore[misc]


async def test_nothing_is_told_of_the_place(tmp_path: Path) -> None:
    """Neither the path of the store nor the label of a slot is in it."""
    store = DiskStore(directory=tmp_path / "secret-place")
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP, label="Ada's laptop")

    told = str(vault.health().as_dict())

    assert "'backend': 'disk'" in told
    assert "secret-place" not in told
    assert "Ada" not in told
    await vault.close()
    await store.close()


async def test_nothing_is_read() -> None:
    """It is told from memory alone, so it is told even where the store is out of reach."""
    watched = Watched()
    vault = await watched.opened()
    watched.is_cut = True

    assert "ok" == vault.health().state
    assert 0 == watched.looks


async def test_ages_of_keys(store: MemoryStore) -> None:
    """The ages are those of the active DEK and of the slot that opened the vault, and never negative."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    meta = vault._meta
    (slot,), (dek,) = meta.slots, meta.deks
    slots = (replace(slot, created_at=slot.created_at - DAY),)
    deks = (replace(dek, created_at=dek.created_at + DAY),)
    vault._meta = replace(meta, slots=slots, deks=deks)

    health = vault.health()

    assert 0 == health.active_dek_age
    assert health.keyslot_age is not None
    assert 86_400 <= health.keyslot_age <= 86_460


async def test_the_slot_may_be_gone(store: MemoryStore) -> None:
    """A process goes on after its slot was removed; then no age of it is told."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    vault.slot_id = "0" * 16

    assert None is vault.health().keyslot_age


async def test_rotation_due(store: MemoryStore) -> None:
    """A DEK that is older than it should get is said to be, and the vault serves all the same."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    (dek,) = vault._meta.deks
    vault._meta = replace(vault._meta, deks=(replace(dek, created_at=dek.created_at - 300 * DAY),))

    assert "ok" == vault.health().state
    due = vault.health(max_dek_age=299 * DAY)
    assert ("rotation due", True) == (due.state, due.serves)


async def test_idle_is_not_stale() -> None:
    """A vault that nobody has written to for hours has not read its meta since, which is no fault."""
    watched = Watched()
    vault = await watched.opened()
    watched.let_pass(100 * REFRESH_AFTER)

    health = vault.health()

    assert ("ok", 6000) == (health.state, health.meta_age)


async def test_stale_and_back() -> None:
    """Out of reach of its meta for too long, a vault is stale, until it was read."""
    watched = Watched()
    vault = await watched.opened()
    watched.is_cut = True
    watched.let_pass(REFRESH_AFTER)
    await vault.confirm()
    assert ("meta unanswered", True) == (vault.health().state, vault.health().serves)
    watched.let_pass()
    with pytest.raises(StaleKeyringError):
        await vault.confirm()

    stale = vault.health()
    assert ("stale", False) == (stale.state, stale.serves)

    watched.is_cut = False
    watched.let_pass(REFRESH_AFTER)
    await vault.confirm()

    assert ("ok", 0) == (vault.health().state, vault.health().meta_age)


async def test_locked(store: MemoryStore) -> None:
    """A locked vault says so, and who it is."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await vault.lock()

    health = vault.health()

    assert ("locked", False, vault.meta.vault_id.hex()) == (health.state, health.serves, health.vault_id)


async def test_idle_serves(store: MemoryStore, tmp_path: Path) -> None:
    """A vault that unlocks again by itself serves while its keys are forgotten, and not once it is closed."""
    key = tmp_path / "key"
    key.write_bytes(SECRET.reveal())
    key.chmod(0o600)
    await (await Vault.create(store, secret=SECRET, kdf=CHEAP)).close()
    vault = await Vault.open(store, secret=f"file:{key}", idle_timeout=3600, when_locked="unlock")
    await vault.lock()

    idle = vault.health()
    assert ("idle", True) == (idle.state, idle.serves)
    await vault.close()

    assert "locked" == vault.health().state


async def test_a_wrapper_before_its_first_operation(store: MemoryStore) -> None:
    """A wrapper that has not opened its vault says so, opens nothing for it, and counts as able to serve."""
    kv = EnvelopeEncryptionWrapper(store, secret=SECRET, kdf=CHEAP)

    before = kv.health()
    assert ("not opened", True, None, None) == (
        before.state,
        before.serves,
        before.vault_id,
        before.active_dek,
    )
    assert None is await store.get("__dek__", collection="__vault_meta__")

    await kv.put("k", {"v": 1})
    assert lasting((await kv.vault()).health().as_dict()) == lasting(kv.health().as_dict())
