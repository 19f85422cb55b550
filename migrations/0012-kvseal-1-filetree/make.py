"""
This folder's vault is written together with that of 0011, with kvseal 0.1.0.

    .venv/bin/python migrations/0012-kvseal-1-filetree/make.py
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

MAKE = Path(__file__).resolve().parent.parent / "0011-kvseal-1" / "make.py"

if __name__ == "__main__":
    sys.argv[0] = str(MAKE)
    runpy.run_path(str(MAKE), run_name="__main__")
