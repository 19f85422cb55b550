"""
Writes this folder's vault: a Fernet key by scrypt.

    python migrations/0017-fernet-scrypt/make.py

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
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    material = freezing.key(folder, "passphrase.key", lambda: b"correct horse battery staple")
    salt = bytes.fromhex(freezing.key(folder, "salt.key", lambda: os.urandom(16).hex().encode()).decode())
    key = Scrypt(salt, 32, 16384, 8, 1).derive(material)
    return by_hand.fernet(urlsafe_b64encode(key)), by_hand.fernet(urlsafe_b64encode(bytes(32)))


if __name__ == "__main__":
    by_hand.make(__file__, sealing, field="__encrypted_data__")
