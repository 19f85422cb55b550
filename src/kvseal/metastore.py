"""
The vault meta on its backend: read it raw, create it once, change it by compare-and-swap.

A store's own `get` answers `None` for an entry that is absent, expired, corrupt
or out of reach, so none of this goes through it: the driver looks at the raw
entry, and "absent" is what the backend itself says.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from kvseal.drivers import driver_for
from kvseal.drivers.base import Driver, Entry, replace
from kvseal.envelope.stored import is_sealed
from kvseal.errors import (
    Conflict,
    EvictingStoreError,
    ForeignVaultError,
    RolledBackMetaError,
    UnsupportedStoreError,
    VaultExistsError,
    VaultMetaError,
    VaultMetaLostError,
    VaultNotFoundError,
)
from kvseal.keys.meta import COLLECTION, KEY, VaultMeta, is_vault_meta

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from key_value.aio.protocols.key_value import AsyncKeyValue
    from typing_extensions import Self

_log = logging.getLogger("kvseal")
_seen: Final[dict[bytes, int]] = {}
_seen_lock = threading.Lock()


class MetaStore:
    """
    The one entry at `__vault_meta__`/`__dek__` of one store.

    Every meta that passes through here raises the lowest revision that this process
    accepts for its vault, so an older copy put back later is refused.
    """

    __slots__ = ("_driver", "_owns_driver")

    def __init__(self, store: AsyncKeyValue | Driver) -> None:
        self._owns_driver = not isinstance(store, Driver)
        self._driver = driver_of(store)

    @classmethod
    @asynccontextmanager
    async def reached(cls, store: AsyncKeyValue | Driver) -> AsyncIterator[Self]:
        """Yield the meta store of *store*, and close it again if what is done with it fails."""
        metastore = cls(store)
        try:
            yield metastore
        except BaseException:
            await metastore.close()
            raise

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return self._driver.location

    async def load(self) -> tuple[Entry, VaultMeta] | None:
        """
        Return the raw entry and the meta in it, or `None` where the backend says that there is none.

        The meta is not yet authenticated: call `accept` once its MAC has been verified.

        Raises:
            ForeignVaultError: another program's record is there.
            VaultMetaError: it is malformed, unreadable, or older than this process has seen.
        """
        # What was seen before the look: meanwhile another task may see a newer one, and that is no rollback.
        seen = _seen.copy()
        entry = await self._driver.get(COLLECTION, KEY)
        if entry is None:
            return None
        if entry.value is None:
            msg = f"the vault meta in {self.location} cannot be read: {entry.problem}"
            raise VaultMetaError(msg, hint="restore the vault meta from a backup")
        if not is_vault_meta(entry.value):
            msg = f"{COLLECTION}/{KEY} in {self.location} was written by another program, not by kvseal"
            raise ForeignVaultError(msg, hint="use another store, or import that vault first")
        meta = VaultMeta.from_value(entry.value)
        lowest = seen.get(meta.vault_id, 0)
        if meta.revision < lowest:
            msg = f"the vault meta in {self.location} is revision {meta.revision}, but {lowest} was seen"
            raise RolledBackMetaError(
                msg, hint="find out who put an older copy back, then restore the newest"
            )
        return entry, meta

    async def expect(self) -> tuple[Entry, VaultMeta]:
        """Return what `load` does, or raise `VaultNotFoundError`."""
        loaded = await self.load()
        if loaded is None:
            msg = f"there is no vault in {self.location}"
            raise VaultNotFoundError(msg, hint="check the store, or create a vault with vaultctl init")
        return loaded

    async def create(self, meta: VaultMeta) -> None:
        """
        Put *meta* if there is none: of any number of processes that try, one succeeds.

        Raises:
            VaultExistsError: there is one already.
        """
        now = datetime.now(timezone.utc)
        entry = Entry(COLLECTION, KEY, meta.as_value(), created_at=now)
        if not await self._driver.put_if_absent(entry):
            msg = f"there already is a vault in {self.location}"
            raise VaultExistsError(msg, hint="open it, or choose another store")
        await self._read_back(meta)

    async def change(self, entry: Entry, meta: VaultMeta) -> None:
        """
        Put *meta* in place of *entry* and read it back.

        Raises:
            Conflict: somebody else changed the vault meta first; nothing was written.
            VaultMetaError: the backend does not give back what was written.
        """
        try:
            await replace(self._driver, entry, meta.as_value())
        except Conflict:
            msg = f"somebody else changed the vault in {self.location} at the same time"
            raise Conflict(msg, hint="nothing was changed; look at vaultctl status and try again") from None
        await self._read_back(meta)

    async def refuse_eviction(self) -> None:
        """Raise `EvictingStoreError` where the store could drop the vault meta when it is full."""
        if self._driver.capabilities.evicts:
            msg = f"{self.location} drops entries when it is full, and would drop the vault meta first"
            raise EvictingStoreError(msg, hint="keep the vault meta in a store of its own: meta_store=")

    def warn_of_eviction(self) -> None:
        """Log where a store that did not evict when the vault was created does now."""
        if self._driver.capabilities.evicts:
            _log.warning("%s drops entries when it is full, the vault meta first; move it", self.location)

    async def refuse_loss(self, data_store: AsyncKeyValue | Driver | None) -> None:
        """
        Raise where a vault meta of its own would leave records behind that nothing can open.

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
        lasting = driver is None or not driver.capabilities.in_process_only
        try:
            if driver is not None and await driver.get(COLLECTION, KEY) is not None:
                msg = f"{driver.location} already has a vault meta of its own"
                raise VaultExistsError(msg, hint="open it without meta_store=")
        finally:
            if driver is not None and driver is not data_store:
                await driver.close()
        if lasting and self._driver.capabilities.in_process_only:
            msg = f"the vault meta in {self.location} would be gone with this process, the records not"
            raise EvictingStoreError(
                msg, hint="keep the vault meta in a store that lasts, such as a DiskStore"
            )

    async def refuse_orphaned_records(self, data_store: AsyncKeyValue | Driver | None) -> None:
        """
        Raise `VaultMetaLostError` if sealed records exist whose vault meta is missing.

        Looks at every entry of *data_store*, or of the meta's own store where it is `None`:
        creation happens once, and a new vault over old records would bury them for ever.
        A data store without a driver cannot be searched.
        """
        found = await self._first_sealed(data_store)
        # The record may be of a vault that another process has created since.
        if found is None or await self.load() is not None:
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


def driver_of(store: AsyncKeyValue | Driver) -> Driver:
    """Return the driver of *store*, or *store* itself where it is one."""
    return store if isinstance(store, Driver) else driver_for(store)


async def _first_sealed(driver: Driver) -> Entry | None:
    async for page in driver.scan():
        for entry in page.entries:
            if entry.value is not None and is_sealed(entry.value):
                return entry
    return None


def _forget_lock() -> None:
    """In a forked child, another thread of the parent may have held it."""
    global _seen_lock  # noqa: PLW0603
    _seen_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def accept(meta: VaultMeta) -> None:
    """Remember that this process has seen *meta*, whose MAC was verified."""
    with _seen_lock:
        _seen[meta.vault_id] = max(meta.revision, _seen.get(meta.vault_id, 0))
