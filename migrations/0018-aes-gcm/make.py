"""
Writes this folder's vault: AES-256-GCM on `BaseEncryptionWrapper`.

    python migrations/0018-aes-gcm/make.py

Needs Python 3.10 to 3.13 and a package index.  Names and values are the same each time; nonces and
times are not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import os

import by_hand


def _sealing_with(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from key_value.aio.stores.memory import MemoryStore
    from key_value.aio.wrappers.encryption.base import BaseEncryptionWrapper

    def encrypt(data: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + AESGCM(key).encrypt(nonce, data, None)

    def decrypt(_: bytes, __: int) -> bytes:
        raise NotImplementedError

    async def seal(value: dict[str, Any], collection: str, name: str) -> dict[str, Any]:
        store = MemoryStore()
        wrapper = BaseEncryptionWrapper(
            store, encryption_fn=encrypt, decryption_fn=decrypt, encryption_version=1
        )
        await wrapper.put(name, value, collection=collection)
        return await store.get(name, collection=collection)

    return seal


if __name__ == "__main__":
    by_hand.make(__file__, by_hand.with_one_key(_sealing_with, 32), field="__encrypted_data__")
