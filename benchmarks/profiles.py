"""Where the time of an operation goes: every part timed alone, in turns, and what is left over."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from statistics import median
from time import thread_time
from typing import TYPE_CHECKING, Any, Final

import orjson
import ormsgpack
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pybase64 import b64decode, b64encode_as_string

from benchmarks.driving import finish, no_collection
from benchmarks.machine import machine
from benchmarks.peers import CHEAP, COLLECTION, KEY, SECRET, DictStore, lasting
from benchmarks.shapes import nested
from kvseal import EnvelopeEncryptionWrapper
from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.payload import STRICT_PACKING
from kvseal.envelope.sealing import Associations, Opener, Sealer, leads_of
from kvseal.envelope.stored import DATA_FIELD, from_stored
from kvseal.exact_json import STRICT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ROUNDS: Final = 60
_TIMES: Final = 1000
_BATCH: Final = 100


def measure(size: int = 1024, rounds: int = _ROUNDS) -> dict[str, int]:
    """Return the median nanoseconds of each part, for a nested value of *size* bytes."""
    value = nested(size)
    with no_collection():
        parts, batches = {**_operations(value), **_pieces(value)}, _batches(value)
        rows = [
            {name: _nanoseconds(part, _TIMES) for name, part in parts.items()}
            | {name: _nanoseconds(part, _TIMES // _BATCH) / _BATCH for name, part in batches.items()}
            for _ in range(rounds)
        ]
    return {
        name: round(median(row[name] - (row["nothing"] if name in parts else 0) for row in rows))
        for name in (*parts, *batches)
    }


def _operations(value: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return the whole operations, and what the wrapper does around the envelope."""
    store, kv = DictStore(), _wrapper(DictStore())
    asyncio.run(kv.put(KEY, value))
    vault, freshness = asyncio.run(kv.vault()), asyncio.run(kv.vault()).freshness
    stored = asyncio.run(kv.key_value.get(KEY))
    asyncio.run(store.put(KEY, stored))

    async def nothing() -> None:
        pass

    return {
        "nothing": lambda: None,
        "put": lambda: finish(kv.put(KEY, value)),
        "get": lambda: finish(kv.get(KEY)),
        "store.put": lambda: finish(store.put(KEY, stored)),
        "store.get": lambda: finish(store.get(KEY)),
        "coroutine": lambda: finish(nothing()),
        "names": lambda: kv._collections[None],  # noqa: SLF001 - a part has no other name
        "keyring": lambda: vault.codecs[""],
        "freshness": lambda: freshness.clock() >= freshness.due,
    }


def _batches(value: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return the operations on many values; their time is that of one of them."""
    kv, store = _wrapper(DictStore()), DictStore()
    keys, values = [f"{KEY}-{number}" for number in range(_BATCH)], [value] * _BATCH
    asyncio.run(kv.put_many(keys, values))
    stored = asyncio.run(kv.key_value.get_many(keys))
    asyncio.run(store.put_many(keys, stored))
    return {
        "put_many": lambda: finish(kv.put_many(keys, values)),
        "get_many": lambda: finish(kv.get_many(keys)),
        "store.put_many": lambda: finish(store.put_many(keys, stored)),
        "store.get_many": lambda: finish(store.get_many(keys)),
    }


def _pieces(value: dict[str, Any]) -> dict[str, Callable[[], object]]:
    dek, associations = os.urandom(32), Associations(bytes(16))
    codec = RecordCodec(Sealer(dek, 1, associations), Opener({1: dek}, associations))
    seal, open_ = codec.sealing[COLLECTION], codec.opening[COLLECTION]
    leads, context = leads_of(bytes(50)), associations.context
    payload, nonce, aad, aes_gcm = ormsgpack.packb(value), os.urandom(12), bytes(80), AESGCM(dek)
    stored, ciphertext = seal(value, KEY), aes_gcm.encrypt(nonce, payload, aad)
    record = from_stored(stored)
    return {
        "pack": lambda: ormsgpack.packb(value, None, STRICT_PACKING),
        "second encoder": lambda: orjson.dumps(value, None, STRICT),
        "associated data": lambda: leads[len(KEY)] + KEY.encode() + context,
        "urandom": lambda: os.urandom(12),
        "AES-GCM encrypt": lambda: aes_gcm.encrypt(nonce, payload, aad),
        "base64 encode": lambda: b64encode_as_string(record),
        "seal": lambda: seal(value, KEY),
        "base64 decode": lambda: b64decode(stored[DATA_FIELD], None, True),
        "AES-GCM decrypt": lambda: aes_gcm.decrypt(nonce, ciphertext, aad),
        "unpack": lambda: ormsgpack.unpackb(payload),
        "open": lambda: open_(stored, KEY),
    }


def _wrapper(store: DictStore) -> EnvelopeEncryptionWrapper:
    return EnvelopeEncryptionWrapper(store, secret=SECRET, kdf=CHEAP, meta_store=lasting())


def _nanoseconds(part: Callable[[], object], times: int) -> float:
    start = thread_time()
    for _ in range(times):
        part()
    return (thread_time() - start) / times * 1e9


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print or write, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiles", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and machine facts to FILE")
    options = parser.parse_args(arguments)
    parts = measure()
    for name, nanoseconds in parts.items():
        print(f"{name:20} {nanoseconds:8,} ns")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "parts": parts}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
