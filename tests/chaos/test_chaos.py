"""The oracle of the chaos suite: what it takes for a loss, what it excuses, and that its proxy cuts where it says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from tests.chaos import planted
from tests.chaos.__main__ import one_round
from tests.chaos.journal import COLLECTION, Journal, Record, value_of
from tests.chaos.oracle import judge, wrong_with
from tests.chaos.proxy import Proxy
from tests.processes import CHEAP, OLD

from kvseal import EnvelopeEncryptionWrapper, Vault

if TYPE_CHECKING:
    from pathlib import Path

DELETED = 19
"""The number of a write that deletes."""


@pytest.mark.parametrize(
    ("read", "acked", "tried", "is_loss"),
    [
        (5, 5, 5, False),
        (6, 5, 7, False),
        (4, 5, 5, True),
        (8, 5, 7, True),
        (None, 5, 7, True),
        (None, DELETED, DELETED, False),
        (None, DELETED - 1, DELETED, False),
        (None, DELETED + 1, DELETED + 1, True),
        (DELETED - 1, DELETED, DELETED, True),
    ],
)
def test_what_a_loss_is(read: int | None, acked: int, tried: int, is_loss: bool) -> None:
    """The last acknowledged write or a later one has to be there, and what was deleted must not come back."""
    value = None if read is None else value_of("k", read)

    assert is_loss == bool(wrong_with("k", value, acked, tried))


@pytest.mark.parametrize(
    ("excused", "health", "expected"),
    [
        ({}, "ok", {"lost": 1}),
        ({"k": 2}, "ok", {"by_store": 1}),
        ({"k": 1}, "ok", {"lost": 1}),
        ({}, "meta refuted", {"announced": 1}),
    ],
    ids=["silent", "lost by the store", "acknowledged after the failover", "announced"],
)
async def test_how_a_loss_is_called(
    excused: dict[str, int], health: str, expected: dict[str, int], tmp_path: Path
) -> None:
    """An older value is a loss, unless the store itself has lost the newer one, or the writer's health said so."""
    store = MemoryStore()
    await Vault.create(store, secret=OLD, kdf=CHEAP)
    kv = EnvelopeEncryptionWrapper(store, secret=OLD)
    await kv.put("k", value_of("k", 1), collection=COLLECTION)
    journal = Journal(tmp_path / "w.journal")
    journal.note("try", "k", 2)
    journal.acknowledged("k", 2, health)

    verdict = await judge(kv, Record.of([tmp_path / "w.journal"]), excused)

    found: dict[str, Any] = {
        "lost": len(verdict.lost),
        "announced": len(verdict.announced),
        "by_store": verdict.by_store.total(),
    }
    assert {"lost": 0, "announced": 0, "by_store": 0, **expected} == found


@pytest.mark.servers
@pytest.mark.parametrize(("when", "heard"), [("before", []), ("after", [b"ask"])])
async def test_where_a_connection_is_cut(when: Any, heard: list[bytes]) -> None:
    """A cut before the reply keeps the request from the server; one after it keeps the reply from the client."""
    asked: list[bytes] = []
    served: list[Any] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        with contextlib.suppress(OSError):
            while data := await reader.read(100):
                asked.append(data)
                writer.write(b"reply")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    proxy.cut(when)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"ask")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    again, second = await asyncio.open_connection("127.0.0.1", proxy.port)
    second.write(b"again")

    assert b"reply" == await again.readexactly(5)
    assert [*heard, b"again"] == asked
    for one in (writer, second):
        one.close()
        with contextlib.suppress(OSError):
            await one.wait_closed()
    await proxy.stop()
    await asyncio.gather(*served)
    server.close()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", planted.FAULTS)
async def test_a_planted_fault_is_reported(plant: str) -> None:
    """A vaultctl that retires without a look, and a wrapper that seals under a stale keyring, lose what is reported."""
    result = await one_round("redis", 90.0, 5, plant)

    assert result.verdict.lost
