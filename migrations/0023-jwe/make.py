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


import by_hand


def _sealing_with(key: bytes) -> Any:
    from joserfc import jwe
    from joserfc.jwk import OctKey

    own = OctKey.import_key(key)

    async def seal(value: dict[str, Any], _: str, __: str) -> dict[str, Any]:
        header = {"alg": "dir", "enc": "A256GCM"}
        return {"token": jwe.encrypt_compact(header, by_hand.text(value), own)}

    return seal


if __name__ == "__main__":
    by_hand.make(__file__, by_hand.with_one_key(_sealing_with, 32), "joserfc==1.8.0", field="token")
