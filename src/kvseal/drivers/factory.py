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
from kvseal.drivers import generic
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.errors import UnsupportedStackError, UnsupportedStoreError
from kvseal.errors.operating_system import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver
    from kvseal.drivers.manifest import Names
    from kvseal.drivers.urls import StoreUrl


class OwnedStoreDriver(DelegatingDriver):
    """The driver of a store that was made for it: `close` closes the store, too."""

    def __init__(self, store: AsyncKeyValue, driver: Driver) -> None:
        super().__init__(driver)
        self.store = store

    async def close(self) -> None:
        """Close the driver and then the store, if stores of its class can be closed."""
        await self._driver.close()
        close = getattr(self.store, "close", None)
        if close is not None:
            await close()


async def from_url(
    url: StoreUrl,
    *,
    create: bool = False,  # noqa: ARG001 - the factory creates
    offline_names: Iterable[Names] | None = None,
) -> OwnedStoreDriver:
    """
    Return the driver of the store that *url*, `python:module:factory`, makes, with the store as its `store`.

    Only with *offline_names*, and while no other process writes, may it be a store that has no driver.

    Raises:
        UnsupportedStoreError: there is no such factory, or no driver for what it returns.
    """
    store = await store_from(url.location)
    try:
        driver = drivers.driver_for(store)
    except UnsupportedStackError:
        raise
    except UnsupportedStoreError as exc:
        if offline_names is None:
            msg = f"{exc}; through its own get and put, {generic.LIMITS}"
            hint = "if that will do: stop whatever uses the store, and give --offline and --manifest FILE"
            raise UnsupportedStoreError(msg, hint=hint) from exc
        driver = generic.for_store(store, offline_names)
    return OwnedStoreDriver(store, driver)


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
        msg = f"python:{location} cannot be loaded: {reason_of(exc)}"
        raise UnsupportedStoreError(msg, hint="write python:module:factory") from exc
