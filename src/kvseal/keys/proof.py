"""The proof that what is about to be written opens again: in memory, before it can replace anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING
from kvseal.errors import VaultError
from kvseal.keys.keyring import Keyring
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.meta import VaultMeta
from kvseal.keys.unlock import unlock

if TYPE_CHECKING:
    from datetime import datetime

    from kvseal.keys.rootkey import RootKey
    from kvseal.keys.unlocker import Slot, Unlocker


async def prove(meta: VaultMeta, slot: Slot, unlocker: Unlocker, root: RootKey, *, now: datetime) -> RootKey:
    """Open the bytes that are about to be written with what will have to; return the root key from them."""
    written = VaultMeta.from_value(meta.as_value())
    slots = [candidate for candidate in written.slots if candidate.id == slot.id]
    ceiling = slot.params.memory_cost if isinstance(slot, Keyslot) else DEFAULT_MEMORY_CEILING
    opened, _ = await unlock(slots, unlocker, meta.vault_id, now=now, memory_ceiling=ceiling)
    if opened.reveal() != root.reveal():
        msg = "the new keyslot does not open to this vault's root key"
        raise VaultError(msg, hint="nothing was written; report this")
    Keyring(written, opened)
    return opened
