"""A driver that passes every call on to another: what drivers that change one thing have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.drivers import abilities

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Sequence

    from kvseal.drivers.base import (
        Capabilities,
        Count,
        Driver,
        Entry,
        Page,
        Purged,
        Put,
        Replacement,
        StoreTime,
    )


class DelegatingDriver:
    """Does and says whatever *driver* does and says."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @property
    def capabilities(self) -> Capabilities:
        """What the other driver promises."""
        return self._driver.capabilities

    @property
    def location(self) -> str:
        """Where the other driver says that the store is."""
        return self._driver.location

    def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Scan."""
        return self._driver.scan(after=after, partition=partition, expired=expired)

    async def get(self, collection: str, key: str) -> Entry | None:
        """Get."""
        return await self._driver.get(collection, key)

    async def put_if_absent(self, entry: Entry) -> bool:
        """Put if absent."""
        return await self._driver.put_if_absent(entry)

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """Put many if absent, as the other driver can."""
        return await abilities.put_many_if_absent(self._driver, entries)

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Replace."""
        return await self._driver.replace_many(replacements)

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete."""
        return await self._driver.delete_if_unchanged(entry)

    @property
    def loses_names(self) -> bool:
        """Whether the other driver may not give a name back."""
        return abilities.loses_names(self._driver)

    def proves(self, entry: Entry, key: str) -> bool:
        """Prove."""
        return abilities.proves(self._driver, entry, key)

    def place(self, collection: str, key: str) -> Hashable | None:
        """Return what the other driver says."""
        return abilities.place(self._driver, collection, key)

    async def get_at(self, entry: Entry) -> Entry | None:
        """Return what the other driver has there, if it can."""
        return await abilities.in_place_of(self._driver, entry)

    async def count(self) -> Count:
        """Count."""
        return await abilities.count(self._driver)

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """Purge."""
        return await abilities.purge(self._driver, dry_run=dry_run)

    async def store_time(self) -> StoreTime | None:
        """Return what the other driver knows of the backend's clock."""
        return await abilities.store_time(self._driver)

    async def close(self) -> None:
        """Close the other driver."""
        await self._driver.close()
