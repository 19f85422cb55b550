"""
The two ways in which a recode writes: in place by compare-and-swap, or copies into another store.

Whoever loses a swap to a live writer reads again and decides again.  Both count what they do in
the tally of the page they are given, and neither changes what it cannot open.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from kvseal import exact_json
from kvseal.drivers.abilities import proves
from kvseal.drivers.base import Entry, Replacement, _Keep
from kvseal.errors import (
    RecodeError,
    RecordError,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsealableValueError,
)
from kvseal.observe.events import Failure
from kvseal.recoding.decision import Change, Leave, decide, decide_copy, is_done

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.drivers.base import Driver
    from kvseal.observe.events import Listener
    from kvseal.recoding.decision import Decision
    from kvseal.recoding.plan import Plan
    from kvseal.recoding.report import Tally

_ATTEMPTS: Final = 16
"""An entry that changes under so many swaps in a row is reported, not chased for ever."""

_COPIES_AT_A_TIME: Final = 8


class Writing(Protocol):
    """Where the recoded entries go."""

    @property
    def written(self) -> Driver:
        """The driver of the store that is written."""
        ...

    def decide(self, entry: Entry) -> Decision:
        """Decide what becomes of *entry*; in any thread."""
        ...

    async def write(self, changes: Sequence[Change], tally: Tally) -> None:
        """Write *changes*, or with a dry run find out what would be written."""
        ...

    def is_to_verify(self, entry: Entry) -> bool:
        """Whether the verify pass is to open *entry*: not what this run has opened in vain already."""
        ...


class InPlace:
    """Each entry is replaced where it lies, if it still is what was read."""

    def __init__(self, driver: Driver, plan: Plan, listener: Listener) -> None:
        self.written = driver
        self._plan = plan
        self._listener = listener

    def decide(self, entry: Entry) -> Decision:
        """Leave what is done by its header."""
        return decide(entry, self._plan, partial(proves, self.written))

    async def write(self, changes: Sequence[Change], tally: Tally) -> None:
        """Swap; what a live writer changed meanwhile is read and decided again."""
        if self._plan.dry_run:
            tally.changed += len(changes)
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
            reason = f"other writers changed it {_ATTEMPTS} times in a row; run again"
            fail(Failure(change.entry.collection, change.entry.key, reason), tally, self._listener)

    def is_to_verify(self, entry: Entry) -> bool:
        """Whether *entry* is done by its header."""
        return is_done(entry, self._plan)

    async def _replace(self, changes: Sequence[Change], tally: Tally) -> list[tuple[Change, bool]]:
        """Swap as one batch; where the store cannot hold one of the values, that one alone fails."""
        try:
            swapped = await self.written.replace_many(
                [Replacement(c.entry, c.value, c.expires_at) for c in changes]
            )
        except UnsealableValueError as exc:
            if len(changes) == 1:
                entry = changes[0].entry
                reason = f"{type(exc).__name__}: {exc.message}"
                fail(Failure(entry.collection, entry.key, reason), tally, self._listener)
                return []
            half = len(changes) // 2
            first = await self._replace(changes[:half], tally)
            return [*first, *await self._replace(changes[half:], tally)]
        return list(zip(changes, swapped, strict=True))

    async def _again(self, lost: Sequence[Change], tally: Tally) -> list[Change]:
        decisions: list[Decision] = []
        for change in lost:
            entry = await self.written.get(change.entry.collection or "", change.entry.key or "")
            # Deleted or expired since it was scanned: there is nothing left to do for it.
            decisions.append(Leave.SKIPPED if entry is None else self.decide(entry))
        return book(decisions, tally, self._listener)


class Copies:
    """Each entry is put into another store with its own times, unless a previous run already did."""

    def __init__(self, driver: Driver, destination: Driver, plan: Plan, listener: Listener) -> None:
        self.written = destination
        self._driver = driver
        self._plan = plan
        self._listener = listener
        self._unreadable: set[tuple[str | None, str | None]] = set()

    def decide(self, entry: Entry) -> Decision:
        """Take along what is sealed already, too."""
        return decide_copy(entry, self._plan, partial(proves, self._driver))

    async def write(self, changes: Sequence[Change], tally: Tally) -> None:
        """Copy a few at a time: putting if absent has no batched form."""
        for start in range(0, len(changes), _COPIES_AT_A_TIME):
            few = changes[start : start + _COPIES_AT_A_TIME]
            await asyncio.gather(*(self._copy(change, tally) for change in few))

    def is_to_verify(self, entry: Entry) -> bool:
        """Whether *entry* is of the target's format and has not failed already."""
        names = (entry.collection, entry.key)
        return self._plan.target.recognises(entry.value or {}) and names not in self._unreadable

    async def _copy(self, change: Change, tally: Tally) -> None:
        entry = change.entry
        expires_at = entry.expires_at if isinstance(change.expires_at, _Keep) else change.expires_at
        copy = Entry(entry.collection, entry.key, change.value, entry.created_at, expires_at)
        try:
            if not self._plan.dry_run and await self.written.put_if_absent(copy):
                tally.changed += 1
                return
        except (StoreUnreachableError, StoreNotFoundError):
            raise
        except (StoreError, UnsealableValueError) as exc:
            # A name or a value that the other store cannot hold.
            reason = f"{type(exc).__name__}: {exc.message}"
            fail(Failure(entry.collection, entry.key, reason), tally, self._listener)
            return
        there = await self.written.get(entry.collection or "", entry.key or "")
        if there is not None:
            _refuse_same(entry, there, self.written)
            self._compare(copy, there, tally)
        elif self._plan.dry_run:
            tally.changed += 1
        else:
            # Deleted between the two looks: what the other store's own writers do counts.
            tally.skipped += 1

    def _compare(self, copy: Entry, there: Entry, tally: Tally) -> None:
        """Leave what the other store holds, but never take an older value there for a finished copy."""
        reason = ""
        if there.value is None or not self._plan.target.recognises(there.value):
            reason = "the other store holds something else under this name"
        else:
            try:
                if not self._is_same(copy, there) and not _is_newer(there, copy):
                    reason = "the other store holds another value under this name, and no newer one"
            except RecordError as exc:
                self._unreadable.add((copy.collection, copy.key))
                reason = f"the other store's record does not open: {type(exc).__name__}: {exc.message}"
        if reason:
            fail(Failure(copy.collection, copy.key, reason), tally, self._listener)
        else:
            tally.already += 1

    def _is_same(self, copy: Entry, there: Entry) -> bool:
        ours, theirs = (self._plan.target.open(entry)[0] for entry in (copy, there))
        # As text, because NaN is not equal to itself.
        return exact_json.dumps(ours) == exact_json.dumps(theirs)


def book(decisions: Sequence[Decision], tally: Tally, listener: Listener) -> list[Change]:
    """Count what is left alone and what fails, and return what is to be written."""
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
    """Count *failure*, and tell the listener at once."""
    tally.fail(failure)
    listener(failure)


def _refuse_same(entry: Entry, there: Entry, written: Driver) -> None:
    """Raise where the copy is about to meet its original: to the byte, in the same place."""
    if entry.stored and (entry.stored, entry.locator) == (there.stored, there.locator):
        msg = f"{written.location} is the very store that is read, under another name"
        raise RecodeError(msg, hint="leave --to out to change it in place")


def _is_newer(there: Entry, copy: Entry) -> bool:
    """Whether *there* is younger than the entry that *copy* is of: the application has moved on."""
    return there.created_at is not None and copy.created_at is not None and there.created_at > copy.created_at
