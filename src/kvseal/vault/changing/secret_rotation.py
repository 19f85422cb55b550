"""
A rotation of a secret: the root key wrapped anew for another secret or cost, in place of one slot.

It adds the new slot, and when that has been read back it removes the old one, or lets it
expire.  A label is one way in, so what is replaced are all slots of the old one's label: the
one that opened the vault and those that interrupted rotations have left.  Between the two
writes both secrets open.  An operator whose rotation was interrupted runs the same again, with either
secret.

Of rotations that run at once one wins, because each makes sure between its writes that the
slot it began from is still as it was; the others raise `Conflict`.  A slot that a rotation
has replaced, and that only waits for its end, can begin no other rotation.

Touches the vault meta alone, whatever the number of records.  The new slot lasts as long as
the way in that it is for: a slot that was to expire is replaced by one that expires then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal import clock
from kvseal.errors import Conflict, KDFParametersError, WrongSecretError
from kvseal.keys import changes
from kvseal.keys.making_slots import cost_of, is_such_a_slot, new_slot
from kvseal.keys.stamps import time_text
from kvseal.keys.unlocking import prove, unlock
from kvseal.observe import audit
from kvseal.secrets.given import new_secret_for
from kvseal.vault.session import WayIn

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.keys.making_slots import Slot
    from kvseal.keys.meta import VaultMeta
    from kvseal.secrets.sources import Unlocker
    from kvseal.vault.session import OpenVault


async def rotate_secret(
    vault: OpenVault,
    *,
    new_secret: Unlocker | str | None = None,
    kdf: Argon2idParams | None = None,
    keep_old_for: timedelta | None = None,
) -> None:
    """Rotate from the slot that opened *vault*; see `Vault.rotate` for what it raises."""
    came_by = vault.way_in()
    root = came_by.root
    if keep_old_for is not None:
        (await vault.clocks()).check("when the old secret expires")
    secret = came_by.secret if new_secret is None else await new_secret_for(new_secret)
    entry, meta = await vault.read_current(root)
    old = own_slot(vault, meta)
    cost = cost_of(secret, kdf, replaces=old, memory_ceiling=vault.memory_ceiling)
    new = await _left_by_an_interrupted(vault, meta, old, secret, cost)
    if new is None:
        ends = _end_of(meta, old)
        new = await new_slot(
            root,
            secret,
            cost,
            label=old.label,
            now=clock.utc_seconds(),
            expires_at=ends,
            memory_ceiling=vault.memory_ceiling,
        )
        added = changes.with_slot(meta, root, new, now=(await vault.clocks()).reached)
        root, keyring = await prove(added, new, secret, root, now=clock.utc_seconds())
        entry, meta = await vault.commit(entry, added, keyring)
        if meta != added:
            # Another change came after this one: it is looked at like any that was there before.
            entry, meta = await vault.read_current(root)
        if own_slot(vault, meta) != old:
            raise _replaced(old)
    clocks = await vault.clocks()
    until = None if keep_old_for is None else (clocks.own + keep_old_for).replace(microsecond=0)
    ended = changes.with_slot_in_place(meta, root, new, keep_until=until, now=clocks.reached)
    root, keyring = await prove(ended, new, secret, root, now=clock.utc_seconds())
    await vault.commit(entry, ended, keyring, way_in=WayIn(secret, new.id, root))
    audit.rotated(meta.vault_id.hex(), old.id, new.id)


def own_slot(vault: OpenVault, meta: VaultMeta) -> Slot:
    """Return the slot of *meta* that opened *vault*, or raise `Conflict` if it is one no more."""
    for slot in meta.slots:
        if slot.id == vault.slot_id and slot.usable(clock.utc_seconds()):
            return slot
    msg = f"the slot {vault.slot_id} that opened this vault has expired or been removed since"
    raise Conflict(msg, hint="open the vault again; another rotation may have finished first")


async def _left_by_an_interrupted(
    vault: OpenVault, meta: VaultMeta, old: Slot, secret: Unlocker, cost: Argon2idParams | None
) -> Slot | None:
    """Return the slot that an interrupted rotation to this very secret and cost has left."""
    ends = _last_end(meta, old.label)
    left = [
        slot
        for slot in meta.slots
        if slot.id != old.id and (slot.label, slot.expires_at) == (old.label, ends)
        if is_such_a_slot(slot, secret, cost)
    ]
    if not left:
        return None
    ceiling = vault.memory_ceiling if cost is None else cost.memory_cost
    try:
        _, slot = await unlock(left, secret, meta.vault_id, now=clock.utc_seconds(), memory_ceiling=ceiling)
    except (WrongSecretError, KDFParametersError):
        return None
    return slot


def _end_of(meta: VaultMeta, old: Slot) -> datetime | None:
    """Return when the slot in place of *old* expires; raises `Conflict` if *old* is replaced already."""
    ends = _last_end(meta, old.label)
    if old.expires_at != ends:
        raise _replaced(old)
    return ends


def _last_end(meta: VaultMeta, label: str) -> datetime | None:
    """Return when the last slot of *label* expires, or `None` if one lasts."""
    ends = [slot.expires_at for slot in meta.slots if slot.label == label]
    return None if None in ends else max(end for end in ends if end is not None)


def _replaced(old: Slot) -> Conflict:
    until = "" if old.expires_at is None else f", which opens until {time_text(old.expires_at)} only"
    msg = f"another rotation has replaced the slot {old.id} that opened this vault{until}"
    return Conflict(msg, hint="open the vault with the newer secret and rotate again")
