"""
Writes this folder's vault: a Fernet key by PBKDF2-HMAC.

    python migrations/0015-fernet-pbkdf2/make.py

Needs Python 3.10 to 3.13 and a package index.  Names and values are the same each time; nonces and
times are not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import os
from base64 import b64decode, b64encode, urlsafe_b64encode

import by_hand
import freezing


def sealing(folder: Path) -> tuple[Any, Any]:
    """Return what the application stores, and what one with another key does."""
    freezing.key(folder, "master.key", lambda: os.urandom(16).hex().encode())
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    material = freezing.key(folder, "passphrase.key", lambda: b"correct horse battery staple")
    salt = b64decode(freezing.key(folder, "salt.key", lambda: b64encode(os.urandom(16))))
    key = PBKDF2HMAC(SHA512(), 32, salt, 390_000).derive(material)
    return by_hand.fernet(urlsafe_b64encode(key)), by_hand.fernet(urlsafe_b64encode(bytes(32)))


if __name__ == "__main__":
    by_hand.make(__file__, sealing, field="__encrypted_data__")
