"""Rotation: a new secret, a new cost, a new DEK; constant work, nothing lost, nothing left behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import compress, permutations
from typing import TYPE_CHECKING, Any

import pytest
from argon2.exceptions import HashingError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import Death, HookedDriver, Killed, dump, raw_meta
from tests.turns import interleaved
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.envelope import kdf
from kvseal.errors import (
    Conflict,
    KDFParametersError,
    KvsealError,
    LastSlotError,
    SecretNotFoundError,
    SecretReferenceError,
    StoreUnreachableError,
    VaultError,
    WrongSecretError,
)
from kvseal.keys import changes
from kvseal.keys.keyring import LegacyKey
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.meta import MAX_SLOTS
from kvseal.legacy import FERNET

if TYPE_CHECKING:
    from collections.abc import Callable

AnyStore = MemoryStore | DiskStore

OLD = Secret(b"the first secret")
NEW = Secret(b"the new secret")
THIRD = Secret(b"a third secret")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
COSTLIER = Argon2idParams(time_cost=2, memory_cost=16, parallelism=1)


async def opens(store: Any, secret: Secret) -> bool:
    """Whether *secret* opens the vault in *store* and its record at `k` reads."""
    try:
        vault = await Vault.open(store, secret=secret)
    except WrongSecretError:
        return False
    stored = await driver_for(store).get("default_collection", "k")
    assert stored is not None
    assert stored.value is not None
    vault.keyring.codecs[""].open(stored.value, "default_collection", "k")
    await vault.close()
    return True


async def created(store: AnyStore, secret: Secret) -> Vault:
    """Return a new vault with one record."""
    vault = await Vault.create(store, secret=secret, kdf=CHEAP)
    await wrapped(vault).put("k", {"v": 1})
    return vault


ROTATIONS: dict[str, dict[str, Any]] = {
    "new secret": {"new_secret": NEW},
    "new cost": {"kdf": COSTLIER},
    "both": {"new_secret": NEW, "kdf": COSTLIER},
    "neither: a new salt": {},
}


@pytest.mark.parametrize("name", ROTATIONS)
async def test_rotate(name: str, any_store: AnyStore, secret: Secret) -> None:
    """Afterwards exactly the new secret opens, through one slot of the new cost, and records read."""
    vault = await created(any_store, secret)
    asked = ROTATIONS[name]
    before = await raw_meta(any_store)

    status = await vault.rotate(**asked)

    after = await raw_meta(any_store)
    new, kdf = asked.get("new_secret", secret), asked.get("kdf", CHEAP)
    assert [(kdf.time_cost, kdf.memory_cost)] == [(slot.t, slot.m) for slot in status.slots]
    assert [True] == [slot.opened for slot in status.slots]
    assert before["slots"][0]["salt"] != after["slots"][0]["salt"]
    assert before["deks"] == after["deks"]
    assert [new == secret, True] == [await opens(any_store, secret), await opens(any_store, new)]
    assert {"v": 1} == await wrapped(vault).get("k")
    await vault.close()


async def test_rotate_again_and_again(store: MemoryStore, secret: Secret) -> None:
    """One vault object goes through many rotations, each from what the last one left."""
    vault = await created(store, secret)

    for new in (NEW, THIRD, secret, NEW):
        await vault.rotate(new_secret=new)

    assert 1 + 2 * 4 == vault.status().revision
    assert [False, True, False] == [await opens(store, one) for one in (secret, NEW, THIRD)]


@pytest.mark.parametrize("records", [0, 1, 300])
async def test_rotation_takes_constant_work(records: int, store: MemoryStore, secret: Secret) -> None:
    """The store operations of a rotation are the same whatever the number of records, and touch none."""
    vault = await Vault.create(store, secret=secret, kdf=CHEAP)
    names = [str(n) for n in range(records)]
    await wrapped(vault).put_many(names, [{"n": name} for name in names])
    before = {names: stored for names, stored in dump(store).items() if names[0] != "__vault_meta__"}
    operations = Death()
    hooked = await Vault.open(HookedDriver(driver_for(store), operations), secret=secret)
    operations.operations.clear()

    await hooked.rotate(new_secret=NEW, kdf=COSTLIER)
    await hooked.rotate_dek()

    rotate, rotate_dek = ["get", *2 * ["replace_many", "get"]], ["get", "replace_many", "get"]
    assert [*rotate, *rotate_dek] == operations.operations
    assert before == {names: stored for names, stored in dump(store).items() if names[0] != "__vault_meta__"}


async def test_rotate_dek(any_store: AnyStore, secret: Secret) -> None:
    """New records take the new DEK, old ones still read, and numbers go up by one."""
    vault = await created(any_store, secret)
    kv = wrapped(vault)

    for number in (2, 3, 4):
        status = await vault.rotate_dek()
        await kv.put(f"k{number}", {"v": number})
        assert number == status.active_dek

    assert ["readable"] * 3 + ["active"] == [dek.state for dek in status.deks]
    fresh = wrapped(await Vault.open(any_store, secret=secret))
    assert [{"v": n} for n in (1, 2, 3, 4)] == await fresh.get_many(["k", "k2", "k3", "k4"])
    await vault.close()


BAD: dict[str, tuple[dict[str, Any], type[KvsealError]]] = {
    "a bare passphrase": ({"new_secret": "hunter2"}, SecretReferenceError),
    "an empty reference": ({"new_secret": ""}, SecretReferenceError),
    "a reference to nothing": ({"new_secret": "env:KVSEAL_NO_SUCH_VARIABLE"}, SecretNotFoundError),
    "more memory than there is": (
        {"kdf": Argon2idParams(time_cost=1, memory_cost=2**32 - 1, parallelism=1)},
        KDFParametersError,
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_refused_rotations_change_nothing(
    name: str, any_store: AnyStore, secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation that cannot work is refused before anything is written."""
    genuine = kdf.hash_secret_raw

    def limited(*args: Any, **kwargs: Any) -> bytes:
        if kwargs["memory_cost"] > 2**20:
            raise HashingError("Memory allocation error")
        return genuine(*args, **kwargs)

    monkeypatch.setattr(kdf, "hash_secret_raw", limited)
    asked, error = BAD[name]
    vault = await created(any_store, secret)
    before = dump(any_store)

    with pytest.raises(error):
        await vault.rotate(**asked)

    assert before == dump(any_store)
    assert await opens(any_store, secret)
    await vault.close()


async def test_a_full_vault_is_not_rotated(store: MemoryStore, secret: Secret) -> None:
    """Where there is no room for the new slot beside the old one, the old one stays."""
    vault = await created(store, secret)
    root, meta = vault.way_in().root, vault._meta
    while len(meta.slots) < MAX_SLOTS:
        slot = Keyslot.create(root, secret, CHEAP, label=f"slot {len(meta.slots)}", now=meta.created_at)
        meta = changes.with_slot(meta, root, slot, now=meta.created_at)
    entry, _ = await vault.read_current(root)
    await vault.metastore.change(entry, meta)
    before = dump(store)

    with pytest.raises(VaultError, match="needs one more"):
        await vault.rotate(new_secret=NEW)

    assert before == dump(store)


async def test_the_last_usable_slot_stays(store: MemoryStore, secret: Secret) -> None:
    """A change that would leave no slot, or only expired ones, is refused."""
    vault = await created(store, secret)
    root, meta = vault.way_in().root, vault._meta
    only = meta.slots[0]
    expired = replace(only, id="0" * 16, expires_at=meta.created_at)

    for slots in ((only,), (only, expired)):
        with pytest.raises(LastSlotError):
            changes.without_slot(replace(meta, slots=slots), root, only.id, now=meta.created_at)


@pytest.mark.parametrize("name", ["new secret", "new cost", "both"])
async def test_an_interrupted_rotation_is_finished_not_repeated(
    name: str, store: MemoryStore, secret: Secret
) -> None:
    """The slot that an interrupted rotation has left is used, so that no third one ever appears."""
    await created(store, secret)
    slots = []
    for at in (5, 2, 3, None):
        vault = await Vault.open(HookedDriver(driver_for(store), Death(at=at)), secret=secret)
        with suppress(Killed):
            await vault.rotate(**ROTATIONS[name])
        slots.append([slot["id"] for slot in (await raw_meta(store))["slots"]])

    old, new = slots[0]
    assert [[old, new], [old, new], [old, new], [new]] == slots
    assert await opens(store, ROTATIONS[name].get("new_secret", secret))


async def test_an_unfinished_rotation_to_another_secret_is_no_obstacle(
    store: MemoryStore, secret: Secret
) -> None:
    """Whoever abandons an interrupted rotation and rotates to a third secret leaves no other way in."""
    await created(store, secret)
    for abandoned in (ROTATIONS["new secret"], ROTATIONS["new cost"]):
        vault = await Vault.open(HookedDriver(driver_for(store), Death(at=4)), secret=secret)
        with suppress(Killed):
            await vault.rotate(**abandoned)
    assert 3 == len((await raw_meta(store))["slots"])

    await (await Vault.open(store, secret=secret)).rotate(new_secret=THIRD)

    assert [False, False, True] == [await opens(store, one) for one in (secret, NEW, THIRD)]


async def test_an_interrupted_rotation_can_be_finished_with_the_new_secret(
    store: MemoryStore, secret: Secret
) -> None:
    """Whoever opens with the new secret and runs the rotation again shuts the old one out."""
    await created(store, secret)
    vault = await Vault.open(HookedDriver(driver_for(store), Death(at=4)), secret=secret)
    with suppress(Killed):
        await vault.rotate(new_secret=NEW)

    status = await (await Vault.open(store, secret=NEW)).rotate(new_secret=NEW)

    assert 1 == len(status.slots)
    assert [False, True] == [await opens(store, secret), await opens(store, NEW)]


async def test_rotation_keeps_the_slots_of_other_labels(store: MemoryStore, secret: Secret) -> None:
    """Somebody else's way in is none of this rotation's business."""
    vault = await created(store, secret)
    root = vault.way_in().root
    entry, meta = await vault.read_current(root)
    other = Keyslot.create(root, THIRD, CHEAP, label="somebody else", now=meta.created_at)
    await vault.metastore.change(entry, changes.with_slot(meta, root, other, now=meta.created_at))

    await vault.rotate(new_secret=NEW)

    assert [False, True, True] == [await opens(store, one) for one in (secret, NEW, THIRD)]


@pytest.mark.parametrize("at", range(1, 6))
async def test_a_vault_object_outlives_a_store_error(at: int, store: MemoryStore, secret: Secret) -> None:
    """A store that fails once during a rotation leaves an object that still reads, and a vault that opens."""
    await created(store, secret)
    count = 0

    async def failing_once(_: str, operation: Callable[[], Any]) -> Any:
        nonlocal count
        count += 1
        if count == at + 1:
            raise StoreUnreachableError("the network is away for a moment")
        return await operation()

    vault = await Vault.open(HookedDriver(driver_for(store), failing_once), secret=secret)

    with pytest.raises(StoreUnreachableError):
        await vault.rotate(new_secret=NEW)

    assert {"v": 1} == await EnvelopeEncryptionWrapper(store, vault=vault).get("k")
    assert await opens(store, secret) or await opens(store, NEW)


async def test_rotation_from_a_removed_slot_conflicts(any_store: AnyStore, secret: Secret) -> None:
    """A vault object whose slot another rotation has removed writes nothing and says what to do."""
    one = await created(any_store, secret)
    other = await Vault.open(any_store, secret=secret)
    await one.rotate(new_secret=NEW)
    before = dump(any_store)

    with pytest.raises(Conflict, match="removed since"):
        await other.rotate(new_secret=THIRD)

    assert before == dump(any_store)
    assert {"v": 1} == await wrapped(other).get("k")
    await one.close()
    await other.close()


CHANGES: dict[str, Callable[[Vault], Any]] = {
    "rotate to one secret": lambda vault: vault.rotate(new_secret=NEW),
    "rotate to another": lambda vault: vault.rotate(new_secret=THIRD),
    "rotate the cost": lambda vault: vault.rotate(kdf=COSTLIER),
    "rotate the DEK": lambda vault: vault.rotate_dek(),
    "read legacy": lambda vault: vault.read_legacy_with([LegacyKey(FERNET, bytes(32))]),
    "end legacy": lambda vault: vault.end_legacy_reads(),
}


def ends(change: str) -> Secret | None:
    """Return the secret that *change* is to end with, if it changes the secret."""
    return {"rotate to one secret": NEW, "rotate to another": THIRD}.get(change)


@pytest.mark.exhaustive
@given(
    st.lists(st.sampled_from("ab"), min_size=12, max_size=12),
    st.sampled_from([(one, other) for one, other in permutations(CHANGES, 2)]),
)
# Both add their slot before either removes the old one, in both orders of removal.
@example(list("aabaabbbaabb"), ("rotate to one secret", "rotate to another"))
@example(list("aaabbbaaabbb"), ("rotate to one secret", "rotate to another"))
@example(list("aabbaaaabbbb"), ("rotate to one secret", "rotate to another"))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_concurrent_changes_are_serial_or_conflict(schedule: list[str], names: tuple[str, str]) -> None:
    """Whatever the order of their store operations, a change happens whole or raises `Conflict`."""
    asyncio.run(concurrently(schedule, names))


async def concurrently(schedule: list[str], names: tuple[str, str]) -> None:
    """Run two changes of one vault, operation by operation in the order of *schedule*."""
    store, old = MemoryStore(), Secret(b"the old secret")
    await created(store, old)

    done = await interleaved(store, old, schedule, [CHANGES[name] for name in names])

    won = list(compress(names, done))
    rotations = [name for name in won if name.startswith("rotate") and "DEK" not in name]
    opening = (ends(rotations[0]) if rotations else None) or old
    status = (await Vault.open(store, secret=opening)).status()
    assert len(rotations) <= 1
    assert await opens(store, opening)
    if rotations:
        assert 1 == len(status.slots)
        assert [opening] == [secret for secret in (old, NEW, THIRD) if await opens(store, secret)]
    assert ("rotate the DEK" in won) == (2 == status.active_dek)


@pytest.mark.parametrize("back", [CHEAP, COSTLIER], ids=["of the same cost", "costlier"])
async def test_a_secret_that_came_back_can_be_rotated_away(store: MemoryStore, back: Argon2idParams) -> None:
    """After a leak a secret that was rotated away and back goes at once, whatever is kept of it meanwhile."""
    week = timedelta(days=7)
    vault = await created(store, OLD)
    await vault.rotate(new_secret=NEW, keep_old_for=week)
    await vault.rotate(new_secret=OLD, kdf=back, keep_old_for=week)

    again = await Vault.open(store, secret=OLD)
    assert [None] == [s.expires_at for s in again.meta.slots if s.id == again.slot_id]
    await again.rotate(new_secret=THIRD)

    assert await opens(store, THIRD)
