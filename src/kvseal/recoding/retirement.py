"""
The retirement of a DEK: prove that no record needs it, retire it, prove it again a week later, and drop it.

Dropping a DEK makes every record under it unreadable for ever.  A retired one still opens what may have been
missed, and the process that meets it says so: see `kvseal.keys.retired`.  Three conditions come first.

* The next DEK has been active for longer than any process seals without reading the vault meta: see
  `kvseal.vault.freshness`.  From then on no process seals under the old DEK.  The store's clock and this
  host's own have to agree on that: see `kvseal.vault.store_clock`.
* No recode is running; a recode reads the vault meta before each page, like any other writer.
* After that, kvseal has read every entry of the store, and no header names the DEK, neither of records
  that open nor of records that do not.  An entry that may hide a record, such as a compressed one,
  makes the proof impossible, and so does a record whose value is a record again: those that open are looked
  into.

Nothing else is stored than when the next DEK became active, and when this one was retired.  Each step is one
write, so an interrupted run is simply run again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock
from kvseal.drivers.base import PAGE_SIZE, failure_of, has_expired
from kvseal.drivers.reach import recodable_driver
from kvseal.envelope.stored import is_sealed
from kvseal.errors import DEKNeededError, LeaseHeldError, RecordError, SealedTwiceError, VaultError
from kvseal.keys.meta import META_COLLECTION
from kvseal.keys.stamps import time_text
from kvseal.legacy import PlaintextCodec
from kvseal.observe.events import Failure, Progress, ignore
from kvseal.recoding.formats import SealedTarget, anywhere, dek_of, located, opened
from kvseal.recoding.pace import LoopShare
from kvseal.recoding.progress.checkpoint import open_recode
from kvseal.recoding.report import FAILURES_KEPT
from kvseal.recoding.settling import await_reads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver, Entry
    from kvseal.keys.wrapped_keys import DEKState, WrappedDEK
    from kvseal.observe.events import Listener
    from kvseal.recoding.formats import Source
    from kvseal.vault.vault import Vault

GRACE: Final = timedelta(hours=1)
"""Six times as long as a process with the default `refresh_after` can continue with an old vault meta."""

KEPT: Final = timedelta(days=7)
"""How long a retired DEK stays wrapped, at least."""

_COMPRESSED_FIELD: Final = "__compressed_data__"
_PLAINTEXT: Final = PlaintextCodec()


@dataclass(slots=True)
class Needs:
    """The DEKs that the headers in a store name, and the entries that may hide more."""

    deks: Counter[int] = field(default_factory=Counter)
    plaintext: int = 0
    opaque: int = 0
    """Entries whose header cannot be read."""
    expired: Counter[int] = field(default_factory=Counter)
    """Of the DEKs, what entries name that have expired by this host's clock."""
    examples: list[Failure] = field(default_factory=list)
    """The first of these entries, and of those that were sealed twice."""
    doubled: int = 0
    """Records whose values are records again, each under a DEK that no header shows."""
    first_doubled: Failure | None = None
    unopened: int = 0
    """Records that did not open, so what is in them was not seen."""

    @property
    def scanned(self) -> int:
        """The number of entries examined."""
        return self.deks.total() + self.plaintext + self.opaque

    def add(self, page: Needs) -> None:
        """Add the needs of one more page."""
        self.deks += page.deks
        self.expired += page.expired
        self.plaintext += page.plaintext
        self.opaque += page.opaque
        self.doubled += page.doubled
        self.first_doubled = self.first_doubled or page.first_doubled
        self.unopened += page.unopened
        self.examples += page.examples[: FAILURES_KEPT - len(self.examples)]


@dataclass(frozen=True, slots=True)
class Retirement:
    """
    The result of `retire`; `changed` says whether the DEK was retired or dropped by this run.

    `deks` counts the records by the DEK that they need, and `unopened` those among them that did not open, so
    that records in their values would not have been seen.  Until `kept_until` a retired one is not dropped.
    """

    dek: int
    state: DEKState
    changed: bool
    dropped: bool
    kept_until: datetime | None
    scanned: int
    deks: dict[int, int]
    seconds: float
    unopened: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary line that `--json` prints."""
        return {
            "type": "summary",
            "schema": 1,
            "command": "dek retire",
            "dek": self.dek,
            "state": self.state,
            "changed": self.changed,
            "dropped": self.dropped,
            "kept_until": None if self.kept_until is None else time_text(self.kept_until),
            "scanned": self.scanned,
            "deks": {str(number): count for number, count in sorted(self.deks.items())},
            "unopened": self.unopened,
            "seconds": round(self.seconds, 3),
        }


async def retire(
    store: AsyncKeyValue | Driver,
    vault: Vault,
    number: int,
    *,
    grace: timedelta = GRACE,
    contexts: Sequence[str] = ("",),
    dry_run: bool = False,
    listener: Listener = ignore,
) -> Retirement:
    """
    Retire DEK *number* if nothing in *store* needs it; with *dry_run*, only find out whether it can be.

    Readers still open with a retired DEK.  Run again at least `KEPT` later, this drops it for ever, if still
    nothing needs it; run again before, it changes nothing.  The number is never used again.  *grace* is
    longer than `LIMIT` times the longest `refresh_after` of any process.  It may be zero if every process
    was stopped after the rotation: then the DEK is dropped at once.  `retire` does not see other stores whose
    records this vault seals: check each of them with a dry run first.  *contexts* are those of the wrappers
    whose records are looked into.

    Raises:
        DEKNeededError: a record may still need it; nothing was changed.
        LeaseHeldError: a recode is running.
        UnsupportedStackError: a wrapper hides records.
        ClocksApartError: this host's clock is not the store's, so it cannot be known whether *grace* is over.
        VaultError: there is no such DEK, or it is the active one.
        Conflict, StoreError: nothing was changed.
    """
    started = clock.monotonic()
    await vault.refresh()
    dek = _dek(vault, number)
    if dek.wrapped is None or (grace and not await _is_over(vault, dek)):
        return _result(vault, number, changed=False)
    if dek.state != "retired":
        await _check_grace(vault, number, grace)
    await _check_recodes(vault)
    driver = recodable_driver(store, writes=False)
    try:
        _check_sight(driver)
        readers = [SealedTarget.of(vault, context) for context in contexts]
        needs = await take_needs(driver, readers, listener=listener)
        reads_lag = driver.capabilities.reads_lag
    finally:
        if driver is not store:
            await driver.close()
    _check_needs(needs, number, driver.location)
    if not dry_run:
        await await_reads(reads_lag)
        await (vault.drop_dek(number) if will_drop(dek, grace) else vault.retire_dek(number))
    result = _result(vault, number, changed=not dry_run)
    seconds = clock.monotonic() - started
    counts: dict[str, Any] = {"scanned": needs.scanned, "deks": dict(needs.deks), "unopened": needs.unopened}
    return replace(result, **counts, seconds=seconds)


def will_drop(dek: WrappedDEK, grace: timedelta) -> bool:
    """Whether `retire` drops *dek*, if it changes anything, rather than retires it."""
    return not grace or dek.state == "retired"


def _result(vault: Vault, number: int, *, changed: bool) -> Retirement:
    dek = vault.meta.deks[number - 1]
    dropped = dek.wrapped is None
    kept_until = None if dropped or dek.retired_at is None else dek.retired_at + KEPT
    return Retirement(number, dek.state, changed, dropped, kept_until, scanned=0, deks={}, seconds=0.0)


async def _is_over(vault: Vault, dek: WrappedDEK) -> bool:
    """Whether *dek* was not retired in the last `KEPT`, by both clocks."""
    if dek.retired_at is None:
        return True
    clocks = await vault.clocks()
    clocks.check("how long a retired DEK is kept")
    return clocks.reached >= dek.retired_at + KEPT


async def take_needs(driver: Driver, readers: Sequence[Source] = (), *, listener: Listener = ignore) -> Needs:
    """
    Read every entry of *driver*; report entries that cannot be counted to *listener*.

    If there are *readers*, the first that opens a record looks into it; otherwise headers are read alone.
    """
    needs, started, share = Needs(), clock.monotonic(), LoopShare()
    async for page in share.pages(driver.scan(expired=True)):
        for few in share.slices(page.entries, most=PAGE_SIZE):
            found = await share.work(partial(_needs_of, readers=readers), few)
            for failure in found.examples:
                listener(failure)
            needs.add(found)
        seconds = clock.monotonic() - started
        listener(Progress("verify", needs.scanned, None, 0, needs.opaque, seconds))
    return needs


def _needs_of(entries: Sequence[Entry], readers: Sequence[Source]) -> Needs:
    needs = Needs()
    for entry in entries:
        if entry.collection == META_COLLECTION:
            # The vault meta names no DEK, and a checkpoint is only a hint, which may be lost.
            continue
        value = entry.value
        if value is not None and _PLAINTEXT.recognises(value) and _COMPRESSED_FIELD not in value:
            needs.plaintext += 1
            continue
        try:
            number = _named(entry)
            needs.deks[number] += 1
            needs.expired[number] += has_expired(entry.expires_at)
        except RecordError as exc:
            needs.opaque += 1
            needs.examples.append(failure_of(entry, exc.message or type(exc).__name__))
            continue
        if readers:
            _look_into(entry, readers, needs)
    return needs


def _look_into(entry: Entry, readers: Sequence[Source], needs: Needs) -> None:
    for reader in readers:
        try:
            # A record that was moved may have another one inside, too.
            opened(reader, located(reader, entry, anywhere))
        except SealedTwiceError as exc:
            needs.doubled += 1
            found = failure_of(entry, exc.message or type(exc).__name__)
            needs.examples.append(found)
            needs.first_doubled = needs.first_doubled or found
        except RecordError:
            continue
        return
    needs.unopened += 1


def _named(entry: Entry) -> int:
    """Return the DEK that the header of *entry* names, or raise `RecordError`."""
    if entry.value is None:
        raise RecordError(entry.problem or "it cannot be read")
    if not is_sealed(entry.value):
        msg = "another wrapper encrypted or compressed it, so it may contain a record"
        raise RecordError(msg)
    return dek_of(entry.value)


def _dek(vault: Vault, number: int) -> WrappedDEK:
    deks = vault.meta.deks
    if not 1 <= number <= len(deks):
        msg = f"there is no DEK {number}"
        raise VaultError(msg, hint="vaultctl dek list")
    dek = deks[number - 1]
    if dek.state == "active":
        msg = f"every new record is sealed under DEK {number}: it is active"
        raise VaultError(msg, hint="vaultctl rotate --dek, then vaultctl reencrypt")
    return dek


async def _check_grace(vault: Vault, number: int, grace: timedelta) -> None:
    """
    Raise during the grace, which starts when the DEK with the next number was created and made active.

    That was stamped by the store's clock, and both have to say that the grace is over: the store's, and
    this host's own.
    """
    if not grace:
        return
    clocks, replaced_at = await vault.clocks(), vault.meta.deks[number].created_at
    clocks.check("the grace of a DEK")
    if clocks.reached < replaced_at + grace:
        msg = (
            f"a process that has not read the vault meta since {time_text(replaced_at)},"
            f" when DEK {number} was replaced, may still seal under it"
        )
        again = f"run it again after {time_text(replaced_at + grace)}"
        raise DEKNeededError(msg, hint=f"{again}, or with --grace 0 if every process was restarted since")


async def _check_recodes(vault: Vault) -> None:
    opened = await open_recode(vault)
    holders = () if opened is None else opened.holders(clock.wall_ms())
    if opened is not None and holders:
        msg = f"{opened.command} is being run on this vault by {holders[0]}"
        raise LeaseHeldError(msg, hint="wait for it, or stop it")


def _check_sight(driver: Driver) -> None:
    if not driver.capabilities.sees_all:
        msg = f"a scan of {driver.location} sees only the names in a manifest, so nothing can be proven"
        raise DEKNeededError(msg, hint="keep the DEK: it stays readable")


def _check_needs(needs: Needs, number: int, location: str) -> None:
    count = needs.deks[number]
    if count and count == needs.expired[number]:
        msg = (
            f"{count:,} entries that have expired by this host's clock are still stored, and use DEK {number}"
        )
        raise DEKNeededError(
            msg, hint="check the clock, and remove them with the store's own cull(); then run this again"
        )
    if count:
        msg = f"{count:,} record{' still uses' if count == 1 else 's still use'} DEK {number}"
        raise DEKNeededError(
            msg, hint="vaultctl reencrypt; delete records that it cannot open and that are not needed"
        )
    if needs.first_doubled is not None:
        first = needs.first_doubled
        many = "1 record is" if needs.doubled == 1 else f"{needs.doubled:,} records are"
        msg = f"{many} sealed twice, and may need any DEK inside, such as {first.collection}/{first.key}"
        raise DEKNeededError(
            msg, hint="read such values through both wrappers, put them through one, and run this again"
        )
    if needs.opaque:
        first = needs.examples[0]
        what = "1 entry" if needs.opaque == 1 else f"{needs.opaque:,} entries"
        msg = f"{what} of {location} may need any DEK, such as {first.collection}/{first.key}: {first.reason}"
        raise DEKNeededError(msg, hint="finish a running migration; delete entries that nothing can read")
    if needs.plaintext and not needs.deks:
        msg = f"{location} holds entries, but none of them is sealed"
        raise DEKNeededError(msg, hint="is it the right store, and does nothing below kvseal change values?")
