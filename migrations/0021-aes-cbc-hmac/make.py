"""
Writes this folder's vault: AES-256-CBC of PyCryptodome with HMAC-SHA256.

    python migrations/0021-aes-cbc-hmac/make.py

Needs Python 3.10 to 3.13 and a package index.  Names and values are the same each time; nonces and
times are not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hmac
import os
from base64 import b64decode, b64encode

import by_hand
import freezing


def sealing(folder: Path) -> tuple[Any, Any]:
    """Return what the application stores, and what one with other keys does."""
    freezing.key(folder, "master.key", lambda: os.urandom(16).hex().encode())
    key, mac_key = (
        b64decode(freezing.key(folder, name, lambda: b64encode(os.urandom(32))))
        for name in ("app.key", "mac.key")
    )
    return _sealing_with(key, mac_key), _sealing_with(bytes(32), bytes(32))


def _sealing_with(key: bytes, mac_key: bytes) -> Any:
    from Crypto.Cipher import AES
    from Crypto.Util.Padding import pad

    async def seal(value: dict[str, Any], _: str, __: str) -> dict[str, Any]:
        iv = os.urandom(16)
        sealed = iv + AES.new(key, AES.MODE_CBC, iv).encrypt(pad(by_hand.text(value), 16))
        return {"data": b64encode(sealed + hmac.digest(mac_key, sealed, "sha256")).decode()}

    return seal


if __name__ == "__main__":
    by_hand.make(__file__, sealing, "pycryptodome==3.23.0", field="data")
