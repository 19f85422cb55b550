"""Processes that run on while DEKs come and go: none seals under a DEK that is gone, none loses a record."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import HookedDriver, put_raw_meta, raw_meta, rewrite_policy

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Policy, Secret, Vault, clock
from kvseal.drivers import driver_for
from kvseal.errors import (
    DEKNeededError,
    RefutedKeyringError,
    StaleKeyringError,
    StoreUnreachableError,
    VaultLockedError,
)
from kvseal.recoding import plan_reencryption, recode, retire
from kvseal.recoding.formats import dek_of
from kvseal.vault.freshness import LIMIT, REFRESH_AFTER, Freshness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SECRET = Secret(b"the secret of the vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
MINUTE, HOUR = 60.0, 3600.0


@dataclass
class Time:
    """Both clocks of a machine, moved by hand."""

    now: float = 1_900_000_000.0

    def __call__(self) -> float:
        """Return the seconds of either clock."""
        return self.now

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> Time:
        """Become the wall clock of the vault meta."""
        monkeypatch.setattr(
            "kvseal.clock.utc_seconds", lambda: datetime.fromtimestamp(int(self.now), timezone.utc)
        )
        return self


@dataclass
class Process:
    """
    A process that holds the vault open and writes; an operator does everything else from others.

    Its way to the vault meta can be cut, while the records stay in reach.
    """

    data: MemoryStore
    meta: MemoryStore
    time: Time
    vault: Vault
    is_cut: bool = False
    looks: int = 0
    put: list[str] = field(default_factory=list)

    @classmethod
    async def started(cls, time: Time) -> Process:
        """Create a vault and open it for a process that runs on from now."""
        data, meta = MemoryStore(), MemoryStore()
        vault = await Vault.create(data, secret=SECRET, kdf=CHEAP, meta_store=meta)
        process = cls(data, meta, time, vault)

        async def around(_: str, operation: Callable[[], Awaitable[Any]]) -> Any:
            process.looks += 1
            if process.is_cut:
                msg = "no route to host"
                raise StoreUnreachableError(msg)
            return await operation()

        driver = HookedDriver(driver_for(meta), around)
        process.vault = await Vault.open(data, secret=SECRET, meta_store=driver)
        process.vault.freshness = Freshness(clock=time)
        process.looks = 0
        return process

    @property
    def wrapper(self) -> EnvelopeEncryptionWrapper:
        """The wrapper that the process uses."""
        return EnvelopeEncryptionWrapper(self.data, vault=self.vault)

    async def write(self) -> None:
        """Put the next record."""
        key = f"k{len(self.put)}"
        await self.wrapper.put(key, {"v": key})
        self.put.append(key)

    async def dek(self, key: str | None = None) -> int:
        """Return the DEK that sealed *key*, or what was put last."""
        return dek_of(await self.data.get(key or self.put[-1]) or {})

    async def operator(self) -> Vault:
        """Return the vault as another process opens it."""
        return await Vault.open(self.data, secret=SECRET, meta_store=self.meta)

    async def assert_nothing_is_lost(self) -> None:
        """Whoever starts now reads everything that was ever put."""
        vault = await self.operator()
        assert [{"v": key} for key in self.put] == await EnvelopeEncryptionWrapper(
            self.data, vault=vault
        ).get_many(self.put)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Return the clocks."""
    return Time().patch(monkeypatch)


@pytest.fixture
async def process(time: Time) -> Process:
    """Return a process that runs."""
    return await Process.started(time)


@pytest.mark.parametrize("many", [False, True], ids=["put", "put_many"])
async def test_a_writer_takes_up_a_new_dek(process: Process, many: bool) -> None:
    """A process that reads nothing seals with a new DEK `refresh_after` seconds later, and not before."""
    await (await process.operator()).rotate_dek()

    async def written() -> int:
        if many:
            await process.wrapper.put_many(["k"], [{"v": 1}])
        else:
            await process.wrapper.put("k", {"v": 1})
        return await process.dek("k")

    process.time.now += REFRESH_AFTER - 1
    assert (1, 0) == (await written(), process.looks)
    process.time.now += 1
    assert (2, 1) == (await written(), process.looks)
    process.time.now += REFRESH_AFTER - 1
    assert (2, 1) == (await written(), process.looks)


async def test_one_look_for_all(process: Process) -> None:
    """However many write at once, and through however many wrappers, the vault meta is read once."""
    process.time.now += HOUR

    await asyncio.gather(
        *(EnvelopeEncryptionWrapper(process.data, vault=process.vault).put(f"k{n}", {}) for n in range(50))
    )

    assert 1 == process.looks


async def test_reads_do_not_look(process: Process) -> None:
    """A sealed record is read without a look at the vault meta, however long ago that was."""
    await process.write()
    process.time.now += HOUR
    process.is_cut = True

    assert {"v": "k0"} == await process.wrapper.get("k0")
    assert [{"v": "k0"}] == await process.wrapper.get_many(["k0"])
    assert 0 == process.looks


async def test_out_of_reach_for_a_while(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    """Without the vault meta a process goes on with the keys it has, says so, and looks again now and then."""
    process.is_cut = True
    process.time.now += REFRESH_AFTER

    with caplog.at_level(logging.WARNING, logger="kvseal"):
        await process.write()
        await process.write()

    assert ["the vault meta could not be read again: StoreUnreachableError: no route to host"] == [
        record.getMessage() for record in caplog.records
    ]
    process.time.now += REFRESH_AFTER / 4
    await process.write()
    assert 2 == process.looks
    process.is_cut = False
    await (await process.operator()).rotate_dek()
    process.time.now += REFRESH_AFTER / 4
    await process.write()
    assert 2 == await process.dek()


async def test_out_of_reach_for_too_long(process: Process) -> None:
    """After ten times as long it seals nothing more, reads on, and writes again as soon as it can."""
    await process.write()
    process.is_cut = True
    process.time.now += LIMIT * REFRESH_AFTER - 1
    await process.write()
    process.time.now += 1

    with pytest.raises(StaleKeyringError, match="600 s"):
        await process.write()
    with pytest.raises(StaleKeyringError):
        await process.wrapper.put_many(["k"], [{}])
    assert {"v": "k1"} == await process.wrapper.get("k1")
    process.is_cut = False
    process.time.now += REFRESH_AFTER
    await process.write()


async def test_a_store_that_hangs(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vault meta that does not answer holds a writer up for a while, and not for ever."""
    monkeypatch.setattr("kvseal.vault.freshness.PATIENCE", 0.001)
    process.time.now += REFRESH_AFTER
    forever = asyncio.Event()

    async def hang() -> bool:
        return await forever.wait()

    monkeypatch.setattr(process.vault, "refresh", hang)

    await process.write()

    assert 1 == await process.dek()


@pytest.mark.parametrize("harm", ["gone", "rolled back", "changed"])
async def test_a_vault_meta_that_cannot_be_believed(process: Process, harm: str) -> None:
    """An answer that is not our vault meta is not believed, and ends sealing at once: only silence is waited out."""
    before = await raw_meta(process.meta)
    await (await process.operator()).rotate_dek()
    if harm == "gone":
        await process.meta.delete("__dek__", collection="__vault_meta__")
    elif harm == "rolled back":
        await put_raw_meta(process.meta, before)
    else:
        await put_raw_meta(process.meta, {**await raw_meta(process.meta), "revision": 9})
    process.time.now += REFRESH_AFTER

    for _ in range(4):
        with pytest.raises(RefutedKeyringError):
            await process.write()

    # One look, and one more where an older meta could perhaps be replaced by the newest.
    assert (2 if harm == "rolled back" else 1) == process.looks


async def test_locked(process: Process) -> None:
    """A locked vault is locked, and does not look for its meta."""
    await process.vault.lock()
    process.time.now += HOUR

    with pytest.raises(VaultLockedError):
        await process.write()
    assert 0 == process.looks


async def test_nothing_is_resealed_by_a_stale_keyring(process: Process) -> None:
    """A read that finds plaintext returns it, and seals it only while a put could."""
    await rewrite_policy(process.vault, process.meta, Policy(read_plaintext=True))
    process.vault.freshness = Freshness(clock=process.time)
    wrapper = process.wrapper
    await process.data.put("open", {"v": 1})
    process.is_cut = True
    process.time.now += LIMIT * REFRESH_AFTER

    assert {"v": 1} == await wrapper.get("open")
    assert {"v": 1} == await process.data.get("open")
    process.time.now -= 1
    assert {"v": 1} == await wrapper.get("open")
    assert 1 == await process.dek("open")


async def test_a_recode_looks_too(process: Process) -> None:
    """A recode that runs for hours seals with the DEK of the moment."""
    for _ in range(3):
        await process.write()
    await process.vault.rotate_dek()
    await (await process.operator()).rotate_dek()
    process.time.now += REFRESH_AFTER

    await recode(process.data, plan_reencryption(process.vault))

    assert 3 == await process.dek()


@pytest.mark.parametrize("refresh_after", [0, -1, float("inf"), float("nan")])
async def test_no_refresh_is_no_option(store: MemoryStore, refresh_after: float) -> None:
    """An interval that never ends would keep a process on a DEK that is gone."""
    with pytest.raises(ValueError, match="positive number of seconds"):
        EnvelopeEncryptionWrapper(store, refresh_after=refresh_after)
    with pytest.raises(ValueError, match="positive number of seconds"):
        await Vault.create(store, secret=SECRET, kdf=CHEAP, refresh_after=refresh_after)


async def test_refresh_after_is_passed_on(store: MemoryStore) -> None:
    """Each way to a vault takes the interval."""
    created = await Vault.create(store, secret=SECRET, kdf=CHEAP, refresh_after=5)
    opened = await Vault.open(store, secret=SECRET, refresh_after=6)
    either = await Vault.open_or_create(store, secret=SECRET, refresh_after=7)
    wrapped = EnvelopeEncryptionWrapper(store, secret=SECRET, refresh_after=8)

    assert [5, 6, 7, 8] == [
        vault.freshness.refresh_after for vault in (created, opened, either, await wrapped.vault())
    ]


async def test_an_old_process_never_loses_a_record(process: Process) -> None:
    """Rotate, re-encrypt, retire, while a process writes that never reads: it keeps every record."""
    await process.write()
    operator = await process.operator()
    await operator.rotate_dek()
    await recode(process.data, plan_reencryption(operator))
    process.time.now += MINUTE / 2
    await process.write()
    assert 1 == await process.dek()

    with pytest.raises(DEKNeededError):
        await retire(process.data, operator, 1)
    process.time.now += HOUR
    with pytest.raises(DEKNeededError, match="1 record still uses DEK 1"):
        await retire(process.data, operator, 1)
    await process.write()
    await recode(process.data, plan_reencryption(operator))
    done = await retire(process.data, operator, 1)
    await process.write()

    assert done.changed
    assert [2, 2, 2, 2] == [await process.dek(key) for key in process.put]
    await process.assert_nothing_is_lost()


async def rotated(process: Process) -> None:
    """Make a new DEK."""
    await (await process.operator()).rotate_dek()


async def reencrypted(process: Process) -> None:
    """Bring every record to it."""
    report = await recode(process.data, plan_reencryption(await process.operator()))
    assert 0 == report.failed


async def retired(process: Process) -> None:
    """Retire whatever may be retired."""
    operator = await process.operator()
    for dek in operator.status().deks[:-1]:
        with suppress(DEKNeededError):
            await retire(process.data, operator, dek.id, grace=timedelta(seconds=LIMIT * REFRESH_AFTER))


async def written(process: Process) -> None:
    """Put a record, or be told that it was not put."""
    with suppress(StaleKeyringError):
        await process.write()


async def cut(process: Process) -> None:
    """Take the vault meta out of reach of the process."""
    process.is_cut = True


async def mended(process: Process) -> None:
    """Bring it back."""
    process.is_cut = False


def passing(seconds: float) -> Callable[[Process], Awaitable[None]]:
    """Return the step in which nothing happens for so long."""

    async def waited(process: Process) -> None:
        process.time.now += seconds

    return waited


STEPS = {
    "rotate": rotated,
    "re-encrypt": reencrypted,
    "retire": retired,
    "write": written,
    "cut": cut,
    "mend": mended,
    "20 s": passing(20),
    "61 s": passing(61),
    "590 s": passing(590),
}


@pytest.mark.exhaustive
@given(st.lists(st.sampled_from(list(STEPS)), min_size=4, max_size=30))
@settings(max_examples=150)
def test_nothing_is_lost_in_any_order(steps: list[str]) -> None:
    """Whatever an operator does, and whatever a process can reach, what was put is read."""

    async def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            process = await Process.started(Time().patch(patch))
            for step in ("write", *steps, "write"):
                await STEPS[step](process)
                await process.assert_nothing_is_lost()

    asyncio.run(run())


async def test_a_machine_whose_own_clocks_stood_still(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pause that only the wall clock has counted, a writer reads the vault meta before it seals."""
    await (await process.operator()).rotate_dek()
    later = clock.wall() + 2 * HOUR
    monkeypatch.setattr("kvseal.clock.wall", lambda: later)
    process.time.now += 1

    await process.write()

    assert 2 == await process.dek()


async def test_a_pause_out_of_reach_of_the_meta(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """After such a pause nothing is sealed while the vault meta is out of reach: the DEK may be retired by now."""
    process.is_cut = True
    later = clock.wall() + 2 * HOUR
    monkeypatch.setattr("kvseal.clock.wall", lambda: later)
    process.time.now += 1

    with pytest.raises(StaleKeyringError):
        await process.write()
