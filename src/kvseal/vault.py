"""
The vault: create it, open it, change its keys.

This is the composition root.  It joins a secret, a driver and the vault meta
into a keyring, and makes every change the same way: build the new meta, open it
in memory with what will have to open it later, compare-and-swap it, read it back.
A crash between any two steps leaves a vault that opens.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from os import urandom
from typing import TYPE_CHECKING, Any, Protocol

from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING, Argon2idParams, check_memory
from kvseal.envelope.record import VAULT_ID_SIZE
from kvseal.errors import (
    Conflict,
    VaultError,
    VaultExistsError,
    WrongSecretError,
)
from kvseal.keys import changes
from kvseal.keys.defaults import new_secret_for, secret_for_creation, secret_for_opening
from kvseal.keys.keyring import Keyring, LockedCodecs, locked
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.meta import VaultMeta
from kvseal.keys.policy import Policy
from kvseal.keys.rootkey import RootKey
from kvseal.keys.unlock import unlock
from kvseal.metastore import MetaStore, accept
from kvseal.status import VaultStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver, Entry
    from kvseal.envelope.codec import RecordCodec
    from kvseal.keys.adoption import Adoption
    from kvseal.keys.keyring import LegacyKey
    from kvseal.keys.secret import Secret
    from kvseal.wrapper import EnvelopeEncryptionWrapper


class _Change(Protocol):
    def __call__(self, meta: VaultMeta, root: RootKey, *, now: datetime) -> VaultMeta: ...


class Vault:
    """
    An open vault: a root key and a keyring in memory, and the meta entry they came from.

    Made by `create`, `open` and `open_or_create`.  Wherever they take a *store*, a
    driver serves as well; *meta_store* keeps the vault meta in a store of its own.  A
    *secret* is a `Secret`, a reference such as `env:NAME`, or `None` for the default order.
    """

    def __init__(
        self,
        store: AsyncKeyValue | Driver,
        metastore: MetaStore,
        secret: Secret,
        root: RootKey,
        *,
        slot_id: str,
        meta: VaultMeta,
        memory_ceiling: int,
    ) -> None:
        self._store = store
        self._metastore = metastore
        self._secret: Secret | None = secret
        self._root: RootKey | None = root
        self._slot_id = slot_id
        self._memory_ceiling = memory_ceiling
        self._meta = meta
        self._keyring: Keyring | None = None
        self.codecs: Mapping[str, RecordCodec] = LockedCodecs()
        """The keyring's codecs by context, a dict hit away for the wrapper."""
        self._take(meta, root)

    @classmethod
    async def create(
        cls,
        store: AsyncKeyValue | Driver,
        *,
        secret: Secret | str | None = None,
        kdf: Argon2idParams = Argon2idParams.RFC_9106_LOW_MEMORY,
        meta_store: AsyncKeyValue | Driver | None = None,
        policy: Policy | None = None,
        label: str = "primary",
        adopts: Adoption | None = None,
        memory_ceiling: int = DEFAULT_MEMORY_CEILING,
    ) -> Vault:
        """
        Create the vault: a new root key, DEK 1 and the first keyslot.

        Without a *secret*, and with none in the environment, one is generated into the keyring
        or the key file.  With *adopts*, another program's keys become legacy keys of the vault,
        and its record makes room, in the one write that creates it.

        Raises:
            VaultExistsError, ForeignVaultError: something is there already that is not adopted.
            Conflict: what was to be adopted is gone.
            VaultMetaLostError: the store holds sealed records of a vault whose meta is missing.
            EvictingStoreError: the store could drop the vault meta.
            SecretError, KDFParametersError, StoreError: nothing was written.
        """
        async with MetaStore.reached(meta_store or store) as metastore:
            record = None if adopts is None else adopts.record
            place = await metastore.place_for(record if meta_store is None else None)
            # After the first operation: some stores learn only then whether they evict.
            await metastore.refuse_eviction()
            await metastore.refuse_orphaned_records(None if meta_store is None else store)
            await metastore.refuse_loss(None if meta_store is None else store, record)
            check_memory(kdf, memory_ceiling)
            chosen = await secret_for_creation(secret)
            root = RootKey.generate(urandom(VAULT_ID_SIZE))
            slot = await asyncio.to_thread(
                Keyslot.create, root, chosen, kdf, label=label, now=_now(), memory_ceiling=memory_ceiling
            )
            adopted = () if adopts is None else adopts.keys
            meta = changes.first(root, slot, policy or Policy(), adopted=adopted, now=_now())
            root = await _prove(meta, slot, chosen, root)
            await metastore.create(meta, place=place)
            return cls(
                store, metastore, chosen, root, slot_id=slot.id, meta=meta, memory_ceiling=memory_ceiling
            )

    @classmethod
    async def expect(
        cls, store: AsyncKeyValue | Driver, *, meta_store: AsyncKeyValue | Driver | None = None
    ) -> None:
        """Raise `VaultNotFoundError`, or what is wrong with its meta, before a secret is asked for."""
        async with MetaStore.reached(meta_store or store) as metastore:
            await metastore.expect()
            await metastore.close()

    @classmethod
    async def open(
        cls,
        store: AsyncKeyValue | Driver,
        *,
        secret: Secret | str | None = None,
        meta_store: AsyncKeyValue | Driver | None = None,
        memory_ceiling: int = DEFAULT_MEMORY_CEILING,
    ) -> Vault:
        """
        Open the vault that is there; *memory_ceiling*, in KiB, bounds what a stored keyslot may ask for.

        One derivation per process, however many vaults are opened from the same meta.

        Raises:
            VaultNotFoundError: there is none.
            WrongSecretError, DamagedSlotError: the secret opens no slot, or its slot is damaged.
            VaultMetaError: the meta is malformed, changed or older than one already seen.
            SecretError, KDFParametersError, StoreError: see there.
        """
        async with MetaStore.reached(meta_store or store) as metastore:
            _, meta = await metastore.expect()
            metastore.warn_of_eviction()
            chosen = await secret_for_opening(secret)
            root, slot = await unlock(
                meta.slots, chosen, meta.vault_id, now=_now(), memory_ceiling=memory_ceiling
            )
            return cls(
                store, metastore, chosen, root, slot_id=slot.id, meta=meta, memory_ceiling=memory_ceiling
            )

    @classmethod
    async def open_or_create(
        cls,
        store: AsyncKeyValue | Driver,
        *,
        secret: Secret | str | None = None,
        kdf: Argon2idParams = Argon2idParams.RFC_9106_LOW_MEMORY,
        meta_store: AsyncKeyValue | Driver | None = None,
        adopts: Adoption | None = None,
        memory_ceiling: int = DEFAULT_MEMORY_CEILING,
    ) -> Vault:
        """Open the vault, or create it; of processes that race, one creates and all open what it created."""
        with suppress(VaultExistsError):
            return await cls.create(
                store,
                secret=secret,
                kdf=kdf,
                meta_store=meta_store,
                adopts=adopts,
                memory_ceiling=memory_ceiling,
            )
        return await cls.open(store, secret=secret, meta_store=meta_store, memory_ceiling=memory_ceiling)

    @property
    def keyring(self) -> Keyring:
        """The unlocked DEKs.  Raises `VaultLockedError` after `lock`."""
        if self._keyring is None:
            raise locked()
        return self._keyring

    def wrap(
        self, store: AsyncKeyValue | None = None, *, context: str = "", raise_on_decryption_error: bool = True
    ) -> EnvelopeEncryptionWrapper:
        """Return *store* (by default the vault's own) with its values sealed by this vault."""
        from kvseal.wrapper import EnvelopeEncryptionWrapper  # noqa: PLC0415 - the one step up; see import rules

        key_value: Any = store if store is not None else self._store
        return EnvelopeEncryptionWrapper(
            key_value, vault=self, context=context, raise_on_decryption_error=raise_on_decryption_error
        )

    @property
    def metastore(self) -> MetaStore:
        """Where the vault meta lies."""
        return self._metastore

    def status(self) -> VaultStatus:
        """Return what the vault meta says: slots, DEKs, policy, legacy keys.  No secret is in it."""
        return VaultStatus.of(self._meta, location=self._metastore.location, opened_by=self._slot_id)

    async def refresh(self) -> bool:
        """
        Read the vault meta again and return whether it changed: another process may have rotated the DEK.

        Raises:
            VaultMetaError: what is there now cannot be believed; the keyring stays as it was.
        """
        root = self._unlocked()
        _, meta = await self._metastore.expect()
        if meta == self._meta:
            return False
        self._take(meta, root)
        return True

    async def rotate(
        self, *, new_secret: Secret | str | None = None, kdf: Argon2idParams | None = None
    ) -> VaultStatus:
        """
        Re-wrap the root key for *new_secret* and/or a new cost, in place of the slot that opened this vault.

        Touches the vault meta alone, whatever the number of records.  A rotation that was
        interrupted is finished by running it again, and what it left is dropped by any later
        one: with the slot that opened this vault go all others of its label.  A copy of the
        old meta still opens with the old secret: rotation does not undo a leak.

        Raises:
            Conflict: another process changed the vault meta; nothing is lost, see `status`.
            SecretError, KDFParametersError: nothing was changed.
        """
        root = self._unlocked()
        secret = self._secret if new_secret is None else await new_secret_for(new_secret)
        if secret is None:
            raise locked()
        entry, meta = await self._current(root)
        old = self._own_slot(meta)
        params = kdf or old.params
        new = await self._interrupted(meta, old, secret, params)
        if new is None:
            new = await asyncio.to_thread(
                Keyslot.create,
                root,
                secret,
                params,
                label=old.label,
                now=_now(),
                memory_ceiling=self._memory_ceiling,
            )
            added = changes.with_slot(meta, root, new, now=_now())
            root = await _prove(added, new, secret, root)
            await self._metastore.change(entry, added)
            entry, meta = await self._current(root)
            # Another rotation may have removed the old slot since: this one has then not replaced it.
            self._own_slot(meta)
        replaced = changes.with_slot_in_place(meta, root, new, now=_now())
        root = await _prove(replaced, new, secret, root)
        await self._metastore.change(entry, replaced)
        if self._root is not None:
            self._secret, self._slot_id, self._root = secret, new.id, root
        self._take(replaced, root)
        return self.status()

    async def rotate_dek(self) -> VaultStatus:
        """
        Add a new DEK for new writes; older ones stay readable.

        Other processes learn of it when they meet its first record.

        Raises:
            Conflict: another process changed the vault meta; nothing was written.
        """
        return await self._amend(changes.with_new_dek)

    async def read_legacy_with(self, keys: Sequence[LegacyKey], *, plaintext: bool = False) -> VaultStatus:
        """
        Hold *keys* wrapped in the vault meta, so that every process can read old records during a migration.

        With *plaintext*, unencrypted records are read too.  Keys that are already held stay once.
        """
        held = {(key.kind, key.key) for key in self.keyring.legacy}
        new = [key for key in dict.fromkeys(keys) if (key.kind, key.key) not in held]
        return await self._amend(partial(changes.with_legacy_keys, keys=new, plaintext=plaintext))

    async def end_legacy_reads(self) -> VaultStatus:
        """Drop the legacy keys and read sealed records alone from now on."""
        return await self._amend(changes.without_legacy_keys)

    async def lock(self) -> None:
        """
        Forget every key and the secret.

        What uses this vault raises `VaultLockedError` until it is opened anew.

        Python cannot promise that no copy is left in memory; see docs/threat-model.md.
        """
        self._root = None
        self._keyring = None
        self.codecs = LockedCodecs()
        self._secret = None

    async def close(self) -> None:
        """Lock the vault and release what it opened to reach the vault meta; the stores stay open."""
        await self.lock()
        await self._metastore.close()

    def _unlocked(self) -> RootKey:
        if self._root is None:
            raise locked()
        return self._root

    def _take(self, meta: VaultMeta, root: RootKey) -> None:
        """
        Believe *meta* after its MAC, and unlock its DEKs.

        Not where another task has locked the vault, or taken a newer meta, since this one was read.
        """
        keyring = Keyring(meta, root)
        accept(meta)
        if self._root is not None and meta.revision >= self._meta.revision:
            self._keyring, self._meta = keyring, meta
            self.codecs = keyring.codecs

    async def _current(self, root: RootKey) -> tuple[Entry, VaultMeta]:
        entry, meta = await self._metastore.expect()
        meta.verify(root)
        return entry, meta

    async def _amend(self, change: _Change) -> VaultStatus:
        root = self._unlocked()
        entry, meta = await self._current(root)
        amended = change(meta, root, now=_now())
        Keyring(VaultMeta.from_value(amended.as_value()), root)
        await self._metastore.change(entry, amended)
        self._take(amended, root)
        return self.status()

    def _own_slot(self, meta: VaultMeta) -> Keyslot:
        for slot in meta.slots:
            if slot.id == self._slot_id:
                return slot
        msg = f"the slot {self._slot_id} that opened this vault has been removed since"
        raise Conflict(msg, hint="open the vault again; another rotation may have finished first")

    async def _interrupted(
        self, meta: VaultMeta, old: Keyslot, secret: Secret, params: Argon2idParams
    ) -> Keyslot | None:
        """Return the slot that an interrupted rotation to this very secret and cost has left."""
        candidates = [s for s in meta.slots if s.id != old.id and (s.label, s.params) == (old.label, params)]
        if not candidates:
            return None
        try:
            _, slot = await unlock(
                candidates, secret, meta.vault_id, now=_now(), memory_ceiling=params.memory_cost
            )
        except WrongSecretError:
            return None
        return slot


async def _prove(meta: VaultMeta, slot: Keyslot, secret: Secret, root: RootKey) -> RootKey:
    """Open the bytes that are about to be written with the secret that will have to; return what opened."""
    written = VaultMeta.from_value(meta.as_value())
    slots = [candidate for candidate in written.slots if candidate.id == slot.id]
    opened, _ = await unlock(slots, secret, meta.vault_id, now=_now(), memory_ceiling=slot.params.memory_cost)
    if opened.reveal() != root.reveal():
        msg = "the new keyslot does not open to this vault's root key"
        raise VaultError(msg, hint="nothing was written; report this")
    Keyring(written, opened)
    return opened


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)
