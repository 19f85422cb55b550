"""The external slot: what is stored of it, and which of them a wrap key is tried on."""

from __future__ import annotations

import asyncio
import json
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.keys.made import NOW, OTHER_SECRET, SECRET, VAULT_ID
from tests.keys.made import slot as secret_slot
from tests.wrapkeys.local_key import LocalKey

from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING
from kvseal.errors import (
    DamagedSlotError,
    UnknownSlotKindError,
    VaultError,
    VaultMetaError,
    WrapKeyError,
    WrapKeyRefusedError,
    WrapKeyUnreachableError,
    WrongSecretError,
)
from kvseal.keys import changes
from kvseal.keys.external_slot import ExternalSlot
from kvseal.keys.keyring import Keyring
from kvseal.keys.meta import VaultMeta
from kvseal.keys.policy import Policy
from kvseal.keys.rootkey import RootKey
from kvseal.keys.unlocking import unlock
from kvseal.observe import counters

if TYPE_CHECKING:
    from kvseal.keys.making_slots import Slot
    from kvseal.secrets.sources import Unlocker

ROOT = RootKey.generate(VAULT_ID)


def slot_of(wrap_key: LocalKey, *, label: str = "kms", root: RootKey = ROOT) -> ExternalSlot:
    """Return a slot of *root* for *wrap_key*."""
    return ExternalSlot.create(root, wrap_key, label=label, now=NOW)


def meta_of(*slots: Slot, root: RootKey = ROOT) -> VaultMeta:
    """Return a vault meta with these slots."""
    meta = changes.first(root, slots[0], Policy(), now=NOW)
    for slot in slots[1:]:
        meta = changes.with_slot(meta, root, slot, now=NOW)
    return meta


def stored(meta: VaultMeta) -> dict[str, Any]:
    """Return the mapping that a store gives back."""
    value: dict[str, Any] = json.loads(json.dumps(meta.as_value()))
    return value


async def opened(slots: list[Slot], unlocker: Unlocker, **options: Any) -> tuple[RootKey, Slot]:
    """Unlock as a vault does."""
    return await unlock(slots, unlocker, VAULT_ID, now=NOW, memory_ceiling=DEFAULT_MEMORY_CEILING, **options)


def test_there_and_back() -> None:
    """The slot is read back as it was written, beside one of a secret, and leads to the same keyring."""
    key = LocalKey()
    meta = meta_of(secret_slot(ROOT, SECRET), replace(slot_of(key), expires_at=NOW + timedelta(days=1)))

    value = stored(meta)
    back = VaultMeta.from_value(value)

    assert meta == back
    assert ["id", "label", "kind", "key", "wrapped", "created_at", "expires_at"] == list(value["slots"][1])
    (_, slot) = back.slots
    assert isinstance(slot, ExternalSlot)
    assert VAULT_ID == Keyring(back, slot.open(key, VAULT_ID)).vault_id


def test_slots_of_secrets_are_stored_as_ever() -> None:
    """An argon2id slot has the very bytes beside an external one that it has alone."""
    own = secret_slot(ROOT, SECRET)

    assert stored(meta_of(own))["slots"][0] == stored(meta_of(slot_of(LocalKey()), own))["slots"][1]


def test_no_key_in_repr_or_store() -> None:
    """Neither shows the root key, and the repr does not show what is wrapped."""
    slot = slot_of(LocalKey())

    assert ROOT.reveal() not in slot.wrapped
    assert repr(slot.wrapped)[2:-1] not in repr(slot)


@pytest.mark.parametrize(
    ("field", "new"),
    [
        ("kind", "argon2id"),
        ("kind", "Local"),
        ("kind", ""),
        ("kind", "x" * 33),
        ("kind", None),
        ("key", ""),
        ("key", "x" * 2049),
        ("key", "\x1b[2J"),
        ("key", 7),
        ("wrapped", ""),
        ("wrapped", "A" * 10_928),
        ("wrapped", "AB=="),
        ("wrapped", None),
        ("label", ""),
        ("id", "00"),
        ("created_at", "today"),
    ],
)
def test_malformed(field: str, new: Any) -> None:
    """What is not exactly as it would be written is malformed, before anybody is asked."""
    value = stored(meta_of(slot_of(LocalKey())))
    value["slots"][0][field] = new

    with pytest.raises(VaultMetaError) as caught:
        VaultMeta.from_value(value)
    assert VaultMetaError is type(caught.value)


@pytest.mark.parametrize(
    "changed", [{"kind": "scrypt"}, {"salt": "AAAA"}, {"key": ...}, {"kind": "hpke", "recipient": "x"}]
)
def test_a_kind_with_other_fields(changed: dict[str, Any]) -> None:
    """A slot with fields of its own is one of a later kvseal, and the error says so."""
    value = stored(meta_of(slot_of(LocalKey()), secret_slot(ROOT, SECRET)))
    slot = value["slots"][1 if changed == {"kind": "scrypt"} else 0]
    slot.update(changed)
    for name in [name for name, new in changed.items() if new is ...]:
        del slot[name]

    with pytest.raises(UnknownSlotKindError, match=f"kind {slot['kind']}"):
        VaultMeta.from_value(value)


@pytest.mark.parametrize("field", ["id", "label", "kind", "key", "wrapped", "created_at"])
def test_every_field_is_authenticated(field: str) -> None:
    """With another slot's value in any of its fields, the vault meta does not open by any slot."""
    key = LocalKey()
    value, other = stored(meta_of(slot_of(key), secret_slot(ROOT, SECRET))), deepcopy(slot_of(LocalKey("z")))
    theirs = stored(meta_of(replace(other, label="b", kind="other", created_at=NOW + timedelta(1))))
    value["slots"][0][field] = theirs["slots"][0][field]
    meta = VaultMeta.from_value(value)

    with pytest.raises(VaultMetaError, match="changed by a writer"):
        Keyring(meta, ROOT)


@pytest.mark.parametrize("changed", [{"wrapped": b"x" * 60}, {"id": "00" * 8}], ids=["bytes", "another-slot"])
def test_damaged(changed: dict[str, Any]) -> None:
    """Changed bytes, and a slot under another id, are a damaged slot that the error names."""
    key = LocalKey()
    slot = replace(slot_of(key), **changed)

    with pytest.raises(DamagedSlotError, match=f"{slot.id}.*kms.*local key k"):
        slot.open(key, VAULT_ID)


def test_of_another_vault() -> None:
    """A slot that was copied from another vault of the same key does not open."""
    key = LocalKey()
    foreign = slot_of(key, root=RootKey.generate(b"w" * 16))

    with pytest.raises(DamagedSlotError):
        foreign.open(key, VAULT_ID)


def test_a_key_that_binds_nothing() -> None:
    """No slot is made with a key whose service ignores the context."""
    with pytest.raises(WrapKeyError, match="does not bind"):
        slot_of(LocalKey(binds=False))


@pytest.mark.parametrize("name", ["", "x" * 2049, "a\nb"])
def test_a_key_that_a_slot_cannot_name(name: str) -> None:
    """A third party's key needs a name that can be stored and shown."""
    with pytest.raises(VaultError, match="does not fit"):
        slot_of(LocalKey(name))


def test_label_that_a_message_cannot_show() -> None:
    """A label is checked before the service is asked."""
    key = LocalKey()

    with pytest.raises(VaultError, match="slot label"):
        slot_of(key, label="two\nlines")
    assert 0 == key.wraps


async def test_only_slots_of_its_kind_and_name_are_tried() -> None:
    """A wrap key is asked for its own slots, a secret is derived for the others, and neither for both."""
    key, other = LocalKey(), LocalKey("other")
    slots: list[Slot] = [slot_of(other), secret_slot(ROOT, SECRET), slot_of(key)]
    before, derived = (key.unwraps, other.unwraps), counters.derivations.number

    assert slots[2] == (await opened(slots, key))[1]
    assert (1, 0, 0) == (
        key.unwraps - before[0],
        other.unwraps - before[1],
        counters.derivations.number - derived,
    )
    assert slots[1] == (await opened(slots, SECRET))[1]
    assert (1, 0) == (key.unwraps - before[0], other.unwraps - before[1])


async def test_no_slot_of_this_key() -> None:
    """A key without a slot is a wrong secret, and what would open the vault is named."""
    with pytest.raises(
        WrongSecretError, match=r"no keyslot of the local key k: .* is of the local key other"
    ):
        await opened([slot_of(LocalKey("other"))], LocalKey())
    with pytest.raises(WrongSecretError, match=r"no keyslot for a secret: .* is of the local key other"):
        await opened([slot_of(LocalKey("other"))], SECRET)
    with pytest.raises(WrongSecretError, match="opens none of the vault's keyslots"):
        await opened([slot_of(LocalKey()), secret_slot(ROOT, SECRET)], OTHER_SECRET)


async def test_a_damaged_slot_does_not_keep_another_from_opening() -> None:
    """Nor does one that the service refuses: each is tried."""
    key = LocalKey()
    damaged, denied, good = replace(slot_of(key), wrapped=b"x" * 60), slot_of(key), slot_of(key)
    key.fails = lambda context: WrapKeyRefusedError("no") if context["kvseal-slot"] == denied.id else None

    assert good == (await opened([damaged, denied, good], key))[1]
    with pytest.raises(DamagedSlotError):
        await opened([damaged, denied], key)
    with pytest.raises(WrapKeyRefusedError):
        await opened([denied, damaged], key)


async def test_a_service_out_of_reach_is_asked_once() -> None:
    """Nobody waits for it once for each planted slot."""
    key = LocalKey()
    slots: list[Slot] = [slot_of(key) for _ in range(5)]
    before = key.unwraps
    key.fails = lambda _: WrapKeyUnreachableError("away")

    with pytest.raises(WrapKeyUnreachableError):
        await opened(slots, key)
    assert 1 == key.unwraps - before


async def test_fifty_callers_share_one_call() -> None:
    """Those who ask meanwhile wait for it, those who ask later get what is held, and the event loop goes on."""
    key = LocalKey()
    slots: list[Slot] = [slot_of(key)]
    before = key.unwraps
    key.asked.clear()
    key.gate.clear()

    callers = [asyncio.create_task(opened(slots, key)) for _ in range(50)]
    await asyncio.to_thread(key.asked.wait)
    key.gate.set()
    roots = {id(root) for root, _ in await asyncio.gather(*callers)}
    root, _ = await opened(slots, key)

    assert 1 == key.unwraps - before
    assert {id(root)} == roots


async def test_asked_anew() -> None:
    """Whoever wants to know whether the service still opens the slot is not answered from memory."""
    key = LocalKey()
    slots: list[Slot] = [slot_of(key)]
    root, _ = await opened(slots, key)
    key.fails = lambda _: WrapKeyRefusedError("revoked")

    assert root is (await opened(slots, key))[0]
    with pytest.raises(WrapKeyRefusedError, match="revoked"):
        await opened(slots, key, anew=True)


async def test_expired_slots_are_not_tried() -> None:
    """From its end on, nobody is asked for a slot."""
    key = LocalKey()
    slot, last = replace(slot_of(key), expires_at=NOW), slot_of(LocalKey("other"))
    before = key.unwraps

    with pytest.raises(WrongSecretError):
        await opened([slot, last], key)
    assert before == key.unwraps
