"""What a vault costs beside its records: unlocking, rotation at a million records, the loop, the space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from benchmarks import rotation, stall, unlocking
from benchmarks.peers import COLLECTION, KEY
from benchmarks.shapes import SIZES, flat
from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.legacy import FernetCodec

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_ROTATIONS = 200
_TIMES = 10


@pytest.mark.timeout(900)
def test_rotate_a_million(
    benchmark: Any, loop: asyncio.AbstractEventLoop, backend: Callable[[str], Any]
) -> None:
    """With a million records a rotation writes what it does with ten."""
    redis = backend("redis")
    benchmark.group = "rotate at a million"

    result = benchmark.pedantic(
        lambda: loop.run_until_complete(rotation.measure(redis, rotation.MANY, _ROTATIONS)), rounds=1
    )

    few, many = result.writes
    assert few == many
    benchmark.extra_info.update(result.as_json())


def test_unlock(benchmark: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Fifty wrappers of one process unlock with one derivation."""
    benchmark.group = "unlock"

    result = benchmark.pedantic(lambda: loop.run_until_complete(unlocking.measure(_TIMES)), rounds=1)

    assert result.derivations == 1
    benchmark.extra_info.update(result.as_json())


@pytest.mark.parametrize("of", [stall.of_keys, stall.of_batches], ids=["keys", "batches"])
def test_stall(benchmark: Any, loop: asyncio.AbstractEventLoop, of: Callable[[int], Any]) -> None:
    """How long the event loop stands still is written down, beside what it does without kvseal."""
    benchmark.group = "stall"

    stalls = benchmark.pedantic(lambda: loop.run_until_complete(of(_TIMES)), rounds=1)

    benchmark.extra_info["most"] = stall.MOST_MILLISECONDS
    benchmark.extra_info["stalls"] = [one.as_json() for one in stalls]


def test_stored_size(benchmark: Any) -> None:
    """A sealed value is base64 once; a Fernet token, as py-key-value stores it, is base64 twice."""
    dek, associations = bytes(32), Associations(bytes(16))
    codec = RecordCodec(Sealer(dek, 1, associations), Opener({1: dek}, associations))
    fernet = FernetCodec([dek])
    benchmark.group = "stored size"

    def sizes() -> list[dict[str, Any]]:
        rows = []
        for name, size in SIZES.items():
            value = flat(size)
            stored = {
                "plaintext": value,
                "kvseal": codec.seal(value, COLLECTION, KEY),
                "fernet": fernet.seal(value),
            }
            rows.append({"size": name} | {peer: len(orjson.dumps(one)) for peer, one in stored.items()})
        return rows

    rows = benchmark.pedantic(sizes, rounds=1)

    assert all(row["kvseal"] < row["fernet"] for row in rows)
    benchmark.extra_info["bytes"] = rows
