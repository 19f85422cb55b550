"""
An operator's deliberate return to an older vault meta, as a change like any other.

An older meta that is simply laid over the present one is what an attacker would do, so every process that
has seen the later one refuses it.  A holder of the root key can say that it is meant: the older slots and the
older policy become a revision above the present one, with the DEKs and legacy keys of both.  So nothing that
was sealed meanwhile is lost, and running processes follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal import clock
from kvseal.errors import ForkedMetaError, TamperedMetaError
from kvseal.keys import changes
from kvseal.keys.keyring import Keyring
from kvseal.keys.meta import VaultMeta
from kvseal.keys.unlocking import unlock

if TYPE_CHECKING:
    from kvseal.secrets.sources import Unlocker
    from kvseal.vault.store_clock import Clocks


async def returned_to(
    older: VaultMeta, present: VaultMeta, secret: Unlocker, *, clocks: Clocks, memory_ceiling: int
) -> VaultMeta | None:
    """
    Return what makes *present* go back to *older*, which *secret* opens; proven in memory.

    `None` where *present* is no meta of the same root key: a process that holds that one would not follow.

    Raises:
        WrongSecretError, VaultError: *secret* does not open *older*, or it is not genuine.
        ForkedMetaError: *older* has a DEK that *present* has not, or has another one in its place.
        UnknownExtensionError: one of both has a critical part of a later kvseal.
    """
    root, _ = await unlock(
        older.slots, secret, older.vault_id, now=clock.utc_seconds(), memory_ceiling=memory_ceiling
    )
    older.verify(root)
    older.refuse_unknown()
    try:
        present.verify(root)
    except TamperedMetaError:
        return None
    present.refuse_unknown()
    lost = Keyring(older, root).lost_in(Keyring(present, root))
    if lost is not None:
        msg = f"the vault meta in the store has another DEK {lost} than the older one, or none"
        raise ForkedMetaError(
            msg, hint="keep both: back up the store, and restore the records of each to a store of its own"
        )
    meta = changes.returned(older, root, present=present, now=clocks.reached)
    Keyring(VaultMeta.from_value(meta.as_value()), root)
    return meta
