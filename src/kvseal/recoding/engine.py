"""
The recode engine: scan, classify, open, seal, compare-and-swap, and verify.

Migration, re-encryption and rollback all use this engine.  A run can be stopped
at any moment and started again, because the header of a record shows whether
the record is done.  Live writers are safe, because a swap succeeds only if the
backend still holds what was read; a run that loses a swap reads and decides
again.  An entry that cannot be opened is reported, never changed or deleted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock
from kvseal.drivers.abilities import loses_names
from kvseal.drivers.reach import reached
from kvseal.errors import RecodeError
from kvseal.observe import audit
from kvseal.observe.events import ignore
from kvseal.recoding.census import none, take_census
from kvseal.recoding.decision import is_pending
from kvseal.recoding.formats import UNDECODABLE
from kvseal.recoding.pace import LoopShare, Pace
from kvseal.recoding.progress.checkpoint import MAX_PARTS, open_recode, plan_id
from kvseal.recoding.progress.lease import Lease, leased
from kvseal.recoding.report import FAILURES_KEPT, Report, Tally, followed_by
from kvseal.recoding.walk import Walk
from kvseal.recoding.writing import Copies, InPlace
from kvseal.vault.store_clock import check_clocks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver
    from kvseal.drivers.reach import Places
    from kvseal.observe.events import Listener
    from kvseal.recoding.census import Census
    from kvseal.recoding.formats import Target
    from kvseal.recoding.plan import Plan
    from kvseal.recoding.writing import Writing

WHOLE: Final = (0, 1)
_SCANS: Final = 2
"""The walk and the verify pass; a survey before is one more."""
_MORE_PASSES: Final = 2
"""One for entries that a checkpoint or a scan has passed over, and one for entries written meanwhile."""


async def recode(
    store: AsyncKeyValue | Driver,
    plan: Plan,
    *,
    to: AsyncKeyValue | Driver | None = None,
    partition: tuple[int, int] = WHOLE,
    rate: float | None = None,
    total: int | None = None,
    listener: Listener = ignore,
) -> Report:
    """
    Convert every entry of *store* to the format of *plan*'s target, in place or as copies in the store *to*.

    Names, creation times and expiries do not change.  With a *partition* `(i, n)` this run converts only
    the i-th of n parts, so n processes can share the work.  *rate* limits the records per second; *total*
    is for progress events.  A plan that knows its vault holds a lease while it writes, and leaves a
    checkpoint in the vault when it is stopped.  Survey the store first: see `survey`.

    Raises:
        LeaseHeldError: another run works on this part, or with another plan.
        RecodeError: the store cannot be split.
        ClocksApartError: this host's clock is not the store's, so what has expired cannot be known.
        VaultMetaLostError: the store has lost the vault meta that opens what was sealed; keep the old keys.
        StoreError: the backend failed; run it again to resume where it stopped.
    """
    started = clock.monotonic()
    async with reached(store, to, writes=not plan.dry_run) as places:
        _check_partition(partition)
        await check_clocks(places.source, plan.command)
        plan = plan.on(loses_names=loses_names(places.destination))
        writing: Writing
        if places.in_place:
            writing = InPlace(places.source, plan, listener)
        else:
            writing = Copies(places.source, places.destination, plan, listener)
        run = _Run(plan, places.source, writing, partition, rate, total, listener)
        with _audited(plan, partition) as ended:
            tally, census = await run.to_the_end(_lease(plan, places, partition))
            await _attest(plan)
            seconds = clock.monotonic() - started
            report = _report(plan, tally, census, in_place=places.in_place, seconds=seconds)
            if writing.meter is not None:
                report = replace(report, units=writing.meter.units(_SCANS))
            ended(report.as_dict())
    return report


@dataclass(frozen=True, slots=True)
class _Run:
    plan: Plan
    driver: Driver
    writing: Writing
    partition: tuple[int, int]
    rate: float | None
    total: int | None
    listener: Listener

    async def to_the_end(self, lease: Lease | None) -> tuple[Tally, Census | None]:
        """Walk and verify, and repeat while the verify pass finds entries to convert."""
        pace, share = Pace(self.rate), LoopShare()
        async with leased(lease):
            cursor, tally = self._beginning(lease)
            tally = await self._walk(lease, share).run(cursor, tally, pace)
            census = await self._verified(pace, share)
            for _ in range(_MORE_PASSES):
                if census is None or not _left_over(census, tally):
                    break
                tally = followed_by(tally, await self._walk(lease, share).run(None, Tally(), pace))
                census = await self._verified(pace, share)
        return tally, census

    def _beginning(self, lease: Lease | None) -> tuple[str | None, Tally]:
        """Return where to start: where an earlier run stopped, if that skips nothing."""
        # A verify pass finds neither entries that a copy lacks nor entries changed since they were copied.
        if lease is None or not self._in_place:
            return None, Tally()
        tally = lease.part.tally
        # This run may have the key for entries that an earlier run failed on or skipped.
        return (None, Tally()) if tally.failed or tally.skipped else (lease.part.cursor, tally.copy())

    @property
    def _in_place(self) -> bool:
        return self.writing.written is self.driver

    def _walk(self, lease: Lease | None, share: LoopShare) -> Walk:
        return Walk(
            self.driver,
            self.writing,
            partition=self.partition,
            lease=lease,
            refresh=self.plan.refresh,
            confirm=self.plan.confirm,
            total=self.total,
            listener=self.listener,
            share=share,
        )

    async def _verified(self, pace: Pace, share: LoopShare) -> Census | None:
        if self.plan.dry_run or not self.plan.verify:
            return None
        return await take_census(
            self.writing.written,
            self.plan.known,
            opens=self.writing.is_to_verify,
            pends=partial(is_pending, plan=self.plan) if self._in_place else none,
            # Another store is split into other parts than this one.
            partition=self.partition if self._in_place else WHOLE,
            refresh=self.plan.refresh,
            pace=pace,
            share=share,
            listener=self.listener,
        )


async def _attest(plan: Plan) -> None:
    """Prove that the store holds the DEK that sealed: the keys in memory go with this process."""
    if plan.vault is not None and not plan.dry_run:
        await plan.vault.attest()


def _audited(
    plan: Plan, partition: tuple[int, int]
) -> AbstractContextManager[Callable[[Mapping[str, Any]], None]]:
    vault_id = None if plan.vault is None else plan.vault.meta.vault_id.hex()
    part = "/".join(map(str, partition))
    return audit.recode(vault_id, command=plan.command, partition=part, dry_run=plan.dry_run)


def _lease(plan: Plan, places: Places, partition: tuple[int, int]) -> Lease | None:
    if plan.vault is None or plan.dry_run:
        return None
    name = plan_name(plan.command, places, plan.target)
    return Lease(plan.vault, name, plan.command, partition, prepared=plan.prepared)


def plan_name(command: str, places: Places, target: Target) -> str:
    """Return the plan id, which is the same for runs that resume each other."""
    there = None if places.in_place else places.destination.location
    return plan_id(command, places.source.location, there, target.format)


async def is_prepared(
    plan: Plan, store: AsyncKeyValue | Driver, to: AsyncKeyValue | Driver | None = None
) -> bool:
    """Whether a run of *plan* was stopped after its preparations, such as a backup, were done."""
    if plan.vault is None:
        return False
    async with reached(store, to, writes=False) as places:
        opened = await open_recode(plan.vault)
        name = plan_name(plan.command, places, plan.target)
    return opened is not None and opened.prepared and opened.plan == name


def _left_over(census: Census, tally: Tally) -> int:
    """Return the number of entries that are not converted yet and have not failed."""
    return max(0, census.pending + census.formats[UNDECODABLE] - tally.failed)


def _check_partition(partition: tuple[int, int]) -> None:
    index, count = partition
    if not (0 <= index < count <= MAX_PARTS):
        msg = f"there is no part {index} of {count}: parts count from 0, and there are at most {MAX_PARTS}"
        raise RecodeError(msg)


def _report(plan: Plan, tally: Tally, census: Census | None, *, in_place: bool, seconds: float) -> Report:
    """Return the report of the walk and of the verify pass."""
    damaged = 0 if census is None else census.failed
    changed, already = tally.changed, tally.already
    if in_place:
        # Its header said that such a record is done, or this run wrote it; only opening it showed the damage.
        already = max(0, tally.already - damaged)
        changed = max(0, tally.changed - max(0, damaged - tally.already))
    failed = tally.failed + damaged
    failures = (*tally.failures, *(census.failures if census is not None else ()))
    return Report(
        command=plan.command,
        # Records that were written after the scan and do not open count too.
        scanned=changed + already + tally.skipped + failed,
        changed=changed,
        already=already,
        skipped=tally.skipped,
        failed=failed,
        conflicts=tally.conflicts,
        seconds=seconds,
        dry_run=plan.dry_run,
        failures=failures[:FAILURES_KEPT],
        formats=None if census is None else dict(census.formats),
        deks=None if census is None else dict(census.deks),
        pending=_left_over(census, tally) if census is not None and in_place else 0,
        expired=None if census is None else dict(census.expired),
    )
