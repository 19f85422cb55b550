"""
Writes this folder's vault with authsome 0.4.2, then 0.5.0, in one home, as an upgrade leaves it.

    python migrations/0010-authsome-mixed/make.py

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

PACKAGES = ("py-key-value-aio[disk]==0.5.0", "cryptography==48.0.1", "argon2-cffi==25.1.0")
VERSIONS = ("0.4.2", "0.5.0")


async def main(home: Path, version: str) -> None:
    """Let *version* write into *home* and say what it reads there."""
    if version == "0.4.2":
        await authsome_home.written_by_0_4(home)
    else:
        await authsome_home.written_by_0_5(home, "linear", version=version)
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
