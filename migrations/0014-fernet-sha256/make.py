"""
Writes this folder's vault: a Fernet key that is the SHA-256 of a passphrase.

    python migrations/0014-fernet-sha256/make.py

Needs Python 3.10 to 3.13 and a package index.  Names and values are the same each time; nonces and
times are not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hashlib
import os
from base64 import urlsafe_b64encode

import by_hand
import freezing


def sealing(folder: Path) -> tuple[Any, Any]:
    """Return what the application stores, and what one with another key does."""
    freezing.key(folder, "master.key", lambda: os.urandom(16).hex().encode())
    freezing.key(folder, "passphrase.key", lambda: b"correct horse battery staple")
    # Whole: with the line break that the file ends with.
    key = hashlib.sha256((folder / "keys" / "passphrase.key").read_bytes()).digest()
    return by_hand.fernet(urlsafe_b64encode(key)), by_hand.fernet(urlsafe_b64encode(bytes(32)))


if __name__ == "__main__":
    by_hand.make(__file__, sealing, field="__encrypted_data__")
