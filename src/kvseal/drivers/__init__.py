"""
Drivers: which backends kvseal can walk, and how a store or a URL leads to one.

The two tables are the whole registry.  They name modules, so that this package can be
imported with no backend's library installed, and a store is looked up by the names of
its classes, so that a look-up imports nothing either.  A driver's module offers
`for_store(store)` if it is in `STORES` and `from_location(location, create=…)` if it is
in `SCHEMES`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from kvseal.drivers.chain import Chain
from kvseal.drivers.urls import split_url, strip_password
from kvseal.errors import UnsupportedStoreError

if TYPE_CHECKING:
    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver

__all__ = ["SCHEMES", "STORES", "driver_for", "driver_from_url", "strip_password"]

STORES: Final = {
    "key_value.aio.stores.disk.multi_store.MultiDiskStore": "kvseal.drivers.disk.multi",
    "key_value.aio.stores.disk.store.DiskStore": "kvseal.drivers.disk.driver",
    "key_value.aio.stores.duckdb.store.DuckDBStore": "kvseal.drivers.duckdb.driver",
    "key_value.aio.stores.filetree.store.FileTreeStore": "kvseal.drivers.filetree.driver",
    "key_value.aio.stores.memory.store.MemoryStore": "kvseal.drivers.memory",
    "key_value.aio.stores.postgresql.store.PostgreSQLStore": "kvseal.drivers.postgresql.driver",
    "key_value.aio.stores.redis.store.RedisStore": "kvseal.drivers.redis.redis",
    "key_value.aio.stores.rocksdb.store.RocksDBStore": "kvseal.drivers.rocksdb.driver",
    "key_value.aio.stores.valkey.store.ValkeyStore": "kvseal.drivers.redis.valkey",
}
"""Module of the driver by the qualified class name of the store, subclasses included."""

SCHEMES: Final = {
    "disk": "kvseal.drivers.disk.driver",
    "duckdb": "kvseal.drivers.duckdb.driver",
    "filetree": "kvseal.drivers.filetree.driver",
    "multidisk": "kvseal.drivers.disk.multi",
    "postgres": "kvseal.drivers.postgresql.driver",
    "postgresql": "kvseal.drivers.postgresql.driver",
    "python": "kvseal.drivers.factory",
    "redis": "kvseal.drivers.redis.redis",
    "rediss": "kvseal.drivers.redis.rediss",
    "rocksdb": "kvseal.drivers.rocksdb.driver",
    "valkey": "kvseal.drivers.redis.valkey",
}
"""Module of the driver by the scheme of the URL."""


def driver_for(store: AsyncKeyValue) -> Driver:
    """
    Return the driver of the base store at the end of *store*'s wrapper chain; nothing is opened yet.

    Raises:
        UnsupportedStoreError: kvseal has no driver for stores of that class.
    """
    base = Chain.of(store).base
    for cls in type(base).__mro__:
        module = STORES.get(f"{cls.__module__}.{cls.__qualname__}")
        if module is not None:
            driver: Driver = import_module(module).for_store(base)
            return driver
    msg = f"no driver for a store of class {type(base).__qualname__}"
    raise UnsupportedStoreError(
        msg, hint="keep the vault meta in a store that has one: meta_store=DiskStore(directory=…)"
    )


async def driver_from_url(url: str, *, create: bool = False) -> Driver:
    """
    Return the driver of the store that *url* names, which exists unless *create* is set.

    Raises:
        UnsupportedStoreError: the URL has no scheme, or one that leads to no driver.
        StoreNotFoundError: there is no such store.
    """
    scheme, location = split_url(url, schemes=SCHEMES)
    module: Any = import_module(SCHEMES[scheme])
    driver: Driver = await module.from_location(location, create=create)
    return driver
