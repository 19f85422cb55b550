"""Coroutines without an event loop: over a store that never waits, one `send` runs them to their end."""

from __future__ import annotations

import asyncio
import gc
from contextlib import contextmanager
from time import thread_time
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.peers import KEY, Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what *coroutine* returns, which waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    msg = "the coroutine waits for something, so its time is not that of the code measured"
    raise RuntimeError(msg)


def prepare(peer: Peer, value: dict[str, Any]) -> None:
    """Put *value* and get it back in a real event loop: the vault of kvseal is created there."""

    async def round_trip() -> None:
        await peer.put(KEY, value)
        assert await peer.get(KEY) == value, f"{peer.name} does not give back what was put"

    asyncio.run(round_trip())


def timer(peer: Peer, operation: str, value: dict[str, Any]) -> Callable[[int], float]:
    """
    Return what runs *operation* n times in one running coroutine, and returns the seconds for one.

    Seconds of this thread's CPU time: while a neighbour has the core, the clock stands still.
    """
    put, get = peer.put, peer.get

    async def puts(times: int) -> float:
        start = thread_time()
        for _ in range(times):
            await put(KEY, value)
        return (thread_time() - start) / times

    async def gets(times: int) -> float:
        start = thread_time()
        for _ in range(times):
            await get(KEY)
        return (thread_time() - start) / times

    chosen = puts if operation == "put" else gets
    return lambda times: finish(chosen(times))


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out of what is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
