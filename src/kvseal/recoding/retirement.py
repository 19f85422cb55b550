"""
The retirement of a DEK: prove that no record needs it, then drop it.

Dropping a DEK makes every record under it unreadable for ever, so three conditions come first.

* The next DEK has been active for longer than any process seals without reading the vault meta: see
  `kvseal.vault.freshness`.  From then on no process seals under the old DEK.
* No recode is running; a recode reads the vault meta before each page, like any other writer.
* After that, kvseal has read every entry of the store, and no header names the DEK, neither of records
  that open nor of records that do not.  An entry that may hide a record, such as a compressed one,
  makes the proof impossible.

None of this is stored.  The vault meta says when the next DEK became active, and the drop is one
write, so an interrupted run is simply run again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock
from kvseal.drivers.base import PAGE_SIZE, has_expired
from kvseal.drivers.reach import recodable_driver
from kvseal.envelope.stored import is_sealed
from kvseal.errors import DEKNeededError, LeaseHeldError, RecordError, VaultError
from kvseal.keys.meta import META_COLLECTION, time_text
from kvseal.legacy import PlaintextCodec
from kvseal.observe.events import Failure, Progress, ignore
from kvseal.recoding.checkpoint import open_recode
from kvseal.recoding.formats import dek_of
from kvseal.recoding.pace import LoopShare
from kvseal.recoding.report import FAILURES_KEPT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver, Entry
    from kvseal.keys.meta import DEKState, WrappedDEK
    from kvseal.observe.events import Listener
    from kvseal.vault.vault import Vault

GRACE: Final = timedelta(hours=1)
"""Six times as long as a process with the default `refresh_after` can continue with an old vault meta."""

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
    """The first of these entries."""

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
        self.examples += page.examples[: FAILURES_KEPT - len(self.examples)]


@dataclass(frozen=True, slots=True)
class Retirement:
    """
    The result of `retire`; `changed` says whether the DEK was dropped.

    `deks` counts the records by the DEK that they need.
    """

    dek: int
    state: DEKState
    changed: bool
    scanned: int
    deks: dict[int, int]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the summary line that `--json` prints."""
        return {
            "type": "summary",
            "schema": 1,
            "command": "dek retire",
            "dek": self.dek,
            "state": self.state,
            "changed": self.changed,
            "scanned": self.scanned,
            "deks": {str(number): count for number, count in sorted(self.deks.items())},
            "seconds": round(self.seconds, 3),
        }


async def retire(
    store: AsyncKeyValue | Driver,
    vault: Vault,
    number: int,
    *,
    grace: timedelta = GRACE,
    dry_run: bool = False,
    listener: Listener = ignore,
) -> Retirement:
    """
    Drop DEK *number* if nothing in *store* needs it; with *dry_run*, only find out whether that is possible.

    The number is never used again.  Retiring a DEK a second time changes nothing.  *grace* has to be
    longer than `LIMIT` times the longest `refresh_after` of any process; it may be zero if every process
    was stopped after the rotation.  `retire` does not see other stores whose records this vault seals:
    check each of them with a dry run first.

    Raises:
        DEKNeededError: a record may still need it; nothing was changed.
        LeaseHeldError: a recode is running.
        UnsupportedStackError: a wrapper hides records.
        VaultError: there is no such DEK, or it is the active one.
        Conflict, StoreError: nothing was changed.
    """
    started = clock.monotonic()
    await vault.refresh()
    if _dek(vault, number).state == "retired":
        return Retirement(number, "retired", changed=False, scanned=0, deks={}, seconds=0.0)
    _check_grace(vault, number, grace, now=clock.utc_seconds())
    await _check_recodes(vault)
    driver = recodable_driver(store, writes=False)
    try:
        _check_sight(driver)
        needs = await take_needs(driver, listener=listener)
    finally:
        if driver is not store:
            await driver.close()
    _check_needs(needs, number, driver.location)
    if not dry_run:
        await vault.drop_dek(number)
    seconds = clock.monotonic() - started
    state: DEKState = "readable" if dry_run else "retired"
    return Retirement(number, state, not dry_run, needs.scanned, dict(needs.deks), seconds)


async def take_needs(driver: Driver, *, listener: Listener = ignore) -> Needs:
    """Read every entry of *driver*; report entries that cannot be counted to *listener*."""
    needs, started, share = Needs(), clock.monotonic(), LoopShare()
    async for page in driver.scan(expired=True):
        for few in share.slices(page.entries, most=PAGE_SIZE):
            found = await share.work(_needs_of, few)
            for failure in found.examples:
                listener(failure)
            needs.add(found)
        seconds = clock.monotonic() - started
        listener(Progress("verify", needs.scanned, None, 0, needs.opaque, seconds))
    return needs


def _needs_of(entries: Sequence[Entry]) -> Needs:
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
            needs.examples.append(Failure(entry.collection, entry.key, exc.message or type(exc).__name__))
    return needs


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


def _check_grace(vault: Vault, number: int, grace: timedelta, *, now: datetime) -> None:
    """Raise during the grace, which starts when the DEK with the next number was created and made active."""
    replaced_at = vault.meta.deks[number].created_at
    if now < replaced_at + grace:
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
    if needs.opaque:
        first = needs.examples[0]
        what = "1 entry" if needs.opaque == 1 else f"{needs.opaque:,} entries"
        msg = f"{what} of {location} may need any DEK, such as {first.collection}/{first.key}: {first.reason}"
        raise DEKNeededError(msg, hint="finish a running migration; delete entries that nothing can read")
    if needs.plaintext and not needs.deks:
        msg = f"{location} holds entries, but none of them is sealed"
        raise DEKNeededError(msg, hint="is it the right store, and does nothing below kvseal change values?")
