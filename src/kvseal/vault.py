"""
The vault: create it, open it, change its keys.

This is the composition root.  It joins a secret, a driver and the vault meta
into a keyring, and makes every change the same way: build the new meta, open it
in memory with what will have to open it later, compare-and-swap it, read it back.
A crash between any two steps leaves a vault that opens.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from kvseal.errors import VaultExistsError
from kvseal.keyholder import KeyHolder
from kvseal.keys import changes
from kvseal.keys.freshness import Freshness
from kvseal.keys.policy import Policy, whole_seconds
from kvseal.metastore import MetaStore
from kvseal.opening import Opening, created, opened
from kvseal.root_rotation import RootRotation
from kvseal.rotation import Rotation
from kvseal.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import timedelta

    from key_value.aio.protocols.key_value import AsyncKeyValue
    from typing_extensions import Unpack

    from kvseal.drivers.base import Driver
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.keys.adoption import Adoption
    from kvseal.keys.keyring import LegacyKey
    from kvseal.keys.unlocker import Unlocker
    from kvseal.opening import Opened, OpeningOptions
    from kvseal.root_rotation import RootRotated
    from kvseal.status import VaultStatus
    from kvseal.wrapper import EnvelopeEncryptionWrapper


class Vault(KeyHolder):
    """
    An open vault: a root key and a keyring in memory, and the meta entry they came from.

    Made by `create`, `open` and `open_or_create`.  Wherever they take a *store*, a
    driver serves as well; what else they take alike is told by `kvseal.opening.Opening`.
    """

    def __init__(
        self, store: AsyncKeyValue | Driver, opening: Opening, opened: Opened, freshness: Freshness
    ) -> None:
        super().__init__(opening, opened, freshness)
        self._store = store

    @classmethod
    async def create(
        cls,
        store: AsyncKeyValue | Driver,
        *,
        kdf: Argon2idParams | None = None,
        policy: Policy | None = None,
        label: str = "primary",
        adopts: Adoption | None = None,
        **options: Unpack[OpeningOptions],
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
        opening, policy = Opening(**options), policy or Policy()
        freshness = Freshness(opening.refresh_after)
        made = await created(store, opening, kdf=kdf, policy=policy, label=label, adopts=adopts)
        return cls(store, opening, made, freshness)

    @classmethod
    async def expect(
        cls, store: AsyncKeyValue | Driver, *, meta_store: AsyncKeyValue | Driver | None = None
    ) -> None:
        """Raise `VaultNotFoundError`, or what is wrong with its meta, before a secret is asked for."""
        async with MetaStore.reached(meta_store or store) as metastore:
            await metastore.expect()
            await metastore.close()

    @classmethod
    async def open(cls, store: AsyncKeyValue | Driver, **options: Unpack[OpeningOptions]) -> Vault:
        """
        Open the vault that is there.

        One derivation per process, however many vaults are opened from the same meta.

        Raises:
            VaultNotFoundError: there is none.
            WrongSecretError, DamagedSlotError: the secret opens no slot, or its slot is damaged.
            VaultMetaError: the meta is malformed, changed or older than one already seen.
            PinFileError: the pin file cannot be read or written.
            SecretError, KDFParametersError, StoreError: see there.
        """
        opening = Opening(**options)
        freshness = Freshness(opening.refresh_after)
        return cls(store, opening, await opened(store, opening), freshness)

    @classmethod
    async def open_or_create(
        cls,
        store: AsyncKeyValue | Driver,
        *,
        kdf: Argon2idParams | None = None,
        adopts: Adoption | None = None,
        **options: Unpack[OpeningOptions],
    ) -> Vault:
        """Open the vault, or create it; of processes that race, one creates and all open what it created."""
        with suppress(VaultExistsError):
            return await cls.create(store, kdf=kdf, adopts=adopts, **options)
        return await cls.open(store, **options)

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

    async def rotate(
        self,
        *,
        new_secret: Unlocker | str | None = None,
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
        await self.unlock()
        await Rotation(self, new_secret, kdf, keep_old_for).run()
        self._return_with(new_secret)
        return self.status()

    async def rotate_root(
        self,
        secrets: Sequence[Unlocker | str] = (),
        *,
        drop_slots: bool | Collection[str] = False,
        dry_run: bool = False,
    ) -> RootRotated:
        """
        Replace the root key, of which somebody may have a copy: one write, and no record is touched.

        Keyslots that one of *secrets* opens, or the secret of this vault, stay; the others go, if
        *drop_slots* says so: `True` for whichever there are, or the ids and labels of those that may.
        Running processes whose slot stays follow by themselves.  With *dry_run*, nothing is written, and
        what would go is told.  What else a leaked root key asks for, docs/operations.md has.

        Raises:
            SlotsLeftOutError: a slot would go that *drop_slots* does not allow to.
            WrongSecretError: one of *secrets* opens no slot.
            LastSlotError: no slot that lasts would be left.
            Conflict, SecretError, VaultError: nothing was changed.
        """
        await self.unlock()
        return await RootRotation(self, secrets, drop_slots).run(dry_run=dry_run)

    async def rotate_dek(self) -> VaultStatus:
        """
        Add a new DEK for new writes; older ones stay readable.

        Other processes learn of it when they meet its first record, or when they next read the vault meta.

        Raises:
            Conflict: another process changed the vault meta; nothing was written.
        """
        return await self._amend(changes.with_new_dek)

    async def set_policy(
        self,
        *,
        max_dek_age: timedelta | Literal["keep"] | None = "keep",
        max_dek_records: int | Literal["keep"] | None = "keep",
    ) -> VaultStatus:
        """
        Set after what age, and how many records, a rotation of the DEK is asked for; `None` is no limit.

        Raises:
            ValueError, TypeError: a limit is no whole number of seconds or records, or out of bounds.
            Conflict: another process changed the vault meta; nothing was written.
        """
        limits: dict[str, int | None] = {}
        if max_dek_age != "keep":
            limits["max_dek_age"] = None if max_dek_age is None else whole_seconds(max_dek_age)
        if max_dek_records != "keep":
            limits["max_dek_records"] = max_dek_records
        return await self._amend(partial(changes.with_limits, limits=limits))

    async def drop_dek(self, number: int) -> VaultStatus:
        """Forget a DEK for ever; see `kvseal.recode.retire`, which finds out first that nothing needs it."""
        return await self._amend(partial(changes.without_dek, number=number))

    async def read_legacy_with(self, keys: Sequence[LegacyKey], *, plaintext: bool = False) -> VaultStatus:
        """
        Hold *keys* wrapped in the vault meta, so that every process can read old records during a migration.

        With *plaintext*, unencrypted records are read too.  Keys that are already held stay once.
        """
        await self.unlock()
        held = {(key.kind, key.key) for key in self.keyring.legacy}
        new = [key for key in dict.fromkeys(keys) if (key.kind, key.key) not in held]
        return await self._amend(partial(changes.with_legacy_keys, keys=new, plaintext=plaintext))

    async def end_legacy_reads(self) -> VaultStatus:
        """Drop the legacy keys and read sealed records alone from now on."""
        return await self._amend(changes.without_legacy_keys)
