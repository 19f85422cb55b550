"""From a vault meta and a secret to the root key, deriving at most once per process."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.keys.made import NOW, OTHER_SECRET, SECRET, VAULT_ID, slot

from kvseal import Argon2idParams, Secret
from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING
from kvseal.errors import DamagedSlotError, KDFParametersError, VaultMetaError, WrongSecretError
from kvseal.keys import unlocking
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.rootkey import RootKey
from kvseal.keys.unlocking import unlock
from kvseal.observe import counters

ROOT = RootKey.generate(VAULT_ID)


class Gate:
    """Holds every derivation until it is opened, and notes the thread that each runs in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[str] = []
        self.running = threading.Semaphore(0)
        self._may_end = threading.Event()
        derive = Keyslot.open

        def held(one: Keyslot, *args: Any, **kwargs: Any) -> RootKey:
            self.threads.append(threading.current_thread().name)
            self.running.release()
            self._may_end.wait()
            return derive(one, *args, **kwargs)

        monkeypatch.setattr(Keyslot, "open", held)

    def open(self) -> None:
        """Let all derivations go on."""
        self._may_end.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Return a gate in front of every derivation."""
    return Gate(monkeypatch)


@pytest.fixture
def slots() -> list[Keyslot]:
    """Return one slot for SECRET that no other test uses."""
    return [slot(ROOT, SECRET)]


async def root_of(
    slots: list[Keyslot], secret: Secret = SECRET, memory_ceiling: int = DEFAULT_MEMORY_CEILING
) -> RootKey:
    """Unlock and return the root key."""
    return (await unlock(slots, secret, VAULT_ID, now=NOW, memory_ceiling=memory_ceiling))[0]


async def derived() -> None:
    """Wait until no derivation runs any more, and nothing but kvseal holds its result."""
    for thread in threading.enumerate():
        if thread.name == "kvseal-unlock":
            await asyncio.to_thread(thread.join)
    await let_others_run()
    gc.collect()


async def given_up(slots: list[Keyslot]) -> None:
    """Unlock with a deadline that is over at once."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(root_of(slots), 0.001)


async def let_others_run() -> None:
    """Give every task that is ready its turn, a few times over."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_returns_root_key_and_slot(slots: list[Keyslot]) -> None:
    """The root key comes with the slot that opened."""
    other = slot(ROOT, OTHER_SECRET)
    root, opened = await unlock(
        [*slots, other], OTHER_SECRET, VAULT_ID, now=NOW, memory_ceiling=DEFAULT_MEMORY_CEILING
    )

    assert ROOT.reveal() == root.reveal()
    assert other == opened


async def test_wrong_secret(slots: list[Keyslot]) -> None:
    """A secret that opens no slot is an error that names the slots and not the secret."""
    with pytest.raises(WrongSecretError, match=slots[0].id) as caught:
        await root_of(slots, Secret(b"hunter2"))
    assert "hunter2" not in str(caught.value)
    assert 12 == caught.value.exit_code


async def test_wrong_secret_is_not_remembered(slots: list[Keyslot]) -> None:
    """A wrong secret is derived anew each time, and the right one opens afterwards."""
    before = counters.derivations.number
    for _ in range(3):
        with pytest.raises(WrongSecretError):
            await root_of(slots, OTHER_SECRET)

    assert 3 == counters.derivations.number - before
    assert ROOT.reveal() == (await root_of(slots)).reveal()


async def test_damaged_slot(slots: list[Keyslot]) -> None:
    """The right secret of a damaged slot says so, rather than that the secret is wrong."""
    damaged = replace(slots[0], wrapped=replace(slots[0].wrapped, nonce=bytes(24)))

    with pytest.raises(DamagedSlotError):
        await root_of([damaged])


async def test_memory_ceiling(slots: list[Keyslot]) -> None:
    """A slot above the ceiling is refused."""
    with pytest.raises(KDFParametersError):
        await root_of(slots, memory_ceiling=7)


async def test_slot_that_is_too_dear_does_not_keep_another_from_opening(slots: list[Keyslot]) -> None:
    """A slot above this machine's ceiling is passed over for one that it can afford."""
    dear = Keyslot.create(ROOT, OTHER_SECRET, Argon2idParams(1, 64, 1), label="dear", now=NOW)

    assert ROOT.reveal() == (await root_of([dear, *slots], memory_ceiling=32)).reveal()
    with pytest.raises(KDFParametersError):
        await root_of([dear, *slots], OTHER_SECRET, memory_ceiling=32)


async def test_damaged_slot_does_not_keep_another_from_opening(slots: list[Keyslot]) -> None:
    """Of two slots for one secret, as an interrupted rotation leaves them, the sound one opens."""
    damaged = replace(slots[0], wrapped=replace(slots[0].wrapped, nonce=bytes(24)))

    assert ROOT.reveal() == (await root_of([damaged, slot(ROOT, SECRET)])).reveal()


async def test_expired_slots_are_not_tried(slots: list[Keyslot]) -> None:
    """An expired slot opens nothing, and where all have expired there is none to try."""
    expired = replace(slots[0], expires_at=NOW - timedelta(seconds=1))

    with pytest.raises(VaultMetaError, match="no usable keyslot"):
        await root_of([expired])
    with pytest.raises(WrongSecretError):
        await root_of([expired, slot(ROOT, OTHER_SECRET)])


async def test_fifty_callers_share_one_derivation(slots: list[Keyslot], gate: Gate) -> None:
    """However many ask at once in one event loop, there is one derivation."""
    callers = [asyncio.create_task(root_of(slots)) for _ in range(50)]
    await let_others_run()
    gate.open()
    roots = await asyncio.gather(*callers)

    assert 1 == len(gate.threads)
    assert 1 == len(set(map(id, roots)))


async def test_derivation_is_not_in_the_event_loop(slots: list[Keyslot], gate: Gate) -> None:
    """The event loop goes on while a thread of kvseal's own derives."""
    caller = asyncio.create_task(root_of(slots))
    await let_others_run()

    assert gate.running.acquire()
    assert not caller.done()
    gate.open()
    await caller
    assert ["kvseal-unlock"] == gate.threads


async def test_held_root_key_is_not_derived_again(slots: list[Keyslot]) -> None:
    """Who asks later gets the same root key for as long as anybody holds it."""
    before = counters.derivations.number
    first = await root_of(slots)

    assert first is await root_of(slots)
    assert 1 == counters.derivations.number - before


async def test_forgotten_root_key_is_derived_again(slots: list[Keyslot]) -> None:
    """When nobody holds it any more it is gone."""
    before = counters.derivations.number
    await root_of(slots)
    for thread in threading.enumerate():
        if thread.name == "kvseal-unlock":
            thread.join()
    await let_others_run()  # The step of a task that was woken still holds what woke it.
    gc.collect()
    await root_of(slots)

    assert 2 == counters.derivations.number - before


@pytest.mark.parametrize("change", [{"id": "0" * 16}, {"salt": bytes(16)}], ids=["id", "salt"])
async def test_changed_slot_is_not_answered_from_memory(change: dict[str, Any], slots: list[Keyslot]) -> None:
    """A held root key answers for exactly its slot's bytes; anything else is opened anew and fails."""
    held = await root_of(slots)

    with pytest.raises((WrongSecretError, DamagedSlotError)):
        await root_of([replace(slots[0], **change)])
    assert held is await root_of(slots)


async def test_another_secret_is_not_answered_from_memory(slots: list[Keyslot]) -> None:
    """A held root key answers for exactly its secret."""
    held = await root_of(slots)

    with pytest.raises(WrongSecretError):
        await root_of(slots, Secret(SECRET.reveal() + b" "))
    assert held is await root_of(slots)


async def test_cache_holds_no_secret(slots: list[Keyslot], gate: Gate) -> None:
    """The names of what is held or running are keyed digests."""
    caller = asyncio.create_task(root_of(slots))
    await let_others_run()
    names = [*unlocking._held, *unlocking._running]
    gate.open()
    held = await caller

    assert {32} == set(map(len, [*names, *unlocking._held]))
    assert not any(SECRET.reveal() in name for name in names)
    assert ROOT.reveal() == held.reveal()


async def test_cancelled_first_caller(slots: list[Keyslot], gate: Gate) -> None:
    """The derivation goes on without the caller that started it, for the others and those who come later."""
    first, second = (asyncio.create_task(root_of(slots)) for _ in range(2))
    await let_others_run()
    first.cancel()
    await let_others_run()
    third = asyncio.create_task(root_of(slots))
    await let_others_run()
    gate.open()
    root = await second

    assert root is await third
    assert first.cancelled()
    assert 1 == len(gate.threads)


async def test_all_callers_cancelled(slots: list[Keyslot], gate: Gate) -> None:
    """A derivation that nobody waits for any more is what the next caller gets."""
    caller = asyncio.create_task(root_of(slots))
    await let_others_run()
    caller.cancel()
    await let_others_run()
    later = asyncio.create_task(root_of(slots))
    await let_others_run()
    gate.open()

    assert ROOT.reveal() == (await later).reveal()
    assert 1 == len(gate.threads)


async def test_a_result_that_came_too_late_is_kept(slots: list[Keyslot], gate: Gate) -> None:
    """Callers whose deadlines are shorter than a derivation get its result in the end, from one derivation."""
    for _ in range(3):
        await given_up(slots)
    gate.open()
    await derived()

    assert ROOT.reveal() == (await root_of(slots)).reveal()
    assert 1 == len(gate.threads)


async def test_a_result_is_kept_for_one_caller(slots: list[Keyslot], gate: Gate) -> None:
    """What no caller waited for is forgotten as soon as one has it, and what one waits for is not kept."""
    gate.open()
    await root_of(slots)
    assert {} == unlocking._unclaimed
    gc.collect()

    caller = asyncio.create_task(root_of(slots))
    await let_others_run()
    caller.cancel()
    await derived()
    await root_of(slots)

    assert {} == unlocking._unclaimed


def test_event_loop_that_ends_first(slots: list[Keyslot], gate: Gate) -> None:
    """A derivation outlives the event loop that started it, and serves the next one."""

    async def give_up() -> None:
        caller = asyncio.create_task(root_of(slots))
        await let_others_run()
        caller.cancel()

    async def ask_again() -> RootKey:
        caller = asyncio.create_task(root_of(slots))
        await let_others_run()
        gate.open()
        return await caller

    asyncio.run(give_up())

    assert ROOT.reveal() == asyncio.run(ask_again()).reveal()
    assert 1 == len(gate.threads)


def test_threads_with_loops_of_their_own_share_one_derivation(
    slots: list[Keyslot], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers in several threads and event loops share one derivation."""
    asked, roots = threading.Semaphore(0), []
    wrap = asyncio.wrap_future

    def observed(future: Any) -> Any:
        asked.release()
        return wrap(future)

    monkeypatch.setattr(asyncio, "wrap_future", observed)
    threads = [threading.Thread(target=lambda: roots.append(asyncio.run(root_of(slots)))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for _ in threads:
        asked.acquire()
    gate.open()
    for thread in threads:
        thread.join()

    assert 5 == len(roots)
    assert 1 == len(set(map(id, roots)))
    assert 1 == len(gate.threads)


async def test_failure_is_everybodys(slots: list[Keyslot], gate: Gate) -> None:
    """All who wait for a derivation that fails get its error, from one derivation."""
    callers = [asyncio.create_task(root_of(slots, OTHER_SECRET)) for _ in range(5)]
    await let_others_run()
    gate.open()
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert [WrongSecretError] * 5 == list(map(type, results))
    assert 1 == len(gate.threads)


async def test_thread_that_cannot_be_started(slots: list[Keyslot], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread is to be had the caller gets the error, and nobody waits for it afterwards."""

    def refuse(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            await root_of(slots)

    assert ROOT.reveal() == (await root_of(slots)).reveal()


@pytest.mark.processes
def test_forked_child_derives_for_itself() -> None:
    """A child that is forked during a derivation does not wait for a thread that it does not have."""
    script = """
import asyncio, os, signal, threading, warnings
warnings.simplefilter("ignore")
from kvseal.keys import unlocking
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.rootkey import RootKey
from tests.keys.made import *

root = RootKey.generate(VAULT_ID)
slots = [slot(root, SECRET)]
started, may_end = threading.Event(), threading.Event()
derive = Keyslot.open

def held(*args, **kwargs):
    started.set()
    may_end.wait()
    return derive(*args, **kwargs)

async def unlock():
    found, _ = await unlocking.unlock(slots, SECRET, VAULT_ID, now=NOW, memory_ceiling=8)
    return found.reveal() == root.reveal()

async def in_parent():
    asking = asyncio.create_task(unlock())
    await asyncio.to_thread(started.wait)
    with unlocking._lock:  # As if another thread had it at this very moment.
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # A child that waits for ever is ended, and its status says so.
            asyncio.events._set_running_loop(None)
            may_end.set()
            os._exit(0 if asyncio.run(unlock()) else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    may_end.set()
    print(status, await asking)

Keyslot.open = held
asyncio.run(in_parent())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert ("0 True\n", "") == (done.stdout, done.stderr)


async def test_lower_ceiling_does_not_spoil_a_running_derivation(slots: list[Keyslot], gate: Gate) -> None:
    """A caller whose ceiling is too low fails alone; it neither joins nor starts the others' derivation."""
    affordable = asyncio.create_task(root_of(slots, memory_ceiling=8))
    await asyncio.to_thread(gate.running.acquire)

    with pytest.raises(KDFParametersError):
        await root_of(slots, memory_ceiling=7)
    gate.open()
    assert ROOT.reveal() == (await affordable).reveal()


def planted(count: int, params: Argon2idParams) -> list[Keyslot]:
    """Return slots such as somebody who only writes to the store could plant."""
    genuine = slot(ROOT, OTHER_SECRET)
    return [
        replace(genuine, id=f"{number:016x}", params=params, label=f"planted {number}")
        for number in range(count)
    ]


async def test_cheapest_slot_is_tried_first(slots: list[Keyslot]) -> None:
    """However dear 31 planted slots are, whoever has the secret derives once."""
    before = counters.derivations.number

    await root_of([*planted(31, Argon2idParams(64, 64, 1)), *slots])

    assert 1 == counters.derivations.number - before


async def test_a_wrong_secret_has_its_end() -> None:
    """What 32 planted slots cost a wrong secret is bounded; those beyond are named, not tried."""
    before = counters.derivations.number

    with pytest.raises(KDFParametersError, match="together cost more") as caught:
        await root_of(planted(32, Argon2idParams(64, 16, 1)), memory_ceiling=16)

    assert 1 == counters.derivations.number - before
    assert "opens none of the keyslots" in str(caught.value)
    assert 32 == str(caught.value).count("(planted ")


async def test_the_budget_does_not_shut_out_what_is_usual() -> None:
    """32 slots of three passes each, all at the very ceiling, are all tried."""
    last = Keyslot.create(ROOT, SECRET, Argon2idParams(3, 16, 1), label="last", now=NOW)

    root = await root_of([*planted(31, Argon2idParams(3, 16, 1)), last], memory_ceiling=16)

    assert ROOT.reveal() == root.reveal()


async def test_what_was_not_tried_is_named_beside_what_was(slots: list[Keyslot]) -> None:
    """The error says which slots the secret does not open, and which one nobody could try."""
    dear = Keyslot.create(ROOT, OTHER_SECRET, Argon2idParams(1, 64, 1), label="dear", now=NOW)

    with pytest.raises(KDFParametersError) as caught:
        await root_of([dear, *slots], Secret(b"neither"), memory_ceiling=32)

    assert (
        f"this secret opens none of the keyslots {slots[0].id} (primary), and {dear.id} (dear) could not be"
        " tried: Argon2id wants 64 KiB of memory, above the ceiling of 32 KiB"
    ) == str(caught.value)
    assert "raise the memory ceiling" in caught.value.hint


async def test_a_damaged_slot_of_this_secret_comes_before_what_is_too_dear(slots: list[Keyslot]) -> None:
    """That the secret is right is more to know than that another slot could not be tried."""
    damaged = replace(slots[0], wrapped=replace(slots[0].wrapped, nonce=bytes(24)))
    dear = Keyslot.create(ROOT, OTHER_SECRET, Argon2idParams(1, 64, 1), label="dear", now=NOW)

    with pytest.raises(DamagedSlotError, match="secret is right"):
        await root_of([dear, damaged], memory_ceiling=32)
