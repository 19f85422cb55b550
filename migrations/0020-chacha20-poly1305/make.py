"""
Writes this folder's vault: ChaCha20-Poly1305 in base64url.

    python migrations/0020-chacha20-poly1305/make.py

Needs Python 3.10 to 3.13 and a package index.  Names and values are the same each time; nonces and
times are not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import os
from base64 import urlsafe_b64encode

import by_hand


def _sealing_with(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    async def seal(value: dict[str, Any], _: str, __: str) -> dict[str, Any]:
        nonce = os.urandom(12)
        sealed = nonce + ChaCha20Poly1305(key).encrypt(nonce, by_hand.text(value), None)
        return {"blob": urlsafe_b64encode(sealed).decode().rstrip("=")}

    return seal


if __name__ == "__main__":
    by_hand.make(__file__, by_hand.with_one_key(_sealing_with, 32), field="blob")
