"""
The recode engine: scan, classify, open, seal, compare-and-swap.

Migration, re-encryption and rollback are all this.  It can be stopped at any
moment and run again, because the header of a record says whether it is done.
Live writers are safe, because a swap succeeds only where the backend still
holds what was read; whoever loses reads again and decides again.  What cannot
be opened is never changed and never deleted, but named.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from kvseal import exact_json
from kvseal.drivers.base import Entry, Replacement
from kvseal.errors import RecordError, UnsealableValueError
from kvseal.keys.meta import COLLECTION as META_COLLECTION
from kvseal.metastore import driver_of
from kvseal.recode.decision import Change, Leave, decide, decide_copy, is_done
from kvseal.recode.events import Failure, Progress, ignore
from kvseal.recode.report import FAILURES_KEPT, Report, Tally
from kvseal.recode.verify import take_census

if TYPE_CHECKING:
    from collections.abc import Sequence

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver, Page
    from kvseal.recode.decision import Decision
    from kvseal.recode.events import Listener
    from kvseal.recode.plan import Plan
    from kvseal.recode.verify import Census

PAGES_IN_FLIGHT: Final = 3
"""Pages that are opened, sealed and swapped while the next one is read."""

_ATTEMPTS: Final = 16
"""An entry that changes under so many swaps in a row is reported, not chased for ever."""


async def recode(
    store: AsyncKeyValue | Driver,
    plan: Plan,
    *,
    to: AsyncKeyValue | Driver | None = None,
    total: int | None = None,
    listener: Listener = ignore,
) -> Report:
    """
    Bring every entry of *store* into the format of *plan*'s target, in place or as copies in the store *to*.

    Names, creation times and expiries stay exactly as they are.  *total* is for progress.
    Survey the store first: see `survey`.

    Raises:
        StoreError: the backend failed; run it again to go on where it stopped.
    """
    driver, destination = driver_of(store), None if to is None else driver_of(to)
    run = _Run(plan, driver, destination, total=total, listener=listener)
    started = time.monotonic()
    try:
        await run.all_pages()
        census = None
        if plan.verify and not plan.dry_run:
            census = await take_census(
                destination or driver, plan.known, opens=run.is_to_verify, listener=listener
            )
    finally:
        await _close_own(store, driver)
        if to is not None and destination is not None:
            await _close_own(to, destination)
    return run.report(census, time.monotonic() - started)


class _Run:
    def __init__(
        self, plan: Plan, driver: Driver, destination: Driver | None, *, total: int | None, listener: Listener
    ) -> None:
        self.tally = Tally()
        self._plan = plan
        self._driver = driver
        self._destination = destination
        self._total = total
        self._listener = listener
        self._started = time.monotonic()
        self._unreadable_there: set[tuple[str | None, str | None]] = set()

    async def all_pages(self) -> None:
        """Recode page after page, a few at a time; the first error stops them all."""
        running: set[asyncio.Task[None]] = set()
        done: set[asyncio.Task[None]] = set()
        try:
            async for page in self._driver.scan():
                running.add(asyncio.create_task(self._page(page)))
                if len(running) >= PAGES_IN_FLIGHT:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            # What else failed at the same time is heard as well, so that asyncio does not log it later.
            await asyncio.gather(*running, *done, return_exceptions=True)

    def is_to_verify(self, entry: Entry) -> bool:
        """Whether the verify pass is to open *entry*: not what this run has opened in vain already."""
        if self._destination is None:
            return is_done(entry, self._plan)
        names = (entry.collection, entry.key)
        return self._plan.target.recognises(entry.value or {}) and names not in self._unreadable_there

    def report(self, census: Census | None, seconds: float) -> Report:
        """Return what was done, with what the verify pass has found."""
        tally, damaged = self.tally, 0 if census is None else census.failed
        changed, already = tally.changed, tally.already
        if self._destination is None:
            # Such a record was done by its header, or written in vain; only opening it showed the damage.
            already = max(0, tally.already - damaged)
            changed = max(0, tally.changed - max(0, damaged - tally.already))
        failed = tally.failed + damaged
        failures = (*tally.failures, *(census.failures if census is not None else ()))
        return Report(
            command=self._plan.command,
            # What came after it was scanned and does not open is counted, too.
            scanned=changed + already + tally.skipped + failed,
            changed=changed,
            already=already,
            skipped=tally.skipped,
            failed=failed,
            conflicts=tally.conflicts,
            seconds=seconds,
            dry_run=self._plan.dry_run,
            failures=failures[:FAILURES_KEPT],
            formats=None if census is None else dict(census.formats),
            deks=None if census is None else dict(census.deks),
        )

    async def _page(self, page: Page) -> None:
        entries = [entry for entry in page.entries if entry.collection != META_COLLECTION]
        self.tally.scanned += len(entries)
        # Opening and sealing a page takes milliseconds that belong to the application's event loop.
        decisions = await asyncio.to_thread(self._decide_all, entries)
        changes = self._book(decisions)
        if self._destination is not None:
            for change in changes:
                await self._copy(change, self._destination)
        elif self._plan.dry_run:
            self.tally.changed += len(changes)
        else:
            await self._swap(changes)
        self._tell()

    def _decide_all(self, entries: Sequence[Entry]) -> list[Decision]:
        how = decide if self._destination is None else decide_copy
        return [how(entry, self._plan) for entry in entries]

    def _book(self, decisions: Sequence[Decision]) -> list[Change]:
        """Count what is left alone and what fails, and return what is to be written."""
        changes = []
        for decision in decisions:
            if isinstance(decision, Change):
                changes.append(decision)
            elif isinstance(decision, Failure):
                self._fail(decision)
            elif decision is Leave.ALREADY:
                self.tally.already += 1
            else:
                self.tally.skipped += 1
        return changes

    def _fail(self, failure: Failure) -> None:
        self.tally.fail(failure)
        self._listener(failure)

    async def _swap(self, changes: Sequence[Change]) -> None:
        """Write *changes*; what a live writer changed meanwhile is read and decided again."""
        for _ in range(_ATTEMPTS):
            if not changes:
                return
            swapped = await self._replace(changes)
            self.tally.changed += sum(done for _, done in swapped)
            lost = [change for change, done in swapped if not done]
            self.tally.conflicts += len(lost)
            changes = await self._again(lost)
        for change in changes:
            reason = f"other writers changed it {_ATTEMPTS} times in a row; run again"
            self._fail(Failure(change.entry.collection, change.entry.key, reason))

    async def _replace(self, changes: Sequence[Change]) -> list[tuple[Change, bool]]:
        """Swap as one batch; where the store cannot hold one of the values, that one alone fails."""
        try:
            swapped = await self._driver.replace_many([Replacement(c.entry, c.value) for c in changes])
        except UnsealableValueError as exc:
            if len(changes) == 1:
                entry = changes[0].entry
                self._fail(Failure(entry.collection, entry.key, f"{type(exc).__name__}: {exc.message}"))
                return []
            half = len(changes) // 2
            return [*await self._replace(changes[:half]), *await self._replace(changes[half:])]
        return list(zip(changes, swapped, strict=True))

    async def _again(self, lost: Sequence[Change]) -> list[Change]:
        decisions: list[Decision] = []
        for change in lost:
            entry = await self._driver.get(change.entry.collection or "", change.entry.key or "")
            # Deleted or expired since it was scanned: there is nothing left to do for it.
            decisions.append(Leave.SKIPPED if entry is None else decide(entry, self._plan))
        return self._book(decisions)

    async def _copy(self, change: Change, destination: Driver) -> None:
        """Put a copy of the entry with its own times, unless a previous run already did."""
        entry = change.entry
        copy = Entry(
            entry.collection,
            entry.key,
            change.value,
            created_at=entry.created_at,
            expires_at=entry.expires_at,
        )
        if not self._plan.dry_run and await destination.put_if_absent(copy):
            self.tally.changed += 1
            return
        there = await destination.get(entry.collection or "", entry.key or "")
        if there is not None:
            self._compare(copy, there)
        elif self._plan.dry_run:
            self.tally.changed += 1
        else:
            # Deleted between the two looks: what the other store's own writers do counts.
            self.tally.skipped += 1

    def _compare(self, copy: Entry, there: Entry) -> None:
        """Leave what the other store holds, but never take an older value there for a finished copy."""
        reason = ""
        if there.value is None or not self._plan.target.recognises(there.value):
            reason = "the other store holds something else under this name"
        else:
            try:
                if not self._is_same(copy, there) and not _is_newer(there, copy):
                    reason = "the other store holds another value under this name, and no newer one"
            except RecordError as exc:
                self._unreadable_there.add((copy.collection, copy.key))
                reason = f"the other store's record does not open: {type(exc).__name__}: {exc.message}"
        if reason:
            self._fail(Failure(copy.collection, copy.key, reason))
        else:
            self.tally.already += 1

    def _is_same(self, copy: Entry, there: Entry) -> bool:
        ours, theirs = (self._plan.target.open(entry)[0] for entry in (copy, there))
        # As text, because NaN is not equal to itself.
        return exact_json.dumps(ours) == exact_json.dumps(theirs)

    def _tell(self) -> None:
        tally, seconds = self.tally, time.monotonic() - self._started
        self._listener(Progress("recode", tally.scanned, self._total, tally.changed, tally.failed, seconds))


def _is_newer(there: Entry, copy: Entry) -> bool:
    """Whether *there* is younger than the entry that *copy* is of: the application has moved on."""
    return there.created_at is not None and copy.created_at is not None and there.created_at > copy.created_at


async def _close_own(store: AsyncKeyValue | Driver, driver: Driver) -> None:
    """Close *driver* if this run opened it."""
    if driver is not store:
        await driver.close()
