"""
Every change of a vault meta, as a pure function: the next meta from the present one.

Each change raises the revision by one, drops expired slots and authenticates the whole meta.  No change
leaves a vault without a permanent slot.  No change does I/O or derives a key.
"""

from __future__ import annotations

from dataclasses import replace
from os import urandom
from typing import TYPE_CHECKING, Any, Final, Protocol, get_args

from kvseal.envelope.aead import KEY_SIZE
from kvseal.errors import LastSlotError, VaultError, VaultHeldError
from kvseal.keys.meta import MAX_SIZE, MAX_SLOTS, VaultMeta
from kvseal.keys.policy import PLAINTEXT, SEALED, Hold, WritePolicy
from kvseal.keys.rootkey import Handover
from kvseal.keys.wrapped_keys import SECOND_DEK, WrappedDEK, WrappedLegacyKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from kvseal.keys.keyring import LegacyKey
    from kvseal.keys.making_slots import Slot
    from kvseal.keys.policy import Policy
    from kvseal.keys.rootkey import RootKey

_ID_SIZE: Final = 8


class Change(Protocol):
    """One of the functions below, with all but these given."""

    def __call__(self, meta: VaultMeta, root: RootKey, *, now: datetime) -> VaultMeta:
        """Return the next meta."""


class StampedChange(Protocol):
    """The same, of which something later is counted by the store's time."""

    def __call__(self, meta: VaultMeta, root: RootKey, *, now: datetime, at: datetime) -> VaultMeta:
        """Return the next meta."""


def first(
    root: RootKey, slot: Slot, policy: Policy, *, adopted: Sequence[LegacyKey] = (), now: datetime
) -> VaultMeta:
    """Return revision 1: one slot, DEK 1, and the *adopted* keys, which open legacy records."""
    policy = replace(policy, read_legacy=policy.read_legacy or bool(adopted))
    deks = (_new_dek(root, 1, now),)
    legacy = tuple(_wrap_legacy(root, key, now) for key in adopted)
    return VaultMeta(root.vault_id, 1, now, now, policy, (slot,), deks, legacy).authenticated(root)


def with_slot(meta: VaultMeta, root: RootKey, slot: Slot, *, now: datetime) -> VaultMeta:
    """Add *slot*; raises `VaultError` if the vault has the maximum number of slots."""
    if sum(other.usable(now) for other in meta.slots) >= MAX_SLOTS:
        msg = f"the vault has {MAX_SLOTS} keyslots, the maximum, and this needs one more"
        raise VaultError(msg, hint="remove a slot first")
    return _next(meta, root, now, slots=(*meta.slots, slot))


def without_slot(meta: VaultMeta, root: RootKey, slot_id: str, *, now: datetime) -> VaultMeta:
    """Remove one slot; raises `LastSlotError` if no permanent slot would be left."""
    return _next(meta, root, now, slots=tuple(slot for slot in meta.slots if slot.id != slot_id))


def with_lasting_slot(meta: VaultMeta, root: RootKey, slot_id: str, *, now: datetime) -> VaultMeta:
    """Remove the expiry of a slot."""
    slots = (replace(slot, expires_at=None) if slot.id == slot_id else slot for slot in meta.slots)
    return _next(meta, root, now, slots=tuple(slots))


def with_slot_in_place(
    meta: VaultMeta, root: RootKey, slot: Slot, *, keep_until: datetime | None = None, now: datetime
) -> VaultMeta:
    """
    Remove every other slot with the label of *slot*, which is in the meta already, or let it expire.

    The slots of one label belong together.  A rotation replaces its older ones: the slot that it
    started from, and any that an interrupted rotation left behind.  Rotating does not extend the
    expiry of any of them.
    """
    slots = []
    for other in meta.slots:
        if other.id == slot.id or other.label != slot.label:
            slots.append(other)
        elif keep_until is not None:
            slots.append(replace(other, expires_at=min(keep_until, other.expires_at or keep_until)))
    return _next(meta, root, now, slots=tuple(slots))


def with_new_dek(meta: VaultMeta, root: RootKey, *, now: datetime, at: datetime) -> VaultMeta:
    """
    Add the next DEK as the active one, created *at* the store's time; the previous one becomes readable.

    Stamps never fall: where the store's clock was put back, the new DEK is as old as the newest.
    """
    older = (replace(dek, state="readable") if dek.state == "active" else dek for dek in meta.deks)
    at = max(at, *(dek.created_at for dek in meta.deks))
    return _next(meta, root, now, deks=(*older, _new_dek(root, len(meta.deks) + 1, at)))


def with_retired_dek(
    meta: VaultMeta, root: RootKey, *, number: int, now: datetime, at: datetime
) -> VaultMeta:
    """
    Retire a DEK *at* the store's time: readers still open with it.

    Raises:
        VaultError: it is active.
    """
    return _next(meta, root, now, deks=_with_one_retired(meta, number, at))


def without_dek(meta: VaultMeta, root: RootKey, *, number: int, now: datetime, at: datetime) -> VaultMeta:
    """Drop a DEK but keep its number, which is never reused; raises `VaultError` if it is active."""
    deks = _with_one_retired(meta, number, at)
    dropped = (replace(dek, wrapped=None) if dek.number == number else dek for dek in deks)
    legacy = tuple(key for key in meta.legacy if key.second_dek != number)
    return _next(meta, root, now, deks=tuple(dropped), legacy=legacy)


def with_new_root(
    meta: VaultMeta, root: RootKey, *, successor: RootKey, slots: Sequence[Slot], now: datetime
) -> VaultMeta:
    """
    Wrap every DEK and every legacy key under *successor* instead of *root*, and add the handover.

    *slots*, which wrap *successor*, replace all slots.  The DEKs and the records do not change.
    """
    deks = (
        dek
        if dek.wrapped is None
        else replace(dek, wrapped=successor.wrap_dek(root.unwrap_dek(dek.wrapped, dek.number), dek.number))
        for dek in meta.deks
    )
    legacy = (
        replace(
            key,
            wrapped=successor.wrap_legacy(
                root.unwrap_legacy(key.wrapped, key.kind, key.id), key.kind, key.id
            ),
        )
        for key in meta.legacy
    )
    handover = Handover.between(root, successor)
    fields = {"slots": tuple(slots), "deks": tuple(deks), "legacy": tuple(legacy), "handover": handover}
    return _next(meta, successor, now, **fields)


def with_settings(meta: VaultMeta, root: RootKey, *, settings: Mapping[str, Any], now: datetime) -> VaultMeta:
    """Set these *settings* of the policy, such as the limits at which a rotation is due; the others stay."""
    return _next(meta, root, now, policy=replace(meta.policy, **settings))


def with_legacy_keys(
    meta: VaultMeta,
    root: RootKey,
    *,
    keys: Sequence[LegacyKey],
    plaintext: bool,
    written: str | None = None,
    now: datetime,
    at: datetime,
) -> VaultMeta:
    """
    Hold *keys* and allow reading legacy records, and with *plaintext* unencrypted ones too.

    With *written*, new values are written so from the same moment on, as by `with_writes`.
    """
    policy = replace(meta.policy, read_legacy=True, read_plaintext=meta.policy.read_plaintext or plaintext)
    again = {(key.kind, key.key) for key in keys}
    stay = (key for key in meta.legacy if key.ended_at is None or _unwrapped(root, key) not in again)
    legacy = (*stay, *(_wrap_legacy(root, key, now) for key in keys))
    if written is not None:
        policy = _writing(replace(meta, policy=policy, legacy=legacy), written, at)
    return _next(meta, root, now, policy=policy, legacy=legacy)


def with_writes(meta: VaultMeta, root: RootKey, *, written: str, now: datetime, at: datetime) -> VaultMeta:
    """
    Write new values *written* since *at*, the store's time: `sealed`, `plaintext`, or a held key's kind.

    Raises:
        VaultHeldError: such values could not be read back.
    """
    return _next(meta, root, now, policy=_writing(meta, written, at))


def without_legacy_reads(meta: VaultMeta, root: RootKey, *, now: datetime, at: datetime) -> VaultMeta:
    """
    Allow reading sealed records only since *at*, the store's time; the legacy keys stay wrapped.

    Raises:
        VaultHeldError: under hold.
    """
    policy = replace(_sealing(meta.policy), read_legacy=False, read_plaintext=False)
    legacy = tuple(replace(key, ended_at=at) if key.opens_old else key for key in meta.legacy)
    return _next(meta, root, now, policy=policy, legacy=legacy)


def with_legacy_reads_again(meta: VaultMeta, root: RootKey, *, now: datetime) -> VaultMeta:
    """Read old records again with every legacy key that has ended and was not dropped."""
    legacy = tuple(replace(key, ended_at=None) for key in meta.legacy)
    return _next(meta, root, now, policy=replace(meta.policy, read_legacy=True), legacy=legacy)


def without_legacy_keys(meta: VaultMeta, root: RootKey, *, ids: AbstractSet[str], now: datetime) -> VaultMeta:
    """Forget those of the legacy keys of these *ids* that have ended."""
    legacy = tuple(key for key in meta.legacy if key.ended_at is None or key.id not in ids)
    return _next(meta, root, now, legacy=legacy)


def without_extension(meta: VaultMeta, root: RootKey, *, name: str, now: datetime) -> VaultMeta:
    """Remove one part of a later release, critical or not; raises `VaultError` where it is not there."""
    return _next(meta, root, now, extensions=meta.extensions.without(name))


def check_written(written: str) -> None:
    """Raise `VaultHeldError` where no process could write values *written*, and all of them would stop."""
    if written not in {SEALED, *get_args(Hold)}:
        msg = f"no process writes {written} records, so the vault cannot hold them"
        hint = f"hold {' or '.join(get_args(Hold))}, or migrate without holding; nothing was changed"
        raise VaultHeldError(msg, hint=hint)


def _writing(meta: VaultMeta, written: str, at: datetime) -> Policy:
    check_written(written)
    at = at if meta.policy.write is None else max(at, meta.policy.write.since)
    key = next((held.id for held in meta.legacy if held.kind == written and held.opens_old), None)
    forms = {SEALED: WritePolicy("sealed", at), PLAINTEXT: WritePolicy("plaintext", at)}
    by_key = None if key is None else WritePolicy("legacy", at, key)
    policy = replace(meta.policy, write=forms.get(written, by_key))
    if policy.write is None or not policy.can_hold(meta.old_key_ids):
        msg = f"the vault cannot read {written} records, so it must not write them"
        raise VaultHeldError(
            msg,
            hint="import the old keys, or allow plaintext, with vaultctl migrate-from-fernet --import-keys",
        )
    return policy


def _sealing(policy: Policy) -> Policy:
    """Return *policy*, or raise `VaultHeldError` where new values are not sealed."""
    if policy.holds:
        msg = "the vault's policy holds new values in the old format"
        raise VaultHeldError(msg, hint="vaultctl policy seal first; nothing was changed")
    return policy


def put_back(meta: VaultMeta, root: RootKey, *, above: int, now: datetime) -> VaultMeta:
    """Return *meta* as a revision higher than *above*, which every process that has seen that one follows."""
    return _next(replace(meta, revision=above), root, now)


def joined(
    ours: VaultMeta, theirs: VaultMeta, root: RootKey, *, seconds: Sequence[tuple[int, bytes]], now: datetime
) -> VaultMeta:
    """
    Return *ours* as a revision above both, with all keys of both.

    Of two DEKs of one number theirs, which is in the store, keeps it; ours, among *seconds*, is held beside.
    """
    deks = {dek.number: dek for dek in ours.deks} | {
        dek.number: dek for dek in theirs.deks if dek.wrapped is not None
    }
    newest = max(deks)
    states = (
        replace(dek, state="active" if number == newest else "readable", retired_at=None)
        if dek.wrapped is not None and (dek.state != "retired" or number == newest)
        else dek
        for number, dek in sorted(deks.items())
    )
    known = {key.id for key in ours.legacy}
    legacy = (*ours.legacy, *(key for key in theirs.legacy if key.id not in known))
    second = (_wrap_second(root, number, dek, now) for number, dek in seconds)
    above = replace(ours, revision=max(ours.revision, theirs.revision))
    return _next(above, root, now, deks=tuple(states), legacy=(*legacy, *second))


def returned(older: VaultMeta, root: RootKey, *, present: VaultMeta, now: datetime) -> VaultMeta:
    """
    Return *older* as the revision after *present*, with the DEKs and legacy keys of both.

    A DEK that was dropped since is readable again.
    """
    wrapped = {dek.number: dek for dek in older.deks if dek.wrapped is not None}
    deks = tuple(
        replace(wrapped[dek.number], state="readable", retired_at=None)
        if dek.wrapped is None and dek.number in wrapped
        else dek
        for dek in present.deks
    )
    held = {key.id for key in older.legacy}
    legacy = (*older.legacy, *(key for key in present.legacy if key.id not in held))
    above = max(older.revision, present.revision)
    return _next(replace(older, revision=above), root, now, deks=deks, legacy=legacy)


def _next(meta: VaultMeta, root: RootKey, now: datetime, **fields: Any) -> VaultMeta:
    changed = replace(meta, revision=meta.revision + 1, updated_at=now, **fields)
    slots = tuple(slot for slot in changed.slots if slot.usable(now))
    if all(slot.expires_at is not None for slot in slots):
        msg = "no keyslot without an expiry would be left, and the vault could not be opened any more"
        raise LastSlotError(msg, hint="add another slot first: vaultctl slot add")
    done = replace(changed, slots=slots).authenticated(root)
    if done.size > MAX_SIZE:
        msg = f"the vault meta would have {done.size:,} bytes, and {MAX_SIZE:,} are the most"
        raise VaultError(
            msg, hint="remove slots and legacy keys that are not needed any more; nothing was changed"
        )
    return done


def _with_one_retired(meta: VaultMeta, number: int, at: datetime) -> tuple[WrappedDEK, ...]:
    """Return the DEKs of *meta* with this one retired; one that was retired before stays as it is."""
    if meta.active_dek.number == number:
        msg = f"every new record is sealed under DEK {number}: it is active"
        raise VaultError(msg, hint="vaultctl rotate --dek first")
    at = max(at, *(dek.created_at for dek in meta.deks))
    return tuple(
        replace(dek, state="retired", retired_at=at)
        if dek.number == number and dek.state != "retired"
        else dek
        for dek in meta.deks
    )


def _new_dek(root: RootKey, number: int, now: datetime) -> WrappedDEK:
    return WrappedDEK(number, "active", now, root.wrap_dek(urandom(KEY_SIZE), number))


def _wrap_second(root: RootKey, number: int, dek: bytes, now: datetime) -> WrappedLegacyKey:
    identifier = f"{number:08x}{urandom(4).hex()}"
    return WrappedLegacyKey(identifier, SECOND_DEK, now, root.wrap_legacy(dek, SECOND_DEK, identifier))


def _unwrapped(root: RootKey, key: WrappedLegacyKey) -> tuple[str, bytes]:
    return key.kind, root.unwrap_legacy(key.wrapped, key.kind, key.id)


def _wrap_legacy(root: RootKey, key: LegacyKey, now: datetime) -> WrappedLegacyKey:
    identifier = urandom(_ID_SIZE).hex()
    return WrappedLegacyKey(identifier, key.kind, now, root.wrap_legacy(key.key, key.kind, identifier))
