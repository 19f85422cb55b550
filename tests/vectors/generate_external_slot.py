"""Writes external-slot-v1.json, once; what is frozen there has to open for ever."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from key_value.aio.stores.memory import MemoryStore
from tests.fakes import raw_meta
from tests.transit_server import ROOT_TOKEN, TransitKeyRing, TransitServer

from kvseal import Vault
from kvseal.wrapkeys import TransitKey

TRANSIT_KEY = bytes(range(200, 232))
NOTE = "made by kvseal with generate_external_slot.py; tests/wrapkeys/test_vector.py opens it without kvseal"


async def main() -> None:
    """Make a vault whose root key a transit key of known bytes has wrapped."""
    with TransitServer() as server:
        server.keys["transit", "kv"] = TransitKeyRing(versions=[TRANSIT_KEY])
        store = MemoryStore()
        await Vault.create(
            store, secret=TransitKey("kv", address=server.url, token=lambda: ROOT_TOKEN), label="kms"
        )
        vector = {"note": NOTE, "transit_key": TRANSIT_KEY.hex(), "meta": await raw_meta(store)}
    path = Path(__file__).parent / "external-slot-v1.json"
    path.write_text(json.dumps(vector, indent=1) + "\n", encoding="utf-8")


asyncio.run(main())
