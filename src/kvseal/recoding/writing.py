"""
The two ways in which a recode writes: in place by compare-and-swap, or copies into another store.

A run that loses a swap to a live writer reads and decides again.  Both ways count in the tally of
the page that they are given, and neither changes an entry that it cannot open.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from kvseal import exact_json
from kvseal.drivers.abilities import leads, place, put_many_if_absent
from kvseal.drivers.base import Entry, Replacement, _Keep, failure_of
from kvseal.envelope.stored import has_names_inside
from kvseal.errors import (
    RecodeError,
    RecordError,
    UnsealableValueError,
)
from kvseal.observe.events import Failure
from kvseal.recoding.decision import Change, Leave, decide, decide_copy, is_done
from kvseal.recoding.units import Meter

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from kvseal.drivers.base import Driver, Put
    from kvseal.observe.events import Listener
    from kvseal.recoding.decision import Decision
    from kvseal.recoding.plan import Plan
    from kvseal.recoding.report import Tally

_ATTEMPTS: Final = 16
"""After this many lost swaps in a row an entry is reported as a failure."""

_LOOKS_AT_ONCE: Final = 8


class Writing(Protocol):
    """How and where recoded entries are written."""

    @property
    def written(self) -> Driver:
        """The driver of the store that is written."""
        ...

    def decide(self, entry: Entry) -> Decision:
        """Decide what to do with *entry*; in any thread."""
        ...

    async def write(self, changes: Sequence[Change], tally: Tally) -> None:
        """Write *changes*, or in a dry run find out what would be written."""
        ...

    def is_to_verify(self, entry: Entry) -> bool:
        """Whether the verify pass has to open *entry*: not if this run has failed to open it already."""
        ...

    @property
    def meter(self) -> Meter | None:
        """What adds up the units that a run would take, in a dry run of a recode in place."""
        ...


class InPlace:
    """Each entry is replaced in place, if the store still holds what was read."""

    def __init__(self, driver: Driver, plan: Plan, listener: Listener) -> None:
        self.written = driver
        self.meter = Meter(driver) if plan.dry_run else None
        self._plan = plan
        self._listener = listener

    def decide(self, entry: Entry) -> Decision:
        """Leave an entry that is done, judged by its header."""
        return decide(entry, self._plan, partial(leads, self.written))

    async def write(self, changes: Sequence[Change], tally: Tally) -> None:
        """Swap; an entry that a live writer changed meanwhile is read and decided again."""
        if self.meter is not None:
            for change in changes:
                self._weigh(change, self.meter, tally)
            return
        for _ in range(_ATTEMPTS):
            if not changes:
                return
            swapped = await self._replace(changes, tally)
            tally.changed += sum(done for _, done in swapped)
            lost = [change for change, done in swapped if not done]
            tally.conflicts += len(lost)
            changes = await self._again(lost, tally)
        for change in changes:
            reason = f"other processes changed it {_ATTEMPTS} times in a row; run again"
            fail(failure_of(change.entry, reason), tally, self._listener)

    def is_to_verify(self, entry: Entry) -> bool:
        """Whether *entry* is done, judged by its header."""
        return is_done(entry, self._plan)

    async def _replace(self, changes: Sequence[Change], tally: Tally) -> list[tuple[Change, bool]]:
        """Swap as one batch; if the store cannot hold one of the values, only that entry fails."""
        try:
            swapped = await self.written.replace_many([_replacement(change) for change in changes])
        except UnsealableValueError as exc:
            if len(changes) == 1:
                self._refused(changes[0].entry, exc, tally)
                return []
            half = len(changes) // 2
            first = await self._replace(changes[:half], tally)
            return [*first, *await self._replace(changes[half:], tally)]
        return list(zip(changes, swapped, strict=True))

    def _weigh(self, change: Change, meter: Meter, tally: Tally) -> None:
        """Count *change*, which is not made, and what it would take; or that the store cannot hold it."""
        try:
            meter.would_write([_replacement(change)])
        except UnsealableValueError as exc:
            self._refused(change.entry, exc, tally)
        else:
            tally.changed += 1

    def _refused(self, entry: Entry, exc: UnsealableValueError, tally: Tally) -> None:
        reason = f"{type(exc).__name__}: {exc.message}"
        fail(failure_of(entry, reason), tally, self._listener)

    async def _again(self, lost: Sequence[Change], tally: Tally) -> list[Change]:
        decisions: list[Decision] = []
        for change in lost:
            was = change.entry
            entry = await self.written.get(was.collection or "", was.key or "")
            if entry is not None and was.names_inside:
                # The names are known from the record alone, so a failure still goes by the place.
                entry = replace(entry, names_inside=True, path=was.path)
            # The entry was deleted or has expired since it was scanned.
            decisions.append(Leave.SKIPPED if entry is None else self.decide(entry))
        return book(decisions, tally, self._listener)


class Copies:
    """Each entry is put into another store with its own times, unless an earlier run has done so."""

    meter: Meter | None = None

    def __init__(self, driver: Driver, destination: Driver, plan: Plan, listener: Listener) -> None:
        self.written = destination
        self._driver = driver
        self._plan = plan
        self._listener = listener
        self._unreadable: set[Hashable] = set()

    def decide(self, entry: Entry) -> Decision:
        """Decide; sealed entries are copied too."""
        return decide_copy(entry, self._plan, partial(leads, self._driver))

    async def write(self, changes: Sequence[Change], tally: Tally) -> None:
        """Put what is absent as one batch, and look at what is there already a few at a time."""
        copies = [_copy_of(change) for change in changes]
        puts: Sequence[Put] = [False] * len(copies)
        if not self._plan.dry_run:
            puts = await put_many_if_absent(self.written, copies)
        beside = []
        for change, copy, put in zip(changes, copies, puts, strict=True):
            if put is True:
                tally.changed += 1
            elif put is False:
                beside.append((change.entry, copy))
            else:
                # The other store cannot hold the name or the value.
                reason = f"{type(put).__name__}: {put.message}"
                fail(failure_of(change.entry, reason), tally, self._listener)
        for start in range(0, len(beside), _LOOKS_AT_ONCE):
            few = beside[start : start + _LOOKS_AT_ONCE]
            await asyncio.gather(*(self._look(entry, copy, tally) for entry, copy in few))

    def is_to_verify(self, entry: Entry) -> bool:
        """Whether *entry* has the target's format and has not failed already."""
        is_target = self._plan.target.recognises(entry.value or {})
        return is_target and _place_of(self.written, entry) not in self._unreadable

    async def _look(self, entry: Entry, copy: Entry, tally: Tally) -> None:
        """Count *copy*, which was not put, by what is there in its place."""
        there = await self.written.get(entry.collection or "", entry.key or "")
        if there is not None:
            _refuse_same(entry, there, self.written)
            self._compare(entry, copy, there, tally)
        elif self._plan.dry_run:
            tally.changed += 1
        else:
            # Deleted between the two reads: the writers of the other store take precedence.
            tally.skipped += 1

    def _compare(self, entry: Entry, copy: Entry, there: Entry, tally: Tally) -> None:
        """Leave the other store's entry, but do not count an older value there as a finished copy."""
        reason = ""
        if there.value is None or not self._plan.target.recognises(there.value):
            reason = "the other store holds an entry of another format under this name"
        else:
            try:
                if not self._is_same(copy, there) and not _is_newer(there, copy):
                    reason = "the other store holds another value under this name, and it is not newer"
            except RecordError as exc:
                self._unreadable.add(_place_of(self.written, copy))
                reason = f"the other store's record does not open: {type(exc).__name__}: {exc.message}"
        if reason:
            fail(failure_of(entry, reason), tally, self._listener)
        else:
            tally.already += 1

    def _is_same(self, copy: Entry, there: Entry) -> bool:
        ours, theirs = (self._plan.target.open(entry)[0] for entry in (copy, there))
        return exact_json.same(ours, theirs)


def _place_of(driver: Driver, entry: Entry) -> Hashable:
    """Return the place of *entry* in *driver*'s store: that of its names, or where it was read."""
    if entry.collection is None or entry.key is None:
        where: Hashable = entry.locator
        return where
    names = (entry.collection, entry.key)
    found = place(driver, *names)
    return names if found is None else found


def _replacement(change: Change) -> Replacement:
    inside = has_names_inside(change.value)
    return Replacement(change.entry, change.value, change.expires_at, names_inside=inside)


def _copy_of(change: Change) -> Entry:
    entry = change.entry
    expires_at = entry.expires_at if isinstance(change.expires_at, _Keep) else change.expires_at
    return Entry(
        entry.collection,
        entry.key,
        change.value,
        entry.created_at,
        expires_at,
        names_inside=has_names_inside(change.value),
    )


def book(decisions: Sequence[Decision], tally: Tally, listener: Listener) -> list[Change]:
    """Count entries that stay and entries that fail, and return the changes to write."""
    changes = []
    for decision in decisions:
        if isinstance(decision, Change):
            changes.append(decision)
        elif isinstance(decision, Failure):
            fail(decision, tally, listener)
        elif decision is Leave.ALREADY:
            tally.already += 1
        else:
            tally.skipped += 1
    return changes


def fail(failure: Failure, tally: Tally, listener: Listener) -> None:
    """Count *failure*, and pass it to the listener at once."""
    tally.fail(failure)
    listener(failure)


def _refuse_same(entry: Entry, there: Entry, written: Driver) -> None:
    """Raise if the copy would meet its original: the same bytes in the same place."""
    if entry.stored and (entry.stored, entry.locator) == (there.stored, there.locator):
        msg = f"{written.location} is the store that is read, under another name"
        raise RecodeError(msg, hint="omit --to to change it in place")


def _is_newer(there: Entry, copy: Entry) -> bool:
    """Whether *there* is newer than the original of *copy*, because the application has written it since."""
    return there.created_at is not None and copy.created_at is not None and there.created_at > copy.created_at
