"""
The newest vault meta goes back where the store has lost it.

A failover that loses the last seconds, or a restored copy, leaves an older vault meta, or none.  A
process that holds the newest one still has every key.  By itself it puts the meta back only where that
can lose nothing: over an older meta of the same root key, each of whose keys it holds too.  In every
other case an operator decides, and `Vault.put_back` writes a new revision above both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.errors import Conflict, ForkedMetaError, TamperedMetaError
from kvseal.keys import changes
from kvseal.keys.keyring import Keyring
from kvseal.keys.meta import VaultMeta
from kvseal.vault.store_clock import read_clocks

if TYPE_CHECKING:
    from kvseal.keys.rootkey import RootKey
    from kvseal.vault.metastore import MetaStore


async def put_back_older(metastore: MetaStore, ours: VaultMeta, keyring: Keyring, root: RootKey) -> bool:
    """
    Put *ours* back over an older meta, by compare-and-swap; whether that was done.

    Not where a key would be lost that is not in *keyring*, nor where a newer meta than *ours* was seen.

    Raises:
        Conflict, StoreError: the store could not be asked, or was changed meanwhile.
    """
    found = await metastore.look()
    if found.entry is None or found.meta is None or not await metastore.seen.is_newest(ours):
        return False
    older = found.meta
    if older.vault_id != ours.vault_id or older.revision >= ours.revision:
        return False
    if not _holds_all(keyring, older, root) or older.extensions.unknown or ours.extensions.unknown:
        return False
    await metastore.change(found.entry, ours)
    return True


async def put_back(
    metastore: MetaStore, ours: VaultMeta, keyring: Keyring, root: RootKey
) -> tuple[VaultMeta, Keyring]:
    """
    Write *ours* as a new revision, above what is in the store, with the keys of both; return it, and those.

    Raises:
        ForkedMetaError: the store's meta is of another root key, or of another vault.
        UnknownExtensionError: one of both has a critical part of a later kvseal.
        ForeignVaultError, VaultMetaError: what is there is no vault meta, or a damaged one.
        Conflict, StoreError: nothing was written.
    """
    ours.refuse_unknown()
    found = await metastore.look()
    if found.meta == ours:
        return ours, keyring
    now = (await read_clocks(metastore.driver)).reached
    if found.meta is None:
        again = changes.put_back(ours, root, above=ours.revision, now=now)
    else:
        theirs = _genuine(metastore.location, found.meta, ours, root)
        again = changes.joined(ours, found.meta, root, seconds=keyring.others_than(theirs), now=now)
    proven = Keyring(VaultMeta.from_value(again.as_value()), root)
    if found.entry is None:
        await metastore.create(again)
    else:
        await metastore.change(found.entry, again)
    return again, proven


def _genuine(location: str, theirs: VaultMeta, ours: VaultMeta, root: RootKey) -> Keyring:
    """Return the keys of *theirs*, or raise where the two cannot be joined."""
    if theirs.vault_id != ours.vault_id:
        msg = f"{location} holds another vault now, {theirs.vault_id.hex()}"
        raise ForkedMetaError(msg, hint="restore each vault to a store of its own")
    if theirs.follows(root):
        msg = "the root key of the vault was rotated since"
        raise Conflict(msg, hint="open the vault again")
    theirs.refuse_unknown()
    try:
        return Keyring(theirs, root)
    except TamperedMetaError:
        msg = "the vault meta in the store is of another root key, or forged"
        raise ForkedMetaError(
            msg, hint="keep both: back up the store, and restore the records of each to a store of its own"
        ) from None


def _holds_all(keyring: Keyring, meta: VaultMeta, root: RootKey) -> bool:
    """Whether *meta* is genuine under *root*, and *keyring* has each of its keys, unwrapped and compared."""
    try:
        return keyring.includes(Keyring(meta, root))
    except TamperedMetaError:
        return False
