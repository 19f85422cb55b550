"""
The table of backends: the one place that names them all.

A row names a module, so this package can be imported with no backend's library installed.  A store is
looked up by the names of its classes, so a look-up imports nothing either.  A backend's module has
`for_store(store)` if its row has a store, and `from_url(url, create=…)` if its row has a scheme.
`docs/adding-a-backend.md` says the rest.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from kvseal.drivers.landing import ExactNames, UnknownPlaces
from kvseal.drivers.urls import StoreUrl
from kvseal.errors import UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver
    from kvseal.drivers.landing import Landing


@dataclass(frozen=True, slots=True)
class Backend:
    """One kind of store: how it is named, and the module that has its driver."""

    module: str
    store: str = ""
    """Qualified name of the store's class, subclasses included; empty where no class leads here."""
    schemes: tuple[str, ...] = ()
    """Schemes of its URLs; empty where no URL leads here."""
    extra: str = ""
    """The extra of kvseal that installs what driver and store need; empty where they need nothing more."""
    is_path: bool = False
    """Whether the location in its URLs is a path on this machine."""
    landing: str = ""
    """The module whose `landing(store)` says where names land; empty where both names are kept exactly."""

    def driver_for(self, store: AsyncKeyValue) -> Driver:
        """Return the driver of *store*, which is of this backend; nothing is opened yet."""
        with self._library():
            driver: Driver = self._loaded().for_store(store)
        return driver

    async def open(self, url: StoreUrl, *, create: bool) -> Driver:
        """Return the driver of the store that *url* names, which exists unless *create* is set."""
        with self._library():
            driver: Driver = await self._loaded().from_url(url, create=create)
        return driver

    def landing_of(self, store: AsyncKeyValue) -> Landing:
        """Return where the names of *store*, which is of this backend, land."""
        if not self.landing:
            return ExactNames()
        landing: Landing = _module(self.landing).landing(store)
        return landing

    def _loaded(self) -> Any:
        return _module(self.module)

    @contextmanager
    def _library(self) -> Iterator[None]:
        try:
            yield
        except ImportError as exc:
            if not self.extra:
                raise
            msg = (
                f"the driver of {self.store.rpartition('.')[2]} needs a library that is not installed: {exc}"
            )
            raise UnsupportedStoreError(msg, hint=f"pip install 'kvseal[{self.extra}]'") from exc


def _module(name: str) -> Any:
    return import_module(f"kvseal.drivers.{name}")


_STORES: Final = "key_value.aio.stores"

BACKENDS: Final = (
    Backend(
        "disk.driver",
        f"{_STORES}.disk.store.DiskStore",
        ("disk",),
        "disk",
        is_path=True,
        landing="joined",
    ),
    Backend(
        "disk.multi",
        f"{_STORES}.disk.multi_store.MultiDiskStore",
        ("multidisk",),
        "disk",
        is_path=True,
        landing="disk.multi_folders",
    ),
    Backend(
        "filetree.driver",
        f"{_STORES}.filetree.store.FileTreeStore",
        ("filetree",),
        "filetree",
        is_path=True,
        landing="filetree.landing",
    ),
    Backend(
        "redis.redis",
        f"{_STORES}.redis.store.RedisStore",
        ("redis", "rediss", "unix"),
        "redis",
        landing="joined",
    ),
    Backend("redis.valkey", f"{_STORES}.valkey.store.ValkeyStore", ("valkey",), "valkey", landing="joined"),
    Backend(
        "postgresql.driver",
        f"{_STORES}.postgresql.store.PostgreSQLStore",
        ("postgresql", "postgres"),
        "postgresql",
    ),
    Backend(
        "dynamodb.driver",
        f"{_STORES}.dynamodb.store.DynamoDBStore",
        ("dynamodb",),
        "dynamodb",
        landing="dynamodb.landing",
    ),
    Backend(
        "mongodb.driver",
        f"{_STORES}.mongodb.store.MongoDBStore",
        ("mongodb", "mongodb+srv"),
        "mongodb",
        landing="mongodb.landing",
    ),
    Backend("duckdb.driver", f"{_STORES}.duckdb.store.DuckDBStore", ("duckdb",), "duckdb", is_path=True),
    Backend(
        "rocksdb.driver",
        f"{_STORES}.rocksdb.store.RocksDBStore",
        ("rocksdb",),
        "rocksdb",
        is_path=True,
        landing="joined",
    ),
    Backend("s3.driver", f"{_STORES}.s3.store.S3Store", ("s3",), "s3", landing="s3.landing"),
    Backend("memory", f"{_STORES}.memory.store.MemoryStore", extra="memory"),
    Backend("factory", schemes=("python",)),
)

SCHEMES: Final = {scheme: backend for backend in BACKENDS for scheme in backend.schemes}
"""Every backend that a URL reaches, by scheme."""

_BY_CLASS: Final = {backend.store: backend for backend in BACKENDS if backend.store}


def backend_of_store(store: AsyncKeyValue) -> Backend:
    """
    Return the backend of the base store *store*.

    Raises:
        UnsupportedStoreError: kvseal has no driver for stores of that class.
    """
    backend = _backend_of(store)
    if backend is not None:
        return backend
    msg = f"no driver for a store of class {type(store).__qualname__}"
    raise UnsupportedStoreError(
        msg, hint="keep the vault meta in a store that has one: meta_store=DiskStore(directory=…)"
    )


def backend_of_url(url: str) -> tuple[Backend, StoreUrl]:
    """
    Return the backend that *url* leads to, and the URL taken apart.

    Raises:
        UnsupportedStoreError: the URL has no scheme, or one that leads to no driver.
    """
    parsed = StoreUrl.parse(url, schemes=SCHEMES)
    return SCHEMES[parsed.scheme], parsed


def landing_of(store: AsyncKeyValue) -> Landing:
    """Return where the names of the base store *store* land; of a store without a driver, the worst case."""
    backend = _backend_of(store)
    return UnknownPlaces() if backend is None else backend.landing_of(store)


def _backend_of(store: AsyncKeyValue) -> Backend | None:
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(store).__mro__)
    return next((_BY_CLASS[name] for name in names if name in _BY_CLASS), None)
