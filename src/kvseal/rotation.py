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

import asyncio
from typing import TYPE_CHECKING

from kvseal.errors import Conflict, KDFParametersError, WrongSecretError
from kvseal.keys import changes
from kvseal.keys.defaults import new_secret_for
from kvseal.keys.keyring import locked
from kvseal.keys.keyslot import Keyslot, cost_for
from kvseal.keys.meta import present, time_text
from kvseal.keys.proof import prove
from kvseal.keys.unlock import unlock

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from kvseal.drivers.base import Entry
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.keys.meta import VaultMeta
    from kvseal.keys.rootkey import RootKey
    from kvseal.keys.secret import Secret
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
        new_secret: Secret | str | None,
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
        old = self._own_slot(meta)
        params = self._kdf or cost_for(secret, present=old.params)
        new = await self._interrupted(meta, old, secret, params)
        if new is None:
            new = await self._new_slot(meta, old, root, secret, params)
            added = changes.with_slot(meta, root, new, now=present())
            root = await self._write(entry, added, new, secret, root)
            entry, meta = await vault._current(root)
            if self._own_slot(meta) != old:
                raise _replaced(old)
        ended = changes.with_slot_in_place(meta, root, new, keep_until=self._keep_until(), now=present())
        root = await self._write(entry, ended, new, secret, root)
        vault._came_in(secret, new.id, root)
        vault._take(ended, root)

    async def _write(
        self, entry: Entry, meta: VaultMeta, new: Keyslot, secret: Secret, root: RootKey
    ) -> RootKey:
        root = await prove(meta, new, secret, root, now=present())
        await self._vault._metastore.change(entry, meta)
        return root

    async def _secret(self) -> Secret:
        if self._new_secret is not None:
            return await new_secret_for(self._new_secret)
        if self._vault._secret is None:
            raise locked()
        return self._vault._secret

    async def _new_slot(
        self, meta: VaultMeta, old: Keyslot, root: RootKey, secret: Secret, params: Argon2idParams
    ) -> Keyslot:
        ends = _end_of(meta, old.label)
        if old.expires_at != ends:
            raise _replaced(old)
        return await asyncio.to_thread(
            Keyslot.create,
            root,
            secret,
            params,
            label=old.label,
            now=present(),
            expires_at=ends,
            memory_ceiling=self._vault._memory_ceiling,
        )

    async def _interrupted(
        self, meta: VaultMeta, old: Keyslot, secret: Secret, params: Argon2idParams
    ) -> Keyslot | None:
        """Return the slot that an interrupted rotation to this very secret and cost has left."""
        ends = _end_of(meta, old.label)
        left = [
            slot
            for slot in meta.slots
            if slot.id != old.id and (slot.label, slot.params, slot.expires_at) == (old.label, params, ends)
        ]
        if not left:
            return None
        try:
            _, slot = await unlock(
                left, secret, meta.vault_id, now=present(), memory_ceiling=params.memory_cost
            )
        except (WrongSecretError, KDFParametersError):
            return None
        return slot

    def _own_slot(self, meta: VaultMeta) -> Keyslot:
        for slot in meta.slots:
            if slot.id == self._vault._slot_id and slot.usable(present()):
                return slot
        msg = f"the slot {self._vault._slot_id} that opened this vault has expired or been removed since"
        raise Conflict(msg, hint="open the vault again; another rotation may have finished first")

    def _keep_until(self) -> datetime | None:
        if self._keep_old_for is None:
            return None
        return (present() + self._keep_old_for).replace(microsecond=0)


def _end_of(meta: VaultMeta, label: str) -> datetime | None:
    """Return when the last slot of *label* expires, or `None` if one lasts."""
    ends = [slot.expires_at for slot in meta.slots if slot.label == label]
    return None if None in ends else max(end for end in ends if end is not None)


def _replaced(old: Keyslot) -> Conflict:
    until = "" if old.expires_at is None else f", which opens until {time_text(old.expires_at)} only"
    msg = f"another rotation has replaced the slot {old.id} that opened this vault{until}"
    return Conflict(msg, hint="open the vault with the newer secret and rotate again")
