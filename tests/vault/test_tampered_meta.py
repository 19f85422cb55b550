"""
What somebody who writes to the store does to the vault meta, and what a vault makes of it.

Each tampering is done to the stored entry of a vault that has gone through its life, with the revision of
the newest meta or a later one, so that only the root key can tell.  A process that starts now refuses to
open the vault; one that runs keeps the keys and the policy that it has, and changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import put_raw_meta, raw_meta
from tests.wrapping import wrapped

from kvseal import Argon2idParams, Secret, Vault
from kvseal.errors import (
    DamagedSlotError,
    LegacyRecordError,
    PlaintextRecordError,
    RefutedKeyringError,
    RolledBackMetaError,
    TamperedMetaError,
    VaultMetaError,
    WrongSecretError,
)
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy import FERNET

if TYPE_CHECKING:
    from pathlib import Path

    from kvseal.errors import KvsealError

AnyStore = MemoryStore | DiskStore

FIRST, SECRET, GUEST, SPARE = (
    Secret(f"the {name} secret".encode()) for name in ("first", "own", "guest", "spare")
)
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
LEGACY = [LegacyKey(FERNET, bytes(32)), LegacyKey(FERNET, bytes(range(32)))]


@dataclass
class World:
    """A vault in a store, every vault meta that was ever there, and a process that holds it open."""

    store: AnyStore
    vault: Vault
    past: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def note(self, name: str) -> None:
        """Keep a copy of the vault meta as it is, as a backup or an attacker does."""
        self.past[name] = json.loads(json.dumps(await raw_meta(self.store)))

    async def meta(self) -> dict[str, Any]:
        """Return a copy of the vault meta, to be edited."""
        copy: dict[str, Any] = json.loads(json.dumps(await raw_meta(self.store)))
        return copy

    async def assert_refused(
        self,
        meta: dict[str, Any],
        *,
        secret: Secret = SECRET,
        opening: type[KvsealError] = TamperedMetaError,
        running: type[KvsealError] = TamperedMetaError,
    ) -> None:
        """With *meta* stored, the vault does not open; a process that has it open reads on and seals nothing."""
        genuine = await self.meta()
        assert genuine != meta
        keyring = self.vault.keyring
        await put_raw_meta(self.store, meta)

        with pytest.raises(opening) as caught:
            await Vault.open(self.store, secret=secret)
        assert opening is type(caught.value)
        for attempt in (self.vault.refresh, self.vault.rotate_dek, lambda: self.vault.slots.remove("spare")):
            with pytest.raises(running):
                await attempt()

        assert meta == await raw_meta(self.store)
        assert keyring is self.vault.keyring
        with pytest.raises(RefutedKeyringError):
            await wrapped(self.vault).put("k", {"v": "put"})
        assert {"v": 2} == await wrapped(self.vault).get("old")
        await put_raw_meta(self.store, genuine)
        await self.vault.refresh()
        await wrapped(self.vault).put("k", {"v": "put"})
        assert {"v": "put"} == await wrapped(await Vault.open(self.store, secret=SECRET)).get("k")


@pytest.fixture(params=["memory", "disk"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Yield a vault of four DEKs, three slots and two legacy keys, whose secret, slots and root key were changed."""
    store: AnyStore = MemoryStore() if request.param == "memory" else DiskStore(directory=tmp_path)
    vault = await Vault.create(store, secret=FIRST, kdf=CHEAP)
    world = World(store, vault)
    await world.note("created")
    await vault.rotate(new_secret=SECRET)
    await vault.rotate_dek()
    await world.note("DEK 1 not yet retired")
    await vault.drop_dek(1)
    await wrapped(vault).put("old", {"v": 2})
    await vault.rotate_dek()
    await vault.slots.add(GUEST, label="guest", kdf=CHEAP, expires_in=timedelta(hours=1))
    await vault.slots.add(SPARE, label="spare", kdf=CHEAP)
    await vault.rotate_dek()
    await vault.read_legacy_with(LEGACY)
    await world.note("before the root key was rotated")
    await vault.rotate_root([GUEST, SPARE])
    yield world
    if isinstance(store, DiskStore):
        store._cache.close()


def slot(meta: dict[str, Any], label: str) -> dict[str, Any]:
    """Return the slot with this label."""
    found: dict[str, Any] = next(one for one in meta["slots"] if one["label"] == label)
    return found


async def test_slot_from_before_a_rotation(world: World) -> None:
    """A slot that a rotation has removed, pasted back beside the others, opens nothing for its old secret."""
    meta = await world.meta()
    meta["slots"].append({**world.past["created"]["slots"][0], "label": "pasted"})

    await world.assert_refused(meta, secret=FIRST)


async def test_slot_from_before_a_rotation_in_place(world: World) -> None:
    """Nor does it where it takes the place of the one that came after it."""
    meta = await world.meta()
    meta["slots"] = world.past["created"]["slots"]

    await world.assert_refused(meta, secret=FIRST)


async def test_slot_from_before_a_root_rotation(world: World) -> None:
    """A slot that wraps the old root key, for a secret that is still right, leads to no vault."""
    meta = await world.meta()
    meta["slots"] = world.past["before the root key was rotated"]["slots"]

    await world.assert_refused(meta)


async def test_everything_but_the_mac_from_before_a_root_rotation(world: World) -> None:
    """All of the old meta under the newest revision and MAC is the old root key's, and the MAC is not."""
    now = await world.meta()
    meta = {**world.past["before the root key was rotated"], "revision": now["revision"], "mac": now["mac"]}

    await world.assert_refused(meta)


async def test_later_revision_of_an_old_meta(world: World) -> None:
    """An old meta cannot be given a later revision."""
    now = await world.meta()
    meta = {**world.past["before the root key was rotated"], "revision": now["revision"] + 1}

    await world.assert_refused(meta)


async def test_revision_rolled_back(world: World) -> None:
    """The genuine meta of before, which has its own right MAC, is refused by whoever has seen a newer one."""
    for past in world.past.values():
        await world.assert_refused(
            past,
            secret=FIRST if past is world.past["created"] else SECRET,
            opening=RolledBackMetaError,
            running=RolledBackMetaError,
        )


async def test_revision_edited(world: World) -> None:
    """The newest meta cannot be given another revision, so that no later one would be accepted."""
    meta = await world.meta()

    await world.assert_refused({**meta, "revision": meta["revision"] + 1000})


@pytest.mark.parametrize(
    ("switch", "value"),
    [("read_plaintext", True), ("read_legacy", False), ("binding", "none"), ("binding", "collection")],
)
async def test_policy_edited(world: World, switch: str, value: Any) -> None:
    """No switch of the policy is thrown by whoever writes to the store."""
    meta = await world.meta()
    meta["policy"][switch] = value

    await world.assert_refused(meta)


async def test_plaintext_is_refused_whatever_the_policy_claims(world: World) -> None:
    """A record that is pasted in as plaintext, with a policy that would allow it, is not read."""
    meta = await world.meta()
    meta["policy"]["read_plaintext"] = True
    await put_raw_meta(world.store, meta)
    await world.store.put("open", {"v": "attacker"})

    with pytest.raises((PlaintextRecordError, LegacyRecordError)):
        await wrapped(world.vault).get("open")


async def test_dek_state_from_readable_to_active(world: World) -> None:
    """An older DEK, which may have leaked, cannot be made the one that seals."""
    meta = await world.meta()
    meta["deks"][1]["state"], meta["deks"][3]["state"] = "active", "readable"

    # Malformed: not even a holder of the root key could say so.
    await world.assert_refused(meta, opening=VaultMetaError, running=VaultMetaError)


async def test_dek_state_from_retired_to_readable(world: World) -> None:
    """A retired DEK cannot be brought back with the wrap that an old copy still has."""
    meta = await world.meta()
    assert "retired" == meta["deks"][0]["state"]
    meta["deks"][0] = world.past["DEK 1 not yet retired"]["deks"][0]

    await world.assert_refused(meta)


async def test_dek_state_from_readable_to_retired(world: World) -> None:
    """A DEK that records need cannot be taken away under another name than damage."""
    meta = await world.meta()
    meta["deks"][1] = {name: meta["deks"][1][name] for name in ("number", "created_at")} | {
        "state": "retired"
    }

    await world.assert_refused(meta)


async def test_dek_swapped_between_numbers(world: World) -> None:
    """Two DEKs cannot exchange their numbers."""
    meta = await world.meta()
    one, other = meta["deks"][1], meta["deks"][3]
    for name in ("commitment", "nonce", "wrapped"):
        one[name], other[name] = other[name], one[name]

    await world.assert_refused(meta)


async def test_dek_from_before_a_root_rotation(world: World) -> None:
    """A DEK as the old root key has wrapped it is not one of the new."""
    meta = await world.meta()
    meta["deks"] = world.past["before the root key was rotated"]["deks"]

    await world.assert_refused(meta)


async def test_legacy_key_swapped(world: World) -> None:
    """Two held legacy keys cannot exchange their ids."""
    meta = await world.meta()
    one, other = meta["legacy"]
    one["id"], other["id"] = other["id"], one["id"]

    await world.assert_refused(meta)


async def test_legacy_key_wraps_swapped(world: World) -> None:
    """Nor their wrapped keys."""
    meta = await world.meta()
    one, other = meta["legacy"]
    for name in ("commitment", "nonce", "wrapped"):
        one[name], other[name] = other[name], one[name]

    await world.assert_refused(meta)


async def test_legacy_key_removed(world: World) -> None:
    """A legacy key cannot be taken away, so that its records would read as unknown."""
    meta = await world.meta()
    meta["legacy"].pop()

    await world.assert_refused(meta)


async def test_slot_that_no_longer_expires(world: World) -> None:
    """The end of a guest's slot cannot be taken away."""
    meta = await world.meta()
    del slot(meta, "guest")["expires_at"]

    await world.assert_refused(meta, secret=GUEST)


async def test_slot_that_expires_later(world: World) -> None:
    """Nor put off."""
    meta = await world.meta()
    slot(meta, "guest")["expires_at"] = "2999-01-01T00:00:00Z"

    await world.assert_refused(meta, secret=GUEST)


async def test_slot_that_expires_at_once(world: World) -> None:
    """Nor can an own slot be ended: an end that was edited is seen with the secret of another slot."""
    meta = await world.meta()
    slot(meta, "primary")["expires_at"] = "2020-01-01T00:00:00Z"

    await world.assert_refused(meta, opening=WrongSecretError)
    await world.assert_refused(meta, secret=SPARE)


async def test_slot_label_edited(world: World) -> None:
    """No slot can be given the label of another one, so that an operator would remove the wrong one."""
    meta = await world.meta()
    guest, spare = slot(meta, "guest"), slot(meta, "spare")
    guest["label"], spare["label"] = "spare", "guest"

    await world.assert_refused(meta)


async def test_slot_removed(world: World) -> None:
    """A slot cannot be taken away."""
    meta = await world.meta()
    meta["slots"].remove(slot(meta, "spare"))

    await world.assert_refused(meta)


@pytest.mark.parametrize(("parameter", "value"), [("t", 2), ("m", 16), ("p", 2)])
async def test_slot_cost_edited(world: World, parameter: str, value: int) -> None:
    """With other parameters the secret derives another key: it opens nothing, and no MAC is right."""
    meta = await world.meta()
    slot(meta, "primary")[parameter] = value if parameter != "p" else 1
    if parameter == "p":
        slot(meta, "primary").update(m=16, p=2)

    await world.assert_refused(meta, opening=WrongSecretError)
    await world.assert_refused(meta, secret=SPARE)


async def test_slot_id_edited(world: World) -> None:
    """A slot's id is bound to what it wraps."""
    meta = await world.meta()
    slot(meta, "primary")["id"] = "0" * 16

    await world.assert_refused(meta, opening=DamagedSlotError)


async def test_slot_of_another_vault(world: World) -> None:
    """A slot that somebody has made for the same secret in a vault of their own is not one of this vault."""
    theirs = MemoryStore()
    await Vault.create(theirs, secret=SECRET, kdf=CHEAP)
    meta = await world.meta()
    meta["slots"] = (await raw_meta(theirs))["slots"]

    await world.assert_refused(meta, opening=DamagedSlotError)


async def test_meta_of_another_vault(world: World) -> None:
    """A whole vault of somebody who knows the secret of none is no newer meta of this one."""
    theirs = MemoryStore()
    await Vault.create(theirs, secret=GUEST, kdf=CHEAP)

    await world.assert_refused(await raw_meta(theirs), opening=WrongSecretError)


async def test_handover_removed(world: World) -> None:
    """The word of the old root key for the new one cannot be taken away."""
    meta = await world.meta()
    del meta["handover"]

    await world.assert_refused(meta)


@pytest.mark.parametrize("part", ["successor", "mac"])
async def test_handover_edited(world: World, part: str) -> None:
    """Nor changed."""
    meta = await world.meta()
    meta["handover"][part] = meta["mac"]

    await world.assert_refused(meta)


async def test_what_a_new_process_cannot_know(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The genuine old meta as a whole opens for a process that has seen none: rotations do not undo a leak."""
    await put_raw_meta(world.store, world.past["before the root key was rotated"])

    monkeypatch.setattr("kvseal.vault.seen.newest._newest", {})
    opened = await Vault.open(world.store, secret=SECRET)

    assert world.past["before the root key was rotated"]["revision"] == opened.status().revision
    with pytest.raises(TamperedMetaError):
        await world.vault.refresh()
