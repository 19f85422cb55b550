"""Put and get of one value and of many: kvseal, its peers and the floor, over five stores, 64 B to 1 MiB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore

from benchmarks import peers
from benchmarks.shapes import SIZES, nested
from benchmarks.turns import Case, measure

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from benchmarks.peers import Peer

_WITHIN: dict[str, Callable[[], Any]] = {"dict": peers.DictStore, "memory": MemoryStore}


def batch(operation: str, size: int) -> int:
    """Return how many values one call has: a hundred, or fewer so that they stay below a few MiB."""
    return max(4, min(100, 2**20 // size)) if operation.endswith("many") else 1


@pytest.fixture(scope="module")
def opened(
    request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop, backend: Callable[[str], Any]
) -> Iterator[tuple[str, Any]]:
    """Yield the name of a store and the store, open."""
    name: str = request.param
    if name in _WITHIN:
        yield name, _WITHIN[name]()
        return
    entered = backend(name).filled()
    yield name, loop.run_until_complete(entered.__aenter__())
    loop.run_until_complete(entered.__aexit__(None, None, None))


@pytest.mark.parametrize("opened", ["dict", "memory", "disk", "redis", "postgresql"], indirect=True)
@pytest.mark.parametrize("operation", ["put", "get", "put_many", "get_many"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("contestant", peers.EVERYONE, ids=lambda contestant: contestant.__name__)
def test_operation(
    benchmark: Any,
    loop: asyncio.AbstractEventLoop,
    opened: tuple[str, Any],
    contestant: Callable[[Any], Peer],
    size: str,
    operation: str,
) -> None:
    """What was put comes back, and the time that it takes is written down."""
    name, store = opened
    peer, value = contestant(store), nested(SIZES[size])
    count = batch(operation, SIZES[size])
    keys, values = [f"{peers.KEY}-{number}" for number in range(count)], [value] * count
    calls = {
        "put": lambda: peer.put(peers.KEY, value),
        "get": lambda: peer.get(peers.KEY),
        "put_many": lambda: peer.put_many(keys, values),
        "get_many": lambda: peer.get_many(keys),
    }
    call = calls[operation]

    async def prepare() -> None:
        await peer.put(peers.KEY, value)
        await peer.put_many(keys, values)

    async def repeat(times: int) -> Any:
        result = None
        for _ in range(times):
            result = await call()
        return result

    loop.run_until_complete(prepare())
    measure(
        benchmark,
        Case(name, operation, size, peer.name, count),
        lambda times: loop.run_until_complete(repeat(times)),
    )

    assert value == loop.run_until_complete(peer.get(peers.KEY))
    assert values == list(loop.run_until_complete(peer.get_many(keys)))
