"""vaultctl in processes of its own: whole, killed, stopped, and on a host whose clock is a day off."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

ROOT = Path(__file__).parents[2]
LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
"""Preloaded, it sets the wall clock of a process, here without its monotonic ones."""
GRACE = 14
"""Seconds: above ten times the interval in which the applications read the vault meta."""

_LONGEST = 90.0
_WRONG_SECRET = 12
_LONG_WORDS = frozenset({"migrate-from-fernet", "--dek", "--finalize", "--import-keys"})
_OWN_FAULT = re.compile(r"Traceback|fault of vaultctl|RuntimeWarning|never awaited")
_VAULTCTL = "from kvseal.cli.app import main; main()"


def skewed(days: int) -> dict[str, str]:
    """Return what puts the wall clock of a process so many days ahead; nothing without the library."""
    if LIBRARY is None or not days:
        return {}
    return {"LD_PRELOAD": str(LIBRARY), "FAKETIME": f"{days:+d}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@dataclass
class Operator:
    """A person at a terminal in *directory*, who tries again what failed."""

    directory: Path
    url: str
    rng: Random
    plant: str = ""
    calm: bool = False
    """Whether nothing happens to the commands."""
    codes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    """What no command may say or do, whatever happens to it."""
    _secrets: int = 1
    _current: int = 0
    """Which of its secrets opened the vault last; a failover may bring an older one back."""

    def __post_init__(self) -> None:
        self.new_secret(0)

    def new_secret(self, number: int) -> Path:
        """Return a key file with a secret of its own."""
        path = self.directory / f"ops-{number}.key"
        path.write_text(f"the operator's secret {number}\n")
        path.chmod(0o600)
        return path

    async def rotate(self) -> int:
        """Change the operator's own secret; after a kill, either one may be right."""
        path, number = self.new_secret(self._secrets), self._secrets
        self._secrets += 1
        code = await self.run("rotate", "--new-secret", f"file:{path}", "--argon2", "1,8,1", "--yes")
        if code == 0:
            self._current = number
        return code

    async def _find_secret(self) -> bool:
        """Try the secrets, from the newest on: a kill, a cut and a failover leave open which one is right."""
        for number in reversed(range(self._secrets)):
            if await self._once(("slot", "verify"), "", number) == 0:
                self._current = number
                return True
        return False

    async def run(self, *arguments: str, calm: bool = False) -> int:
        """Run vaultctl, once more where the secret was another one, and return its exit code; killed, below zero."""
        fault = "" if calm or self.calm else self.rng.choice(("", "", "", "kill", "stop", "ahead", "behind"))
        code = await self._once(arguments, fault, self._current)
        if code == _WRONG_SECRET and await self._find_secret():
            code = await self._once(arguments, fault, self._current)
        return code

    async def _once(self, arguments: Sequence[str], fault: str, secret: int) -> int:
        program = [sys.executable, "-c", _VAULTCTL]
        if self.plant:
            program = [sys.executable, "-m", "tests.chaos.planted", self.plant]
        days = {"ahead": 1, "behind": -1}.get(fault, 0)
        process = await asyncio.create_subprocess_exec(
            *program,
            *arguments,
            cwd=self.directory,
            env={**os.environ, **self._environment(secret), **skewed(days)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.faults[fault] += 1
        befalling = asyncio.create_task(self._befall(process, fault))
        _, errors = await self._ended(process, arguments)
        befalling.cancel()
        self._judge(arguments, process.returncode or 0, errors.decode(errors="replace"), fault)
        return process.returncode or 0

    def _environment(self, secret: int) -> dict[str, str]:
        key = self.directory / f"ops-{secret}.key"
        return {
            "VAULTCTL_STORE": self.url,
            "VAULTCTL_SECRET": f"file:{key}",
            "XDG_DATA_HOME": str(self.directory),
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        }

    async def _befall(self, process: asyncio.subprocess.Process, fault: str) -> None:
        if fault not in {"kill", "stop"}:
            return
        # Python and the imports take a second: what is killed then has done nothing.
        await asyncio.sleep(self.rng.uniform(0.8, 4.0))
        if process.returncode is None and fault == "kill":
            process.kill()
        elif process.returncode is None:
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(self.rng.uniform(0.5, 5.0))
            process.send_signal(signal.SIGCONT)

    async def _ended(
        self, process: asyncio.subprocess.Process, arguments: Sequence[str]
    ) -> tuple[bytes, bytes]:
        try:
            return await asyncio.wait_for(process.communicate(), _LONGEST)
        except asyncio.TimeoutError:
            process.kill()
            self.complaints.append(f"vaultctl {' '.join(arguments)} did not end in {_LONGEST:.0f} s")
            return b"", b""

    def _judge(self, arguments: Sequence[str], code: int, errors: str, fault: str) -> None:
        words = " ".join(word for word in arguments[:2] if word.isalpha() or word in _LONG_WORDS)
        self.codes[f"{words} {code}"] += 1
        if _OWN_FAULT.search(errors):
            self.complaints.append(
                f"vaultctl {' '.join(arguments)} ({fault or 'untouched'}), exit {code}: {errors[-600:]}"
            )
