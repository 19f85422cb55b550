"""
The vault meta on its backend: read it raw, create it once, change it by compare-and-swap.

A store's own `get` answers `None` for an entry that is absent, expired, corrupt
or out of reach, so none of this goes through it: the driver looks at the raw
entry, and "absent" is what the backend itself says.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from kvseal import audit
from kvseal.drivers import driver_for
from kvseal.drivers.base import Driver, Entry, Replacement
from kvseal.drivers.chain import Chain
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.drivers.orders import refuse_hidden_records, warn_of_blind_search
from kvseal.drivers.python import OwnedStoreDriver
from kvseal.envelope.stored import is_sealed
from kvseal.errors import (
    Conflict,
    EvictingStoreError,
    ForeignVaultError,
    UnsupportedStoreError,
    VaultExistsError,
    VaultMetaError,
    VaultMetaLostError,
    VaultNotFoundError,
)
from kvseal.keys.meta import COLLECTION, KEY, VaultMeta, is_vault_meta
from kvseal.seen import Seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from os import PathLike

    from key_value.aio.protocols.key_value import AsyncKeyValue
    from typing_extensions import Self

    from kvseal.seen import Before

_log = logging.getLogger("kvseal")


class MetaStore:
    """
    The one entry at `__vault_meta__`/`__dek__` of one store.

    A meta that is older than one already seen is refused: see `kvseal.seen`.
    """

    __slots__ = ("_driver", "_owns_driver", "_store", "seen")

    def __init__(self, store: AsyncKeyValue | Driver, *, pin: str | PathLike[str] | None = None) -> None:
        self._store = store
        self.seen = Seen(pin)
        """What was seen of this vault; whoever has verified a meta lets it be remembered there."""
        self._owns_driver = not isinstance(store, Driver)
        self._driver = driver_of(store)

    @classmethod
    @asynccontextmanager
    async def reached(
        cls, store: AsyncKeyValue | Driver, *, pin: str | PathLike[str] | None = None
    ) -> AsyncIterator[Self]:
        """Yield the meta store of *store*, and close it again if what is done with it fails."""
        metastore = cls(store, pin=pin)
        try:
            yield metastore
        except BaseException:
            await metastore.close()
            raise

    @property
    def driver(self) -> Driver:
        """The driver of the store that holds the vault meta."""
        return self._driver

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return self._driver.location

    async def load(self) -> tuple[Entry, VaultMeta] | None:
        """
        Return the raw entry and the meta in it, or `None` where the backend says that there is none.

        The meta is not yet authenticated: call `seen.remember` once its MAC has been verified.

        Raises:
            ForeignVaultError: another program's record is there.
            VaultMetaError: it is malformed, unreadable, or older than this process or its pin has seen.
        """
        entry, before = await self._look()
        return None if entry is None else (entry, self._meta_in(entry, before))

    async def place_for(self, adopted: Mapping[str, Any] | None) -> Entry | None:
        """
        Return the entry that a new vault meta is to replace, or `None` where there is none.

        Only *adopted*, another program's record whose keys the new vault will hold, is ever replaced.

        Raises:
            VaultExistsError: there is a vault already.
            ForeignVaultError: another program's record is there, and it is not *adopted*.
            Conflict: *adopted* is gone.
        """
        entry, before = await self._look()
        if entry is None and adopted is None:
            return None
        if entry is None:
            msg = f"the record that the vault in {self.location} was to adopt is gone"
            raise Conflict(msg, hint="find out who removed it; nothing was changed")
        if adopted is None or entry.value != adopted:
            self._meta_in(entry, before)
            raise self._exists()
        if entry.expires_at is not None:
            msg = (
                f"the record to adopt in {self.location} has an expiry, and the vault meta would have it too"
            )
            raise ForeignVaultError(
                msg, hint="find out who set it; the program that wrote the record never does"
            )
        return entry

    async def has_vault(self, adopted: Mapping[str, Any] | None = None) -> bool:
        """Whether there is a vault; `False` where there is nothing, or *adopted*; raises like `place_for`."""
        try:
            await self.place_for(adopted)
        except VaultExistsError:
            return True
        return False

    async def _look(self) -> tuple[Entry | None, Before]:
        before = await self.seen.before()
        return await self._driver.get(COLLECTION, KEY), before

    def _meta_in(self, entry: Entry, before: Before) -> VaultMeta:
        if entry.value is None:
            msg = f"the vault meta in {self.location} cannot be read: {entry.problem}"
            raise VaultMetaError(msg, hint="restore the vault meta from a backup")
        if not is_vault_meta(entry.value):
            msg = f"{COLLECTION}/{KEY} in {self.location} was written by another program, not by kvseal"
            raise ForeignVaultError(
                msg, hint="import it with vaultctl migrate-from-authsome, or use another store"
            )
        if entry.expires_at is not None:
            _log.warning(
                "the vault meta in %s ends at %s, which kvseal did not set: rotate, which removes it, "
                "and find out who did",
                self.location,
                entry.expires_at,
            )
        meta = VaultMeta.from_value(entry.value)
        before.check(meta, self.location)
        return meta

    def _exists(self) -> VaultExistsError:
        msg = f"there already is a vault in {self.location}"
        return VaultExistsError(msg, hint="open it, or choose another store")

    async def expect(self) -> tuple[Entry, VaultMeta]:
        """Return what `load` does, or raise `VaultNotFoundError`."""
        loaded = await self.load()
        if loaded is None:
            msg = f"there is no vault in {self.location}"
            raise VaultNotFoundError(msg, hint="check the store, or create a vault with vaultctl init")
        return loaded

    async def create(self, meta: VaultMeta, *, place: Entry | None = None) -> None:
        """
        Put *meta* where there is none, or in the *place* of what it adopts: of all who try, one succeeds.

        Raises:
            VaultExistsError: there is one already.
            ForeignVaultError, Conflict: what was to be adopted is another by now, or gone.
        """
        with audit.creation(meta.as_value()):
            await self._create(meta, place)

    async def _create(self, meta: VaultMeta, place: Entry | None) -> None:
        if place is not None:
            (done,) = await self._driver.replace_many([Replacement(place, meta.as_value())])
            # Somebody else was faster: with a vault, or with something else, which this finds out.
            if not done and await self.place_for(None) is None:
                msg = f"the record that the vault in {self.location} was to adopt is gone"
                raise Conflict(msg, hint="find out who removed it; nothing was changed")
        else:
            now = datetime.now(timezone.utc)
            done = await self._driver.put_if_absent(Entry(COLLECTION, KEY, meta.as_value(), created_at=now))
        if not done:
            raise self._exists()
        await self._read_back(meta)

    async def change(self, entry: Entry, meta: VaultMeta) -> None:
        """
        Put *meta* in place of *entry* and read it back.

        Raises:
            Conflict: somebody else changed the vault meta first; nothing was written.
            VaultMetaError: the backend does not give back what was written.
        """
        with audit.change(entry.value or {}, meta.as_value()):
            await self._change(entry, meta)

    async def _change(self, entry: Entry, meta: VaultMeta) -> None:
        try:
            # A vault does not end: an expiry that somebody gave the entry goes with the next change.
            (done,) = await self._driver.replace_many([Replacement(entry, meta.as_value(), None)])
        except Conflict:
            done = False
        if not done:
            msg = f"somebody else changed the vault in {self.location} at the same time"
            raise Conflict(msg, hint="nothing was changed; look at vaultctl status and try again") from None
        await self._read_back(meta)

    async def refuse_pinned_loss(self) -> None:
        """
        Raise `VaultMetaLostError` where a vault is pinned, and there is none.

        Raises:
            PinFileError: the pin of the new vault could not be written.
        """
        before = await self.seen.before_creation()
        if before.pin is None or before.pinned is None:
            return
        with suppress(ForeignVaultError):
            # Another process may have created it since.
            if await self.load() is not None:
                return
        path, vault_id = before.pin.path, before.pinned.vault_id.hex()
        msg = f"{path} pins vault {vault_id}, but its meta is missing from {self.location}"
        raise VaultMetaLostError(msg, hint=f"restore it; for a new vault instead, delete {path}")

    async def refuse_eviction(self) -> None:
        """Raise `EvictingStoreError` where the store could drop the vault meta when it is full."""
        if self._driver.capabilities.evicts:
            msg = f"{self.location} drops entries when it is full, and would drop the vault meta first"
            raise EvictingStoreError(msg, hint="keep the vault meta in a store of its own: meta_store=")

    def warn_of_eviction(self) -> None:
        """Log where a store that did not evict when the vault was created does now."""
        if self._driver.capabilities.evicts:
            _log.warning("%s drops entries when it is full, the vault meta first; move it", self.location)

    async def refuse_loss(
        self, data_store: AsyncKeyValue | Driver | None, adopted: Mapping[str, Any] | None = None
    ) -> None:
        """
        Raise where a vault meta of its own would leave records behind that nothing can open.

        Where it holds the keys of *adopted*, the data store may keep that record.

        Raises:
            EvictingStoreError: the meta would live in this process alone, and the records would not.
            VaultExistsError: the data store has a vault of its own.
        """
        if data_store is None:
            return
        try:
            driver: Driver | None = driver_of(data_store)
        except UnsupportedStoreError:
            driver = None
        lasting = driver is None or driver.capabilities.lasting
        try:
            there = None if driver is None else await driver.get(COLLECTION, KEY)
            if driver is not None and there is not None and (adopted is None or there.value != adopted):
                msg = f"{driver.location} already has a vault meta of its own"
                raise VaultExistsError(msg, hint="open it without meta_store=")
        finally:
            if driver is not None and driver is not data_store:
                await driver.close()
        if lasting and not self._driver.capabilities.lasting:
            msg = f"the vault meta in {self.location} would be gone with this process, the records not"
            raise EvictingStoreError(
                msg, hint="keep the vault meta in a store that lasts, such as a DiskStore"
            )

    async def refuse_orphaned_records(self, data_store: AsyncKeyValue | Driver | None) -> None:
        """
        Raise `VaultMetaLostError` if sealed records exist whose vault meta is missing.

        Looks at every entry of *data_store*, or of the meta's own store where it is `None`:
        creation happens once, and a new vault over old records would bury them for ever.
        A data store without a driver cannot be searched; one below wrappers that hide its records is
        searched in vain, which is logged.
        """
        found = await self._first_sealed(data_store)
        if found is None and (chain := _chain_of(data_store or self._store)) is not None:
            warn_of_blind_search(chain)
        if found is None:
            return
        with suppress(ForeignVaultError):
            # The record may be of a vault that another process has created since.
            if await self.load() is not None:
                return
        msg = (
            f"there are sealed records such as {found.collection}/{found.key}, "
            f"but the vault meta that opens them is missing from {self.location}"
        )
        raise VaultMetaLostError(msg, hint="restore it from a backup, or name the meta_store it is in")

    async def _first_sealed(self, data_store: AsyncKeyValue | Driver | None) -> Entry | None:
        if data_store is None:
            return await _first_sealed(self._driver)
        if isinstance(data_store, Driver):
            return await _first_sealed(data_store)
        try:
            driver = driver_for(data_store)
        except UnsupportedStoreError:
            _log.debug("no driver for %s, so it was not searched", type(data_store).__name__)
            return None
        try:
            return await _first_sealed(driver)
        finally:
            await driver.close()

    async def close(self) -> None:
        """Close the driver, unless the caller brought it."""
        if self._owns_driver:
            await self._driver.close()

    async def _read_back(self, meta: VaultMeta) -> None:
        _, stored = await self.expect()
        # Another process may already have made the next change to it.
        if stored != meta and stored.revision <= meta.revision:
            msg = f"{self.location} does not give back the vault meta that was written"
            raise VaultMetaError(msg, hint="look at what stands between kvseal and the backend")
        await self.seen.remember(meta)


def driver_of(store: AsyncKeyValue | Driver) -> Driver:
    """Return the driver of *store*, or *store* itself where it is one."""
    return store if isinstance(store, Driver) else driver_for(store)


def recodable_driver(store: AsyncKeyValue | Driver, *, writes: bool = True) -> Driver:
    """
    Return the driver of *store* for a tool that has to see every record as it lies.

    Unlike `driver_of`, which reaches the vault meta past any wrapper, it looks at the
    wrappers first.  *writes* says whether the tool may change what it finds.

    Raises:
        UnsupportedStackError: a wrapper hides records, or forbids to write them; nothing was opened.
        UnsupportedStoreError: kvseal has no driver for the store.
    """
    chain = _chain_of(store)
    if chain is not None:
        refuse_hidden_records(chain, writes=writes)
    return driver_of(store)


def _chain_of(store: AsyncKeyValue | Driver) -> Chain | None:
    """Return the wrapper chain of *store*, or `None` for a driver that no store object was made for."""
    while isinstance(store, DelegatingDriver) and not isinstance(store, OwnedStoreDriver):
        store = store._driver  # noqa: SLF001 - a driver around another says nothing of its own
    if isinstance(store, OwnedStoreDriver):
        return Chain.of(store.store)
    return None if isinstance(store, Driver) else Chain.of(store)


async def _first_sealed(driver: Driver) -> Entry | None:
    async for page in driver.scan():
        for entry in page.entries:
            if entry.value is not None and is_sealed(entry.value):
                return entry
    return None
