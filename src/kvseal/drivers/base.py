"""
One backend seen as raw entries: walk them all, replace one if unchanged, put one if absent.

A driver serves a py-key-value store exactly as its backend holds it:
the application goes on reading and writing through its own store object, and
the driver works beside it.  Drivers know names, values, times and stored bytes,
and nothing about encryption.

The rules that every driver follows, and that `tests/drivers/contract.py` checks:

* `scan` yields every entry that lives throughout the scan at least once, in
  bounded memory, however many writers are active; and it ends, however fast they write.
* A write never happens unless the backend still holds exactly `Entry.stored`.
* `replace` keeps creation time, expiry and native time to live unless asked to change the expiry.
* What cannot be read is yielded with a `problem`, never skipped and never changed.
* Nothing read from the backend is executed, unpickled or followed out of the store.
* After `purge` no file of the store holds what was overwritten before, or it says that one may.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, runtime_checkable

from typing_extensions import ParamSpec

from kvseal import clock
from kvseal.concurrency import in_thread
from kvseal.errors import (
    Conflict,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsealableValueError,
)
from kvseal.observe.events import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from datetime import datetime
    from typing import TypeAlias

    Refusal: TypeAlias = StoreError | UnsealableValueError
    """Why a store cannot hold one entry; it holds others."""
    Put: TypeAlias = bool | Refusal
    """What became of one entry of a batch: whether it was stored, or why the store cannot hold it."""

P = ParamSpec("P")
T = TypeVar("T")

PAGE_SIZE: Final = 512
"""Entries in one page of a scan: the most that a scan holds in memory."""

PAGE_BYTES: Final = 8 * 2**20
"""A page ends with the entry that takes it past this many bytes, so a scan holds no more than about this."""


class _Keep:
    """The type of `KEEP`."""

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final = _Keep()
"""In `Replacement.expires_at`: leave expiry and native time to live as they are."""


class Times(Enum):
    """How exactly a backend keeps the creation time and the expiry of an entry."""

    EXACT = "to the microsecond"
    """As they are given: what is restored or copied has the times that it had."""
    MILLISECONDS = "to the millisecond"
    """Creation times are rounded down, so nothing looks newer; expiries up, so nothing ends early."""
    LOST = "not at all"
    """There is no creation time, and an expiry drifts with each write."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can promise; read it instead of probing for methods."""

    atomic_replace: bool
    """`replace` is one step for every writer: other processes, other threads, and the store object itself."""
    evicts: bool
    """The store drops live entries when it is full, or does not say whether it does: see `conceals`."""
    conceals: str = ""
    """Why that is not known, where it is not."""
    lasting: bool = True
    """What is stored outlives the process that opened the store."""
    sees_all: bool = True
    """A scan yields every live entry, rather than those that a manifest names."""
    one_writer: bool = False
    """One process writes at a time, or has the store open: several that share a recode would only wait."""
    keeps_time: bool = False
    """The backend has a clock of its own, which its processes share; otherwise it has that of this host."""
    reads_lag: float = 0.0
    """Seconds for which the store's own reads may still return what was replaced; a driver's do not."""
    times: Times = Times.EXACT
    """How exactly creation times and expiries are kept."""


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One stored entry.

    `collection` and `key` are the logical names at the base store, `None` where the
    backend cannot give them back.  `value` is the stored mapping, `None` where `problem`
    says why it cannot be read.  Times are aware UTC.  `locator` and `stored` are the
    driver's own: the place of the entry, and the exact bytes that a write compares.
    `path` is the place of an entry without both names, in this store and in a copy of it.  With
    `names_inside` the value itself says its names to those who can open it, so that a store which does not
    keep them gets none beside it.
    """

    collection: str | None
    key: str | None
    value: Mapping[str, Any] | None = field(repr=False)
    created_at: datetime | None = None
    expires_at: datetime | None = None
    locator: Any = field(default=None, repr=False)
    stored: bytes = field(default=b"", repr=False)
    problem: str = ""
    path: str | None = None
    names_inside: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in scan order; a scan given `after=cursor` goes on behind them."""

    entries: Sequence[Entry]
    cursor: str


@dataclass(frozen=True, slots=True)
class Replacement:
    """
    *value* for *entry*, if the backend still holds *entry* as it was read.

    `names_inside` is that of the entry to be: see `Entry`.
    """

    entry: Entry
    value: Mapping[str, Any] = field(repr=False)
    expires_at: datetime | _Keep | None = KEEP
    names_inside: bool = False


@dataclass(frozen=True, slots=True)
class Count:
    """How many entries a store holds."""

    entries: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Purged:
    """
    What was done so that overwritten values are gone, or with a dry run would be.

    `done` is what the backend did, `left` what no driver reaches and the operator has to see to.
    """

    done: tuple[str, ...]
    left: tuple[str, ...] = ()
    complete: bool = True
    """No file of the store itself holds what was overwritten before; with a dry run, none would."""
    halts: str = ""
    """What it keeps waiting while it runs, for the operator who is asked to agree."""


@dataclass(frozen=True, slots=True)
class Written:
    """Whether a write was done, and if so what speaks against its lasting, in words."""

    done: bool
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class StoreTime:
    """What the backend's own clock said, at some moment between two readings of `clock.monotonic()`."""

    at: datetime
    before: float
    after: float
    step: float = 0.0
    """That clock rounds down: it was ahead of `at` by less than so many seconds."""


class OnThisMachine:
    """What drivers of files and memory inherit: the clock of their backend is this machine's."""

    async def store_time(self) -> StoreTime:
        """Return what time it is."""
        before = clock.monotonic()
        return StoreTime(clock.utc_now(), before, clock.monotonic())


GRACE: Final = 3600.0
"""Seconds for which a purge leaves a file that a writer may be about to name: each gives up long before."""

FILE_SYSTEM: Final = (
    "file system snapshots and backups, and the blocks of deleted files, which a file system or an SSD"
    " may keep: delete the former, and rely on disk encryption for the latter"
)
"""In `Purged.left`, of every store whose files this machine keeps."""


@runtime_checkable
class Driver(Protocol):
    """
    One backend seen as raw entries: what every driver has.

    `kvseal.drivers.abilities` has what some can do besides.  Every method may raise `StoreError`.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can promise; what only the backend knows is the worst case until it was asked."""
        ...

    @property
    def location(self) -> str:
        """Where the store is, for messages: never with a password in it."""
        ...

    def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """
        Yield every live entry at least once, in pages of at most `PAGE_SIZE`, even if writers are active.

        *after* is the cursor of a page already seen.  *partition* `(i, n)` yields the
        i-th of n disjoint parts that together are the whole.  With *expired* it yields every entry that
        the backend still holds, whatever any clock says, each with its expiry: a proof or a backup that
        went by this process's clock would miss what is live by another one.
        """
        ...

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the raw entry: `None` only if the backend says that it does not exist or has expired."""
        ...

    async def put_if_absent(self, entry: Entry) -> bool:
        """
        Store *entry* with its own names, value, creation time and expiry, unless a live entry has its names.

        Atomic: of any number of callers, one gets `True`.  An expired entry does not count as present.
        """
        ...

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """
        Store each value whose entry is unchanged; the result says, in order, which were.

        Names, creation time and (with `KEEP`) expiry and native time to live stay exactly as they were.
        An entry that has expired since is no longer what was read.  An entry with a problem raises
        `StoreError` before anything is written.
        """
        ...

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete *entry* if the backend still holds it as it was read."""
        ...

    async def close(self) -> None:
        """Release what the driver itself opened; the application's own store stays open."""
        ...


def next_page(entries: Iterator[Entry]) -> list[Entry]:
    """Take the entries of one page from *entries*; none at the end."""
    page: list[Entry] = []
    held = 0
    for entry in islice(entries, PAGE_SIZE):
        page.append(entry)
        held += len(entry.stored)
        if held >= PAGE_BYTES:
            break
    return page


def is_in(partition: tuple[int, int], name: bytes) -> bool:
    """Whether what is stored under *name* is in *partition*, of a backend that has no hash of its own."""
    part, parts = partition
    return parts == 1 or zlib.crc32(name) % parts == part


def has_expired(expires_at: datetime | None) -> bool:
    """Whether a store reads an entry with this expiry as missing, though the backend may still hold it."""
    return expires_at is not None and expires_at <= clock.utc_now()


def closed(location: str) -> StoreError:
    """Return the error of a driver that is used after it was closed."""
    return StoreError(f"the driver of {location} is closed", hint="ask for a new one")


async def on_disk(location: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call *function*, which works on files, in a thread; what the operating system raises is translated."""
    try:
        return await in_thread(function, *args, **kwargs)
    except OSError as exc:
        msg = f"{location}: {exc}"
        raise StoreUnreachableError(msg, hint="check the free space and the permissions there") from exc


def failure_of(entry: Entry, reason: str) -> Failure:
    """Return the failure of *entry*: by its place, where the store does not show its names."""
    where = "" if entry.path is None else f" ({entry.path})"
    names = (None, None) if entry.names_inside else (entry.collection, entry.key)
    return Failure(*names, f"{reason}{where}")


def refuse_problems(replacements: Sequence[Replacement]) -> None:
    """Raise `StoreError` if any entry in *replacements* cannot be read."""
    for replacement in replacements:
        refuse_problem(replacement.entry)


def refuse_problem(entry: Entry) -> None:
    """Raise `StoreError` if *entry* cannot be read: such an entry must not be changed."""
    if entry.problem:
        msg = f"an entry that cannot be read is never changed: {entry.problem}"
        raise StoreError(msg, hint="look at it with the store's own tools, and remove it there")


def prepared(entries: Sequence[Entry], prepare: Callable[[Entry], T]) -> tuple[list[Put], dict[int, T]]:
    """
    Return what *prepare* makes of each of *entries*, by its number, and a list for what becomes of them.

    An entry that *prepare* refuses has its error there, and every other one `False` so far.
    """
    puts: list[Put] = [False] * len(entries)
    made: dict[int, T] = {}
    for number, entry in enumerate(entries):
        try:
            made[number] = prepare(entry)
        except (StoreError, UnsealableValueError) as exc:
            puts[number] = refusal(exc)
    return puts, made


def refusal(error: Refusal) -> Refusal:
    """Return *error* if it is about one entry; raise it if it is about the store."""
    if isinstance(error, StoreUnreachableError | StoreNotFoundError):
        raise error
    return error


def content(entry: Entry) -> tuple[str, str, Mapping[str, Any]]:
    """Return collection, key and value; raises `StoreError` if *entry* lacks one, for it cannot be stored."""
    if entry.collection is None or entry.key is None or entry.value is None:
        msg = "an entry without names or without a value cannot be stored"
        raise StoreError(msg)
    return entry.collection, entry.key, entry.value


async def replace(driver: Driver, entry: Entry, value: Mapping[str, Any]) -> None:
    """
    Store *value* for *entry*, keeping its times.

    Raises:
        Conflict: another writer was faster; re-read and decide again.
    """
    (done,) = await driver.replace_many([Replacement(entry, value)])
    if not done:
        msg = f"{entry.collection!r}/{entry.key!r} was changed by another writer"
        raise Conflict(msg, hint="read it again and decide again")
