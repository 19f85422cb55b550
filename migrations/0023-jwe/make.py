"""
Writes this folder's vault: JWE in compact form by joserfc.

    python migrations/0023-jwe/make.py

Needs Python 3.10 to 3.13 and a package index.  Names and values are the same each time; nonces and
times are not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import os
from base64 import b64decode, b64encode

import by_hand
import freezing


def sealing(folder: Path) -> tuple[Any, Any]:
    """Return what the application stores, and what one with another key does."""
    freezing.key(folder, "master.key", lambda: os.urandom(16).hex().encode())
    key = b64decode(freezing.key(folder, "app.key", lambda: b64encode(os.urandom(32))))
    return _sealing_with(key), _sealing_with(bytes(32))


def _sealing_with(key: bytes) -> Any:
    from joserfc import jwe
    from joserfc.jwk import OctKey

    own = OctKey.import_key(key)

    async def seal(value: dict[str, Any], _: str, __: str) -> dict[str, Any]:
        header = {"alg": "dir", "enc": "A256GCM"}
        return {"token": jwe.encrypt_compact(header, by_hand.text(value), own)}

    return seal


if __name__ == "__main__":
    by_hand.make(__file__, sealing, "joserfc==1.8.0", field="token")
