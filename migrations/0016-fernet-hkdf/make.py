"""
Writes this folder's vault: a Fernet key by HKDF.

    python migrations/0016-fernet-hkdf/make.py

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
import freezing


def sealing(folder: Path) -> tuple[Any, Any]:
    """Return what the application stores, and what one with another key does."""
    freezing.key(folder, "master.key", lambda: os.urandom(16).hex().encode())
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    material = bytes.fromhex(freezing.key(folder, "app.key", lambda: os.urandom(32).hex().encode()).decode())
    key = HKDF(SHA256(), 32, None, b"app storage v1").derive(material)
    return by_hand.fernet(urlsafe_b64encode(key)), by_hand.fernet(urlsafe_b64encode(bytes(32)))


if __name__ == "__main__":
    by_hand.make(__file__, sealing, field="__encrypted_data__")
