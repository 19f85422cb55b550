"""
A rotation: the root key wrapped anew for another secret or cost, in place of one slot.

It adds the new slot, and when that has been read back it removes the old one, or lets it
expire.  A label is one way in, so what is replaced are all slots of the old one's label: the
one that opened the vault and whatever interrupted rotations have left.  Between the two
writes both secrets open.  Whoever is interrupted runs the same again, with either secret.

Of rotations that run at once one wins, because each makes sure between its writes that the
slot it began from is still as it was; the others raise `Conflict`.  A slot that a rotation
has replaced, and that only waits for its end, can begin no other rotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal import audit
from kvseal.errors import Conflict, KDFParametersError, WrongSecretError
from kvseal.keys import changes
from kvseal.keys.defaults import new_secret_for
from kvseal.keys.keyring import locked
from kvseal.keys.meta import present, time_text
from kvseal.keys.proof import prove
from kvseal.keys.unlock import unlock
from kvseal.keys.unlocker import cost_of, is_such_a_slot, new_slot

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from kvseal.drivers.base import Entry
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.keys.meta import VaultMeta
    from kvseal.keys.rootkey import RootKey
    from kvseal.keys.unlocker import Slot, Unlocker
    from kvseal.vault import Vault


class Rotation:
    """
    One rotation of *vault*, from the slot that opened it.

    Touches the vault meta alone, whatever the number of records.  The new slot lasts as long as
    the way in that it is for: a slot that was to expire is replaced by one that expires then.
    """

    def __init__(
        self,
        vault: Vault,
        new_secret: Unlocker | str | None,
        kdf: Argon2idParams | None,
        keep_old_for: timedelta | None,
    ) -> None:
        self._vault = vault
        self._new_secret = new_secret
        self._kdf = kdf
        self._keep_old_for = keep_old_for

    async def run(self) -> None:
        """Do it; see `Vault.rotate` for what it raises."""
        vault = self._vault
        root, secret = vault._unlocked(), await self._secret()
        entry, meta = await vault._current(root)
        old = own_slot(vault, meta)
        cost = cost_of(secret, self._kdf, replaces=old, memory_ceiling=vault._memory_ceiling)
        new = await self._interrupted(meta, old, secret, cost)
        if new is None:
            new = await self._new_slot(meta, old, root, secret, cost)
            added = changes.with_slot(meta, root, new, now=present())
            root = await self._write(entry, added, new, secret, root)
            entry, meta = await vault._current(root)
            if own_slot(vault, meta) != old:
                raise _replaced(old)
        ended = changes.with_slot_in_place(meta, root, new, keep_until=self._keep_until(), now=present())
        root = await self._write(entry, ended, new, secret, root)
        audit.rotated(meta.vault_id.hex(), old.id, new.id)
        vault._came_in(secret, new.id, root)
        vault._take(ended, root)

    async def _write(
        self, entry: Entry, meta: VaultMeta, new: Slot, secret: Unlocker, root: RootKey
    ) -> RootKey:
        root = await prove(meta, new, secret, root, now=present())
        await self._vault._metastore.change(entry, meta)
        return root

    async def _secret(self) -> Unlocker:
        if self._new_secret is not None:
            return await new_secret_for(self._new_secret)
        if self._vault._secret is None:
            raise locked()
        return self._vault._secret

    async def _new_slot(
        self, meta: VaultMeta, old: Slot, root: RootKey, secret: Unlocker, cost: Argon2idParams | None
    ) -> Slot:
        ends = _end_of(meta, old.label)
        if old.expires_at != ends:
            raise _replaced(old)
        return await new_slot(
            root,
            secret,
            cost,
            label=old.label,
            now=present(),
            expires_at=ends,
            memory_ceiling=self._vault._memory_ceiling,
        )

    async def _interrupted(
        self, meta: VaultMeta, old: Slot, secret: Unlocker, cost: Argon2idParams | None
    ) -> Slot | None:
        """Return the slot that an interrupted rotation to this very secret and cost has left."""
        ends = _end_of(meta, old.label)
        left = [
            slot
            for slot in meta.slots
            if slot.id != old.id and (slot.label, slot.expires_at) == (old.label, ends)
            if is_such_a_slot(slot, secret, cost)
        ]
        if not left:
            return None
        ceiling = self._vault._memory_ceiling if cost is None else cost.memory_cost
        try:
            _, slot = await unlock(left, secret, meta.vault_id, now=present(), memory_ceiling=ceiling)
        except (WrongSecretError, KDFParametersError):
            return None
        return slot

    def _keep_until(self) -> datetime | None:
        if self._keep_old_for is None:
            return None
        return (present() + self._keep_old_for).replace(microsecond=0)


def own_slot(vault: Vault, meta: VaultMeta) -> Slot:
    """Return the slot of *meta* that opened *vault*, or raise `Conflict` if it is one no more."""
    for slot in meta.slots:
        if slot.id == vault._slot_id and slot.usable(present()):
            return slot
    msg = f"the slot {vault._slot_id} that opened this vault has expired or been removed since"
    raise Conflict(msg, hint="open the vault again; another rotation may have finished first")


def _end_of(meta: VaultMeta, label: str) -> datetime | None:
    """Return when the last slot of *label* expires, or `None` if one lasts."""
    ends = [slot.expires_at for slot in meta.slots if slot.label == label]
    return None if None in ends else max(end for end in ends if end is not None)


def _replaced(old: Slot) -> Conflict:
    until = "" if old.expires_at is None else f", which opens until {time_text(old.expires_at)} only"
    msg = f"another rotation has replaced the slot {old.id} that opened this vault{until}"
    return Conflict(msg, hint="open the vault with the newer secret and rotate again")
