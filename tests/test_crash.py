"""
Crashes: whatever is interrupted at whichever store operation, the vault opens and nothing is lost.

The table says which store operations each command makes, and the process dies before
and after every one of them.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import Death, HookedDriver, Killed, raw_meta
from tests.processes import CHEAP, DIED, LEGACY, NEW, OLD, OPERATIONS, SPARE

from kvseal import Vault
from kvseal.drivers import driver_for
from kvseal.errors import (
    KvsealError,
    SlotExistsError,
    SlotNotFoundError,
    VaultExistsError,
    VaultNotFoundError,
    WrongSecretError,
)
from kvseal.recode import recode, reencryption, verify
from kvseal.recode.holder import Holder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AnyStore = MemoryStore | DiskStore

ROOT = Path(__file__).parent.parent

_OPEN = ["get"]
_CHANGE = ["get", "replace_many", "get"]
STEPS = {
    "create": ["get", "scan", "put_if_absent", "get"],
    "rotate the secret": _OPEN + 2 * _CHANGE,
    "rotate the cost": _OPEN + 2 * _CHANGE,
    "rotate both": _OPEN + 2 * _CHANGE,
    "rotate, and keep": _OPEN + 2 * _CHANGE,
    "add a slot": _OPEN + _CHANGE,
    "remove a slot": _OPEN + _CHANGE,
    "rotate the DEK": _OPEN + _CHANGE,
    "read legacy": _OPEN + _CHANGE,
    "end legacy reads": _OPEN + _CHANGE,
    "re-encrypt": [*_OPEN, "get", "put_if_absent", "scan", "replace_many", "scan", "get", "delete"],
    "retire the DEK": [*_OPEN, "get", "get", "scan", *_CHANGE],
}
CRASHES = [
    pytest.param(name, number, after, id=f"{name}-{'after' if after else 'before'} {number} {step}")
    for name, steps in STEPS.items()
    for number, step in enumerate(steps, 1)
    for after in (False, True)
]

RECORDS = {f"k{number}": {"v": number} for number in range(4)}


async def filled(store: AnyStore, name: str) -> None:
    """Make the vault that *name* is to change: two DEKs, records under both, a key or a slot to drop."""
    if name == "create":
        return
    vault = await Vault.create(store, secret=OLD, kdf=CHEAP)
    names = list(RECORDS)
    await vault.wrap().put_many(names[:2], list(RECORDS.values())[:2])
    await vault.rotate_dek()
    await vault.wrap().put_many(names[2:], list(RECORDS.values())[2:])
    if name == "retire the DEK":
        await recode(store, reencryption(vault))
    if name == "end legacy reads":
        await vault.read_legacy_with([LEGACY])
    if name == "remove a slot":
        await vault.slots.add(SPARE, label="spare", kdf=CHEAP)
    await vault.close()


async def opened(store: AnyStore) -> Vault:
    """Open with the old secret or else the new one."""
    try:
        return await Vault.open(store, secret=OLD)
    except WrongSecretError:
        return await Vault.open(store, secret=NEW)


async def assert_all_is_well(store: AnyStore, name: str) -> None:
    """The vault opens and every record reads; where it was not even created, nothing is there."""
    try:
        vault = await opened(store)
    except VaultNotFoundError:
        assert name == "create"
        return
    expected = [] if name == "create" else list(RECORDS.values())
    assert expected == await vault.wrap().get_many(list(RECORDS) if expected else [])
    await vault.close()


async def run_again(store: AnyStore, name: str) -> None:
    """Run the command once more; that it has already been done is an answer, too."""
    with suppress(VaultExistsError, WrongSecretError, SlotExistsError, SlotNotFoundError):
        driver = driver_for(store)
        await OPERATIONS[name](driver)
        await driver.close()


OTHER_SLOTS = {"rotate, and keep": [("primary", False)], "add a slot": [("added", True)]}
"""The slots that an operation leaves beside the one that opens: label, and whether it lasts."""
OTHER_OPENERS = {"rotate, and keep": OLD, "add a slot": SPARE}
"""Whose slots they are."""


async def assert_done(store: AnyStore, name: str) -> None:
    """The command has had its effect, and has left no slot that it was not to leave."""
    replacing = {"rotate the secret", "rotate both", "rotate, and keep"}
    vault = await Vault.open(store, secret=NEW if name in replacing else OLD)
    status = vault.status()
    *others, slot = sorted(status.slots, key=lambda slot: slot.opened)
    assert OTHER_SLOTS.get(name, []) == [(other.label, other.expires_at is None) for other in others]
    assert slot.expires_at is None
    if name in OTHER_OPENERS:
        await (await Vault.open(store, secret=OTHER_OPENERS[name])).close()
    assert (2 if "cost" in name or "both" in name else 1) == slot.t
    assert (name == "read legacy") == (1 == len(status.legacy))
    assert name != "rotate the DEK" or status.active_dek >= 3
    assert (name == "retire the DEK") == (status.deks[0].state == "retired")
    if name in {"re-encrypt", "retire the DEK"}:
        assert {2: len(RECORDS)} == (await verify(store, vault)).deks
    await vault.close()


@pytest.fixture(params=["memory", "disk"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyStore]:
    """Yield an empty store."""
    store = MemoryStore() if request.param == "memory" else DiskStore(directory=tmp_path)
    yield store
    if isinstance(store, DiskStore):
        store._cache.close()


@pytest.fixture(autouse=True)
def _dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who dies in this process count as gone, although the process goes on with the next test."""
    monkeypatch.setattr(Holder, "is_gone", lambda _: True)


@pytest.mark.parametrize("name", STEPS)
async def test_the_table_is_complete(name: str) -> None:
    """Each command makes exactly the store operations of the table, so every crash point is in it."""
    store = MemoryStore()
    await filled(store, name)
    death = Death()

    await OPERATIONS[name](HookedDriver(driver_for(store), death))

    assert STEPS[name] == death.operations


@pytest.mark.parametrize(("name", "at", "after"), CRASHES)
async def test_crash(name: str, at: int, after: bool, backend: AnyStore) -> None:
    """Killed around any store operation, the vault opens; the same command then finishes."""
    await filled(backend, name)
    driver = driver_for(backend)

    with pytest.raises(Killed):
        await OPERATIONS[name](HookedDriver(driver, Death(at, after=after)))

    await assert_all_is_well(backend, name)
    await run_again(backend, name)
    await assert_all_is_well(backend, name)
    await assert_done(backend, name)
    await driver.close()


@pytest.mark.parametrize(
    ("name", "at"),
    [
        pytest.param(name, at, id=f"{name}-before {at}")
        for name in (
            "create",
            "rotate both",
            "rotate, and keep",
            "add a slot",
            "rotate the DEK",
            "retire the DEK",
        )
        for at in range(2, len(STEPS[name]) + 1)
    ],
)
async def test_killed_process(name: str, at: int, tmp_path: Path) -> None:
    """A real process that ends without a word leaves a vault that opens and a command that finishes."""
    store = DiskStore(directory=tmp_path)
    await filled(store, name)

    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs here
        [sys.executable, "-m", "tests.processes", "crash", name, str(tmp_path), str(at)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )

    assert (DIED, "", "") == (done.returncode, done.stdout, done.stderr)
    await assert_all_is_well(store, name)
    await run_again(store, name)
    await assert_all_is_well(store, name)
    await assert_done(store, name)
    store._cache.close()


class LossyDriver(HookedDriver):
    """A driver whose backend acknowledges writes and keeps the old bytes, as a stale replica does."""

    def __init__(self, driver: Any, *, lost: str) -> None:
        async def around(name: str, operation: Any) -> Any:
            if name == lost:
                return True if name == "put_if_absent" else [True]
            return await operation()

        super().__init__(driver, around)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in {"create", "re-encrypt"}])
async def test_what_was_written_is_read_back(name: str) -> None:
    """A backend that acknowledges a change and loses it is found out before anybody relies on it."""
    store = MemoryStore()
    await filled(store, name)

    with pytest.raises(KvsealError, match="does not give back"):
        await OPERATIONS[name](LossyDriver(driver_for(store), lost="replace_many"))

    await assert_all_is_well(store, name)


async def test_a_created_vault_is_read_back() -> None:
    """Creation on a backend that loses the write fails, and so seals nothing under a lost key."""
    driver = LossyDriver(driver_for(MemoryStore()), lost="put_if_absent")

    with pytest.raises(VaultNotFoundError):
        await Vault.create(driver, secret=OLD, kdf=CHEAP)


async def test_the_old_slot_goes_after_the_new_one_is_there() -> None:
    """Between the two writes of a rotation both secrets open; at no moment does neither."""
    store = MemoryStore()
    await filled(store, "rotate both")
    slots = []

    async def watched(_: str, operation: Any) -> Any:
        result = await operation()
        slots.append(len((await raw_meta(store))["slots"]))
        return result

    await OPERATIONS["rotate both"](HookedDriver(driver_for(store), watched))

    assert [1, 1, 2, 2, 2, 1, 1] == slots


@pytest.mark.parametrize("name", STEPS)
async def test_cancelled_commands(name: str) -> None:
    """A command cancelled at any moment leaves what a crash leaves."""
    for at in range(1, len(STEPS[name]) + 1):
        store = MemoryStore()
        await filled(store, name)

        with pytest.raises(asyncio.CancelledError):
            await OPERATIONS[name](HookedDriver(driver_for(store), Death(at, die=cancel)))

        await assert_all_is_well(store, name)
        await run_again(store, name)
        await assert_done(store, name)


def cancel() -> NoReturn:
    """End this task, as its cancellation would here."""
    raise asyncio.CancelledError
