"""One order of operations among several tasks, chosen by the test instead of by chance."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.fakes import HookedDriver

from kvseal import Vault
from kvseal.drivers import driver_for
from kvseal.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from key_value.aio.stores.memory import MemoryStore

    from kvseal import Secret


class Turns:
    """
    Lets one of its players do one store operation at a time, in the order of *schedule*.

    Nobody moves before everybody who still plays stands before an operation.  When the
    schedule has ended or names somebody who has finished, the first who waits moves.
    """

    def __init__(self, schedule: Iterable[str]) -> None:
        self._schedule = list(schedule)
        self._playing: set[str] = set()
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def start(self, players: Iterable[str]) -> None:
        """Begin: until now everybody moved freely."""
        self._playing = set(players)

    def player(self, name: str) -> Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]:
        """Return what `HookedDriver` takes, for the player *name*."""

        async def around(_: str, operation: Callable[[], Awaitable[Any]]) -> Any:
            if name in self._playing:
                self._waiting[name] = asyncio.get_running_loop().create_future()
                turn = self._waiting[name]
                self._move()
                await turn
            return await operation()

        return around

    async def run(self, name: str, play: Awaitable[Any]) -> Any:
        """Await *play* of the player *name*, who leaves the game at its end."""
        try:
            return await play
        finally:
            self._playing.discard(name)
            self._move()

    def _move(self) -> None:
        if not self._waiting or self._playing - set(self._waiting):
            return
        while self._schedule and self._schedule[0] not in self._waiting:
            self._schedule.pop(0)
        name = self._schedule.pop(0) if self._schedule else min(self._waiting)
        self._waiting.pop(name).set_result(None)


async def interleaved(
    store: MemoryStore,
    secret: Secret,
    schedule: Iterable[str],
    changes: Sequence[Callable[[Vault], Awaitable[Any]]],
    *,
    refused: tuple[type[Exception], ...] = (Conflict,),
) -> list[bool]:
    """
    Run two *changes* of one vault at once, operation by operation in the order of *schedule*.

    Returns which of them were done: one at least, and the other too, or it has raised one of *refused*.
    """
    turns = Turns(schedule)
    vaults = [
        await Vault.open(HookedDriver(driver_for(store), turns.player(player)), secret=secret)
        for player in "ab"
    ]
    turns.start("ab")
    results = await asyncio.gather(
        *(
            turns.run(player, change(vault))
            for player, change, vault in zip("ab", changes, vaults, strict=True)
        ),
        return_exceptions=True,
    )
    errors = [result for result in results if isinstance(result, BaseException)]
    assert [] == [error for error in errors if not isinstance(error, refused)]
    done = [not isinstance(result, BaseException) for result in results]
    assert any(done)
    return done
