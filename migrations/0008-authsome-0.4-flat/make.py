"""
Writes this folder's vault with authsome 0.3.2, then 0.4.2, in one home: flat AES-256-GCM records.

    python migrations/0008-authsome-0.4-flat/make.py

Needs Python 3.13, as authsome does, and a package index.  Names are the same each time; keys, nonces and
times are not.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import authsome_home
import freezing

PACKAGES = ("py-key-value-aio[disk]==0.5.0", "cryptography==48.0.1")
VERSIONS = {"0.3.2": authsome_home.written_by_0_3, "0.4.2": authsome_home.written_by_0_4}


async def main(home: Path, version: str) -> None:
    """Let *version* write into *home* and say what it reads there."""
    await VERSIONS[version](home)
    await authsome_home.remember(home)


if __name__ == "__main__":
    into = freezing.folder_of(__file__)
    if freezing.step():
        asyncio.run(main(into / "home", freezing.step()))
    else:
        freezing.emptied(into)
        for one in VERSIONS:
            freezing.in_environment(__file__, into, one, f"authsome=={one}", *PACKAGES)
        authsome_home.freeze(into, into / "home")
