"""
A process that does nothing but recode: what is measured of it is not mixed with who measures.

It reads one line of JSON, opens the vault, migrates a few records of its own to warm up, and says
`ready`.  At the next line it begins, and it ends with one line of JSON: what it did and took.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

from key_value.aio.stores.memory import MemoryStore
from key_value.aio.stores.redis import RedisStore

from benchmarks.peers import CHEAP
from benchmarks.shapes import flat
from kvseal import Secret, Vault
from kvseal.legacy import FernetCodec
from kvseal.recoding import SealedTarget, plan_migration, recode

if TYPE_CHECKING:
    from typing_extensions import Self

_WARM_UP: Final = 2000
_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"


class Recoder:
    """Such a process, seen from the one that started it."""

    def __init__(self, url: str, key: bytes, secret: bytes, partition: tuple[int, int] = (0, 1)) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.recoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        facts = {"url": url, "key": b64encode(key).decode(), "secret": b64encode(secret).decode()}
        self._tell({**facts, "partition": partition})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_until_ready(self) -> None:
        """Return when it waits for the start."""
        assert self._answer() == "ready"

    def start(self) -> None:
        """Let it begin."""
        self._tell("go")

    def result(self) -> dict[str, Any]:
        """Return what it says at its end."""
        answer: dict[str, Any] = self._answer()
        return answer

    def _tell(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


async def _work(url: str, key: str, secret: str, partition: tuple[int, int]) -> dict[str, Any]:
    codec = FernetCodec([b64decode(key)])
    await _warm_up(codec)
    async with RedisStore(url=url) as store:
        vault = await Vault.open(store, secret=Secret(b64decode(secret)))
        plan = plan_migration(SealedTarget.of(vault), [codec], vault=vault, verify=False)
        _say("ready")
        sys.stdin.readline()
        with suppress(OSError):
            _CLEAR.write_text(_RESET_PEAK)
        before, started, cpu = _rss("VmRSS"), perf_counter(), process_time()
        report = await recode(store, plan, partition=partition)
        seconds, cpu = perf_counter() - started, process_time() - cpu
        await vault.close()
    return {
        "changed": report.changed,
        "failed": report.failed,
        "seconds": seconds,
        "cpu seconds": cpu,
        "growth": _rss("VmHWM") - before,
    }


async def _warm_up(codec: FernetCodec) -> None:
    """Do once what is done once: imports, thread pools, caches, the pages in flight."""
    store = MemoryStore(max_entries_per_collection=2 * _WARM_UP)
    stored = codec.seal(flat(1024))
    for number in range(_WARM_UP):
        await store.put(str(number), stored)
    vault = await Vault.create(store, secret=Secret(os.urandom(32)), kdf=CHEAP, meta_store=MemoryStore())
    await recode(store, plan_migration(SealedTarget.of(vault), [codec], vault=vault))
    await vault.close()


def _rss(name: str) -> int:
    """Return the resident memory in bytes: `VmRSS` now, `VmHWM` at most since the start of the work."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    _say(asyncio.run(_work(**json.loads(sys.stdin.readline()))))
