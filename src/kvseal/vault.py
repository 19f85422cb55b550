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
from functools import partial
from os import urandom
from typing import TYPE_CHECKING, Any, Protocol

from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING, Argon2idParams, check_memory
from kvseal.envelope.record import VAULT_ID_SIZE
from kvseal.errors import VaultExistsError
from kvseal.keys import changes
from kvseal.keys.defaults import secret_for_creation, secret_for_opening
from kvseal.keys.freshness import REFRESH_AFTER, Freshness
from kvseal.keys.keyring import Keyring, LockedCodecs, locked
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.meta import VaultMeta
from kvseal.keys.meta import present as _now
from kvseal.keys.policy import Policy
from kvseal.keys.proof import prove
from kvseal.keys.rootkey import RootKey
from kvseal.keys.unlock import unlock
from kvseal.metastore import MetaStore, accept
from kvseal.rotation import Rotation
from kvseal.slots import Slots
from kvseal.status import VaultStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

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
        slot_id: str,
        meta: VaultMeta,
        memory_ceiling: int,
        freshness: Freshness,
    ) -> None:
        self._store = store
        self._metastore = metastore
        self._secret: Secret | None = secret
        self._root: RootKey | None = root
        self._slot_id = slot_id
        self._opened_at = _now()
        self._memory_ceiling = memory_ceiling
        self._meta = meta
        self._keyring: Keyring | None = None
        self.freshness = freshness
        """When the vault meta is to be read again; whoever seals looks at it, see `confirm`."""
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
        refresh_after: float = REFRESH_AFTER,
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
        freshness = Freshness(refresh_after)
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
            root = await prove(meta, slot, chosen, root, now=_now())
            await metastore.create(meta, place=place)
            return cls(store, metastore, chosen, root, slot.id, meta, memory_ceiling, freshness)

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
        refresh_after: float = REFRESH_AFTER,
    ) -> Vault:
        """
        Open the vault that is there; *memory_ceiling*, in KiB, bounds what a stored keyslot may ask for.

        One derivation per process, however many vaults are opened from the same meta.  Before something
        is sealed, the meta is read again if that was more than *refresh_after* seconds ago.

        Raises:
            VaultNotFoundError: there is none.
            WrongSecretError, DamagedSlotError: the secret opens no slot, or its slot is damaged.
            VaultMetaError: the meta is malformed, changed or older than one already seen.
            SecretError, KDFParametersError, StoreError: see there.
        """
        freshness = Freshness(refresh_after)
        async with MetaStore.reached(meta_store or store) as metastore:
            _, meta = await metastore.expect()
            metastore.warn_of_eviction()
            chosen = await secret_for_opening(secret)
            root, slot = await unlock(
                meta.slots, chosen, meta.vault_id, now=_now(), memory_ceiling=memory_ceiling
            )
            return cls(store, metastore, chosen, root, slot.id, meta, memory_ceiling, freshness)

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
        refresh_after: float = REFRESH_AFTER,
    ) -> Vault:
        """Open the vault, or create it; of processes that race, one creates and all open what it created."""
        given: dict[str, Any] = {"secret": secret, "meta_store": meta_store, "refresh_after": refresh_after}
        given["memory_ceiling"] = memory_ceiling
        with suppress(VaultExistsError):
            return await cls.create(store, kdf=kdf, adopts=adopts, **given)
        return await cls.open(store, **given)

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
    def slots(self) -> Slots:
        """The ways in: list, add, verify and remove them."""
        return Slots(self)

    @property
    def meta(self) -> VaultMeta:
        """The vault meta that the keyring was made from."""
        return self._meta

    @property
    def metastore(self) -> MetaStore:
        """Where the vault meta lies."""
        return self._metastore

    def status(self) -> VaultStatus:
        """Return what the vault meta says: slots, DEKs, policy, legacy keys.  No secret is in it."""
        return VaultStatus.of(
            self._meta,
            location=self._metastore.location,
            opened_by=self._slot_id,
            opened_at=self._opened_at,
        )

    async def refresh(self) -> bool:
        """
        Read the vault meta again and return whether it changed: another process may have rotated the DEK.

        Raises:
            VaultMetaError: what is there now cannot be believed; the keyring stays as it was.
        """
        root, since = self._unlocked(), self.freshness.clock()
        _, meta = await self._metastore.expect()
        changed = meta != self._meta
        if changed:
            self._take(meta, root)
        self.freshness.confirm(since)
        return changed

    async def confirm(self) -> None:
        """
        Read the vault meta again if that is due, for whoever is about to seal.

        Raises:
            StaleKeyringError: it has been out of reach for too long; see `kvseal.keys.freshness`.
        """
        await self.freshness.renew(self.refresh)
        self.freshness.check()

    async def rotate(
        self,
        *,
        new_secret: Secret | str | None = None,
        kdf: Argon2idParams | None = None,
        keep_old_for: timedelta | None = None,
    ) -> VaultStatus:
        """
        Re-wrap the root key for *new_secret* and/or a new cost, in place of the slot that opened this vault.

        With *keep_old_for*, the old secret opens for so long, and is refused afterwards.  A
        rotation that was interrupted is finished by running it again; see `kvseal.rotation`.
        A copy of the old meta still opens with the old secret: rotation does not undo a leak.

        Raises:
            Conflict: another process changed the vault meta; nothing is lost, see `status`.
            SecretError, KDFParametersError, VaultError: nothing was changed.
        """
        await Rotation(self, new_secret, kdf, keep_old_for).run()
        return self.status()

    async def rotate_dek(self) -> VaultStatus:
        """
        Add a new DEK for new writes; older ones stay readable.

        Other processes learn of it when they meet its first record, or when they next read the vault meta.

        Raises:
            Conflict: another process changed the vault meta; nothing was written.
        """
        return await self._amend(changes.with_new_dek)

    async def drop_dek(self, number: int) -> VaultStatus:
        """Forget a DEK for ever; see `kvseal.recode.retire`, which finds out first that nothing needs it."""
        return await self._amend(partial(changes.without_dek, number=number))

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

    def _came_in(self, secret: Secret, slot_id: str, root: RootKey) -> None:
        """Hold what a rotation ended with, unless another task has locked the vault since."""
        if self._root is not None:
            self._secret, self._slot_id, self._root = secret, slot_id, root
            self._opened_at = _now()

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
