"""
Rotations as a table: what is done to a vault, and who can open it afterwards, on every kind of backend.

A secret is a letter; the vault is created with `a`.  Each step is done by a process of its own,
which opens the vault with the secret before the colon.  `a runs` begins one that stays open; `a goes on`
and `a is out` say what becomes of it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import UNSTABLE, Place, place
from tests.fakes import MetaClock
from tests.wrapping import wrapped

from kvseal import Argon2idParams, Secret, Vault
from kvseal.errors import (
    Conflict,
    LastSlotError,
    RefutedKeyringError,
    RootRotatedError,
    SlotExistsError,
    SlotNotFoundError,
    SlotsLeftOutError,
    TamperedMetaError,
    WrongSecretError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings(UNSTABLE)

CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
COSTLIER = Argon2idParams(time_cost=2, memory_cost=16, parallelism=1)
RECORDS = {f"k{number}": {"v": number} for number in range(3)}


def secret(letter: str) -> Secret:
    """Return the secret that a letter of the table stands for."""
    return Secret(f"secret {letter}".encode())


@dataclass(frozen=True)
class Scenario:
    """Steps, and who opens the vault after them: the letters of `opens`, and no other of the table."""

    steps: tuple[str, ...]
    opens: str


TABLE = {
    "nothing is done": Scenario((), "a"),
    "a new secret": Scenario(("a: rotate b",), "b"),
    "a new secret twice": Scenario(("a: rotate b", "b: rotate c"), "c"),
    "there and back": Scenario(("a: rotate b", "b: rotate a"), "a"),
    "a new cost": Scenario(("a: cost",), "a"),
    "the old one is kept": Scenario(("a: rotate b keep 24h",), "ab"),
    "the old one is kept, and its time is not over": Scenario(("a: rotate b keep 24h", "wait 23h"), "ab"),
    "the old one is kept, and its time is over": Scenario(("a: rotate b keep 24h", "wait 24h"), "b"),
    "the same again does not prolong": Scenario(
        ("a: rotate b keep 24h", "wait 20h", "a: rotate b keep 24h", "wait 4h"), "b"
    ),
    "nor does the same again by the new secret": Scenario(
        ("a: rotate b keep 24h", "wait 20h", "b: rotate b keep 24h", "wait 4h"), "b"
    ),
    "two are kept, each for its own time": Scenario(
        ("a: rotate b keep 24h", "wait 12h", "b: rotate c keep 24h", "wait 11h"), "abc"
    ),
    "the first of two that are kept goes first": Scenario(
        ("a: rotate b keep 24h", "wait 12h", "b: rotate c keep 24h", "wait 12h"), "bc"
    ),
    "a rotation without keeping ends all": Scenario(("a: rotate b keep 24h", "b: rotate c"), "c"),
    "the kept one cannot rotate to a third": Scenario(
        ("a: rotate b keep 24h", "a: rotate c, but Conflict", "wait 24h"), "b"
    ),
    "the kept one cannot make itself last": Scenario(
        ("a: rotate b keep 24h", "a: cost, but Conflict", "wait 24h"), "b"
    ),
    "back to the kept one, which lasts again": Scenario(
        ("a: rotate b keep 24h", "b: rotate a", "wait 24h"), "a"
    ),
    "the new cost, and the old slot kept": Scenario(("a: cost keep 24h", "wait 24h"), "a"),
    "a second slot": Scenario(("a: add x",), "ax"),
    "a second slot survives a rotation": Scenario(("a: add x", "a: rotate b"), "bx"),
    "a second slot is rotated by its own secret": Scenario(("a: add x", "x: rotate y"), "ay"),
    "a second slot opens what is rotated later": Scenario(
        ("a: add x", "a: rotate b", "x: dek", "x: rotate z"), "bz"
    ),
    "a slot that expires": Scenario(("a: add x for 1h", "wait 1h"), "a"),
    "a slot that expires is not prolonged by a rotation": Scenario(
        ("a: add x for 1h", "x: rotate y", "wait 1h"), "a"
    ),
    "a slot that expires, kept: for less than it had": Scenario(
        ("a: add x for 3h", "x: rotate y keep 1h", "wait 1h"), "ay"
    ),
    "a slot that expires, kept: not for more than it had": Scenario(
        ("a: add x for 1h", "x: rotate y keep 3h", "wait 1h"), "a"
    ),
    "the kept slot of one that expires cannot rotate to a third": Scenario(
        ("a: add x for 3h", "x: rotate y keep 1h", "x: rotate z, but Conflict"), "axy"
    ),
    "a removed slot": Scenario(("a: add x", "x: remove primary"), "x"),
    "the only slot stays": Scenario(("a: remove primary, but LastSlotError",), "a"),
    "the only slot that lasts stays": Scenario(
        ("a: add x for 1h", "x: remove primary, but LastSlotError"), "ax"
    ),
    "a label is taken": Scenario(("a: add x", "a: add x, but SlotExistsError"), "ax"),
    "a label is free again": Scenario(("a: add x for 1h", "wait 1h", "a: add x"), "ax"),
    "what is gone cannot be removed": Scenario(("a: remove x, but SlotNotFoundError",), "a"),
    "a new root key, one slot": Scenario(("a: root",), "a"),
    "a new root key twice": Scenario(("a: root", "a: root"), "a"),
    "a new root key, both secrets given": Scenario(("a: add x", "a: root x"), "ax"),
    "a new root key by the second secret": Scenario(("a: add x", "x: root a"), "ax"),
    "a new root key, one slot dropped": Scenario(("a: add x", "a: root drop x"), "a"),
    "a new root key, the slot that opened first dropped": Scenario(("a: add x", "x: root drop primary"), "x"),
    "a new root key, without consent": Scenario(("a: add x", "a: root, but SlotsLeftOutError"), "ax"),
    "a new root key, consent to another": Scenario(
        ("a: add x", "a: add y", "a: root drop y, but SlotsLeftOutError"), "axy"
    ),
    "a new root key, a secret that opens nothing": Scenario(
        ("a: add x", "a: root y drop x, but WrongSecretError"), "ax"
    ),
    "a new root key, the only slot that lasts stays": Scenario(
        ("a: add x for 1h", "x: root drop primary, but LastSlotError"), "ax"
    ),
    "a new root key, a guest stays for its time": Scenario(
        ("a: add x for 2h", "wait 1h", "a: root x", "wait 1h"), "a"
    ),
    "a new root key, an expired slot needs no consent": Scenario(
        ("a: add x for 1h", "wait 1h", "a: root"), "a"
    ),
    "a new root key ends a kept secret that is not given": Scenario(
        ("a: rotate b keep 24h", "b: root drop primary"), "b"
    ),
    "a new root key, the kept secret given": Scenario(
        ("a: rotate b keep 24h", "b: root a", "wait 23h"), "ab"
    ),
    "a new root key, the kept secret given, its time over": Scenario(
        ("a: rotate b keep 24h", "b: root a", "wait 24h"), "b"
    ),
    "a new root key, then a new secret": Scenario(("a: root", "a: rotate b"), "b"),
    "a new secret, then a new root key": Scenario(("a: rotate b", "b: root"), "b"),
    "a new root key, then a slot, then its secret": Scenario(("a: root", "a: add x", "x: rotate y"), "ay"),
    "a new root key, then a DEK": Scenario(("a: root", "a: dek", "a: root"), "a"),
    "a process goes on under a new root key": Scenario(("a runs", "a: root", "a goes on"), "a"),
    "a process goes on from root key to root key": Scenario(
        ("a runs", "a: root", "a goes on", "a: dek", "a goes on", "a: root", "a goes on"), "a"
    ),
    "a process goes on although more has changed": Scenario(
        ("a runs", "a: root", "a: dek", "a: add x", "a goes on"), "ax"
    ),
    "a process by another slot goes on": Scenario(("a: add x", "x runs", "a: root x", "x goes on"), "ax"),
    "a process whose slot was dropped is out": Scenario(
        ("a: add x", "x runs", "a runs", "a: root drop x", "x is out", "a goes on"), "a"
    ),
    "a process that missed one root key is out": Scenario(("a runs", "a: root", "a: root", "a is out"), "a"),
    "a process whose secret is new since is out": Scenario(
        ("a runs", "a: root", "a: rotate b", "a is out"), "b"
    ),
    "a process that looks in between is not": Scenario(
        ("a runs", "a: root", "a goes on", "a: rotate b", "a goes on"), "b"
    ),
}
LETTERS = "abcxyz"
ERRORS = {
    error.__name__: error
    for error in (
        Conflict,
        LastSlotError,
        SlotExistsError,
        SlotNotFoundError,
        SlotsLeftOutError,
        WrongSecretError,
    )
}


@pytest.fixture(
    scope="module",
    params=["memory", pytest.param("disk", marks=pytest.mark.exhaustive), "redis", "postgresql"],
)
def where(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Yield a backend; servers are started once for the whole table."""
    yield from place(request.param, request, tmp_path_factory.mktemp("rotation"))


async def emptied(store: Any) -> None:
    """Take away what the last scenario has left."""
    await store.delete("__dek__", collection="__vault_meta__")
    await store.delete_many(list(RECORDS))


def duration(text: str) -> timedelta:
    """Return the hours that *text*, such as 24h, says."""
    return timedelta(hours=int(text.removesuffix("h")))


async def do(vault: Vault, words: list[str]) -> None:
    """Make one change."""
    ends = duration(words[-1]) if words[-2:-1] in (["keep"], ["for"]) else None
    match words[0]:
        case "rotate":
            await vault.rotate(new_secret=secret(words[1]), keep_old_for=ends)
        case "cost":
            await vault.rotate(kdf=COSTLIER, keep_old_for=ends)
        case "add":
            await vault.slots.add(secret(words[1]), label=words[1], kdf=CHEAP, expires_in=ends)
        case "remove":
            await vault.slots.remove(words[1])
        case "dek":
            await vault.rotate_dek()
        case "root":
            given, _, dropped = " ".join(words[1:]).partition("drop")
            await vault.rotate_root([secret(letter) for letter in given.split()], drop_slots=dropped.split())
        case _:
            raise AssertionError(words)


async def follow(step: str, where: Place, clock: MetaClock) -> None:
    """Do what one line of the table says."""
    if step.startswith("wait "):
        clock.advance(hours=int(step.removeprefix("wait ").removesuffix("h")))
        return
    change, _, error = step.partition(", but ")
    who, _, what = change.partition(": ")
    async with where.opened() as store:
        vault = await Vault.open(store, secret=secret(who))
        if error:
            with pytest.raises(ERRORS[error]):
                await do(vault, what.split())
        else:
            await do(vault, what.split())
        await vault.close()


class Running:
    """Processes that hold the vault open, by the letter of their secret."""

    def __init__(self, where: Place, stack: AsyncExitStack) -> None:
        self._where = where
        self._stack = stack
        self._vaults: dict[str, Vault] = {}

    async def follow(self, letter: str, what: str) -> None:
        """Begin a process, or see what becomes of it."""
        if what == "runs":
            store = await self._stack.enter_async_context(self._where.opened())
            self._vaults[letter] = await Vault.open(store, secret=secret(letter))
            self._stack.push_async_callback(self._vaults[letter].close)
            return
        vault = self._vaults[letter]
        if what == "goes on":
            await vault.refresh()
        else:
            with pytest.raises((RootRotatedError, TamperedMetaError)):
                await vault.refresh()
        # Without a handover from its own root key, a process cannot know whose vault meta this is.
        refuted = pytest.raises(RefutedKeyringError) if vault.freshness.is_refuted else nullcontext()
        with refuted:
            await wrapped(vault).put("k0", RECORDS["k0"])
        assert list(RECORDS.values()) == await wrapped(vault).get_many(list(RECORDS))


async def opens(where: Place, letter: str) -> bool:
    """Whether a new process opens the vault with this secret, and then reads every record."""
    async with where.opened() as store:
        try:
            vault = await Vault.open(store, secret=secret(letter))
        except WrongSecretError:
            return False
        assert list(RECORDS.values()) == await wrapped(vault).get_many(list(RECORDS))
        await vault.close()
        return True


@pytest.mark.parametrize("name", TABLE)
async def test_rotation(name: str, where: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the steps exactly the secrets of the table open the vault, and every record reads."""
    clock = MetaClock(monkeypatch)
    async with where.opened() as store:
        await emptied(store)
        vault = await Vault.create(store, secret=secret("a"), kdf=CHEAP)
        await wrapped(vault).put_many(list(RECORDS), list(RECORDS.values()))
        await vault.close()

    async with AsyncExitStack() as stack:
        running = Running(where, stack)
        for step in TABLE[name].steps:
            letter, _, what = step.partition(" ")
            if what in {"runs", "goes on", "is out"}:
                await running.follow(letter, what)
            else:
                await follow(step, where, clock)

    assert TABLE[name].opens == "".join([letter for letter in LETTERS if await opens(where, letter)])
