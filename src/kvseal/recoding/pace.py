"""How fast a recode may go, so that it does not get in the way of those who use the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from kvseal import clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SLICES_PER_SECOND: Final = 4


class Pace:
    """At most *rate* records per second, evenly; without one, as fast as can be."""

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = clock.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    def slice(self, most: int) -> int:
        """Return how many records to do at a time: no more than *most*, and a quarter of a second's worth."""
        return most if self._rate is None else max(1, min(most, int(self._rate / _SLICES_PER_SECOND)))

    async def take(self, records: int) -> None:
        """Wait until *records* more may be done."""
        if self._rate is None:
            return
        now = self._clock()
        start = max(now, self._next)
        # Reserved before anybody else is let in: several pages share one pace.
        self._next = start + records / self._rate
        if start > now:
            await self._sleep(start - now)
