"""
Re-sealing: records in an old format are sealed when they are read, a migration without a scan.

So are sealed records that do not carry their names, on a store that loses names: no scan could open them.

A wrapper gets the names that it reads, so this also reaches records whose names a scan cannot
recover, and records that an old application writes during the migration.

* Nothing is lost: the sealed record replaces the entry only if the driver still finds exactly the
  bytes that were read.  If another process wrote or deleted meanwhile, its change stays, and the
  next read tries again.
* Creation time, expiry and native time to live do not change.  The entry's own expiry is sealed with a
  record that had none sealed; a sealed one stays byte for byte.
* A read never fails because of it, and waits for one swap, `PATIENCE` seconds at most.  After a
  failure there is no other attempt for `PAUSE` seconds.
* Records are only read if the driver has no atomic replace, or if a wrapper in between forbids
  writing, changes what is stored or leads to other stores.  A store that evicts does not matter:
  the entry exists, and keeps its place in the order of eviction.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.encryption.base import BaseEncryptionWrapper
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from key_value.aio.wrappers.routing import RoutingWrapper

from kvseal import clock, exact_json, expiry
from kvseal.concurrency import in_thread
from kvseal.drivers import driver_for
from kvseal.drivers.abilities import wait_at_most
from kvseal.drivers.base import Replacement
from kvseal.envelope.stored import has_names_inside
from kvseal.errors import StoreError, UnsealableValueError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kvseal.drivers.base import Driver, Entry
    from kvseal.drivers.chain import Chain
    from kvseal.envelope.codec import RecordCodec

PATIENCE: Final = 5.0
PAUSE: Final = 60.0

BATCH: Final = 64
"""The most records that one read re-seals; after a larger `get_many`, the next read continues."""

RESEALED: Final = "resealed"
CHANGED: Final = "changed"
"""Another process was faster, or the driver finds another entry than the wrapper read."""
FAILED: Final = "failed"

_IN_FLIGHT: Final = 4
"""Entries that one read looks up concurrently; servers have few connections."""
_HINDRANCES: Final = (CompressionWrapper, BaseEncryptionWrapper, ReadOnlyWrapper, RoutingWrapper)

_log = logging.getLogger("kvseal")


class _TakenOver:
    """The type of `TAKEN_OVER`."""


TAKEN_OVER: Final = _TakenOver()
"""In `OldRecord.expires_at`: there was no sealed expiry, and that of the entry becomes it."""


@dataclass(frozen=True, slots=True)
class OldRecord:
    """
    A record that was read and is to be sealed anew: names at the base store, stored mapping, and value.

    `expires_at` is the sealed expiry of a record that was sealed already.
    """

    collection: str
    key: str
    stored: Mapping[str, Any] = field(repr=False)
    value: Mapping[str, Any] = field(repr=False)
    expires_at: int | _TakenOver | None

    def is_still(self, entry: Entry) -> bool:
        """Whether *entry* is what was read, under its own names; compares text, because `1 == True`."""
        return (
            (entry.collection, entry.key) == (self.collection, self.key)
            and entry.value is not None
            and exact_json.same(entry.value, self.stored)
        )


class Resealer:
    """
    Seals old records of the store at the end of *chain*; usable from any event loop and thread.

    The first record opens the driver, and `close` closes it.
    """

    outcomes: Counter[str]
    """Counts of records that were `resealed`, had `changed`, or `failed`."""

    def __init__(
        self, chain: Chain, *, patience: float = PATIENCE, clock: Callable[[], float] = clock.monotonic
    ) -> None:
        self.outcomes = Counter()
        self._store = chain.base
        self._patience = patience
        self._clock = clock
        self._is_possible = not any(isinstance(wrapper, _HINDRANCES) for wrapper in chain.wrappers)
        self._resumes_at = float("-inf")
        self._drivers: dict[type, Driver] = {}

    async def reseal(self, records: Iterable[OldRecord], codec: RecordCodec) -> None:
        """Seal entries that are still as they were read; raises nothing but the caller's own cancellation."""
        if not self._is_possible or self._clock() < self._resumes_at:
            return
        batch = list({(record.collection, record.key): record for record in records}.values())[:BATCH]
        task = asyncio.ensure_future(self._swap(batch, codec))
        try:
            await asyncio.wait([task], timeout=self._patience)
            if task.done():
                self.outcomes.update(task.result())
            else:
                self._fail(len(batch), StoreError(f"no answer within {self._patience} seconds"))
        except UnsupportedStoreError as exc:
            self._is_possible = False
            _log.debug("records in an old format are not re-sealed: %s", exc)
        except Exception as exc:  # noqa: BLE001 - a backend's library may raise anything; the read has its value
            self._fail(len(batch), exc)
        finally:
            task.cancel()

    async def close(self) -> None:
        """Close the driver; the next record opens it again."""
        while self._drivers:
            _, driver = self._drivers.popitem()
            await driver.close()

    async def _swap(self, records: Sequence[OldRecord], codec: RecordCodec) -> Counter[str]:
        driver = await self._driver()
        parts = (self._look_up(driver, records[start::_IN_FLIGHT]) for start in range(_IN_FLIGHT))
        found = [pair for part in await asyncio.gather(*parts) for pair in part]
        replacements, failed = [], 0
        for record, entry in found:
            try:
                replacements.append(_sealed(record, entry, codec))
            except UnsealableValueError as exc:
                _log.debug("a record cannot be sealed: %s", exc.message)
                failed += 1
        done = await driver.replace_many(replacements) if replacements else []
        resealed = sum(done)
        changed = len(records) - resealed - failed
        return +Counter({RESEALED: resealed, CHANGED: changed, FAILED: failed})

    async def _look_up(self, driver: Driver, records: Sequence[OldRecord]) -> list[tuple[OldRecord, Entry]]:
        entries = [(record, await driver.get(record.collection, record.key)) for record in records]
        return [(record, entry) for record, entry in entries if entry is not None and record.is_still(entry)]

    async def _driver(self) -> Driver:
        kind = type(self._store)
        driver = self._drivers.get(kind)
        if driver is not None:
            return driver
        made = driver_for(self._store)
        wait_at_most(made, self._patience)
        # A driver may have to find out what its file system supports.
        if not (await in_thread(lambda: made.capabilities)).atomic_replace:
            msg = f"{made.location} has no compare-and-swap"
            raise UnsupportedStoreError(msg)
        # `setdefault` is atomic, and nothing is open yet: threads that race here share one driver.
        return self._drivers.setdefault(kind, made)

    def _fail(self, records: int, exc: Exception) -> None:
        first = not self.outcomes[FAILED]
        self.outcomes[FAILED] += records
        self._resumes_at = self._clock() + PAUSE
        level = logging.WARNING if first else logging.DEBUG
        _log.log(level, "records in an old format were read, but not sealed: %s: %s", type(exc).__name__, exc)


def _sealed(record: OldRecord, entry: Entry, codec: RecordCodec) -> Replacement:
    expires_at = record.expires_at
    if isinstance(expires_at, _TakenOver):
        expires_at = None if entry.expires_at is None else expiry.milliseconds(entry.expires_at)
    sealed = codec.seal(record.value, record.collection, record.key, expires_at)
    return Replacement(entry, sealed, names_inside=has_names_inside(sealed))
