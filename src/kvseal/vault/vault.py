"""
The vault: create it, open it, change its keys.

This is the composition root.  It joins a secret, a driver and the vault meta
into a keyring, and makes every change the same way: build the new meta, open it
in memory with what will have to open it later, compare-and-swap it, read it back.
A crash between any two steps leaves a vault that opens.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from kvseal.errors import VaultMetaLostError
from kvseal.keys import changes
from kvseal.keys.keyring import Keyring
from kvseal.keys.policy import Policy, whole_seconds
from kvseal.vault.changing.root_rotation import rotate_root
from kvseal.vault.changing.secret_rotation import rotate_secret
from kvseal.vault.changing.slots import Slots
from kvseal.vault.creation import NewVault, create_vault, open_or_create_vault, open_vault_if_any
from kvseal.vault.freshness import Freshness
from kvseal.vault.metastore import MetaStore
from kvseal.vault.opening import Opening, open_vault
from kvseal.vault.putting_back import put_back
from kvseal.vault.session import NOT_OURS, OpenVault

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import timedelta

    from key_value.aio.protocols.key_value import AsyncKeyValue
    from typing_extensions import Unpack

    from kvseal.drivers.base import Driver
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.keys.keyring import LegacyKey
    from kvseal.secrets.sources import Unlocker
    from kvseal.vault.changing.root_rotation import RootRotated
    from kvseal.vault.creation import Adoption
    from kvseal.vault.opening import OpeningOptions
    from kvseal.vault.status import VaultStatus


class Vault(OpenVault):
    """
    An open vault: a root key and a keyring in memory, and the meta entry they came from.

    Made by `create`, `open` and `open_or_create`.  Wherever they take a *store*, a
    driver serves as well; what else they take alike is told by `kvseal.vault.opening.Opening`.
    """

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
            TamperedMetaError: another writer has put a vault meta of its own over the new one.
            SecretError, KDFParametersError, StoreError: nothing was written.
        """
        opening, new = Opening(**options), NewVault(kdf, policy or Policy(), label, adopts)
        freshness = Freshness(opening.refresh_after)
        return cls(opening, await create_vault(store, opening, new), freshness)

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
        return cls(opening, await open_vault(store, opening), freshness)

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
        opening, new = Opening(**options), NewVault(kdf, adopts=adopts)
        freshness = Freshness(opening.refresh_after)
        return cls(opening, await open_or_create_vault(store, opening, new), freshness)

    @classmethod
    async def open_if_any(
        cls,
        store: AsyncKeyValue | Driver,
        *,
        adopts: Adoption | None = None,
        **options: Unpack[OpeningOptions],
    ) -> Vault | None:
        """Open the vault that is there; `None` where there is none, or what *adopts* would take over."""
        opening, record = Opening(**options), None if adopts is None else adopts.record
        freshness = Freshness(opening.refresh_after)
        found = await open_vault_if_any(store, opening, record)
        return None if found is None else cls(opening, found, freshness)

    @property
    def slots(self) -> Slots:
        """The ways in: list, add, verify and remove them."""
        return Slots(self)

    async def attest(self) -> None:
        """
        Prove by the store that what was sealed until now can be opened: its vault meta holds our DEKs.

        A run calls this before it reports success or lets an old key go.

        Raises:
            VaultMetaLostError: the store holds no vault meta, or none with these DEKs.
            StoreError: the store does not answer, so nothing is proven.
        """
        await self.unlock()
        sealed_with = self.keyring
        try:
            await self.refresh()
        except NOT_OURS as exc:
            msg = f"what was sealed meanwhile opens with no vault meta that the store holds: {exc.message}"
            raise VaultMetaLostError(
                msg, hint="keep every old key, and put the vault meta back: vault.put_back(), or a backup"
            ) from exc
        # By the keys themselves: a commitment does not tell two DEKs apart.
        if sealed_with.lost_in(Keyring(self._meta, self.way_in().root)) is not None:
            msg = "the store holds other DEKs than those that sealed the records of this run"
            raise VaultMetaLostError(msg, hint="keep every old key; look at the vault meta")

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
        rotation that was interrupted is finished by running it again: see `changing.secret_rotation`.
        A copy of the old meta still opens with the old secret: rotation does not undo a leak.

        Raises:
            Conflict: another process changed the vault meta; nothing is lost, see `status`.
            SecretError, KDFParametersError, VaultError: nothing was changed.
        """
        await self.unlock()
        await rotate_secret(self, new_secret=new_secret, kdf=kdf, keep_old_for=keep_old_for)
        self.unlock_with(new_secret)
        return self.status()

    async def rotate_root(
        self,
        secrets: Sequence[Unlocker | str] = (),
        *,
        drop_slots: bool | Collection[str] = False,
        dry_run: bool = False,
    ) -> RootRotated:
        """
        Replace the root key, of which an attacker may have a copy: one write, and no record is touched.

        Keyslots that one of *secrets* opens, or the secret of this vault, stay; the others go, if
        *drop_slots* says so: `True` for any, or the ids and labels of those that may.
        Running processes whose slot stays follow by themselves.  With *dry_run*, nothing is written, and
        what would go is told.  What else a leaked root key asks for, docs/operations.md has.

        Raises:
            SlotsLeftOutError: a slot would go that *drop_slots* does not allow to.
            WrongSecretError: one of *secrets* opens no slot.
            LastSlotError: no slot that lasts would be left.
            Conflict, SecretError, VaultError: nothing was changed.
        """
        await self.unlock()
        return await rotate_root(self, secrets, drop_slots=drop_slots, dry_run=dry_run)

    async def rotate_dek(self) -> VaultStatus:
        """
        Add a new DEK for new writes, created at the store's time; older ones stay readable.

        Other processes learn of it when they meet its first record, or when they next read the vault meta.

        Raises:
            Conflict: another process changed the vault meta; nothing was written.
        """
        return await self.amend(changes.with_new_dek, stamps=True)

    async def set_policy(
        self,
        *,
        max_dek_age: timedelta | Literal["keep"] | None = "keep",
        max_dek_records: int | Literal["keep"] | None = "keep",
        names_inside: bool | Literal["keep"] = "keep",
    ) -> VaultStatus:
        """
        Set after what age, and how many records, a rotation of the DEK is asked for; `None` is no limit.

        With *names_inside* every record carries its names, also on a store that keeps them.

        Raises:
            ValueError, TypeError: a limit is no whole number of seconds or records, or out of bounds; or the
                policy binds records to less than both names, and *names_inside* needs both.
            Conflict: another process changed the vault meta; nothing was written.
        """
        settings: dict[str, int | bool | None] = {}
        if max_dek_age != "keep":
            settings["max_dek_age"] = None if max_dek_age is None else whole_seconds(max_dek_age)
        if max_dek_records != "keep":
            settings["max_dek_records"] = max_dek_records
        if names_inside != "keep":
            settings["names_inside"] = names_inside
        return await self.amend(partial(changes.with_settings, settings=settings))

    async def drop_extension(self, name: str) -> VaultStatus:
        """
        Remove the part *name* that a later kvseal has added to the vault meta, critical or not.

        What that part was for is lost, so this is for an operator who knows it.

        Raises:
            VaultError: there is no such part.
            Conflict: another process changed the vault meta; nothing was written.
        """
        return await self.amend(partial(changes.without_extension, name=name), despite_unknown=True)

    async def put_back(self) -> VaultStatus:
        """
        Write the vault meta that this process holds again, where the store has lost it or gone back.

        It becomes a revision above every known one, with all keys of both, so that running processes follow
        it.  Of two DEKs with one number, the store's keeps it, and ours is held beside it and tried second.
        An operator who calls this has found out what happened to the store.

        Raises:
            ForkedMetaError: what is there is of another root key, or another vault.
            Conflict, VaultError, StoreError: nothing was written.
        """
        root = await self.root_key()
        self.take(*await put_back(self.metastore, self.meta, self.keyring, root))
        await self.refresh()
        return self.status()

    async def retire_dek(self, number: int) -> VaultStatus:
        """Retire a DEK, which readers still open with, until it is dropped; `kvseal.recoding.retire` does."""
        return await self.amend(partial(changes.with_retired_dek, number=number), stamps=True)

    async def drop_dek(self, number: int) -> VaultStatus:
        """Forget a DEK for ever; `kvseal.recoding.retire` does, once nothing needs it."""
        return await self.amend(partial(changes.without_dek, number=number), stamps=True)

    async def read_legacy_with(
        self, keys: Sequence[LegacyKey], *, plaintext: bool = False, write: str | None = None
    ) -> VaultStatus:
        """
        Hold *keys* wrapped in the vault meta, so that every process can read old records during a migration.

        With *plaintext*, unencrypted records are read too.  Keys that are already held stay once.  With
        *write*, new values are written in that format from the same moment on: see `write_as`.
        """
        await self.unlock()
        held = {(key.kind, key.key) for key in self.keyring.legacy}
        new = [key for key in dict.fromkeys(keys) if (key.kind, key.key) not in held]
        change = partial(changes.with_legacy_keys, keys=new, plaintext=plaintext, written=write)
        return await self.amend(change, stamps=True)

    async def write_as(self, form: str) -> VaultStatus:
        """
        Order what new values are written as: `sealed`, `plaintext`, or the kind of a held key, as `fernet`.

        Every process follows within seconds, and reads all of them as before.  A process writes an old
        format only if its own configuration permits it: `hold=`.

        Raises:
            VaultHeldError: the vault could not read such values back.
            Conflict: another process changed the vault meta; nothing was written.
        """
        return await self.amend(partial(changes.with_writes, written=form), stamps=True)

    async def end_legacy_reads(self) -> VaultStatus:
        """
        Read sealed records alone from now on; the legacy keys open nothing, and stay wrapped.

        Raises:
            VaultHeldError: new values are still written in an old format.
            Conflict: another process changed the vault meta; nothing was written.
        """
        return await self.amend(changes.without_legacy_reads, stamps=True)

    async def resume_legacy_reads(self) -> VaultStatus:
        """Read old records again with the legacy keys that have ended, as long as they are not dropped."""
        return await self.amend(changes.with_legacy_reads_again)

    async def drop_legacy_keys(self, ids: AbstractSet[str]) -> VaultStatus:
        """Forget those legacy keys of these *ids* that have ended; `kvseal.recoding.migrate` does."""
        return await self.amend(partial(changes.without_legacy_keys, ids=ids))
