"""
Writes this folder's vault: AES-128-GCM with a dictionary of fields and the names as associated data.

    python migrations/0019-aes-gcm-fields/make.py

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

    async def seal(value: dict[str, Any], collection: str, name: str) -> dict[str, Any]:
        nonce, aad = os.urandom(12), f"app:{collection}:{name}".encode()
        sealed = AESGCM(key).encrypt(nonce, by_hand.text(value), aad)
        return {"v": 2, "payload": {"iv": nonce.hex(), "ct": sealed[:-16].hex(), "tag": sealed[-16:].hex()}}

    return seal


if __name__ == "__main__":
    by_hand.make(__file__, by_hand.with_one_key(_sealing_with, 16), field="payload.ct")
