"""
Stand-ins that show or break what happens between kvseal and a store.

Each delegates to the real thing: none imitates what kvseal does.
"""

from __future__ import annotations

import sqlite3
from contextlib import aclosing, closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore

from kvseal.drivers import abilities, driver_for
from kvseal.drivers.base import (
    Capabilities,
    Count,
    Driver,
    Entry,
    Page,
    Purged,
    Replacement,
    StoreTime,
    replace,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence

    import pytest
    from typing_extensions import Self

    from kvseal import Vault
    from kvseal.drivers.base import Put

Stored = dict[str, Any]


class BareStore:
    """The eight methods of `AsyncKeyValue` over a dict, and nothing else; remembers what it was asked."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str | None, str], tuple[Stored, float | None]] = {}
        self.calls: list[str] = []

    async def get(self, key: str, *, collection: str | None = None) -> Stored | None:
        """Return the value."""
        self.calls.append("get")
        return self.entries.get((collection, key), (None, None))[0]

    async def ttl(self, key: str, *, collection: str | None = None) -> tuple[Stored | None, float | None]:
        """Return the value and the ttl it was put with: here no time passes."""
        self.calls.append("ttl")
        return self.entries.get((collection, key), (None, None))

    async def put(
        self, key: str, value: Mapping[str, Any], *, collection: str | None = None, ttl: Any = None
    ) -> None:
        """Store the value."""
        self.calls.append("put")
        self.entries[collection, key] = dict(value), None if ttl is None else float(ttl)

    async def delete(self, key: str, *, collection: str | None = None) -> bool:
        """Delete the entry."""
        self.calls.append("delete")
        return self.entries.pop((collection, key), None) is not None

    async def get_many(self, keys: Sequence[str], *, collection: str | None = None) -> list[Stored | None]:
        """Return the values."""
        self.calls.append("get_many")
        return [self.entries.get((collection, key), (None, None))[0] for key in keys]

    async def ttl_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[tuple[Stored | None, float | None]]:
        """Return values and ttls."""
        self.calls.append("ttl_many")
        return [self.entries.get((collection, key), (None, None)) for key in keys]

    async def put_many(
        self,
        keys: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        *,
        collection: str | None = None,
        ttl: Any = None,
    ) -> None:
        """Store the values."""
        self.calls.append("put_many")
        for key, value in zip(keys, values, strict=True):
            self.entries[collection, key] = dict(value), None if ttl is None else float(ttl)

    async def delete_many(self, keys: Sequence[str], *, collection: str | None = None) -> int:
        """Delete the entries."""
        self.calls.append("delete_many")
        return sum([self.entries.pop((collection, key), None) is not None for key in keys])


class FullStore(MemoryStore):
    """A memory store with everything that any py-key-value store offers; remembers its life cycle."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def setup(self) -> None:
        """Set up."""
        self.calls.append("setup")
        await super().setup()

    async def cull(self) -> None:
        """Cull."""
        self.calls.append("cull")

    async def close(self) -> None:
        """Close."""
        self.calls.append("close")

    async def __aenter__(self) -> Self:
        """Enter."""
        self.calls.append("enter")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Exit."""
        self.calls.append("exit")


class Clock:
    """The wrapper's wall clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.milliseconds = 1_900_000_000_000
        monkeypatch.setattr("kvseal.clock.wall_ms", lambda: self.milliseconds)

    def advance(self, seconds: float) -> None:
        """Let time pass for the wrapper alone: the store below sees nothing of it."""
        self.milliseconds += round(seconds * 1000)


class MetaClock:
    """The clock by which keyslots expire, moved by hand; a server's goes with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1_900_000_000.0
        monkeypatch.setattr("kvseal.clock.utc_seconds", self._now)
        monkeypatch.setattr("kvseal.drivers.abilities.store_time", self._no_other)

    def advance(self, **duration: float) -> None:
        """Let time pass, given as to `timedelta`."""
        self.seconds += timedelta(**duration).total_seconds()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(int(self.seconds), timezone.utc)

    @staticmethod
    async def _no_other(_: Driver) -> None:
        """Leave the store without a clock of its own, so that it has this one."""


class HookedDriver:
    """*driver*, with *around* called for each of its operations: `around(name, operation)`."""

    def __init__(self, driver: Driver, around: Callable[[str, Callable[[], Awaitable[Any]]], Any]) -> None:
        self._driver = driver
        self._around = around
        self.location = driver.location

    @property
    def capabilities(self) -> Capabilities:
        """As the driver says now: some learn it with their first operation."""
        return self._driver.capabilities

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Scan, as one operation."""

        async def pages() -> list[Page]:
            return [
                page async for page in self._driver.scan(after=after, partition=partition, expired=expired)
            ]

        for page in await self._around("scan", pages):
            yield page

    async def get(self, collection: str, key: str) -> Entry | None:
        """Get."""
        entry: Entry | None = await self._around("get", lambda: self._driver.get(collection, key))
        return entry

    async def put_if_absent(self, entry: Entry) -> bool:
        """Put if absent."""
        done: bool = await self._around("put_if_absent", lambda: self._driver.put_if_absent(entry))
        return done

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Replace."""
        done: Sequence[bool] = await self._around(
            "replace_many", lambda: self._driver.replace_many(replacements)
        )
        return done

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete."""
        done: bool = await self._around("delete", lambda: self._driver.delete_if_unchanged(entry))
        return done

    @property
    def loses_names(self) -> bool:
        """Say whether names get lost; that is no operation on the store."""
        return abilities.loses_names(self._driver)

    def proves(self, entry: Entry, key: str) -> bool:
        """Prove; that is no operation on the store."""
        return abilities.proves(self._driver, entry, key)

    def place(self, collection: str, key: str) -> Hashable | None:
        """Place; that is no operation on the store."""
        return abilities.place(self._driver, collection, key)

    async def count(self) -> Count:
        """Count."""
        count: Count = await self._around("count", lambda: abilities.count(self._driver))
        return count

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """Purge."""
        purged: Purged = await self._around("purge", lambda: abilities.purge(self._driver, dry_run=dry_run))
        return purged

    async def store_time(self) -> StoreTime | None:
        """Say what time it is; that is no operation on the store."""
        return await abilities.store_time(self._driver)

    async def close(self) -> None:
        """Close; that is no operation on the store."""
        await self._driver.close()


class BatchingDriver(HookedDriver):
    """The same for a driver that puts a page at once, as an operation `put_many_if_absent`."""

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """Put many if absent."""
        puts: Sequence[Put] = await self._around(
            "put_many_if_absent", lambda: abilities.put_many_if_absent(self._driver, entries)
        )
        return puts


class PagedDriver(HookedDriver):
    """The same, with each page of a scan as an operation `page`, of which the last finds the end."""

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Scan, as one operation for each page."""
        async with aclosing(self._driver.scan(after=after, partition=partition, expired=expired)) as pages:
            while (page := await self._around("page", lambda: anext(pages, None))) is not None:
                yield page


class Killed(BaseException):
    """The process died here."""


def raise_killed() -> NoReturn:
    """End this process, as far as the test is concerned."""
    raise Killed


class Death:
    """
    For `HookedDriver`: a process that dies around its *at*-th operation, or the *at*-th with the name *of*.

    With *after*, the store does what it was asked, and nobody learns of it.
    """

    def __init__(
        self,
        at: int | None = None,
        *,
        of: str | None = None,
        after: bool = False,
        die: Callable[[], NoReturn] = raise_killed,
    ) -> None:
        self._at = at
        self._of = of
        self._after = after
        self._die = die
        self.operations: list[str] = []
        self.came = False
        """Whether it has died."""

    async def __call__(self, name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        """Do the operation, or die before or after it; a dead process does nothing more."""
        if self.came:
            self._die()
        self.operations.append(name)
        if self._at != self._count(name):
            return await operation()
        self.came = True
        if self._after:
            await operation()
        return self._die()

    def _count(self, name: str) -> int:
        if self._of is None:
            return len(self.operations)
        return self.operations.count(name) if name == self._of else 0


def dump(store: MemoryStore | DiskStore) -> Any:
    """Return everything that lies in *store*, byte for byte."""
    if isinstance(store, DiskStore):
        directory = Path(store._cache.directory)
        with closing(sqlite3.connect(directory / "cache.db")) as con:
            rows = con.execute("SELECT key, raw, expire_time, mode, filename, value FROM Cache").fetchall()
        return sorted(rows), {path.name: path.read_bytes() for path in sorted(directory.rglob("*.val"))}
    return {
        (collection, key): (entry.json_str, entry.expires_at)
        for collection, entries in store._cache.items()
        for key, entry in entries._cache.items()
    }


async def raw_meta(store: Any) -> Stored:
    """Return the stored vault meta."""
    value = await store.get(META_KEY, collection=META_COLLECTION)
    assert value is not None
    return value


async def put_raw_meta(store: Any, value: Mapping[str, Any]) -> None:
    """Put *value* where the vault meta is, as somebody who writes to the store could."""
    await store.put(META_KEY, value, collection=META_COLLECTION)


async def flipped(store: Any, *path: str | int) -> None:
    """Change one base64 character of the stored vault meta at *path*."""
    meta = await raw_meta(store)
    *parents, last = path
    node: Any = meta
    for step in parents:
        node = node[step]
    text = node[last]
    node[last] = ("B" if text[0] == "A" else "A") + text[1:]
    await put_raw_meta(store, meta)


async def rewrite_policy(vault: Vault, store: Any, policy: Any, *, held: Sequence[Any] = ()) -> None:
    """Give the vault in *store* another policy and wrapped legacy keys, as only a holder of its root key can."""
    from dataclasses import replace as with_fields

    root = vault.way_in().root
    driver = driver_for(store)
    entry = await driver.get(META_COLLECTION, META_KEY)
    assert entry is not None
    now = with_fields(vault._meta, policy=policy, legacy=tuple(held), revision=vault._meta.revision + 1)
    meta = now.authenticated(root)
    await replace(driver, entry, meta.as_value())
    await driver.close()
    await vault.refresh()
