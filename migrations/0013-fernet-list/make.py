"""
Writes this folder's vault: Fernet keys in one list, of which the records have two.

    python migrations/0013-fernet-list/make.py

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
    """Return what the application stores, with two of its keys in turn, and what a stranger does."""
    freezing.key(folder, "master.key", lambda: os.urandom(16).hex().encode())
    written = freezing.key(folder, "list.key", _three_keys).split()
    new, old = written[0].split(b",")[0], urlsafe_b64encode(bytes.fromhex(written[1].decode()))
    seals = [by_hand.fernet(new), by_hand.fernet(old)]

    async def seal(*value: Any) -> Any:
        seals.reverse()
        return await seals[0](*value)

    return seal, by_hand.fernet(urlsafe_b64encode(bytes(32)))


def _three_keys() -> bytes:
    keys = [os.urandom(32) for _ in range(3)]
    return b",".join(map(urlsafe_b64encode, keys[:2])) + b"\n" + keys[2].hex().encode()


if __name__ == "__main__":
    by_hand.make(__file__, sealing, field="__encrypted_data__")
