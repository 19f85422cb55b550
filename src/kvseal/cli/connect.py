"""Open the drivers and vaults that the options of a command name, and close them when it ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from kvseal.cli.output import interruptible
from kvseal.concurrency import in_thread, owns_loop
from kvseal.drivers import driver_from_url, factory
from kvseal.drivers.backends import backend_of_url
from kvseal.drivers.manifest import Manifest, NamedDriver
from kvseal.errors import StoreNotFoundError, UsageError, VaultNotFoundError
from kvseal.secrets.given import secret_for_opening
from kvseal.secrets.key_file import expanded
from kvseal.secrets.sources import check_unlocker, resolve, resolve_unlocker
from kvseal.vault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from kvseal.cli.settings import Settings
    from kvseal.drivers.base import Driver
    from kvseal.secrets.sources import Unlocker


@dataclass(frozen=True, slots=True)
class Stores:
    """The drivers that a command works on; `meta` is `None` where the meta is in the store of the records."""

    data: Driver
    meta: Driver | None

    async def has_vault(self) -> bool:
        """Whether there is a vault, so that its secret is not asked for as a new one."""
        try:
            await Vault.expect(self.data, meta_store=self.meta)
        except VaultNotFoundError:
            return False
        return True


@asynccontextmanager
async def stores(
    settings: Settings, *, create: bool = False, create_meta: bool = False, dry_run: bool = False
) -> AsyncIterator[Stores]:
    """Yield the drivers of the stores that *settings* name; see `store` for *create* and *dry_run*."""
    async with AsyncExitStack() as stack:
        data = await stack.enter_async_context(data_store(settings, create=create, dry_run=dry_run))
        meta = None
        if settings.meta_store is not None:
            meta = await stack.enter_async_context(
                store(settings.meta_store, create=create or create_meta, dry_run=dry_run)
            )
        yield Stores(data, meta)


@asynccontextmanager
async def data_store(
    settings: Settings, *, create: bool = False, dry_run: bool = False
) -> AsyncIterator[Driver]:
    """Yield the driver of `--store`, whose entries have the names of `--manifest` where they have none."""
    url, manifest = settings.required_store(), None
    if settings.manifest is not None:
        manifest = await in_thread(Manifest.checked, Path(settings.manifest))
    names = manifest if settings.offline else None
    async with store(url, create=create, dry_run=dry_run, offline_names=names) as driver:
        yield driver if manifest is None else NamedDriver(driver, manifest)


@asynccontextmanager
async def store(
    url: str, *, create: bool, dry_run: bool, offline_names: Manifest | None = None
) -> AsyncIterator[Driver]:
    """
    Yield the driver of the store *url*; where a *dry_run* would *create* it, an empty one stands in.

    With *offline_names* it may be a store without a driver, of which no more than those is seen.
    """
    async with AsyncExitStack() as stack:
        try:
            driver = await _opened(url, create=create and not dry_run, offline_names=offline_names)
        except StoreNotFoundError:
            if not (create and dry_run and _is_free(url)):
                raise
            directory = stack.enter_context(TemporaryDirectory(prefix="vaultctl-"))
            driver = await driver_from_url(f"disk:{directory}", create=True)
        stack.push_async_callback(driver.close)
        yield driver


@asynccontextmanager
async def vault(settings: Settings) -> AsyncIterator[tuple[Stores, Vault]]:
    """Yield the stores and their open vault."""
    async with stores(settings) as found:
        # The vault comes first, so that a person is not asked for a secret where there is no vault.
        await Vault.expect(found.data, meta_store=found.meta)
        secret = await secret_for_opening(await given_secret(settings.secret, settings))
        opened = await Vault.open(found.data, secret=secret, meta_store=found.meta, pin=settings.pin)
        try:
            yield found, opened
        finally:
            await opened.close()


async def given_secret(
    reference: str | None, settings: Settings, *, confirm: bool = False
) -> Unlocker | None:
    """Return the secret or wrap key of *reference*, or `None`; with *confirm* a person types it twice."""
    if reference is None:
        return None
    check_unlocker(reference)
    if reference.startswith("prompt:") and not settings.may_ask:
        msg = "prompt: needs a terminal, and may not be used with --no-input"
        raise UsageError(msg, hint="use env:, file:, fd: or another source")
    if reference.startswith("prompt:"):
        # Not in a thread, which Ctrl-C cannot interrupt while it waits for a line.
        with interruptible():
            return resolve(reference, confirm=confirm)
    return await in_thread(resolve_unlocker, reference, confirm=confirm)


def synchronous(
    function: Callable[..., Coroutine[Any, Any, int | None]],
) -> Callable[..., int | None]:
    """Return a function that runs the coroutine *function* in an event loop of its own."""

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> int | None:
        token = owns_loop.set(True)
        try:
            return asyncio.run(function(*arguments, **options))
        finally:
            owns_loop.reset(token)

    return run


def require_offline(driver: Driver, settings: Settings) -> None:
    """
    Let a command that is about to write go on, if it cannot destroy the writes of other processes.

    Raises:
        UsageError: the store has no compare-and-swap, and `--offline` was not given.
    """
    if not driver.capabilities.atomic_replace and not settings.offline:
        msg = f"{driver.location} has no compare-and-swap: what other processes write meanwhile can be lost"
        raise UsageError(msg, hint="stop every process that writes to the store, and give --offline")


async def _opened(url: str, *, create: bool, offline_names: Manifest | None) -> Driver:
    backend, parsed = backend_of_url(url)
    if offline_names is not None and parsed.scheme == "python":
        return await factory.from_url(parsed, offline_names=offline_names)
    return await backend.open(parsed, create=create)


def _is_free(url: str) -> bool:
    """Whether a store could be created at the place that *url* names and that holds none."""
    path = expanded(url.partition(":")[2])
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
