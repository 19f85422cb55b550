"""Leases and checkpoints: two runs never do the same work, and the next run goes on where one stopped."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.fakes import HookedDriver
from tests.recoding.worlds import adds_up, fernet, fill, formats_of, leave_checkpoint, take_over

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.drivers.base import PAGE_SIZE, Replacement
from kvseal.drivers.reach import Places
from kvseal.envelope.payload import Encoding
from kvseal.envelope.record import Header
from kvseal.envelope.stored import from_stored
from kvseal.errors import LeaseHeldError, RecodeError, StoreUnreachableError, VaultLockedError
from kvseal.keys.meta import META_COLLECTION
from kvseal.recoding import (
    Report,
    SealedTarget,
    migrate,
    open_recode,
    plan_migration,
    plan_reencryption,
    recode,
)
from kvseal.recoding.engine import _lease
from kvseal.recoding.progress.checkpoint import CONTEXT, Checkpoint, CheckpointStore, Head, part_key
from kvseal.recoding.progress.checkpoint import KEY as CHECKPOINT
from kvseal.recoding.progress.lease import SECONDS, SECONDS_BETWEEN_TRIES, Lease, leased
from kvseal.recoding.progress.lease_holder import LeaseHolder
from kvseal.recoding.progress.part import Part
from kvseal.recoding.report import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from key_value.aio.stores.memory import MemoryStore


SECRET = Secret(b"the secret of the new vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
PAGES = 6


def in_place(store: MemoryStore) -> Places:
    """Return the places of a recode that replaces entries where they are."""
    driver = driver_for(store)
    return Places(driver, driver)


class Clock:
    """A wall clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def vault(store: MemoryStore) -> AsyncIterator[Vault]:
    """Yield the open vault of *store*."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    yield vault
    await vault.close()


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock()


def lease_on(vault: Vault, clock: Clock, *, plan: str = "p", part: tuple[int, int] = (0, 1)) -> Lease:
    """Return a lease of another process on some other machine, for all that is known here."""
    lease = Lease(vault, plan, "migrate", part, clock=clock)
    lease._me = replace(lease._me, machine="elsewhere")
    return lease


async def stored(vault: Vault) -> Checkpoint:
    """Return the checkpoint that lies in the store."""
    checkpoint = await open_recode(vault)
    assert checkpoint is not None
    return checkpoint


async def renewed(vault: Vault, clock: Clock) -> None:
    """Wait until the lease in the store is renewed at the present time."""
    # Nothing tells that it was, but the store.
    while (await stored(vault)).parts[0].until < int((clock.now + SECONDS) * 1000):  # noqa: ASYNC110
        await asyncio.sleep(0)


class TestLease:
    """Who may work on what."""

    async def test_a_second_run_is_refused(self, vault: Vault, clock: Clock) -> None:
        """While one run holds the lease, another is told who does, with the exit code for that."""
        await lease_on(vault, clock).acquire()

        with pytest.raises(
            LeaseHeldError, match=f"migrate is being run on this vault by process {os.getpid()}"
        ) as e:
            await lease_on(vault, clock).acquire()
        assert 11 == e.value.exit_code
        assert str(SECONDS) in e.value.hint

    async def test_it_expires(self, vault: Vault, clock: Clock) -> None:
        """A run that is silent for too long has lost the lease, and finds that out."""
        first, second = lease_on(vault, clock), lease_on(vault, clock)
        await first.acquire()
        clock.now += SECONDS - 0.001
        with pytest.raises(LeaseHeldError):
            await second.acquire()
        clock.now += 0.001

        await second.acquire()

        with pytest.raises(LeaseHeldError):
            await first.finish()
        await second.finish()
        assert await open_recode(vault) is None

    async def test_renewing(self, vault: Vault, clock: Clock) -> None:
        """A lease that is renewed does not expire; the loss of one that was not stops its run."""
        first = lease_on(vault, clock)
        await first.acquire()
        renewing = asyncio.create_task(first.renew_for_ever(0))
        clock.now += SECONDS - 1
        await renewed(vault, clock)
        clock.now += 2
        with pytest.raises(LeaseHeldError):
            await lease_on(vault, clock).acquire()
        first.check()

        await take_over(vault, holder=replace(LeaseHolder.new(), machine="a third"))
        await renewing

        with pytest.raises(LeaseHeldError):
            first.check()

    async def test_a_store_that_does_not_answer_is_asked_again(
        self, store: MemoryStore, clock: Clock
    ) -> None:
        """A renewal that fails is no reason to stop."""
        broken = True

        async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
            nonlocal broken
            if name == "get" and broken:
                broken = False
                msg = "gone for a moment"
                raise StoreUnreachableError(msg)
            return await do()

        await Vault.create(store, secret=SECRET, kdf=CHEAP)
        broken = False
        vault = await Vault.open(HookedDriver(driver_for(store), around), secret=SECRET)
        lease = lease_on(vault, clock)
        await lease.acquire()
        broken = True
        clock.now += 1
        renewing = asyncio.create_task(lease.renew_for_ever(0))
        while broken:  # noqa: ASYNC110 - nothing tells that the renewal has failed
            await asyncio.sleep(0)
        await renewed(vault, clock)
        renewing.cancel()

        lease.check()

    @pytest.mark.processes
    async def test_a_holder_that_is_gone(self, vault: Vault, clock: Clock) -> None:
        """On the same machine, a run that was killed holds up nobody; one that goes on does."""
        script = (
            "import json, sys; from kvseal.recoding.progress.lease_holder import LeaseHolder;"
            "print(json.dumps(LeaseHolder.new().as_json()), flush=True); sys.stdin.read()"
        )
        process = subprocess.Popen(  # noqa: ASYNC220 - it is waited for at once
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        holder = LeaseHolder.from_json(json.loads(process.stdout.readline()))
        part = Part("", holder, int(clock.now * 1000) + 1000, cursor="here")
        await leave_checkpoint(vault, "p", part)
        with pytest.raises(LeaseHeldError, match=str(process.pid)):
            await lease_on(vault, clock).acquire()

        process.kill()
        process.communicate()

        lease = lease_on(vault, clock)
        await lease.acquire()
        assert "here" == lease.part.cursor

    def test_a_number_that_was_given_out_again(self) -> None:
        """A process of the same number that began at another time is another one."""
        me = LeaseHolder.new()
        assert not me.is_gone()
        assert replace(me, started=me.started - 1).is_gone()
        assert not replace(me, started=me.started - 1, machine="elsewhere").is_gone()

    async def test_another_plan(self, vault: Vault, clock: Clock) -> None:
        """Two different recodes do not run at once, but one that was given up is in nobody's way."""
        first = lease_on(vault, clock, plan="first")
        await first.acquire()
        with pytest.raises(LeaseHeldError):
            await lease_on(vault, clock, plan="second").acquire()
        first.note("far", Tally(scanned=9))
        await first.release()

        second = lease_on(vault, clock, plan="second")
        await second.acquire()

        assert (None, Tally()) == (second.part.cursor, second.part.tally)
        assert "second" == (await stored(vault)).head.plan

    async def test_parts(self, vault: Vault, clock: Clock) -> None:
        """Every part has a lease of its own; the last one to finish removes the checkpoint."""
        leases = [lease_on(vault, clock, part=(index, 3)) for index in range(3)]
        await asyncio.gather(*(lease.acquire() for lease in leases))
        with pytest.raises(LeaseHeldError):
            await lease_on(vault, clock, part=(1, 3)).acquire()
        with pytest.raises(LeaseHeldError):
            await lease_on(vault, clock, part=(0, 2)).acquire()

        await leases[0].finish()
        await leases[2].finish()
        assert [True, False, True] == [part.done for part in (await stored(vault)).parts]
        await leases[1].finish()

        assert await open_recode(vault) is None

    async def test_released_parts_keep_how_far_they_came(self, vault: Vault, clock: Clock) -> None:
        """Who stops says where, and the next run of the same plan begins there."""
        first = lease_on(vault, clock, part=(1, 2))
        await first.acquire()
        first.note("page 7", Tally(scanned=7, changed=5, already=2))
        await first.release()

        second = lease_on(vault, clock, part=(1, 2))
        await second.acquire()

        assert ("page 7", Tally(scanned=7, changed=5, already=2)) == (second.part.cursor, second.part.tally)


class TestWaiting:
    """A run that waits for a part which another process holds."""

    @pytest.fixture(autouse=True)
    def waits(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """Return how long each wait was; the time goes on by that, and by nothing else."""
        waits: list[float] = []
        sleep = asyncio.sleep

        async def passes(seconds: float) -> None:
            waits.append(seconds)
            clock.now += seconds
            await sleep(0)

        monkeypatch.setattr("kvseal.clock.monotonic", clock)
        monkeypatch.setattr("kvseal.recoding.progress.lease.asyncio.sleep", passes)
        return waits

    async def test_it_is_taken_once_it_has_expired(
        self, vault: Vault, clock: Clock, waits: list[float]
    ) -> None:
        """The part of a process that has died is looked at again and again until its lease has ended."""
        await lease_on(vault, clock).acquire()
        second = lease_on(vault, clock)

        async with leased(second, wait=60):
            taken = list(waits)

        assert SECONDS == sum(taken)
        assert {SECONDS_BETWEEN_TRIES} == set(taken)

    async def test_no_longer_than_that(self, vault: Vault, clock: Clock, waits: list[float]) -> None:
        """A part that is held for longer is refused in the end, and the error says until when it is held."""
        await lease_on(vault, clock).acquire()
        ends = clock.now + SECONDS
        with pytest.raises(LeaseHeldError) as raised:
            async with leased(lease_on(vault, clock), wait=5):
                pytest.fail("it is held")

        assert [2, 2, 1] == waits
        assert raised.value.until is not None
        assert ends == raised.value.until.timestamp()


class TestCheckpoint:
    """What lies in the store."""

    async def test_what_nobody_sealed_is_ignored(
        self, vault: Vault, store: MemoryStore, clock: Clock
    ) -> None:
        """A checkpoint that somebody else wrote, or moved here from elsewhere, stops and hides nothing."""
        head = Head.new("p", "migrate", 1, started_at=0, prepared=True)
        part = Part(head.run, LeaseHolder.new(), 2**40, "the end", done=True)
        values = {CHECKPOINT: head.as_json(), part_key(0): part.as_json()}
        moved = {key: vault.codecs[CONTEXT].seal(value, "c", "k", None) for key, value in values.items()}
        for forged in (values, moved):
            for key, value in forged.items():
                await store.put(key, value, collection=META_COLLECTION)
            assert await open_recode(vault) is None

            lease = lease_on(vault, clock)
            await lease.acquire()
            assert lease.part.cursor is None
            await lease.finish()

    async def test_the_parts_of_another_run(self, vault: Vault, store: MemoryStore, clock: Clock) -> None:
        """A part that an attacker puts back from another run, or from another part, is none of this run's."""
        await leave_checkpoint(vault, "p", Part("", cursor="far"), Part("", cursor="near"))
        keys = [part_key(index) for index in range(2)]
        far, near = [await store.get(key, collection=META_COLLECTION) or {} for key in keys]
        await CheckpointStore(vault).end((await stored(vault)).head.run)
        first = [lease_on(vault, clock, part=(index, 2)) for index in range(2)]
        await first[0].acquire()
        await first[0].release()
        await store.put(keys[0], far, collection=META_COLLECTION)
        await store.put(keys[1], near, collection=META_COLLECTION)
        assert [None, None] == [part.cursor for part in (await stored(vault)).parts]

        await first[1].acquire()
        first[1].note("own", Tally())
        await first[1].release()
        own = await store.get(keys[1], collection=META_COLLECTION) or {}
        await store.put(keys[0], own, collection=META_COLLECTION)

        assert [None, "own"] == [part.cursor for part in (await stored(vault)).parts]

    async def test_a_checkpoint_of_one_entry(self, vault: Vault, store: MemoryStore, clock: Clock) -> None:
        """The one entry for all parts, which no release has written, is no checkpoint and stops no run."""
        part = {"holder": None, "until": 0, "cursor": "c", "done": False, "tally": Tally().as_json()}
        value = {"plan": "p", "command": "migrate", "started_at": 0, "prepared": True, "parts": [part]}
        sealed = vault.codecs[CONTEXT].seal_json(value, META_COLLECTION, CHECKPOINT)
        await store.put(CHECKPOINT, sealed, collection=META_COLLECTION)
        assert await open_recode(vault) is None

        lease = lease_on(vault, clock)
        await lease.acquire()

        assert (None, False) == (lease.part.cursor, (await stored(vault)).head.prepared)

    async def test_it_says_nothing_to_who_reads_the_store(
        self, vault: Vault, store: MemoryStore, clock: Clock
    ) -> None:
        """Cursors are names of records, and are sealed like them."""
        lease = lease_on(vault, clock)
        await lease.acquire()
        lease.note("c/alice@example.org", Tally())
        await lease.release()

        assert "alice" not in str(await store.get(CHECKPOINT, collection=META_COLLECTION))
        assert ["c/alice@example.org"] == [part.cursor for part in (await stored(vault)).parts]

    async def test_one_that_a_newer_dek_sealed(self, store: MemoryStore, vault: Vault, clock: Clock) -> None:
        """Whoever has not seen a rotation yet learns of it when it meets the checkpoint."""
        stale = await Vault.open(store, secret=SECRET)
        await vault.rotate_dek()
        await lease_on(vault, clock).acquire()

        with pytest.raises(LeaseHeldError):
            await lease_on(stale, clock).acquire()
        assert 2 == stale.keyring.active_dek

    async def test_a_locked_vault(self, vault: Vault, clock: Clock) -> None:
        """Without keys there is no lease."""
        await vault.lock()

        with pytest.raises(VaultLockedError):
            await lease_on(vault, clock).acquire()


async def many(store: MemoryStore, pages: int = PAGES) -> None:
    """Put *pages* pages of old records into *store*."""
    await fill(store, {"0": {"v": 1}})
    token = await store.get("0", collection="c")
    for number in range(1, pages * PAGE_SIZE):
        await store.put(f"{number}", token or {}, collection="c")


class TestResuming:
    """A run that goes on where another one stopped."""

    @pytest.mark.exhaustive
    async def test_the_next_run_begins_at_the_checkpoint(self, store: MemoryStore, vault: Vault) -> None:
        """What the first run has finished is not read again, and the report is of both."""
        await many(store)
        plan = plan_migration(SealedTarget.of(vault), [fernet()], vault=vault)
        stopped = asyncio.Event()

        async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
            if name == "replace_many":
                stopped.set()
            return await do()

        running = asyncio.create_task(recode(HookedDriver(driver_for(store), around), plan))
        await stopped.wait()
        while not await formats_of(store) >= {1, 2}:  # noqa: ASYNC110 - the store alone tells
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        checkpoint = await stored(vault)
        left = checkpoint.parts[0]
        assert left.holder is None
        assert left.cursor is not None
        assert 0 < left.tally.scanned < PAGES * PAGE_SIZE

        report = await recode(store, plan)

        assert adds_up(report)
        assert (PAGES * PAGE_SIZE, 0) == (report.scanned, report.failed)
        assert left.tally.changed <= report.changed
        assert {2} == await formats_of(store)
        assert await open_recode(vault) is None

    async def test_a_checkpoint_that_is_too_far(self, store: MemoryStore, vault: Vault) -> None:
        """An older checkpoint put back by somebody skips nothing: the verify pass finds what is left."""
        await many(store, 2)
        plan = plan_migration(SealedTarget.of(vault), [fernet()], vault=vault)
        last = [page.cursor async for page in driver_for(store).scan()][-1]
        at = Part("", cursor=last, tally=Tally(scanned=2 * PAGE_SIZE, changed=2 * PAGE_SIZE))
        lease = _lease(plan, in_place(store), (0, 1))
        assert lease is not None
        await leave_checkpoint(vault, lease._run.head.plan, at)

        report = await recode(store, plan)

        assert {2} == await formats_of(store)
        assert adds_up(report)
        assert {"kvseal": 2 * PAGE_SIZE} == report.formats

    async def test_what_failed_is_tried_again(self, store: MemoryStore, vault: Vault) -> None:
        """A run that was stopped after failures is resumed from its beginning: there may be another key now."""
        plan = plan_migration(SealedTarget.of(vault), [fernet()], vault=vault)
        await fill(store, {"a": {"v": 1}})
        last = [page.cursor async for page in driver_for(store).scan()][-1]
        lease = _lease(plan, in_place(store), (0, 1))
        assert lease is not None
        at = Part("", cursor=last, tally=Tally(scanned=1, failed=1))
        await leave_checkpoint(vault, lease._run.head.plan, at)

        report = await recode(store, plan)

        assert (1, 1, 0) == (report.scanned, report.changed, report.failed)

    async def test_dry_runs_take_no_lease(self, store: MemoryStore, vault: Vault, clock: Clock) -> None:
        """Who writes nothing is in nobody's way."""
        await fill(store, {"a": {"v": 1}})
        await lease_on(vault, clock).acquire()
        before = await store.get(CHECKPOINT, collection=META_COLLECTION)

        report = await recode(
            store, plan_migration(SealedTarget.of(vault), [fernet()], vault=vault, dry_run=True)
        )

        assert 1 == report.changed
        assert before == await store.get(CHECKPOINT, collection=META_COLLECTION)

    async def test_a_lease_lost_in_the_middle(self, store: MemoryStore, vault: Vault) -> None:
        """A run whose part another one has taken over stops with that error and gives nothing back."""
        await many(store, 2)
        lease = Lease(vault, "p", "migrate", (0, 1))
        other = LeaseHolder.new()

        async def robbed() -> None:
            async with leased(lease):
                await take_over(vault, holder=other)

        with pytest.raises(LeaseHeldError):
            await robbed()

        assert other == (await stored(vault)).parts[0].holder

    async def test_the_wrapper_does_not_see_it(self, store: MemoryStore, vault: Vault, clock: Clock) -> None:
        """The checkpoint is hidden from applications as the vault meta is."""
        await lease_on(vault, clock).acquire()
        wrapper: Any = EnvelopeEncryptionWrapper(store, vault=vault)

        assert META_COLLECTION not in await wrapper.collections()


class TestParts:
    """Several processes share one recode."""

    @pytest.mark.exhaustive
    async def test_they_are_disjoint_and_complete(self, store: MemoryStore) -> None:
        """Each part does its own records, and together they do all."""
        await many(store, 3)
        reports = [await one_part(store, (index, 4)) for index in range(4)]

        assert all(adds_up(report) for report in reports)
        assert [3 * PAGE_SIZE] * 2 == [sum(r.scanned for r in reports), sum(r.changed for r in reports)]
        assert {2} == await formats_of(store)

    async def test_at_once(self, store: MemoryStore) -> None:
        """Parts run side by side under their own leases."""
        await many(store, 3)
        await one_part(store, (0, 4))

        reports = await asyncio.gather(*(one_part(store, (index, 4)) for index in range(4)))

        assert 3 * PAGE_SIZE == sum(report.scanned for report in reports)
        assert {2} == await formats_of(store)

    @pytest.mark.parametrize("part", [(1, 1), (-1, 2), (0, 0), (0, 1025)])
    async def test_no_such_part(self, store: MemoryStore, vault: Vault, part: tuple[int, int]) -> None:
        """Parts count from 0, and their number is bounded."""
        with pytest.raises(RecodeError):
            await recode(store, plan_reencryption(vault), partition=part)

    async def test_only_the_whole_can_be_finalized(self, store: MemoryStore) -> None:
        """A part cannot know what the others have left."""
        with pytest.raises(RecodeError, match="whole store"):
            await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP, partition=(0, 2), finalize=True)
        assert {1} >= await formats_of(store)


async def one_part(store: MemoryStore, part: tuple[int, int]) -> Report:
    """Migrate one part of *store*."""
    done = await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP, partition=part)
    assert done.report is not None
    return done.report


async def test_checkpoint_is_plain_json(store: MemoryStore, vault: Vault) -> None:
    """A checkpoint is sealed in the encoding that every release reads, and an application's value in another."""
    await EnvelopeEncryptionWrapper(store, vault=vault).put("k", {"v": 1}, collection="c")
    head = await leave_checkpoint(vault, "plan", Part(""), started_at=1)

    names = (("c", "k"), (META_COLLECTION, CHECKPOINT), (META_COLLECTION, part_key(0)))
    entries = [await driver_for(store).get(*each) for each in names]
    assert [Encoding.MESSAGEPACK, Encoding.JSON, Encoding.JSON] == [
        Header.parse(from_stored((entry.value if entry else None) or {})).encoding for entry in entries
    ]
    assert Checkpoint(head, (Part(head.run),)) == await open_recode(vault)


@pytest.mark.parametrize("effect", [False, True], ids=["before it is written", "once it is written"])
async def test_cancelled_while_it_is_taken(store: MemoryStore, effect: bool) -> None:
    """A run that is cancelled while it takes its lease leaves none behind, whatever became of its write."""
    reached, may_end = asyncio.Event(), asyncio.Event()

    async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        if name != "put_if_absent" or not vault or reached.is_set():
            return await operation()
        done = await operation() if effect else None
        reached.set()
        await may_end.wait()
        return done if effect else await operation()

    vault: Vault | None = None
    vault = await Vault.create(
        store, secret=SECRET, kdf=CHEAP, meta_store=HookedDriver(driver_for(store), around)
    )

    async def run() -> None:
        async with leased(Lease(vault, "p", "migrate", (0, 1))):
            pytest.fail("it was cancelled before")

    task = asyncio.create_task(run())
    await reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert None is (await stored(vault)).parts[0].holder


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        (CHECKPOINT, {"started_at": float("inf")}),
        (CHECKPOINT, {"started_at": float("nan")}),
        (CHECKPOINT, {"started_at": 2**62}),
        (CHECKPOINT, {"started_at": True}),
        (CHECKPOINT, {"started_at": -1}),
        (CHECKPOINT, {"count": True}),
        (CHECKPOINT, {"count": 0}),
        (CHECKPOINT, {"count": 1025}),
        (CHECKPOINT, {"run": 7}),
        (CHECKPOINT, {"splits": [7]}),
        (CHECKPOINT, {"surveyed": -1}),
        (CHECKPOINT, {"surveyed": 1.5}),
        (CHECKPOINT, {"splits": ["one", "too many"]}),
        (part_key(0), {"until": float("inf")}),
        (part_key(0), {"marks": [7]}),
        (part_key(0), {"tally": {**Tally().as_json(), "scanned": float("-inf")}}),
        (part_key(0), {"tally": {**Tally().as_json(), "scanned": 1.5}}),
    ],
    ids=str,
)
async def test_numbers_that_are_none(vault: Vault, key: str, changes: dict[str, Any]) -> None:
    """A checkpoint with numbers that no run writes is no checkpoint, and no run fails over it."""
    head = await leave_checkpoint(vault, "p", Part("", cursor="c"))
    part = Part(head.run, cursor="c")
    value = {**(head.as_json() if key == CHECKPOINT else part.as_json()), **changes}
    driver = vault.metastore.driver
    entry = await driver.get(META_COLLECTION, key)
    assert entry is not None
    sealed = vault.codecs[CONTEXT].seal(value, META_COLLECTION, key)
    assert [True] == await driver.replace_many([Replacement(entry, sealed)])

    if key == CHECKPOINT:
        assert None is await open_recode(vault)
    else:
        assert Part(head.run) == (await stored(vault)).parts[0]
    await Lease(vault, "p", "migrate", (0, 1)).acquire()
