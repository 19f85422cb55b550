"""
The census: open every record, and count the records by format and by DEK.

A `get` would return every record that opens here.  The counts cover all
records, so a format or a DEK that is not in them is no longer needed.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from kvseal import clock
from kvseal.drivers import abilities
from kvseal.drivers.base import PAGE_SIZE, failure_of, has_expired
from kvseal.drivers.reach import recodable_driver
from kvseal.errors import LegacyRecordError, PlaintextRecordError, RecordError, UnknownDEKError
from kvseal.keys.meta import META_COLLECTION
from kvseal.legacy import FERNET, FernetCodec, PlaintextCodec, codecs_for
from kvseal.observe.events import Failure, Progress, ignore
from kvseal.recoding.decision import classify, format_of
from kvseal.recoding.formats import (
    KVSEAL,
    LegacySource,
    RefusedSource,
    StrictSource,
    dek_of,
    located,
    opened,
)
from kvseal.recoding.pace import LoopShare
from kvseal.recoding.report import FAILURES_KEPT, Report
from kvseal.vault.store_clock import check_clocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from typing import TypeAlias

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver, Entry
    from kvseal.observe.events import Listener
    from kvseal.recoding.formats import Source
    from kvseal.recoding.pace import Pace
    from kvseal.vault.inside_names import Leads
    from kvseal.vault.vault import Vault

    Refresh: TypeAlias = Callable[[], Awaitable[bool]]


@dataclass(slots=True)
class Census:
    """Counts of entries by format and of sealed records by DEK, and the failures; without the vault meta."""

    formats: Counter[str] = field(default_factory=Counter)
    deks: Counter[int] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    failed: int = 0
    pending: int = 0
    """Entries that a plan has not recoded yet, if the census was taken for a plan."""
    expired: Counter[str] = field(default_factory=Counter)
    """Entries by format that have expired by this host's clock, and that the backend still holds."""
    unknown_dek: bool = False

    @property
    def scanned(self) -> int:
        """The number of entries examined."""
        return sum(self.formats.values())

    def add(self, page: Census) -> None:
        """Add the counts of one more page."""
        self.formats += page.formats
        self.deks += page.deks
        self.failed += page.failed
        self.pending += page.pending
        self.expired += page.expired
        self.unknown_dek |= page.unknown_dek
        self.failures += page.failures[: FAILURES_KEPT - len(self.failures)]


async def verify(
    store: AsyncKeyValue | Driver, vault: Vault, *, context: str = "", listener: Listener = ignore
) -> Report:
    """
    Open every record of *store* as a wrapper with *vault* and *context* would, and report failures.

    Raises:
        ClocksApartError: this host's clock is not the store's, so what has expired cannot be known.
        VaultMetaLostError: the store has lost the vault meta, so none of this opens for a new process.
        StoreError: the backend failed; nothing is proven.
    """
    driver, started = recodable_driver(store, writes=False), clock.monotonic()
    try:
        await check_clocks(driver, "verify")
        readers = readers_of(vault, context=context)
        census = await take_census(driver, readers, refresh=vault.refresh, listener=listener)
        await vault.attest()
    finally:
        if driver is not store:
            await driver.close()
    return Report(
        command="verify",
        scanned=census.scanned,
        changed=0,
        already=census.scanned - census.failed,
        skipped=0,
        failed=census.failed,
        conflicts=0,
        seconds=clock.monotonic() - started,
        failures=tuple(census.failures),
        formats=dict(census.formats),
        deks=dict(census.deks),
        expired=dict(census.expired),
    )


def every(_: Entry) -> bool:
    """Open every entry."""
    return True


def none(_: Entry) -> bool:
    """Take no entry."""
    return False


async def take_census(
    driver: Driver,
    readers: Sequence[Source],
    *,
    opens: Callable[[Entry], bool] = every,
    pends: Callable[[Entry], bool] = none,
    partition: tuple[int, int] = (0, 1),
    refresh: Refresh | None = None,
    pace: Pace | None = None,
    share: LoopShare | None = None,
    listener: Listener = ignore,
) -> Census:
    """
    Count every entry of *partition*; the first of *readers* that recognises an entry opens it.

    Entries that have expired by this host's clock are counted apart: that clock may be wrong, and then they
    are read again.  Only entries that *opens* selects are opened.  Entries that *pends* selects count as
    pending.  A page with records of an unknown DEK is examined again after *refresh*, because another
    process may have rotated the DEK meanwhile.
    """
    census, started = Census(), clock.monotonic()
    share = share or LoopShare()
    count = partial(
        _census_of, readers=readers, leads=partial(abilities.leads, driver), opens=opens, pends=pends
    )
    async for page in share.pages(driver.scan(partition=partition, expired=True)):
        if pace is not None:
            await pace.take(len(page.entries))
        for few in share.slices(page.entries, most=PAGE_SIZE):
            found = await share.work(count, few)
            if refresh is not None and found.unknown_dek and await refresh():
                found = await share.work(count, few)
            for failure in found.failures:
                listener(failure)
            census.add(found)
        seconds = clock.monotonic() - started
        listener(Progress("verify", census.scanned, None, 0, census.failed, seconds))
    return census


def readers_of(vault: Vault, *, context: str = "") -> tuple[Source, ...]:
    """Return readers for what the policy of *vault* allows; other known formats are counted but refused."""
    keyring = vault.keyring
    held = codecs_for((key.kind, key.key) for key in keyring.legacy) if keyring.policy.read_legacy else ()
    legacy: list[Source] = [LegacySource(codec) for codec in held]
    if not any(source.format == FERNET for source in legacy):
        legacy.append(
            RefusedSource(FernetCodec(()), LegacyRecordError("this vault's policy reads no legacy records"))
        )
    plaintext: Source = LegacySource(PlaintextCodec())
    if not keyring.policy.read_plaintext:
        plaintext = RefusedSource(PlaintextCodec(), PlaintextRecordError("the record is not encrypted"))
    return (StrictSource.of(vault, context), *legacy, plaintext)


def _census_of(
    entries: Iterable[Entry],
    readers: Sequence[Source],
    leads: Leads,
    opens: Callable[[Entry], bool],
    pends: Callable[[Entry], bool],
) -> Census:
    census = Census()
    for entry in entries:
        if entry.collection == META_COLLECTION:
            continue
        reader = classify(entry, readers)
        name = format_of(reader)
        if has_expired(entry.expires_at):
            census.expired[name] += 1
            continue
        census.formats[name] += 1
        census.pending += pends(entry)
        if name == KVSEAL:
            _count_dek(entry, census)
        if opens(entry):
            _judge(entry, reader, leads, census)
    return census


def _count_dek(entry: Entry, census: Census) -> None:
    """Count by the header: a record that does not open now still needs its DEK."""
    with suppress(RecordError):
        census.deks[dek_of(entry.value or {})] += 1


def _judge(entry: Entry, reader: Source | None, leads: Leads, census: Census) -> None:
    try:
        if reader is None:
            raise RecordError(entry.problem or "the record has no known format")  # noqa: TRY301
        opened(reader, located(reader, entry, leads))
    except RecordError as exc:
        census.failed += 1
        census.unknown_dek |= isinstance(exc, UnknownDEKError)
        census.failures.append(failure_of(entry, f"{type(exc).__name__}: {exc.message}"))
