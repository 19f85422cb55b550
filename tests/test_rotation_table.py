"""
Rotations as a table: what is done to a vault, and who can open it afterwards, on every kind of backend.

A secret is a letter; the vault is created with `a`.  Each step is done by a process of its own,
which opens the vault with the secret before the colon.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import UNSTABLE, Place, place
from tests.fakes import MetaClock

from kvseal import Argon2idParams, Secret, Vault
from kvseal.errors import Conflict, LastSlotError, SlotExistsError, SlotNotFoundError, WrongSecretError

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
}
LETTERS = "abcxyz"
ERRORS = {error.__name__: error for error in (Conflict, LastSlotError, SlotExistsError, SlotNotFoundError)}


@pytest.fixture(scope="module", params=["memory", "disk", "redis", "postgresql"])
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


async def opens(where: Place, letter: str) -> bool:
    """Whether a new process opens the vault with this secret, and then reads every record."""
    async with where.opened() as store:
        try:
            vault = await Vault.open(store, secret=secret(letter))
        except WrongSecretError:
            return False
        assert list(RECORDS.values()) == await vault.wrap().get_many(list(RECORDS))
        await vault.close()
        return True


@pytest.mark.parametrize("name", TABLE)
async def test_rotation(name: str, where: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the steps exactly the secrets of the table open the vault, and every record reads."""
    clock = MetaClock(monkeypatch)
    async with where.opened() as store:
        await emptied(store)
        vault = await Vault.create(store, secret=secret("a"), kdf=CHEAP)
        await vault.wrap().put_many(list(RECORDS), list(RECORDS.values()))
        await vault.close()

    for step in TABLE[name].steps:
        await follow(step, where, clock)

    assert TABLE[name].opens == "".join([letter for letter in LETTERS if await opens(where, letter)])
