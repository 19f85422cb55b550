"""Drivers: which backends kvseal can walk, and how a store or a URL leads to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.drivers.backends import backend_of_store, backend_of_url, landing_of
from kvseal.drivers.urls import strip_password

if TYPE_CHECKING:
    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver

__all__ = ["driver_for", "driver_from_url", "landing_of", "strip_password"]


def driver_for(store: AsyncKeyValue) -> Driver:
    """
    Return the driver of the base store at the end of *store*'s wrapper chain; nothing is opened yet.

    Raises:
        UnsupportedStoreError: kvseal has no driver for stores of that class.
    """
    from kvseal.drivers.chain import Chain  # noqa: PLC0415 - py-key-value's wrappers, which no URL has

    base = Chain.of(store).base
    return backend_of_store(base).driver_for(base)


async def driver_from_url(url: str, *, create: bool = False) -> Driver:
    """
    Return the driver of the store that *url* names, which exists unless *create* is set.

    Raises:
        UnsupportedStoreError: the URL has no scheme, or one that leads to no driver.
        StoreNotFoundError: there is no such store.
    """
    backend, parsed = backend_of_url(url)
    return await backend.open(parsed, create=create)
