"""How long an event loop stands still: the most that a coroutine, due every millisecond, is late."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable

TICK: Final = 0.001


class Ticker:
    """Asks to be woken every millisecond, and remembers the longest time that it was late."""

    def __init__(self) -> None:
        self.late = 0.0

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            due = perf_counter() + TICK
            try:
                await asyncio.sleep(TICK)
            finally:
                # Whoever is cancelled while the loop stands still was late as well.
                self.late = max(self.late, perf_counter() - due)


async def stall_during(work: Awaitable[object]) -> tuple[float, float]:
    """Return for how many seconds the loop stood still at most during *work*, and how long that took."""
    ticker = Ticker()
    task = asyncio.ensure_future(ticker.run())
    await asyncio.sleep(2 * TICK)
    ticker.late, started = 0.0, perf_counter()
    await work
    took = perf_counter() - started
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return ticker.late, took
