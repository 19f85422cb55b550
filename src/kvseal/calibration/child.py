"""
A separate process that derives, and prints how long it took: never imported, only run.

It imports nothing of kvseal, so that its peak is that of a derivation and little else, and holds no
secret.  Its arguments are t, m, p, the number of runs, the milliseconds after which one run says enough,
and whether cryptography's Argon2id takes turns with argon2-cffi's.  It prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from argon2.exceptions import HashingError
from argon2.low_level import ARGON2_VERSION, Type, hash_secret_raw

if TYPE_CHECKING:
    from collections.abc import Callable

_SECRET = b"no secret at all"
_SALT = bytes(16)
_SIZE = 32


def argon2_cffi(t: int, m: int, p: int) -> bytes:
    """Derive as kvseal does."""
    return hash_secret_raw(
        _SECRET,
        _SALT,
        time_cost=t,
        memory_cost=m,
        parallelism=p,
        hash_len=_SIZE,
        type=Type.ID,
        version=ARGON2_VERSION,
    )


def openssl(t: int, m: int, p: int) -> bytes:
    """Derive by cryptography, whose Argon2id is OpenSSL's."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id  # noqa: PLC0415 - only where it is compared

    return Argon2id(salt=_SALT, length=_SIZE, iterations=t, lanes=p, memory_cost=m).derive(_SECRET)


def timed(derive: Callable[[int, int, int], bytes], cost: tuple[int, int, int]) -> tuple[float, bytes]:
    """Return the milliseconds of one derivation, and what came out."""
    begun = time.perf_counter()
    derived = derive(*cost)
    return (time.perf_counter() - begun) * 1000, derived


def peak() -> int:
    """
    Return the most memory that this process has held, in bytes.

    On Linux not by getrusage(2): its maximum outlives exec(2), so a child would start with its parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # noqa: PLC0415 - where there is no /proc

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def measured(cost: tuple[int, int, int], runs: int, enough: float) -> dict[str, Any]:
    """Derive once to warm up, then *runs* times; a warm-up of more than *enough* stands for all of them."""
    before = peak()
    first, _ = timed(argon2_cffi, cost)
    took = [first] if first > enough else [timed(argon2_cffi, cost)[0] for _ in range(runs)]
    return {"runs": took, "before": before, "peak": peak()}


def compared(cost: tuple[int, int, int], runs: int) -> dict[str, Any]:
    """Let both implementations derive in turns, each warmed up, and say whether they agree."""
    try:
        _, theirs = timed(openssl, cost)
    except Exception as exc:  # noqa: BLE001 - cryptography's class for it needs the very import that may be missing
        return {"missing": f"{type(exc).__name__}: {exc}"}
    _, ours = timed(argon2_cffi, cost)
    pairs = [(timed(argon2_cffi, cost)[0], timed(openssl, cost)[0]) for _ in range(runs)]
    return {"runs": [a for a, _ in pairs], "others": [b for _, b in pairs], "agree": ours == theirs}


def main(arguments: list[str]) -> None:
    """Measure what *arguments* say."""
    t, m, p, runs = map(int, arguments[:4])
    try:
        if arguments[5] == "compare":
            printed = compared((t, m, p), runs)
        else:
            printed = measured((t, m, p), runs, float(arguments[4]))
    except (HashingError, MemoryError) as exc:
        printed = {"failure": str(exc) or "no memory"}
    print(json.dumps(printed))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
