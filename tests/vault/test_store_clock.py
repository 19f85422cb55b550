"""What is stamped goes by the store's clock, what is dropped by both, and a tool whose clock is wrong says so."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault, clock, recode, verify
from kvseal.backup import backup, restore
from kvseal.drivers import driver_for
from kvseal.drivers.base import Capabilities, StoreTime
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.errors import ClocksApartError, DEKNeededError
from kvseal.keys.keyring import LegacyKey
from kvseal.recoding import plan_reencryption, retire
from kvseal.recoding.retirement import KEPT
from kvseal.recoding.settling import ended_before
from kvseal.vault.store_clock import TOLERANCE, read_clocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

SECRET = Secret(b"the secret of the vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
HOUR = timedelta(hours=1)
NONE = timedelta()


@dataclass
class Times:
    """The right time, by how far each clock is off, and how long an answer of the store takes."""

    now: datetime = datetime(2030, 1, 1, tzinfo=timezone.utc)
    own: timedelta = NONE
    store: timedelta = NONE
    answer: timedelta = NONE
    awake: timedelta = NONE
    step: timedelta = NONE
    """By which the store's clock rounds down when it answers."""

    def boottime(self) -> float:
        """Return the seconds of a clock that only goes on."""
        return self.awake.total_seconds()

    def pass_by(self, time: timedelta) -> None:
        """Let time go by for every clock."""
        self.now += time
        self.awake += time


@dataclass
class World:
    """A store with a clock of its own, and a host with another one."""

    times: Times
    memory: MemoryStore = field(default_factory=MemoryStore)

    @property
    def driver(self) -> DelegatingDriver:
        """Return a driver whose backend keeps time."""
        times = self.times

        class Clocked(DelegatingDriver):
            @property
            def capabilities(self) -> Capabilities:
                return replace(self._driver.capabilities, keeps_time=True)

            async def store_time(self) -> StoreTime:
                answered = times.now + times.store
                beyond = timedelta(microseconds=answered.microsecond) if times.step else NONE
                times.pass_by(times.answer)
                return StoreTime(answered - beyond, 0.0, 0.0, times.step.total_seconds())

        return Clocked(driver_for(self.memory))

    async def vault(self) -> Vault:
        """Open the vault as a process of the host."""
        return await Vault.open(self.driver, secret=SECRET)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world with a vault, in which both clocks are right."""
    times = Times()
    monkeypatch.setattr("kvseal.clock.utc_now", lambda: times.now + times.own)
    monkeypatch.setattr("kvseal.clock.utc_seconds", lambda: (times.now + times.own).replace(microsecond=0))
    monkeypatch.setattr("kvseal.clock.awake_or_asleep", times.boottime)
    world = World(times)
    await (await Vault.create(world.driver, secret=SECRET, kdf=CHEAP)).close()
    return world


@pytest.mark.parametrize("off", [-2 * HOUR, 24 * HOUR], ids=["behind", "ahead"])
async def test_a_dek_is_stamped_by_the_store(world: World, off: timedelta) -> None:
    """The grace of a DEK that a host with a wrong clock has replaced is as long as any other."""
    world.times.own = off
    await (await world.vault()).rotate_dek()
    world.times.own = NONE
    world.times.pass_by(HOUR / 2)

    with pytest.raises(DEKNeededError, match="when DEK 1 was replaced"):
        await retire(world.driver, await world.vault(), 1)
    world.times.pass_by(HOUR)
    assert (await retire(world.driver, await world.vault(), 1)).changed


async def test_a_stamp_is_not_before_the_answer_could_be_given(world: World) -> None:
    """An answer that was long under way may be old: the grace begins when it came, in whole seconds rounded up."""
    world.times.answer = timedelta(minutes=20, milliseconds=1)

    await (await world.vault()).rotate_dek()

    created = (await world.vault()).meta.deks[1].created_at
    assert world.times.now <= created <= world.times.now + timedelta(seconds=1)


@pytest.mark.parametrize("beyond", [1, 999])
async def test_a_clock_in_whole_seconds(world: World, beyond: int) -> None:
    """Where the answer leaves out what is beyond a second, a stamp is not before the store's time either."""
    world.times.step = timedelta(seconds=1)
    world.times.pass_by(timedelta(milliseconds=beyond))

    clocks = await read_clocks(world.driver)

    assert clocks.store <= world.times.now <= clocks.stamp
    assert NONE == clocks.apart
    await (await world.vault()).rotate_dek()
    created = (await world.vault()).meta.deks[1].created_at
    assert world.times.now <= created <= world.times.now + timedelta(seconds=2)


async def test_stamps_never_fall(world: World) -> None:
    """After the store's clock was put back, a new DEK is not older than the one before it."""
    vault = await world.vault()
    await vault.rotate_dek()
    world.times.store = -5 * HOUR

    await vault.rotate_dek()

    first, second, third = (dek.created_at for dek in vault.meta.deks)
    assert first <= second == third


async def test_grace_takes_both_clocks(world: World) -> None:
    """Within what is tolerated, the later clock decides whether the grace is over."""
    vault = await world.vault()
    await vault.rotate_dek()
    world.times.pass_by(HOUR + timedelta(seconds=1))
    for behind in ("own", "store"):
        setattr(world.times, behind, -TOLERANCE + timedelta(seconds=1))
        with pytest.raises(DEKNeededError, match="when DEK 1 was replaced"):
            await retire(world.driver, vault, 1)
        setattr(world.times, behind, NONE)

    assert (await retire(world.driver, vault, 1)).changed


async def test_a_retired_dek_is_kept_by_both_clocks(world: World) -> None:
    """The week of a retired DEK is over when the later clock says so, and a wrong one says nothing."""
    vault = await world.vault()
    await vault.rotate_dek()
    world.times.pass_by(2 * HOUR)
    await retire(world.driver, vault, 1)
    world.times.own = 8 * 24 * HOUR
    with pytest.raises(ClocksApartError, match="how long a retired DEK is kept"):
        await retire(world.driver, vault, 1)
    world.times.own, world.times.store = NONE, timedelta(seconds=-3)
    world.times.pass_by(KEPT + timedelta(seconds=1))
    assert not (await retire(world.driver, vault, 1)).changed

    world.times.pass_by(timedelta(seconds=3))
    assert (await retire(world.driver, vault, 1)).dropped


async def test_an_old_key_is_kept_by_both_clocks(world: World) -> None:
    """The grace of a key with which reads have ended is over when the later clock says so; a wrong one says nothing."""
    vault = await world.vault()
    await vault.read_legacy_with([LegacyKey("fernet", bytes(32))])
    await vault.end_legacy_reads()

    async def dropped() -> frozenset[str]:
        return await ended_before(vault, HOUR)

    world.times.own = 24 * HOUR
    with pytest.raises(ClocksApartError, match="when an old key may be dropped"):
        await dropped()
    assert await ended_before(vault, NONE)
    for behind in ("own", "store"):
        world.times.own = world.times.store = NONE
        world.times.pass_by(HOUR / 2)
        setattr(world.times, behind, timedelta(seconds=-3))
        assert not await dropped()
    world.times.pass_by(timedelta(seconds=2))
    assert not await dropped()

    world.times.pass_by(timedelta(seconds=3))
    assert 1 == len(await dropped())


@pytest.mark.parametrize("off", [HOUR, -HOUR], ids=["ahead", "behind"])
async def test_what_depends_on_the_time_is_refused(world: World, off: timedelta, tmp_path: Path) -> None:
    """A tool whose clock is not the store's says so, and changes nothing."""
    vault = await world.vault()
    await EnvelopeEncryptionWrapper(world.memory, vault=vault).put("k", {"v": 1})
    await backup(world.driver, tmp_path / "file")
    await vault.rotate_dek()
    world.times.pass_by(2 * HOUR)
    world.times.own = off
    before, revision = dict(world.memory._cache), vault.meta.revision
    refused: dict[str, Callable[[], Awaitable[Any]]] = {
        "retire": lambda: retire(world.driver, vault, 1),
        "verify": lambda: verify(world.driver, vault),
        "reencrypt": lambda: recode(world.driver, plan_reencryption(vault)),
        "restore": lambda: restore(tmp_path / "file", world.driver),
        "slot add": lambda: vault.slots.add(Secret(b"more"), label="more", kdf=CHEAP, expires_in=HOUR),
        "rotate": lambda: vault.rotate(new_secret=Secret(b"new"), keep_old_for=HOUR),
    }

    for what, run in refused.items():
        with pytest.raises(ClocksApartError, match=r"3,600 s (ahead of|behind) that of memory") as raised:
            await run()
        assert raised.value.hint, what

    await vault.refresh()
    assert (before, revision) == (dict(world.memory._cache), vault.meta.revision)


async def test_what_does_not_depend_on_it_is_done(world: World) -> None:
    """A wrong clock stops neither a rotation nor an operator who has stopped every process."""
    vault = await world.vault()
    world.times.own = 24 * HOUR

    await vault.rotate(new_secret=Secret(b"new"), kdf=CHEAP)
    await vault.rotate_dek()

    assert (await retire(world.driver, vault, 1, grace=NONE)).changed


async def test_an_expired_slot_is_dropped_by_both_clocks(world: World) -> None:
    """A host whose clock is ahead removes no slot that still opens."""
    vault = await world.vault()
    await vault.slots.add(Secret(b"more"), label="more", kdf=CHEAP, expires_in=2 * HOUR)
    world.times.own = 24 * HOUR
    await vault.rotate_dek()
    assert ["primary", "more"] == [slot.label for slot in vault.meta.slots]

    world.times.own = NONE
    world.times.pass_by(3 * HOUR)
    await vault.rotate_dek()

    assert ["primary"] == [slot.label for slot in vault.meta.slots]


async def test_a_slow_answer_is_no_wrong_clock(world: World) -> None:
    """What the question took is not counted as a difference of the clocks."""
    world.times.answer = timedelta(minutes=3)

    assert NONE == (await read_clocks(world.driver)).apart


async def test_a_store_without_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of memory, or of a disk, is this host's: there is nothing to compare, and nothing is asked."""
    now = clock.utc_seconds() + 24 * HOUR
    monkeypatch.setattr("kvseal.clock.utc_seconds", lambda: now)

    clocks = await read_clocks(driver_for(MemoryStore()))

    assert (now, now, now, NONE) == (clocks.own, clocks.store, clocks.stamp, clocks.apart)
