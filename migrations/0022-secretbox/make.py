"""
Writes this folder's vault: SecretBox of PyNaCl.

    python migrations/0022-secretbox/make.py

Needs Python 3.10 to 3.13 and a package index.  Names and values are the same each time; nonces and
times are not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from base64 import b64encode

import by_hand


def _sealing_with(key: bytes) -> Any:
    from nacl.secret import SecretBox

    async def seal(value: dict[str, Any], _: str, __: str) -> dict[str, Any]:
        return {"box": b64encode(bytes(SecretBox(key).encrypt(by_hand.text(value)))).decode()}

    return seal


if __name__ == "__main__":
    by_hand.make(__file__, by_hand.with_one_key(_sealing_with, 32), "pynacl==1.6.2", field="box")
