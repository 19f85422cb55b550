"""Where the time of one put and one get goes: every part timed alone, in turns, and what is left over."""

from __future__ import annotations

import asyncio
import os
from statistics import median
from time import thread_time
from typing import TYPE_CHECKING, Any, Final

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pybase64 import b64decode, b64encode_as_string

from benchmarks.driving import finish, no_collection
from benchmarks.peers import CHEAP, COLLECTION, KEY, DictStore, lasting, token
from kvseal import EnvelopeEncryptionWrapper, Secret
from kvseal.envelope.payload import decode, encode
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.envelope.stored import DATA_FIELD, from_stored, to_stored

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS: Final = 60
_TIMES: Final = 1000


def measure(size: int = 1024) -> dict[str, float]:
    """Return the median nanoseconds of each part, for a value of *size* bytes."""
    with no_collection():
        parts = _parts(token(size))
        rounds = [{name: _nanoseconds(part) for name, part in parts.items()} for _ in range(_ROUNDS)]
    return {name: round(median(one[name] - one["nothing"] for one in rounds)) for name in parts}


def _parts(value: dict[str, Any]) -> dict[str, Callable[[], object]]:
    store = DictStore()
    kv = EnvelopeEncryptionWrapper(store, secret=Secret(b"s" * 32), kdf=CHEAP, meta_store=lasting())
    asyncio.run(kv.put(KEY, value))
    dek, associations = os.urandom(32), Associations(bytes(16))
    sealer, opener = Sealer(dek, 1, associations), Opener({1: dek}, associations)
    payload, nonce, aad, aes_gcm = orjson.dumps(value), os.urandom(12), bytes(80), AESGCM(dek)
    record = sealer.seal(payload, COLLECTION, KEY)
    stored, ciphertext = to_stored(record), aes_gcm.encrypt(nonce, payload, aad)
    return {
        "nothing": lambda: None,
        "put": lambda: finish(kv.put(KEY, value)),
        "get": lambda: finish(kv.get(KEY)),
        "store.put": lambda: finish(store.put(KEY, stored)),
        "store.get": lambda: finish(store.get(KEY)),
        "orjson.dumps": lambda: orjson.dumps(value),
        "encode": lambda: encode(value),
        "urandom": lambda: os.urandom(12),
        "AES-GCM encrypt": lambda: aes_gcm.encrypt(nonce, payload, aad),
        "Sealer.seal": lambda: sealer.seal(payload, COLLECTION, KEY),
        "base64 encode": lambda: b64encode_as_string(record),
        "to_stored": lambda: to_stored(record),
        "base64 decode": lambda: b64decode(stored[DATA_FIELD], None, True),
        "from_stored": lambda: from_stored(stored),
        "AES-GCM decrypt": lambda: aes_gcm.decrypt(nonce, ciphertext, aad),
        "Opener.open": lambda: opener.open(record, COLLECTION, KEY),
        "orjson.loads": lambda: orjson.loads(payload),
        "decode": lambda: decode(payload, 0),
    }


def _nanoseconds(part: Callable[[], object]) -> float:
    start = thread_time()
    for _ in range(_TIMES):
        part()
    return (thread_time() - start) / _TIMES * 1e9
