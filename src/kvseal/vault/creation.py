"""
How a vault is created, once: the guards, and the one write that only the first of several processes makes.

A new vault over the records of one whose meta is missing would bury them for ever, and a vault meta in
a store that evicts is the first entry to be dropped.  So creation looks before it writes: at the raw
entry, at every record, and at what the store promises.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from os import urandom
from typing import TYPE_CHECKING, Any, NoReturn

from kvseal import clock
from kvseal.drivers.reach import chain_of, driver_of
from kvseal.envelope.kdf import Argon2idParams, check_memory
from kvseal.envelope.record import VAULT_ID_SIZE
from kvseal.envelope.stored import is_sealed
from kvseal.errors import (
    EvictingStoreError,
    ForeignVaultError,
    UnsupportedStoreError,
    VaultExistsError,
    VaultMetaLostError,
)
from kvseal.keys import changes
from kvseal.keys.keyring import Keyring
from kvseal.keys.making_slots import cost_of, new_slot
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.keys.policy import Policy
from kvseal.keys.rootkey import RootKey
from kvseal.keys.unlocking import prove
from kvseal.observe import telemetry
from kvseal.secrets.given import names_wrap_key, secret_for_creation
from kvseal.vault.metastore import Found, MetaStore
from kvseal.vault.opening import Opened, opened
from kvseal.vault.store_clock import read_clocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver, Entry
    from kvseal.keys.keyring import LegacyKey
    from kvseal.vault.opening import Opening

_log = logging.getLogger("kvseal")


@dataclass(frozen=True, slots=True, repr=False)
class Adoption:
    """
    The key record that the new vault meta replaces, and the keys that it holds instead.

    *record* is exactly what is stored where the vault meta will be, or `None` where nothing is: an
    authsome before 0.5 had its keys elsewhere.  The caller that makes one has unwrapped *keys* from
    *record*, so that nothing is lost with it.
    """

    record: Mapping[str, Any] | None
    keys: tuple[LegacyKey, ...]

    def __reduce__(self) -> NoReturn:
        msg = "an Adoption holds keys and is not pickled or copied"
        raise TypeError(msg)


@dataclass(frozen=True, slots=True)
class NewVault:
    """What a new vault is made with; without *kdf* the first keyslot has the default cost."""

    kdf: Argon2idParams | None = None
    policy: Policy = field(default_factory=Policy)
    label: str = "primary"
    adopts: Adoption | None = None

    @property
    def record(self) -> Mapping[str, Any] | None:
        """Another program's record, whose place or keys the vault takes over."""
        return None if self.adopts is None else self.adopts.record

    @property
    def adopted_keys(self) -> tuple[LegacyKey, ...]:
        """The keys that the vault holds from its first moment."""
        return () if self.adopts is None else self.adopts.keys


async def create_vault(store: AsyncKeyValue | Driver, opening: Opening, new: NewVault) -> Opened:
    """Create the vault; see `Vault.create` for what it raises."""
    await telemetry.offer()
    async with MetaStore.reached(opening.meta_store or store, pin=opening.pin) as metastore:
        return await _created(metastore, store, opening, new)


async def open_or_create_vault(store: AsyncKeyValue | Driver, opening: Opening, new: NewVault) -> Opened:
    """Read; open what is there, or create; and read again where another process created it first."""
    async with MetaStore.reached(opening.meta_store or store, pin=opening.pin) as metastore:
        found = await metastore.find(new.record if opening.meta_store is None else None)
        if found.meta is None:
            with suppress(VaultExistsError):
                await telemetry.offer()
                return await _created(metastore, store, opening, new, found)
        return await opened(metastore, opening, found.meta)


async def open_vault_if_any(
    store: AsyncKeyValue | Driver, opening: Opening, adopted: Mapping[str, Any] | None
) -> Opened | None:
    """Open what is there, or return `None` where there is no vault, or *adopted* in its place."""
    async with MetaStore.reached(opening.meta_store or store, pin=opening.pin) as metastore:
        found = await metastore.find(adopted if opening.meta_store is None else None)
        if found.meta is not None:
            return await opened(metastore, opening, found.meta)
        await metastore.close()
        return None


async def _created(
    metastore: MetaStore,
    store: AsyncKeyValue | Driver,
    opening: Opening,
    new: NewVault,
    found: Found | None = None,
) -> Opened:
    data = None if opening.meta_store is None else store
    place = await check_creation(metastore, data, record=new.record, found=found)
    kdf, ceiling = new.kdf, opening.memory_ceiling
    if kdf is not None or not names_wrap_key(opening.secret):
        # Before a secret is generated for nothing.  What one without a cost gets, `cost_of` decides.
        check_memory(kdf or Argon2idParams.OWASP_MINIMUM, ceiling)
    secret = await secret_for_creation(opening.secret)
    root, cost = RootKey.generate(urandom(VAULT_ID_SIZE)), cost_of(secret, kdf, memory_ceiling=ceiling)
    slot = await new_slot(
        root, secret, cost, label=new.label, now=clock.utc_seconds(), memory_ceiling=ceiling
    )
    stamp = (await read_clocks(metastore.driver)).stamp
    meta = changes.first(root, slot, new.policy, adopted=new.adopted_keys, now=stamp)
    root, keyring = await prove(meta, slot, secret, root, now=clock.utc_seconds())
    stored = await metastore.create(meta, place=place)
    if stored != meta:
        # A change that came after ours, or a forgery: its revision alone proves nothing.
        meta, keyring = stored, Keyring(stored, root)
        await metastore.seen.remember(meta)
    return Opened(metastore, meta, keyring, root, secret, slot.id)


async def check_creation(
    metastore: MetaStore,
    data: AsyncKeyValue | Driver | None,
    *,
    record: Mapping[str, Any] | None = None,
    found: Found | None = None,
) -> Entry | None:
    """
    Return what a new vault meta replaces in *metastore*, or raise what speaks against creating one.

    *data* is the store of the records, where it is another one.  *record* is another program's, whose keys
    the vault will hold: it makes room, or where the vault meta has a store of its own, it may stay.
    *found* is what `find` has just returned, if it was asked.

    Raises:
        VaultExistsError, ForeignVaultError: something is there already that is not adopted.
        Conflict: what was to be adopted is gone.
        VaultMetaLostError: there are sealed records, or a pin, of a vault whose meta is missing.
        EvictingStoreError: the store could drop the vault meta, or forget it with this process.
        PinFileError: the pin of the new vault could not be written.
    """
    adopted = record if data is None else None
    place = metastore.place_in(found or await metastore.find(adopted), adopted)
    # After the first operation: some stores learn only then whether they evict.
    _refuse_eviction(metastore)
    await _refuse_orphaned_records(metastore, data)
    if data is not None:
        await _refuse_loss(metastore, data, record)
    await _refuse_pinned_loss(metastore)
    return place


def _refuse_eviction(metastore: MetaStore) -> None:
    capabilities = metastore.driver.capabilities
    if capabilities.conceals:
        msg = f"{metastore.location} may drop entries when it is full: {capabilities.conceals}"
        hint = "grant that right (Redis: +info), or keep the vault meta elsewhere: meta_store="
        raise EvictingStoreError(msg, hint=hint)
    if capabilities.evicts:
        msg = f"{metastore.location} drops entries when it is full, and would drop the vault meta first"
        raise EvictingStoreError(msg, hint="keep the vault meta in a store of its own: meta_store=")


async def _refuse_orphaned_records(metastore: MetaStore, data: AsyncKeyValue | Driver | None) -> None:
    """
    Raise `VaultMetaLostError` if sealed records exist whose vault meta is missing.

    Looks at every entry of *data*, or of the meta's own store where it is `None`.  A data store without
    a driver cannot be searched; one below wrappers that hide its records is searched in vain, which is
    logged.
    """
    found = await _first_sealed(metastore.driver if data is None else data)
    if found is None:
        if (chain := chain_of(metastore.store if data is None else data)) is not None:
            from kvseal.drivers.wrapper_orders import warn_of_blind_search  # noqa: PLC0415 - as in reach

            warn_of_blind_search(chain)
        return
    with suppress(ForeignVaultError):
        # The record may be of a vault that another process has created since.
        if await metastore.load() is not None:
            return
    msg = (
        f"there are sealed records such as {found.collection}/{found.key}, "
        f"but the vault meta that opens them is missing from {metastore.location}"
    )
    raise VaultMetaLostError(msg, hint="restore it from a backup, or name the meta_store it is in")


async def _first_sealed(store: AsyncKeyValue | Driver) -> Entry | None:
    try:
        driver = driver_of(store)
    except UnsupportedStoreError:
        _log.debug("no driver for %s, so it was not searched", type(store).__name__)
        return None
    try:
        # What has expired by this host's clock may be live by another one.
        async for page in driver.scan(expired=True):
            for entry in page.entries:
                if entry.value is not None and is_sealed(entry.value):
                    return entry
        return None
    finally:
        if driver is not store:
            await driver.close()


async def _refuse_loss(
    metastore: MetaStore, data: AsyncKeyValue | Driver, adopted: Mapping[str, Any] | None
) -> None:
    """Raise where a vault meta in a store of its own would leave records behind that nothing can open."""
    lasting = await _lasts_without_vault(data, adopted)
    if lasting and not metastore.driver.capabilities.lasting:
        msg = f"the vault meta in {metastore.location} would be gone with this process, the records not"
        raise EvictingStoreError(msg, hint="keep the vault meta in a store that lasts, such as a DiskStore")


async def _lasts_without_vault(data: AsyncKeyValue | Driver, adopted: Mapping[str, Any] | None) -> bool:
    """Whether *data* outlives the process; raises `VaultExistsError` if it has a vault meta of its own."""
    try:
        driver = driver_of(data)
    except UnsupportedStoreError:
        return True
    try:
        there = await driver.get(META_COLLECTION, META_KEY)
        if there is not None and (adopted is None or there.value != adopted):
            msg = f"{driver.location} already has a vault meta of its own"
            raise VaultExistsError(msg, hint="open it without meta_store=")
        return driver.capabilities.lasting
    finally:
        if driver is not data:
            await driver.close()


async def _refuse_pinned_loss(metastore: MetaStore) -> None:
    """Raise `VaultMetaLostError` where a vault is pinned, and there is none."""
    before = await metastore.seen.before_creation()
    if before.pin is None or before.pinned is None:
        return
    with suppress(ForeignVaultError):
        # Another process may have created it since.
        if await metastore.load() is not None:
            return
    path, vault_id = before.pin.path, before.pinned.vault_id.hex()
    msg = f"{path} pins vault {vault_id}, but its meta is missing from {metastore.location}"
    raise VaultMetaLostError(msg, hint=f"restore it; for a new vault instead, delete {path}")
