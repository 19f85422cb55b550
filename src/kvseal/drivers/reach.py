"""From what a caller hands over, a store or a driver, to the driver that a vault or a tool works on."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvseal.drivers import driver_for
from kvseal.drivers.base import Driver
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.drivers.factory import OwnedStoreDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.chain import Chain


def driver_of(store: AsyncKeyValue | Driver) -> Driver:
    """Return the driver of *store*, or *store* itself where it is one."""
    return store if isinstance(store, Driver) else driver_for(store)


def recodable_driver(store: AsyncKeyValue | Driver, *, writes: bool = True) -> Driver:
    """
    Return the driver of *store* for a tool that has to see every record as it is stored.

    Unlike `driver_of`, which reaches the vault meta past any wrapper, it looks at the
    wrappers first.  *writes* says whether the tool may change what it finds.

    Raises:
        UnsupportedStackError: a wrapper hides records, or forbids to write them; nothing was opened.
        UnsupportedStoreError: kvseal has no driver for the store.
    """
    chain = chain_of(store)
    if chain is not None:
        from kvseal.drivers.wrapper_orders import refuse_hidden_records  # noqa: PLC0415 - as below

        refuse_hidden_records(chain, writes=writes)
    return driver_of(store)


def chain_of(store: AsyncKeyValue | Driver) -> Chain | None:
    """Return the wrapper chain of *store*, or `None` for a driver that no store object was made for."""
    while isinstance(store, DelegatingDriver) and not isinstance(store, OwnedStoreDriver):
        store = store._driver  # noqa: SLF001 - a driver around another says nothing of its own
    if isinstance(store, OwnedStoreDriver):
        store = store.store
    elif isinstance(store, Driver):
        return None
    from kvseal.drivers.chain import Chain  # noqa: PLC0415 - py-key-value's wrappers, which no URL has

    return Chain.of(store)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a tool reads entries, and where it writes them: most often the same."""

    source: Driver
    destination: Driver

    @property
    def in_place(self) -> bool:
        """Whether entries are replaced where they are."""
        return self.destination is self.source


@asynccontextmanager
async def reached(
    store: AsyncKeyValue | Driver, to: AsyncKeyValue | Driver | None = None, *, writes: bool = True
) -> AsyncIterator[Places]:
    """
    Yield the drivers of *store* and, for copies, of *to*; those that were opened here are closed again.

    *writes* says whether the tool may change what it finds.  Raises like `recodable_driver`.
    """
    async with AsyncExitStack() as stack:

        def opened(one: AsyncKeyValue | Driver, *, writes: bool) -> Driver:
            driver = recodable_driver(one, writes=writes)
            if driver is not one:
                stack.push_async_callback(driver.close)
            return driver

        source = opened(store, writes=writes and to is None)
        yield Places(source, source if to is None else opened(to, writes=writes))
