"""The pace of a recode: a limit on its rate, so that it does not slow down the users of the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from kvseal import clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SLICES_PER_SECOND: Final = 4


class Pace:
    """At most *rate* records per second, evenly; without a rate, no limit."""

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
        """Return the batch size: at most *most*, and at most the records of a quarter of a second."""
        return most if self._rate is None else max(1, min(most, int(self._rate / _SLICES_PER_SECOND)))

    async def take(self, records: int) -> None:
        """Wait until *records* more are allowed."""
        if self._rate is None:
            return
        now = self._clock()
        start = max(now, self._next)
        # Reserved before this task waits, because several pages share one pace.
        self._next = start + records / self._rate
        if start > now:
            await self._sleep(start - now)
