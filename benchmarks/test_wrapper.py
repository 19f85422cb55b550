"""Put and get of one value: kvseal, its peers and the floor, from 64 bytes to 256 KiB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import peers
from benchmarks.driving import finish, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers import Peer

everyone = pytest.mark.parametrize(
    "contestant",
    [peers.kvseal, peers.floor, peers.by_hand, peers.fernet],
    ids=["kvseal", "floor", "by-hand", "fernet"],
)
sizes = pytest.mark.parametrize("size", peers.SIZES)


@sizes
@everyone
def test_put(benchmark: Any, contestant: Callable[[], Peer], size: str) -> None:
    """Seal a value and hand it to the store."""
    peer, value = contestant(), peers.token(peers.SIZES[size])
    prepare(peer, value)
    benchmark.group = f"put {size}"

    benchmark(lambda: finish(peer.put(peers.KEY, value)))


@sizes
@everyone
def test_get(benchmark: Any, contestant: Callable[[], Peer], size: str) -> None:
    """Take a record from the store and open it."""
    peer, value = contestant(), peers.token(peers.SIZES[size])
    prepare(peer, value)
    benchmark.group = f"get {size}"

    assert value == benchmark(lambda: finish(peer.get(peers.KEY)))
