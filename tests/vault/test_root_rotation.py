"""A new root key: what it replaces in one write, who stays in, and how processes that hold the old one go on."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import compress, count, permutations
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import Death, HookedDriver, Killed, dump, put_raw_meta, raw_meta
from tests.turns import interleaved
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.errors import (
    Conflict,
    LastSlotError,
    RolledBackMetaError,
    RootRotatedError,
    SlotsLeftOutError,
    StaleKeyringError,
    TamperedMetaError,
    VaultLockedError,
    WrongSecretError,
)
from kvseal.keys import changes
from kvseal.keys.keyring import LegacyKey
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.meta import VaultMeta
from kvseal.keys.rootkey import Handover, RootKey
from kvseal.legacy import FERNET
from kvseal.observe import counters
from kvseal.recoding import plan_reencryption, recode
from kvseal.recoding.progress.checkpoint import CheckpointStore, open_recode
from kvseal.recoding.progress.lease import Lease
from kvseal.vault.freshness import LIMIT, REFRESH_AFTER, Freshness

if TYPE_CHECKING:
    from collections.abc import Callable

AnyStore = MemoryStore | DiskStore

OLD, OTHER, NEW = Secret(b"the old secret"), Secret(b"another secret"), Secret(b"the new secret")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
COSTLIER = Argon2idParams(time_cost=2, memory_cost=16, parallelism=1)
LEGACY = [LegacyKey(FERNET, bytes(32)), LegacyKey(FERNET, bytes(range(32)))]
HOUR = timedelta(hours=1)


async def made(store: AnyStore) -> Vault:
    """Return a vault with three DEKs, one of them retired, a record under each other one, and two legacy keys."""
    vault = await Vault.create(store, secret=OLD, kdf=CHEAP)
    await vault.rotate_dek()
    await vault.drop_dek(1)
    await wrapped(vault).put("k2", {"v": 2})
    await vault.rotate_dek()
    await wrapped(vault).put("k3", {"v": 3})
    await vault.read_legacy_with(LEGACY)
    return vault


async def gone(vault: Vault) -> None:
    """Close the operator's vault; no root key of its is in this process any more."""
    await vault.close()
    gc.collect()


async def reads(vault: Vault) -> bool:
    """Whether every record of `made` opens."""
    return await wrapped(vault).get_many(["k2", "k3"]) == [{"v": 2}, {"v": 3}]


async def opens(store: Any, secret: Secret) -> bool:
    """Whether a new process opens the vault with *secret*, and then every record."""
    try:
        vault = await Vault.open(store, secret=secret)
    except WrongSecretError:
        return False
    return await reads(vault)


def keys_of(vault: Vault) -> tuple[dict[int, bytes], list[tuple[str, bytes]]]:
    """Return every DEK and legacy key that *vault* holds."""
    return vault.keyring._deks, [(key.kind, key.key) for key in vault.keyring.legacy]


async def test_everything_under_the_old_root_key_is_wrapped_anew(any_store: AnyStore) -> None:
    """No wrap, slot or MAC of the old root key is left; DEKs, legacy keys and records are what they were."""
    vault = await made(any_store)
    before, keys, old = await raw_meta(any_store), keys_of(vault), vault.way_in().root
    records = {key: await any_store.get(key) for key in ("k2", "k3")}

    done = await vault.rotate_root()

    after = await raw_meta(any_store)
    assert (True, (), before["revision"] + 1) == (done.changed, done.dropped, done.status.revision)
    assert {name: before[name] for name in ("vault_id", "created_at", "policy")} == {
        name: after[name] for name in ("vault_id", "created_at", "policy")
    }
    for kind in ("slots", "deks", "legacy"):
        for one, other in zip(before[kind], after[kind], strict=True):
            assert [] == [
                f for f in ("salt", "commitment", "nonce", "wrapped") if f in one and one[f] == other[f]
            ]
    assert ["retired", "readable", "active"] == [dek["state"] for dek in after["deks"]]
    assert before["slots"][0]["id"] != after["slots"][0]["id"]
    assert keys == keys_of(vault) == keys_of(await Vault.open(any_store, secret=OLD))
    assert records == {key: await any_store.get(key) for key in ("k2", "k3")}
    assert old.reveal() != vault.way_in().root.reveal()
    with pytest.raises(TamperedMetaError):
        VaultMeta.from_value(after).verify(old)
    await vault.close()


async def test_it_is_one_write(store: MemoryStore) -> None:
    """It reads the vault meta, swaps it and reads it back, and touches nothing else."""
    await made(store)
    operations = Death()
    vault = await Vault.open(HookedDriver(driver_for(store), operations), secret=OLD)
    operations.operations.clear()

    await vault.rotate_root()

    assert ["get", "replace_many", "get"] == operations.operations


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [2, 3, 4])
async def test_crash(at: int, after: bool, any_store: AnyStore) -> None:
    """Killed around any operation, the vault opens with every secret, and the same again finishes."""
    vault = await made(any_store)
    await vault.slots.add(OTHER, label="other", kdf=CHEAP)
    dying = await Vault.open(HookedDriver(driver_for(any_store), Death(at, after=after)), secret=OLD)

    with pytest.raises(Killed):
        await dying.rotate_root([OTHER])

    assert [True, True] == [await opens(any_store, secret) for secret in (OLD, OTHER)]
    again = await Vault.open(any_store, secret=OLD)
    await again.rotate_root([OTHER])
    assert [True, True] == [await opens(any_store, secret) for secret in (OLD, OTHER)]
    assert 2 == len(again.status().slots)


async def test_a_slot_stays_as_it_was(store: MemoryStore) -> None:
    """A slot whose secret is given keeps its label, its cost and its end, and its secret opens."""
    vault = await made(store)
    await vault.slots.add(OTHER, label="guest", kdf=COSTLIER, expires_in=HOUR)
    before = vault.status().slots

    done = await vault.rotate_root([OTHER])

    assert [(s.label, s.t, s.m, s.p, s.expires_at) for s in before] == [
        (s.label, s.t, s.m, s.p, s.expires_at) for s in done.status.slots
    ]
    assert set() == {s.id for s in before} & {s.id for s in done.status.slots}
    assert ["primary"] == [s.label for s in done.status.slots if s.opened]
    assert [True, True] == [await opens(store, secret) for secret in (OLD, OTHER)]


async def test_one_secret_for_two_slots(store: MemoryStore) -> None:
    """A secret that opens two slots keeps both, and is given once."""
    vault = await made(store)
    await vault.slots.add(OLD, label="again", kdf=COSTLIER)
    await vault.slots.add(OTHER, label="other", kdf=CHEAP)

    done = await vault.rotate_root([OTHER, OLD, OTHER])

    assert ((), 3) == (done.dropped, len(done.status.slots))


async def test_slots_without_their_secret_need_consent(any_store: AnyStore) -> None:
    """Without it nothing is written, and each slot that would go is named, by id and label, and no other."""
    vault = await made(any_store)
    kept = await vault.slots.add(NEW, label="kept", kdf=CHEAP)
    left = [await vault.slots.add(OTHER, label=label, kdf=CHEAP) for label in ("paper", "laptop")]
    before = dump(any_store)

    for consent in (False, [], ["paper"], [left[1].id, "primary"]):
        with pytest.raises(SlotsLeftOutError) as caught:
            await vault.rotate_root([NEW], drop_slots=consent)
        expected = {
            slot.id for slot in left if slot.id not in str(consent) and slot.label not in str(consent)
        }
        assert expected == {
            slot.id for slot in vault.status().slots if f"{slot.id} ({slot.label})" in str(caught.value)
        }

    assert (before, 2) == (dump(any_store), SlotsLeftOutError.exit_code)
    assert kept.id not in str(caught.value)
    await vault.close()


@pytest.mark.parametrize("how", ["all", "ids", "labels"])
async def test_slots_are_dropped_by_consent(how: str, store: MemoryStore) -> None:
    """What goes is told, and its secret opens nothing any more."""
    vault = await made(store)
    slot = await vault.slots.add(OTHER, label="paper", kdf=CHEAP)

    done = await vault.rotate_root(drop_slots={"all": True, "ids": [slot.id], "labels": ["paper"]}[how])

    assert [slot.id] == [gone.id for gone in done.dropped]
    assert [True, False] == [await opens(store, secret) for secret in (OLD, OTHER)]


async def test_a_dry_run(any_store: AnyStore) -> None:
    """It says what would go, without consent, and writes nothing; the vault goes on under the old root key."""
    vault = await made(any_store)
    await vault.slots.add(OTHER, label="paper", kdf=CHEAP)
    before, root = dump(any_store), vault.way_in().root

    done = await vault.rotate_root(dry_run=True)

    assert (False, ["paper"]) == (done.changed, [slot.label for slot in done.dropped])
    assert (before, root) == (dump(any_store), vault.way_in().root)
    await vault.close()


async def test_a_secret_that_opens_nothing_is_an_error(store: MemoryStore) -> None:
    """A mistyped secret must not cost the slot that it was meant for."""
    vault = await made(store)
    await vault.slots.add(OTHER, label="paper", kdf=CHEAP)
    before = dump(store)

    with pytest.raises(WrongSecretError, match="secret 2 of the 2"):
        await vault.rotate_root([OTHER, NEW], drop_slots=True)

    assert before == dump(store)


async def test_a_slot_that_lasts_stays(store: MemoryStore) -> None:
    """Somebody who came in through a slot that expires cannot drop the last one that does not."""
    vault = await made(store)
    await vault.slots.add(OTHER, label="guest", kdf=CHEAP, expires_in=HOUR)
    before = dump(store)

    with pytest.raises(LastSlotError):
        await (await Vault.open(store, secret=OTHER)).rotate_root(drop_slots=True)

    assert before == dump(store)


async def test_a_slot_too_dear_for_this_machine_is_one_left_out(store: MemoryStore) -> None:
    """A slot above the memory ceiling is not tried; it is named like any other whose secret is not given."""
    vault = await made(store)
    await vault.slots.add(OTHER, label="dear", kdf=COSTLIER)
    small = await Vault.open(store, secret=OLD, memory_ceiling=8)

    with pytest.raises(SlotsLeftOutError, match="dear"):
        await small.rotate_root()


async def test_locked(store: MemoryStore) -> None:
    """A locked vault has no root key to replace."""
    vault = await made(store)
    await vault.lock()

    with pytest.raises(VaultLockedError):
        await vault.rotate_root()


async def test_locked_meanwhile(store: MemoryStore) -> None:
    """A vault that is locked while its root key is rotated stays locked."""
    await made(store)

    async def locking(name: str, operation: Callable[[], Any]) -> Any:
        result = await operation()
        if name == "replace_many":
            await vault.lock()
        return result

    vault = await Vault.open(HookedDriver(driver_for(store), locking), secret=OLD)
    await vault.rotate_root()

    assert vault._way_in is None
    with pytest.raises(VaultLockedError):
        _ = vault.keyring


async def test_nothing_is_derived_on_the_event_loop(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every derivation, of old slots and new ones, runs in another thread."""
    import threading

    from kvseal.envelope import kdf

    vault = await made(store)
    await vault.slots.add(OTHER, label="paper", kdf=CHEAP)
    threads = []
    genuine = kdf.hash_secret_raw

    def noting(*args: Any, **kwargs: Any) -> bytes:
        threads.append(threading.current_thread())
        return genuine(*args, **kwargs)

    monkeypatch.setattr(kdf, "hash_secret_raw", noting)
    await vault.rotate_root([OTHER])

    assert len(threads) >= 4
    assert threading.current_thread() not in threads


class TestProcessesThatRun:
    """A process that holds the old root key, while an operator rotates it from another one."""

    @staticmethod
    async def of(store: AnyStore, secret: Secret = OLD) -> Vault:
        """Return a vault as such a process holds it: it shares no root key object with the operator's."""
        vault = await Vault.open(store, secret=secret)
        came_by = vault.way_in()
        vault._way_in = replace(came_by, root=RootKey(came_by.root.reveal(), vault.keyring.vault_id))
        return vault

    async def test_goes_on(self, any_store: AnyStore) -> None:
        """It takes the new root key with one derivation, and reads, seals and changes the vault with it."""
        await (await made(any_store)).close()
        process = await self.of(any_store)
        operator = await Vault.open(any_store, secret=OLD)
        await operator.rotate_root()
        new = operator.way_in().root.reveal()
        await gone(operator)
        before = counters.derivations.number

        assert await process.refresh()

        assert (new, 1) == (process.way_in().root.reveal(), counters.derivations.number - before)
        assert not await process.refresh()
        assert await reads(process)
        await process.rotate_dek()
        await wrapped(process).put("k4", {"v": 4})
        assert {"v": 4} == await wrapped(await Vault.open(any_store, secret=OLD)).get("k4")
        assert ["primary"] == [slot.label for slot in process.status().slots if slot.opened]
        await process.close()

    async def test_the_wrapper_goes_on(self, store: MemoryStore) -> None:
        """A wrapper that meets a DEK from after the rotation opens its record, and seals under it."""
        await made(store)
        kv = EnvelopeEncryptionWrapper(store, secret=OLD, create=False)
        await kv.get("k2")
        operator = await Vault.open(store, secret=OLD)
        await operator.rotate_root()
        await operator.rotate_dek()
        await wrapped(operator).put("k4", {"v": 4})

        assert {"v": 4} == await kv.get("k4")
        await kv.put("k5", {"v": 5})
        assert (await store.get("k4") or {}).keys() == (await store.get("k5") or {}).keys()
        assert 4 == (await kv.vault()).keyring.active_dek

    async def test_one_derivation_for_all(self, store: MemoryStore) -> None:
        """However many ask at once, the new root key is derived once."""
        await made(store)
        process, operator = await self.of(store), await Vault.open(store, secret=OLD)
        await operator.rotate_root()
        await gone(operator)
        before = counters.derivations.number

        await asyncio.gather(*(process.refresh() for _ in range(20)))

        assert 1 == counters.derivations.number - before

    async def test_twice_while_it_watches(self, store: MemoryStore) -> None:
        """It follows from root key to root key."""
        operator = await made(store)
        process = await self.of(store)

        for _ in range(3):
            await operator.rotate_root()
            await process.refresh()
            await operator.rotate_dek()
            await process.refresh()

        assert operator.status().revision == process.status().revision
        assert await reads(process)

    async def test_later_changes_carry_the_handover(self, store: MemoryStore) -> None:
        """It follows from a vault meta that was changed again since."""
        operator = await made(store)
        process = await self.of(store)
        await operator.rotate_root()
        await operator.rotate_dek()
        await operator.slots.add(OTHER, label="paper", kdf=CHEAP)

        await process.refresh()

        assert operator.status().revision == process.status().revision

    async def test_two_rotations_unseen(self, store: MemoryStore) -> None:
        """Who missed one of two root keys has nobody's word for the second: it keeps its keyring, and is told why."""
        operator = await made(store)
        process = await self.of(store)
        await operator.rotate_root()
        await operator.rotate_root()
        before = counters.derivations.number

        with pytest.raises(TamperedMetaError) as caught:
            await process.refresh()

        assert ("open the vault again" in caught.value.hint, before) == (True, counters.derivations.number)
        assert await reads(process)
        assert await opens(store, OLD)

    async def test_its_slot_was_dropped(self, store: MemoryStore) -> None:
        """It reads on with what it has, says what happened, and in the end seals nothing more."""
        operator = await made(store)
        await operator.slots.add(OTHER, label="paper", kdf=CHEAP)
        process, now = await self.of(store, OTHER), 0.0
        process.freshness = Freshness(clock=lambda: now)
        await operator.rotate_root(drop_slots=True)

        with pytest.raises(RootRotatedError, match=r"root key of the vault was rotated.*opens none"):
            await process.refresh()
        now = REFRESH_AFTER
        await wrapped(process).put("k", {"v": 1})
        assert await reads(process)
        now = LIMIT * REFRESH_AFTER
        with pytest.raises(StaleKeyringError):
            await wrapped(process).put("k", {"v": 2})

    async def test_a_refused_meta_is_tried_once(self, store: MemoryStore) -> None:
        """Who asks again and again derives once for each meta, and a few times for all that are ever there."""
        operator = await made(store)
        await operator.slots.add(OTHER, label="paper", kdf=CHEAP)
        process = await self.of(store, OTHER)
        await operator.rotate_root(drop_slots=True)
        before = counters.derivations.number

        for _ in range(5):
            with pytest.raises(RootRotatedError):
                await process.refresh()
        assert 1 == counters.derivations.number - before
        for revision in range(1000, 1030):
            await put_raw_meta(store, {**await raw_meta(store), "revision": revision})
            with pytest.raises(RootRotatedError):
                await process.refresh()
        assert 8 == counters.derivations.number - before

    async def test_without_a_handover_nothing_is_derived(self, store: MemoryStore) -> None:
        """A meta that this root key has not handed over to costs no derivation, whoever wrote its slots."""
        operator = await made(store)
        process = await self.of(store)
        await operator.rotate_root()
        meta = await raw_meta(store)
        before = counters.derivations.number

        for handover in (
            None,
            {**meta["handover"], "mac": meta["mac"]},
            {**meta["handover"], "successor": meta["mac"]},
        ):
            await put_raw_meta(
                store, {**meta, "handover": handover} if handover else without(meta, "handover")
            )
            with pytest.raises(TamperedMetaError):
                await process.refresh()

        assert before == counters.derivations.number

    async def test_a_caller_who_gives_up(self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """A derivation that takes longer than a writer waits is not begun again: the next look finds its result."""
        import threading

        operator = await made(store)
        process, release = await self.of(store), threading.Event()
        await operator.rotate_root()
        await gone(operator)
        before, genuine = counters.derivations.number, Keyslot.open

        def slow(self: Keyslot, *args: Any, **kwargs: Any) -> RootKey:
            assert release.wait(60)
            return genuine(self, *args, **kwargs)

        monkeypatch.setattr(Keyslot, "open", slow)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(process.refresh(), 0.01)
        (task,) = process._succession._tries.values()
        release.set()
        for thread in threading.enumerate():
            if thread.name == "kvseal-unlock":
                await asyncio.to_thread(thread.join)
        await asyncio.wait([task])
        gc.collect()
        await process.refresh()

        assert 1 == counters.derivations.number - before
        assert await reads(process)

    async def test_locked_while_it_follows(self, store: MemoryStore) -> None:
        """A vault that is locked meanwhile stays locked, and forgets what it had found."""
        operator = await made(store)
        process = await self.of(store)
        await operator.rotate_root()
        genuine = process._succession.follow

        async def locking(*args: Any, **kwargs: Any) -> Any:
            found = await genuine(*args, **kwargs)
            await process.lock()
            return found

        process._succession = SimpleNamespace(follow=locking)  # type: ignore[assignment]
        with suppress(VaultLockedError):
            await process.refresh()

        assert (None, {}) == (process._way_in, process._succession._tries)
        with pytest.raises(VaultLockedError):
            _ = process.keyring

    @pytest.mark.parametrize("change", ["rotate", "rotate_dek", "rotate_root", "add", "remove", "verify"])
    async def test_what_it_changes(self, change: str, store: MemoryStore) -> None:
        """A change from under the old root key is a conflict that writes nothing; tried again, it is done."""
        operator = await made(store)
        await operator.slots.add(OTHER, label="paper", kdf=CHEAP)
        process = await self.of(store)
        await operator.rotate_root([OTHER])
        before = dump(store)
        changed: dict[str, Callable[[], Any]] = {
            "rotate": lambda: process.rotate(new_secret=NEW),
            "rotate_dek": process.rotate_dek,
            "rotate_root": lambda: process.rotate_root([OTHER]),
            "add": lambda: process.slots.add(NEW, label="new", kdf=CHEAP),
            "remove": lambda: process.slots.remove("paper"),
            "verify": lambda: process.slots.verify(OTHER),
        }

        with pytest.raises(Conflict, match="has rotated the root key"):
            await changed[change]()

        assert before == dump(store)
        await changed[change]()
        assert await opens(store, NEW if change == "rotate" else OLD)


class TestWhoeverHasTheOldRootKey:
    """What an attacker who knows the old root key and writes to the store can do, and what not."""

    @staticmethod
    async def compromised(store: MemoryStore) -> tuple[Vault, RootKey, VaultMeta]:
        """Return a vault after its rotation, and the old root key with the last meta of its time."""
        vault = await made(store)
        root, meta = vault.way_in().root, vault.meta
        await vault.rotate_root()
        return vault, root, meta

    async def test_the_old_meta_is_rolled_back(self, store: MemoryStore) -> None:
        """The vault meta of before is refused by whoever has seen the new one."""
        vault, _, meta = await self.compromised(store)
        await put_raw_meta(store, meta.as_value())

        with pytest.raises(RolledBackMetaError):
            await vault.refresh()
        with pytest.raises(RolledBackMetaError):
            await vault.rotate_dek()

    async def test_a_newer_meta_under_the_old_root_key(self, store: MemoryStore) -> None:
        """With a revision that was never there, an old slot and a right MAC, it gets nobody back."""
        vault, root, meta = await self.compromised(store)
        forged = replace(meta, revision=1000, policy=replace(meta.policy, read_plaintext=True)).authenticated(
            root
        )
        await put_raw_meta(store, forged.as_value())
        before = counters.derivations.number

        with pytest.raises(TamperedMetaError):
            await vault.refresh()
        with pytest.raises(TamperedMetaError):
            await vault.slots.add(NEW, label="new", kdf=CHEAP)

        assert (before, False) == (counters.derivations.number, vault.keyring.policy.read_plaintext)
        assert await reads(vault)

    async def test_a_handover_back(self, store: MemoryStore) -> None:
        """Nor does a handover that the old root key gives to itself, or to another one."""
        vault, root, meta = await self.compromised(store)

        for successor in (root, RootKey.generate(meta.vault_id)):
            forged = replace(meta, revision=1000, handover=Handover.between(root, successor)).authenticated(
                successor
            )
            await put_raw_meta(store, forged.as_value())
            with pytest.raises(TamperedMetaError):
                await vault.refresh()

    async def test_a_handover_that_was_genuine(self, store: MemoryStore) -> None:
        """The handover of a rotation, pasted over other slots, leads no process to a root key that it does not name."""
        operator = await made(store)
        process = await TestProcessesThatRun.of(store)
        root, meta = operator.way_in().root, operator.meta
        await operator.rotate_root()
        handover = VaultMeta.from_value(await raw_meta(store)).handover
        forged = replace(meta, revision=1000, handover=handover).authenticated(root)
        await put_raw_meta(store, forged.as_value())

        with pytest.raises(RootRotatedError, match="handed over to"):
            await process.refresh()
        assert await reads(process)


def without(meta: dict[str, Any], name: str) -> dict[str, Any]:
    """Return *meta* with a field less."""
    return {field: value for field, value in meta.items() if field != name}


CHANGES: dict[str, Callable[[Vault], Any]] = {
    "rotate the root key": lambda vault: vault.rotate_root(drop_slots=True),
    "rotate it again": lambda vault: vault.rotate_root(drop_slots=True),
    "rotate the secret": lambda vault: vault.rotate(new_secret=NEW),
    "rotate the DEK": lambda vault: vault.rotate_dek(),
    "add a slot": lambda vault: vault.slots.add(OTHER, label="added", kdf=CHEAP),
    "end legacy": lambda vault: vault.end_legacy_reads(),
}


@pytest.mark.exhaustive
@given(
    st.lists(st.sampled_from("ab"), min_size=12, max_size=12),
    st.sampled_from(
        [names for names in permutations(CHANGES, 2) if "root" in names[0] or "again" in names[0]]
    ),
)
@settings(max_examples=80)
def test_concurrent_changes_are_serial_or_conflict(schedule: list[str], names: tuple[str, str]) -> None:
    """Whatever the order of their store operations, one of two changes wins, and the other does or is told."""
    asyncio.run(concurrently(schedule, names))


async def concurrently(schedule: list[str], names: tuple[str, str]) -> None:
    """Run a rotation of the root key and another change, operation by operation in the order of *schedule*."""
    store = MemoryStore()
    first = await made(store)

    done = await interleaved(store, OLD, schedule, [CHANGES[name] for name in names])

    won = list(compress(names, done))
    assert await opens(store, NEW if "rotate the secret" in won else OLD)
    status = (await Vault.open(store, secret=NEW if "rotate the secret" in won else OLD)).status()
    assert ("rotate the DEK" in won) == (4 == status.active_dek)
    assert ("end legacy" in won) == all(key.ended_at for key in status.legacy)
    assert first.status().revision < status.revision


async def test_a_recode_is_resumed_under_the_new_root_key(store: MemoryStore) -> None:
    """A checkpoint and a lease are sealed under a DEK, so a rotation of the root key leaves both as they were."""
    vault = await made(store)
    plan = plan_reencryption(vault)
    lease = Lease(vault, "a plan", "reencrypt", (0, 1))
    await lease.acquire()

    await (await Vault.open(store, secret=OLD)).rotate_root()

    fresh = await Vault.open(store, secret=OLD)
    opened = await open_recode(fresh)
    assert opened is not None
    assert "reencrypt" == opened.command
    await vault.refresh()
    await lease.finish()
    assert (None, None) == await CheckpointStore(fresh).head()
    report = await recode(store, plan)
    assert (1, 0) == (report.changed, report.failed)


async def test_a_recode_goes_on_over_a_rotation(store: MemoryStore) -> None:
    """A re-encryption that runs while the root key is rotated comes to its end, under the new root key."""
    vault = await made(store)
    names = [f"r{number}" for number in range(50)]
    await wrapped(vault).put_many(names, [{"n": name} for name in names])
    await vault.rotate_dek()
    operator = await Vault.open(store, secret=OLD)
    rotated = False

    async def around(name: str, operation: Callable[[], Any]) -> Any:
        nonlocal rotated
        if name == "scan" and not rotated:
            rotated = True
            await operator.rotate_root()
        return await operation()

    running = await Vault.open(store, secret=OLD)
    ticks = count()
    running.freshness = Freshness(refresh_after=1, clock=lambda: next(ticks))
    report = await recode(HookedDriver(driver_for(store), around), plan_reencryption(running))

    assert (True, 52, 0) == (rotated, report.changed, report.failed)
    assert operator.way_in().root.reveal() == running.way_in().root.reveal()
    assert {"n": "r7"} == await wrapped(await Vault.open(store, secret=OLD)).get("r7")


async def test_a_damaged_checkpoint_of_another_time_is_ignored(store: MemoryStore) -> None:
    """A checkpoint under a DEK that is gone keeps nobody from a recode after the rotation."""
    vault = await made(store)
    await Lease(vault, "a plan", "reencrypt", (0, 1)).acquire()
    stale = await store.get("__recode__", collection="__vault_meta__")
    assert stale is not None
    await vault.rotate_root()
    await vault.rotate_dek()
    await store.delete("__recode__", collection="__vault_meta__")
    await recode(store, plan_reencryption(vault))
    for number in (2, 3):
        await vault.drop_dek(number)
    await store.put("__recode__", stale, collection="__vault_meta__")

    report = await recode(store, plan_reencryption(await Vault.open(store, secret=OLD)))

    assert (0, 0) == (report.changed, report.failed)


async def test_a_new_root_key_is_proven_before_it_is_written(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that would not open to the new root key is found out in memory, and nothing is written."""
    vault = await made(store)
    genuine, before = changes.with_new_root, dump(store)

    def wrong(meta: VaultMeta, root: RootKey, **fields: Any) -> VaultMeta:
        return genuine(meta, root, **{**fields, "successor": RootKey.generate(meta.vault_id)})

    monkeypatch.setattr(changes, "with_new_root", wrong)
    with pytest.raises(TamperedMetaError):
        await vault.rotate_root()

    assert before == dump(store)
