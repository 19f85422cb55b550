"""
The vault meta on its backend: read it raw, create it once, change it by compare-and-swap.

A store's own `get` answers `None` for an entry that is absent, expired, corrupt
or out of reach, so none of this goes through it: the driver looks at the raw
entry, and "absent" is what the backend itself says.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvseal import clock
from kvseal.drivers.abilities import put_confirmed, replace_confirmed
from kvseal.drivers.base import Driver, Entry, Replacement, Written
from kvseal.drivers.reach import driver_of
from kvseal.errors import (
    Conflict,
    ForeignVaultError,
    VaultExistsError,
    VaultMetaError,
    VaultNotFoundError,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY, VaultMeta, is_vault_meta
from kvseal.observe import audit
from kvseal.vault.seen.newest import NewestSeen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from os import PathLike

    from key_value.aio.protocols.key_value import AsyncKeyValue
    from typing_extensions import Self

    from kvseal.vault.seen.newest import Before

_log = logging.getLogger("kvseal")


@dataclass(frozen=True, slots=True)
class Found:
    """What is stored where a vault meta belongs: `meta` is `None` where that is nothing, or adopted."""

    entry: Entry | None
    meta: VaultMeta | None


class MetaStore:
    """
    The one entry at `__vault_meta__`/`__dek__` of one store.

    A meta that is older than one already seen is refused: see `kvseal.vault.seen.newest`.
    """

    __slots__ = ("_driver", "_owns_driver", "seen", "store")

    def __init__(self, store: AsyncKeyValue | Driver, *, pin: str | PathLike[str] | None = None) -> None:
        self.store = store
        """What was handed over: a store object or a driver."""
        self.seen = NewestSeen(pin)
        """What was seen of this vault; a caller that has verified a meta lets it be remembered there."""
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

    def place_in(self, found: Found, adopted: Mapping[str, Any] | None) -> Entry | None:
        """
        Return the entry that a new vault meta is to replace, or `None` where there is none.

        Only *adopted*, another program's record whose keys the new vault will hold, is ever replaced.

        Raises:
            VaultExistsError: a vault was *found*.
            ForeignVaultError: *adopted* has an expiry, which the vault meta would have too.
            Conflict: *adopted* is gone.
        """
        if found.meta is not None:
            raise self._exists()
        entry = found.entry
        if entry is None and adopted is None:
            return None
        if entry is None:
            msg = f"the record that the vault in {self.location} was to adopt is gone"
            raise Conflict(msg, hint="find out who removed it; nothing was changed")
        if entry.expires_at is not None:
            msg = (
                f"the record to adopt in {self.location} has an expiry, and the vault meta would have it too"
            )
            raise ForeignVaultError(
                msg, hint="find out who set it; the program that wrote the record never does"
            )
        return entry

    async def find(self, adopted: Mapping[str, Any] | None = None) -> Found:
        """
        Return what is there: a vault meta, nothing, or *adopted*, another program's record.

        Raises like `load`.
        """
        entry, before = await self._look()
        if entry is None or (adopted is not None and entry.value == adopted):
            return Found(entry, None)
        return Found(entry, self._meta_in(entry, before))

    async def look(self) -> Found:
        """
        Return what is there, whatever was seen before: to compare with, and never to be believed.

        Raises:
            ForeignVaultError, VaultMetaError: it is no vault meta, or a malformed one.
        """
        entry = await self._driver.get(META_COLLECTION, META_KEY)
        return Found(entry, None if entry is None else self._parsed(entry))

    async def _look(self) -> tuple[Entry | None, Before]:
        before = await self.seen.before()
        return await self._driver.get(META_COLLECTION, META_KEY), before

    def _meta_in(self, entry: Entry, before: Before) -> VaultMeta:
        meta = self._parsed(entry)
        before.check(meta, self.location)
        return meta

    def _parsed(self, entry: Entry) -> VaultMeta:
        if entry.value is None:
            msg = f"the vault meta in {self.location} cannot be read: {entry.problem}"
            raise VaultMetaError(msg, hint="restore the vault meta from a backup")
        if not is_vault_meta(entry.value):
            msg = f"{META_COLLECTION}/{META_KEY} in {self.location} was written by another program"
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
        return VaultMeta.from_value(entry.value)

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

    async def create(self, meta: VaultMeta, *, place: Entry | None = None) -> VaultMeta:
        """
        Put *meta* where there is none, or in the *place* of what it adopts: of all that try, one succeeds.

        Returns what is read back: *meta*, or a later revision, which the caller has to authenticate.

        Raises:
            VaultExistsError: there is one already.
            ForeignVaultError, Conflict: what was to be adopted is another by now, or gone.
        """
        with audit.creation(meta.as_value()):
            return await self._create(meta, place)

    async def _create(self, meta: VaultMeta, place: Entry | None) -> VaultMeta:
        if place is not None:
            done = self._said(await replace_confirmed(self._driver, Replacement(place, meta.as_value())))
            # Another process was faster: with a vault, or with something else, which this finds out.
            if not done and self.place_in(await self.find(), None) is None:
                msg = f"the record that the vault in {self.location} was to adopt is gone"
                raise Conflict(msg, hint="find out who removed it; nothing was changed")
        else:
            now = clock.utc_now()
            entry = Entry(META_COLLECTION, META_KEY, meta.as_value(), created_at=now)
            done = self._said(await put_confirmed(self._driver, entry))
        if not done:
            raise self._exists()
        return (await self._read_back(meta))[1]

    async def change(self, entry: Entry, meta: VaultMeta) -> tuple[Entry, VaultMeta]:
        """
        Put *meta* in place of *entry*, and return what is read back: *meta*, or a change that came after it.

        Raises:
            Conflict: another process changed the vault meta first; nothing was written.
            VaultMetaError: the backend does not give back what was written.
        """
        with audit.change(entry.value or {}, meta.as_value()):
            return await self._change(entry, meta)

    async def _change(self, entry: Entry, meta: VaultMeta) -> tuple[Entry, VaultMeta]:
        try:
            # A vault does not end: an expiry that another program gave the entry goes with the next change.
            replacement = Replacement(entry, meta.as_value(), None)
            done = self._said(await replace_confirmed(self._driver, replacement))
        except Conflict:
            done = False
        if not done:
            msg = f"another process changed the vault in {self.location} at the same time"
            raise Conflict(msg, hint="nothing was changed; look at vaultctl status and try again") from None
        return await self._read_back(meta)

    def _said(self, written: Written) -> bool:
        """Return whether the write was done, and log what speaks against its lasting."""
        if written.doubt:
            _log.warning("the change of the vault meta in %s: %s", self.location, written.doubt)
        return written.done

    def warn_of_eviction(self) -> None:
        """Log where a store that did not evict when the vault was created does now."""
        if self._driver.capabilities.conceals:
            _log.info("%s: %s", self.location, self._driver.capabilities.conceals)
        elif self._driver.capabilities.evicts:
            _log.warning("%s drops entries when it is full, the vault meta first; move it", self.location)

    async def close(self) -> None:
        """Close the driver, unless the caller brought it."""
        if self._owns_driver:
            await self._driver.close()

    async def _read_back(self, meta: VaultMeta) -> tuple[Entry, VaultMeta]:
        entry, stored = await self.expect()
        # Another process may already have made the next change to it.
        if stored != meta and stored.revision <= meta.revision:
            msg = f"{self.location} does not give back the vault meta that was written"
            raise VaultMetaError(msg, hint="look at what stands between kvseal and the backend")
        await self.seen.remember(meta)
        return entry, stored
