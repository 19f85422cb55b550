"""What a listener hears, in which thread the work is done, and how much of a store is held at once."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from tests.recoding.worlds import counts, fernet, fill, plant

from kvseal import Argon2idParams, Secret
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry, Page
from kvseal.drivers.memory import MemoryDriver
from kvseal.recoding import Failure, PlaintextRule, Progress, migrate, recode, survey
from kvseal.recoding.plan import plan_migration
from kvseal.recoding.report import FAILURES_KEPT
from kvseal.recoding.walk import PAGES_IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

SECRET = Secret(b"the secret of the new vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)


async def many(store: MemoryStore, number: int) -> None:
    """Put *number* old records into *store*."""
    await fill(store, {"0": {"v": 1}})
    stored = await store.get("0", collection="c")
    assert stored is not None
    for name in range(number):
        await store.put(f"{name}", stored, collection="c")


async def test_progress_never_goes_back(store: MemoryStore) -> None:
    """In each phase every counter only grows, the total is known, and the phases come in order."""
    await many(store, 1600)
    events: list[Any] = []

    await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP, listener=events.append)

    phases = list(dict.fromkeys(event.phase for event in events))
    assert ["survey", "recode", "verify"] == phases
    for phase in phases:
        steps = [
            (e.scanned, e.changed, e.failed, e.seconds)
            for e in events
            if isinstance(e, Progress) and e.phase == phase
        ]
        for column in zip(*steps, strict=True):
            assert sorted(column) == list(column)
        assert 1600 == steps[-1][0]
    assert {1600} == {event.total for event in events if event.phase == "recode"}


async def test_the_listener_is_called_in_the_event_loops_thread(store: MemoryStore) -> None:
    """A listener may touch what belongs to the loop, so it is never called from a worker."""
    await many(store, 10)
    plant(store, "torn", "{")
    threads: list[tuple[type, int]] = []

    await migrate(
        store,
        [fernet()],
        secret=SECRET,
        kdf=CHEAP,
        listener=lambda event: threads.append((type(event), threading.get_ident())),
    )

    assert {(Progress, threading.get_ident()), (Failure, threading.get_ident())} == set(threads)


async def test_a_report_keeps_so_many_failures(store: MemoryStore) -> None:
    """All failures go to the listener, each once; the report is bounded but counts them all."""
    await many(store, 3)
    total = FAILURES_KEPT + 600
    for number in range(total):
        plant(store, f"torn-{number}", "{")
    heard: list[Any] = []

    done = await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP, listener=heard.append)

    told = [event.key for event in heard if isinstance(event, Failure)]
    assert {"scanned": total + 3, "changed": 3, "failed": total} == counts(done.report)
    assert {f"torn-{number}" for number in range(total)} == set(told)
    assert total == len(told)
    assert FAILURES_KEPT == len(done.report.failures)


async def test_failures_of_both_passes_are_bounded(store: MemoryStore) -> None:
    """Failures of the recode and of the verify pass together do not exceed the bound."""
    await many(store, 2)
    await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP)
    sealed = await store.get("0", collection="c")
    for number in range(700):
        plant(store, f"torn-{number}", "{")
        await store.put(f"moved-{number}", sealed or {}, collection="c")

    done = await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP)

    assert {"scanned": 1402, "already": 2, "failed": 1400} == counts(done.report)
    assert FAILURES_KEPT == len(done.report.failures)


class Watched:
    """A codec that remembers in which threads it worked."""

    format = "watched"
    keeps_expiry = True

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.threads: set[int] = set()

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether the codec does."""
        return bool(self._inner.recognises(stored))

    def is_current(self, stored: Mapping[str, Any]) -> bool:
        """Whether the codec says so."""
        return bool(self._inner.is_current(stored))

    def open(self, *arguments: Any) -> Any:
        """Open, and remember where."""
        self.threads.add(threading.get_ident())
        return self._inner.open(*arguments)

    def seal(self, *arguments: Any) -> Any:
        """Seal, and remember where."""
        self.threads.add(threading.get_ident())
        return self._inner.seal(*arguments)

    def mark_of(self, stored: Mapping[str, Any]) -> str:
        """Return what the codec does."""
        return str(self._inner.mark_of(stored))


async def test_opening_and_sealing_leave_the_event_loop_alone(store: MemoryStore) -> None:
    """Neither the survey nor the recode nor the verify pass opens or seals in the event loop's thread."""
    await many(store, 600)
    from kvseal import Vault
    from kvseal.recoding import SealedTarget

    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    source, target = Watched(fernet()), Watched(SealedTarget.of(vault))

    await survey(driver_for(store), [source])
    surveyed = set(source.threads)
    report = await recode(store, plan_migration(target, [source]))

    assert {"scanned": 600, "changed": 600} == counts(report)
    assert surveyed
    assert target.threads
    assert threading.get_ident() not in source.threads | target.threads


class Endless(MemoryDriver):
    """Far more pages than anybody could hold, made while they are asked for; counts those that are alive."""

    def __init__(self, pages: int) -> None:
        super().__init__(MemoryStore())
        self._pages = pages
        self.most_alive = 0

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield page after page of plaintext."""
        for number in range(self._pages):
            yield Page([Entry("c", f"{number}-{i}", {"v": i}) for i in range(3)], str(number))
            alive = sum(type(thing) is Page for thing in gc.get_objects())
            self.most_alive = max(self.most_alive, alive)


@pytest.mark.exhaustive
async def test_only_the_pages_in_flight_are_held() -> None:
    """However long the store, no more than a handful of pages is in memory."""
    driver = Endless(40)

    done = await migrate(
        driver, [fernet()], secret=SECRET, kdf=CHEAP, plaintext=PlaintextRule.SEAL, dry_run=True
    )

    assert {"scanned": 120, "changed": 120} == counts(done.report)
    assert 1 <= driver.most_alive <= PAGES_IN_FLIGHT + 1
