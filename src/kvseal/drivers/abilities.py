"""
What some drivers can do besides, and what holds for a driver that cannot.

Each ability is a protocol with a function beside it that takes any driver.  Callers use the functions,
so no caller asks what a driver is.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from kvseal.drivers.base import Count, Written, refusal
from kvseal.errors import StoreError, UnsealableValueError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from kvseal.drivers.base import Driver, Entry, Purged, Put, Replacement, StoreTime

PUTS_AT_ONCE: Final = 16
"""Entries that are put concurrently where a driver puts them one by one."""


@runtime_checkable
class HidesNames(Protocol):
    """A driver that cannot give every name back, and can say where a name would lead."""

    @property
    def loses_names(self) -> bool:
        """
        Whether a name may not come back from where its entry is kept, so that kvseal's records carry it.

        Fixed by the store and its strategies, whatever is stored; `Landing.loses_names` of the store agrees.
        """
        ...

    def proves(self, entry: Entry, key: str) -> bool:
        """Whether *key* is stored where *entry* is, in its collection if that is known; reads nothing."""
        ...

    def place(self, collection: str, key: str) -> Hashable | None:
        """Return the `locator` of an entry of these names, `None` where they lead to none; reads nothing."""
        ...


@runtime_checkable
class KeepsPaths(Protocol):
    """A driver whose `put_if_absent` takes entries with a `path` in place of names."""

    async def get_at(self, entry: Entry) -> Entry | None:
        """
        Return what is stored where *entry*, which has a `path`, would be put.

        Raises:
            StoreError: this store would find another name for what is stored there.
        """
        ...


@runtime_checkable
class PutsMany(Protocol):
    """A driver that stores a page of new entries in far less time than one by one."""

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """
        Do for *entries* what `put_if_absent` does, in order: of two with the same names the first is stored.

        The result says, in order, what became of each.  If the backend refuses one and does not say which,
        the error is raised, and nothing was stored.
        """
        ...


@runtime_checkable
class Counts(Protocol):
    """A driver that knows a faster way to count than to scan."""

    async def count(self) -> Count:
        """Return how many live entries there are, and whether that is exact."""
        ...


@runtime_checkable
class Purges(Protocol):
    """A driver whose backend keeps overwritten values, or certainly keeps none."""

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """
        Do what the backend must do so that its files hold no value that was overwritten or deleted.

        No entry is changed, and nothing is lost of what others write meanwhile.  The answer says what the
        backend cannot do.  With *dry_run* it looks, and changes nothing.
        """
        ...


@runtime_checkable
class KnowsTime(Protocol):
    """A driver that can ask the backend's own clock."""

    async def store_time(self) -> StoreTime | None:
        """Return what it says; `None` from a driver around another one that cannot."""
        ...


@runtime_checkable
class Replicates(Protocol):
    """A driver whose server may have replicas, which can be asked whether they have what was written."""

    async def replace_confirmed(self, replacement: Replacement) -> Written:
        """Do what `replace_many` does with one, and wait for the replicas, within a bound."""
        ...

    async def put_confirmed(self, entry: Entry) -> Written:
        """Do what `put_if_absent` does, and wait for the replicas, within a bound."""
        ...


@runtime_checkable
class Charges(Protocol):
    """A driver whose backend is paid by what is read and written, and which can say how much that is."""

    def units_of_scan(self, entries: Sequence[Entry]) -> int:
        """Return the units that a scan takes for a page of *entries*."""
        ...

    def units_of_writes(self, replacements: Sequence[Replacement]) -> int:
        """Return the units of *replacements*; raises as `replace_many` does for one that cannot be stored."""
        ...


@runtime_checkable
class WaitsForLocks(Protocol):
    """A driver whose operations may have to wait until another process lets go of a lock."""

    def wait_at_most(self, seconds: float) -> None:
        """Wait no longer than that, from the next connection on; called before the first operation."""
        ...


def wait_at_most(driver: Driver, seconds: float) -> None:
    """Let no operation of *driver* wait longer than *seconds* for another process' lock."""
    if isinstance(driver, WaitsForLocks):
        driver.wait_at_most(seconds)


def proves(driver: Driver, entry: Entry, key: str) -> bool:
    """
    Whether *key* is stored where *entry* is: in its collection, where that is known.

    This makes a claimed name acceptable where the backend cannot give one back.
    """
    return driver.proves(entry, key) if isinstance(driver, HidesNames) else entry.key == key


def leads(driver: Driver, entry: Entry, collection: str, key: str) -> bool:
    """Whether these names are stored in the very place where *entry* is, and are no others than it has."""
    if entry.collection not in {None, collection} or entry.key not in {None, key}:
        return False
    return proves(driver, replace(entry, collection=collection), key)


def loses_names(driver: Driver) -> bool:
    """Whether what is stored may not say whose it is, so that a record has to carry its names."""
    return isinstance(driver, HidesNames) and driver.loses_names


def place(driver: Driver, collection: str, key: str) -> Hashable | None:
    """Return the `locator` of an entry of these names; `None` where the driver gives all names back."""
    return driver.place(collection, key) if isinstance(driver, HidesNames) else None


async def in_place_of(driver: Driver, entry: Entry) -> Entry | None:
    """Return what *driver* has where *entry* would be put; raises `StoreError` if it cannot hold it."""
    if entry.collection is not None and entry.key is not None:
        return await driver.get(entry.collection, entry.key)
    if isinstance(driver, KeepsPaths) and entry.path is not None:
        return await driver.get_at(entry)
    msg = "its name is not known, so only a file tree store can hold it"
    hint = "restore --names-inside, if its record carries its name; or backup --manifest"
    raise StoreError(msg, hint=hint)


async def put_many_if_absent(driver: Driver, entries: Sequence[Entry]) -> Sequence[Put]:
    """
    Put each of *entries* if it is absent, and return, in order, what became of each.

    After a crash some may be stored and others not; a call with the same entries stores the others.

    Raises:
        StoreUnreachableError, StoreNotFoundError: the backend failed; some may be stored.
    """
    if len(entries) < 2 or not isinstance(driver, PutsMany):  # noqa: PLR2004
        return await _put_each(driver, entries)
    try:
        return await driver.put_many_if_absent(entries)
    except (StoreError, UnsealableValueError) as exc:
        refusal(exc)
    half = len(entries) // 2
    first = await put_many_if_absent(driver, entries[:half])
    return [*first, *await put_many_if_absent(driver, entries[half:])]


async def _put_each(driver: Driver, entries: Sequence[Entry]) -> list[Put]:
    """Put *entries* a few at a time; the first error of the store stops those under way."""
    puts: list[Put] = []
    for group in _groups(entries):
        tasks = [asyncio.create_task(_put(driver, entry)) for entry in group]
        try:
            puts += await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return puts


def _groups(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Yield *entries* in order, a few at a time; two with the same names are never put at once."""
    group: dict[object, Entry] = {}
    for entry in entries:
        names = (entry.collection, entry.key, entry.path)
        if names in group or len(group) == PUTS_AT_ONCE:
            yield list(group.values())
            group = {}
        group[names] = entry
    if group:
        yield list(group.values())


async def _put(driver: Driver, entry: Entry) -> Put:
    try:
        return await driver.put_if_absent(entry)
    except (StoreError, UnsealableValueError) as exc:
        return refusal(exc)


async def count(driver: Driver) -> Count:
    """Return how many live entries there are, and whether that is exact; if need be by a scan."""
    if isinstance(driver, Counts):
        return await driver.count()
    total = 0
    async for page in driver.scan():
        total += len(page.entries)
    return Count(total, exact=driver.capabilities.sees_all)


async def purge(driver: Driver, *, dry_run: bool = False) -> Purged:
    """
    Let the backend do what it must so that overwritten values are gone, as `Purges` says.

    Raises:
        UnsupportedStoreError: the driver does not know what its backend keeps.
    """
    if isinstance(driver, Purges):
        return await driver.purge(dry_run=dry_run)
    msg = f"{driver.location}: only the store's own tools can remove what it keeps of overwritten values"
    raise UnsupportedStoreError(
        msg, hint="or move: vaultctl backup, vaultctl restore into a new store, and delete the old one"
    )


async def replace_confirmed(driver: Driver, replacement: Replacement) -> Written:
    """Replace one entry, and say what speaks against its lasting where the driver can find out."""
    if isinstance(driver, Replicates):
        return await driver.replace_confirmed(replacement)
    (done,) = await driver.replace_many([replacement])
    return Written(done)


async def put_confirmed(driver: Driver, entry: Entry) -> Written:
    """Put *entry* if absent, and say what speaks against its lasting where the driver can find out."""
    if isinstance(driver, Replicates):
        return await driver.put_confirmed(entry)
    return Written(await driver.put_if_absent(entry))


async def store_time(driver: Driver) -> StoreTime | None:
    """Return what the backend's own clock says; `None` where it cannot be known."""
    return await driver.store_time() if isinstance(driver, KnowsTime) else None
