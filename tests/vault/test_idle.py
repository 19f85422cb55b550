"""Keys that nobody uses are forgotten, and whoever needs them then is refused or finds the way back."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import HookedDriver, put_raw_meta, raw_meta
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.errors import ForkedMetaError, StoreUnreachableError, VaultLockedError, WrongSecretError
from kvseal.keys.keyring import LockedCodecs
from kvseal.observe import counters
from kvseal.vault.freshness import Freshness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
SECRET = Secret(b"the secret of the vault")
REFERENCE = "env:VAULT_SECRET"
IDLE = 900.0


@dataclass
class Time:
    """The clock of the machine, and of every event loop that it is given, moved by hand."""

    now: float = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now

    async def passes(self, seconds: float) -> None:
        """Move on, and let the timers of this event loop run."""
        self.now += seconds
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Return the clock of the machine; the environment has the secret."""
    clock = Time()
    monkeypatch.setattr("kvseal.clock.monotonic", clock)
    monkeypatch.setenv("VAULT_SECRET", SECRET.reveal().decode())
    return clock


@pytest.fixture
async def clock(machine: Time, monkeypatch: pytest.MonkeyPatch) -> Time:
    """Return the clock of the machine and of the test's event loop."""
    monkeypatch.setattr(asyncio.get_running_loop(), "time", machine)
    return machine


@pytest.fixture
async def filled(store: MemoryStore) -> MemoryStore:
    """Return a store with a vault and the record `k`."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await wrapped(vault).put("k", {"v": 1})
    await vault.close()
    return store


async def forgotten() -> None:
    """Let the thread that unlocked end, and the event loop drop what woke this task: both may hold a key."""
    for thread in threading.enumerate():
        if thread.name == "kvseal-unlock":
            thread.join()
    await asyncio.sleep(0)
    gc.collect()


def keys_of(vault: Vault) -> list[weakref.ref[Any]]:
    """Return weak references to what nobody may hold once the keys are forgotten."""
    return [weakref.ref(vault.way_in().root), weakref.ref(vault.keyring)]


async def test_idle_keys_are_forgotten(clock: Time, filled: MemoryStore) -> None:
    """After the idle timeout nothing holds a key, though nobody asked, and whoever asks is refused."""
    kv = EnvelopeEncryptionWrapper(filled, secret=SECRET, idle_timeout=IDLE)
    assert {"v": 1} == await kv.get("k")
    vault = await kv.vault()
    gone = keys_of(vault)

    await clock.passes(IDLE)
    await forgotten()

    assert [None, None] == [key() for key in gone]
    assert (None, True) == (vault._way_in, vault.is_locked)
    assert isinstance(vault.codecs, LockedCodecs)
    for refused in (
        kv.get("k"),
        kv.get_many(["k"]),
        kv.ttl("k"),
        kv.get("missing"),
        kv.get_many(["missing"]),
        kv.ttl("missing"),
        kv.put("k", {}),
        kv.put_many(["k"], [{}]),
        vault.refresh(),
        vault.rotate_dek(),
        vault.unlock(),
        vault.slots.verify(SECRET),
    ):
        with pytest.raises(VaultLockedError):
            await refused
    with pytest.raises(VaultLockedError):
        _ = vault.keyring


USES: dict[str, Callable[[EnvelopeEncryptionWrapper, Vault], Awaitable[object]]] = {
    "get": lambda kv, _: kv.get("k"),
    "get of nothing": lambda kv, _: kv.get("missing"),
    "get_many": lambda kv, _: kv.get_many(["k"]),
    "put": lambda kv, _: kv.put("k", {"v": 1}),
    "put_many": lambda kv, _: kv.put_many(["k"], [{"v": 1}]),
    "a change of the vault": lambda _, vault: vault.rotate_dek(),
}


@pytest.mark.parametrize("name", USES)
async def test_use_keeps_the_keys(clock: Time, filled: MemoryStore, name: str) -> None:
    """Every use counts from anew, and the timer waits for what is left."""
    kv = EnvelopeEncryptionWrapper(filled, secret=SECRET, idle_timeout=timedelta(seconds=IDLE))
    vault = await kv.vault()

    for _ in range(4):
        await clock.passes(IDLE - 1)
        await USES[name](kv, vault)
        assert not vault.is_locked

    await clock.passes(IDLE - 1)
    assert vault._way_in is not None
    await clock.passes(1)
    assert vault._way_in is None


async def test_looking_is_no_use(clock: Time, filled: MemoryStore) -> None:
    """Monitoring does not keep the keys in memory."""
    vault = await Vault.open(filled, secret=SECRET, idle_timeout=IDLE)

    await clock.passes(IDLE - 1)
    vault.status()
    vault.health()
    await clock.passes(1)

    assert vault._way_in is None
    assert "locked" == vault.health().state


def test_where_no_event_loop_ran(machine: Time, filled_disk: Path) -> None:
    """With no event loop to see the time pass, the next use finds the keys too old, and forgets them."""
    loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
    store = DiskStore(directory=filled_disk)
    kv = EnvelopeEncryptionWrapper(store, secret=SECRET, idle_timeout=IDLE)
    assert {"v": 1} == loops[0].run_until_complete(kv.get("k"))
    vault = loops[0].run_until_complete(kv.vault())
    machine.now += IDLE
    assert vault._way_in is not None

    for loop in loops:
        with pytest.raises(VaultLockedError):
            loop.run_until_complete(kv.get("k"))

    assert vault._way_in is None
    for loop in loops:
        loop.close()
    store._cache.close()


def test_each_event_loop_watches(machine: Time, monkeypatch: pytest.MonkeyPatch, filled_disk: Path) -> None:
    """A vault that has moved to another event loop is forgotten there, in a thread of its own too."""
    store = DiskStore(directory=filled_disk)
    kv = EnvelopeEncryptionWrapper(store, secret=SECRET, idle_timeout=IDLE)
    asyncio.run(kv.get("k"))
    vaults: list[Vault] = []

    async def used_and_left() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", machine)
        await kv.get("k")
        vaults.append(await kv.vault())
        await machine.passes(IDLE)

    thread = threading.Thread(target=asyncio.run, args=(used_and_left(),))
    thread.start()
    thread.join()

    assert [None] == [vault._way_in for vault in vaults]
    store._cache.close()


@pytest.fixture
async def filled_disk(tmp_path: Path) -> Path:
    """Return the directory of a disk store with a vault and the record `k`."""
    store = DiskStore(directory=tmp_path)
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await wrapped(vault).put("k", {"v": 1})
    await vault.close()
    store._cache.close()
    return tmp_path


async def test_no_timer_holds_the_vault(clock: Time, filled: MemoryStore) -> None:
    """A vault that its user has dropped is gone at once, with its keys, whatever timer is left."""
    vault = await Vault.open(filled, secret=SECRET, idle_timeout=IDLE)
    gone = [weakref.ref(vault), *keys_of(vault)]

    del vault
    await forgotten()

    assert [None, None, None] == [one() for one in gone]
    await clock.passes(IDLE)


async def test_one_timer_for_each_loop(clock: Time, filled: MemoryStore) -> None:
    """However often the keys are used, the event loop has one timer for them."""
    loop: Any = asyncio.get_running_loop()
    before = len(loop._scheduled)
    kv = EnvelopeEncryptionWrapper(filled, secret=SECRET, idle_timeout=IDLE)

    for _ in range(20):
        await kv.get("k")
        await clock.passes(IDLE / 2)

    assert before + 1 == len(loop._scheduled)


async def test_without_an_idle_timeout(filled: MemoryStore) -> None:
    """Whoever wants none pays nothing: the codecs are the keyring's own."""
    vault = await Vault.open(filled, secret=SECRET)

    assert vault.keyring.codecs is vault.codecs


@pytest.mark.parametrize("how", ["idle", "lock"])
async def test_unlocks_again(clock: Time, filled: MemoryStore, how: str) -> None:
    """With a reference, whatever needs a key unlocks the vault again, and meanwhile nothing is held."""
    kv = EnvelopeEncryptionWrapper(filled, secret=REFERENCE, idle_timeout=IDLE, when_locked="unlock")
    vault = await kv.vault()
    for use in (*USES.values(), lambda _, vault: vault.slots.verify(SECRET), lambda kv, _: kv.unlock()):
        gone = keys_of(vault)
        if how == "lock":
            await vault.lock()
        else:
            await clock.passes(IDLE)
        await forgotten()
        assert [None, None] == [key() for key in gone]
        assert "idle" == vault.health().state

        await use(kv, vault)

        assert not vault.is_locked
    assert {"v": 1} == await kv.get("k")


async def test_one_derivation_for_all_who_return(clock: Time, filled: MemoryStore) -> None:
    """Wrappers whose keys were forgotten at the same time derive once for all of their callers."""
    wrappers = [
        EnvelopeEncryptionWrapper(filled, secret=REFERENCE, idle_timeout=IDLE, when_locked="unlock")
        for _ in range(4)
    ]
    for kv in wrappers:
        await kv.unlock()
    await clock.passes(IDLE)
    await forgotten()
    before = counters.derivations.number

    values = await asyncio.gather(*(kv.get("k") for kv in wrappers for _ in range(5)))

    assert [{"v": 1}] * 20 == values
    assert before + 1 == counters.derivations.number


async def test_the_secret_is_read_anew(
    clock: Time, filled: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the reference holds now is what counts: a wrong secret is told, and the vault stays locked."""
    kv = EnvelopeEncryptionWrapper(filled, secret=REFERENCE, idle_timeout=IDLE, when_locked="unlock")
    await kv.get("k")
    await clock.passes(IDLE)
    monkeypatch.setenv("VAULT_SECRET", "not the secret")

    with pytest.raises(WrongSecretError):
        await kv.get("k")

    assert (await kv.vault()).is_locked
    monkeypatch.setenv("VAULT_SECRET", SECRET.reveal().decode())
    assert {"v": 1} == await kv.get("k")


@pytest.mark.usefixtures("machine")
async def test_the_default_order_is_a_reference(filled: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no secret was named, unlocking again looks where opening did."""
    monkeypatch.setenv("KVSEAL_MASTER_KEY", SECRET.reveal().decode())
    vault = await Vault.open(filled, when_locked="unlock")
    await vault.lock()

    assert {"v": 1} == await wrapped(vault).get("k")


@pytest.mark.usefixtures("machine")
async def test_a_rotation_moves_the_way_back(filled: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever rotated to another reference unlocks with that one from then on."""
    monkeypatch.setenv("NEW_SECRET", "the secret that came after")
    vault = await Vault.open(filled, secret=REFERENCE, when_locked="unlock")
    await vault.lock()

    await vault.rotate(new_secret="env:NEW_SECRET", kdf=CHEAP)
    await vault.lock()

    assert {"v": 1} == await wrapped(vault).get("k")


async def test_no_secret_is_kept_for_the_way_back(filled: MemoryStore) -> None:
    """A `Secret` cannot be read anew, so unlocking with one is refused before anything is opened."""
    refused: list[Callable[[], Any]] = [
        lambda: EnvelopeEncryptionWrapper(filled, secret=SECRET, when_locked="unlock"),
    ]
    for make in refused:
        with pytest.raises(ValueError, match="give a reference"):
            make()
    for opening in (Vault.open, Vault.create, Vault.open_or_create):
        with pytest.raises(ValueError, match="give a reference"):
            await opening(filled, secret=SECRET, when_locked="unlock")


async def test_a_locked_vault_holds_no_secret(filled: MemoryStore) -> None:
    """What a vault keeps for later does not hold the `Secret` that it was opened with."""
    secret = Secret(SECRET.reveal())
    vault = await Vault.open(filled, secret=secret)
    gone = weakref.ref(secret) if hasattr(secret, "__weakref__") else None

    await vault.lock()

    assert (None, None) == (vault._way_in, vault._opening.secret)
    del secret
    await forgotten()
    assert gone is None or gone() is None


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), timedelta(0)])
async def test_what_is_no_idle_timeout(store: MemoryStore, value: Any) -> None:
    """A timeout that is none is refused by the constructor, not by the first operation."""
    with pytest.raises(ValueError, match="idle_timeout is a positive number"):
        EnvelopeEncryptionWrapper(store, idle_timeout=value)


async def test_what_is_no_way_to_be_locked(store: MemoryStore) -> None:
    """A typing error does not choose for anybody."""
    mistyped: Any = "reopen"

    with pytest.raises(ValueError, match="'fail' or 'unlock'"):
        EnvelopeEncryptionWrapper(store, when_locked=mistyped)


@pytest.mark.usefixtures("machine")
async def test_close_is_final(filled: MemoryStore) -> None:
    """A closed vault does not come back; a released wrapper opens another one."""
    vault = await Vault.open(filled, secret=REFERENCE, when_locked="unlock")
    kv = EnvelopeEncryptionWrapper(filled, secret=REFERENCE, when_locked="unlock")
    await kv.get("k")
    await kv.release()
    await vault.close()

    with pytest.raises(VaultLockedError):
        await wrapped(vault).get("k")
    assert "locked" == vault.health().state
    assert {"v": 1} == await kv.get("k")


@pytest.mark.usefixtures("machine")
async def test_another_vault_is_not_returned_to(filled: MemoryStore, store: MemoryStore) -> None:
    """If somebody has replaced the vault meanwhile, the keys of another one are not taken for its."""
    vault = await Vault.open(filled, secret=REFERENCE, when_locked="unlock")
    await vault.lock()
    other = MemoryStore()
    await Vault.create(other, secret=SECRET, kdf=CHEAP)
    await put_raw_meta(store, await raw_meta(other))

    with pytest.raises(ForkedMetaError):
        await vault.unlock()
    assert vault.is_locked


async def test_a_store_that_is_out_of_reach(clock: Time, filled: MemoryStore) -> None:
    """Keys that are held are used while the meta is out of reach; to unlock again, it has to be there."""
    is_cut = False

    async def around(_: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        if is_cut:
            msg = "the network is down"
            raise StoreUnreachableError(msg)
        return await operation()

    meta = HookedDriver(driver_for(filled), around)
    vault = await Vault.open(
        filled, secret=REFERENCE, meta_store=meta, idle_timeout=IDLE, when_locked="unlock"
    )
    vault.freshness = Freshness(clock=clock)
    kv, is_cut = EnvelopeEncryptionWrapper(filled, vault=vault), True

    await clock.passes(120)
    await kv.put("k", {"v": 2})
    assert {"v": 2} == await kv.get("k")

    await clock.passes(IDLE)
    for _ in range(2):
        with pytest.raises(StoreUnreachableError):
            await kv.get("k")
    is_cut = False
    assert {"v": 2} == await kv.get("k")
    await kv.put("k", {"v": 3})


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
async def test_locked_while_the_meta_is_read(clock: Time, filled: MemoryStore, many: bool) -> None:
    """A write whose vault is locked while it looks at the meta unlocks it again, and goes on."""
    locks = 1

    async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal locks
        found = await operation()
        if vault is not None and name == "get" and locks:
            locks -= 1
            await vault.lock()
        return found

    vault: Vault | None = None
    meta = HookedDriver(driver_for(filled), around)
    vault = await Vault.open(filled, secret=REFERENCE, meta_store=meta, when_locked="unlock")
    vault.freshness = Freshness(clock=clock)
    kv = EnvelopeEncryptionWrapper(filled, vault=vault)
    await clock.passes(120)

    await (kv.put_many(["k"], [{"v": 2}]) if many else kv.put("k", {"v": 2}))

    assert [{"v": 2}] == await kv.get_many(["k"])
    assert 0 == locks


async def test_locked_as_soon_as_it_is_unlocked(machine: Time, filled: MemoryStore) -> None:
    """Of two that wait for one unlocking, one may lock the vault before the other has its turn."""
    vault = await Vault.open(filled, secret=REFERENCE, when_locked="unlock")
    kv = EnvelopeEncryptionWrapper(filled, vault=vault)
    for use in (lambda: kv.get_many(["k"]), lambda: kv.put_many(["k"], [{"v": 1}]), lambda: kv.get("k")):
        await vault.lock()

        async def locks_at_once() -> None:
            await vault.unlock()
            await vault.lock()

        await asyncio.gather(locks_at_once(), use())

    assert {"v": 1} == await kv.get("k")


async def test_a_vault_that_is_locked_all_the_time(machine: Time, filled: MemoryStore) -> None:
    """An operation does not unlock without end: the error says that the vault is locked."""

    class Locks(Freshness):
        """Has the vault locked whenever its meta is looked at."""

        async def renew(self, _: object) -> None:
            await vault.lock()
            vault.way_in()

    vault = await Vault.open(filled, secret=REFERENCE, when_locked="unlock")
    vault.freshness = Locks()

    with pytest.raises(VaultLockedError):
        await asyncio.wait_for(EnvelopeEncryptionWrapper(filled, vault=vault).put_many(["k"], [{}]), 30)
