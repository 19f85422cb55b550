"""
Long work on the event loop gives the others their turn.

A batch of a hundred large values would otherwise be one step, in which nobody else's coroutine runs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TURN: Final = 0.002
"""Seconds after which others have their turn: more than a usual batch takes, so that one goes undivided."""
_AT_ONCE: Final = 8
"""Between two looks at the clock.  Even eight values of a megabyte take no longer than a few turns."""


async def turns(length: int) -> AsyncIterator[slice]:
    """Yield slices that together are `range(length)`; when `TURN` is over, others run before the next one."""
    until = time.monotonic() + TURN
    for start in range(0, length, _AT_ONCE):
        yield slice(start, start + _AT_ONCE)
        if time.monotonic() >= until:
            await asyncio.sleep(0)
            until = time.monotonic() + TURN
