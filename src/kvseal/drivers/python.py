"""
`python:module:factory`: the application's own store object, made by a function of its own.

It serves stores that no URL describes, such as one behind a client with special options.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvseal import drivers
from kvseal.errors import UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Capabilities, Count, Driver, Entry, Page, Replacement


class OwnedStoreDriver:
    """The driver of a store that was made for it: `close` closes the store, too."""

    def __init__(self, store: AsyncKeyValue, driver: Driver) -> None:
        self.store = store
        self._driver = driver

    @property
    def capabilities(self) -> Capabilities:
        """What the store's driver promises."""
        return self._driver.capabilities

    @property
    def location(self) -> str:
        """Where the store's driver says it is."""
        return self._driver.location

    @property
    def default_collection(self) -> str:
        """The default collection of the store."""
        return self._driver.default_collection

    def scan(self, *, after: str | None = None, partition: tuple[int, int] = (0, 1)) -> AsyncIterator[Page]:
        """Scan with the store's driver."""
        return self._driver.scan(after=after, partition=partition)

    async def get(self, collection: str, key: str) -> Entry | None:
        """Get with the store's driver."""
        return await self._driver.get(collection, key)

    async def put_if_absent(self, entry: Entry) -> bool:
        """Put with the store's driver."""
        return await self._driver.put_if_absent(entry)

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Replace with the store's driver."""
        return await self._driver.replace_many(replacements)

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete with the store's driver."""
        return await self._driver.delete_if_unchanged(entry)

    async def count(self) -> Count:
        """Count with the store's driver."""
        return await self._driver.count()

    async def close(self) -> None:
        """Close the driver and then the store, if stores of its class can be closed."""
        await self._driver.close()
        close = getattr(self.store, "close", None)
        if close is not None:
            await close()


async def from_location(location: str, *, create: bool = False) -> OwnedStoreDriver:  # noqa: ARG001 - the factory creates
    """Return the driver of the store that `module:factory` makes, with the store as its `store`."""
    store = await store_from(location)
    return OwnedStoreDriver(store, drivers.driver_for(store))


async def store_from(location: str) -> AsyncKeyValue:
    """
    Call `module:factory` and return the store it makes; the factory may be a coroutine function.

    Raises:
        UnsupportedStoreError: there is no such factory, or what it returns is no store.
    """
    made = _factory(location)()
    store: AsyncKeyValue = await made if inspect.isawaitable(made) else made
    # No `isinstance`: since Python 3.12 the protocol does not see methods that are passed through.
    if not callable(getattr(store, "get", None)) or not callable(getattr(store, "put", None)):
        msg = f"python:{location} returned {type(store).__qualname__}, which is not an AsyncKeyValue"
        raise UnsupportedStoreError(msg, hint="return a py-key-value store from the factory")
    return store


def _factory(location: str) -> Any:
    module_name, _, name = location.partition(":")
    if not module_name or not name.isidentifier():
        msg = f"python:{location} does not name a factory"
        raise UnsupportedStoreError(msg, hint="write python:module:factory")
    if (here := str(Path.cwd())) not in sys.path:
        # As with `python -m`, an application that is not installed is found where one stands.
        sys.path.insert(0, here)
    try:
        return getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as exc:
        msg = f"python:{location} cannot be loaded: {exc}"
        raise UnsupportedStoreError(msg, hint="write python:module:factory") from exc
