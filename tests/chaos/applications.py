"""The applications of a round: processes that write, are killed, stopped, and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.chaos.operators import ROOT, skewed
from tests.chaos.writer import Job

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from tests.backends import Place

KEYS = 8
_PATIENCE = 20.0
_FINE = frozenset({0, -signal.SIGTERM})
"""A writer that is still starting when it is told to stop just ends."""


@dataclass
class Application:
    """One writer; *days* is how far its wall clock is ahead."""

    name: str
    job: Job
    days: int = 0
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, or start it again."""
        self.job = replace(self.job, seed=self.job.seed + 1)
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.writer", self.job.as_json()),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **skewed(self.days)},
            stdin=asyncio.subprocess.DEVNULL,
            # asyncpg logs every connection that breaks; what counts is in the journal.
            stderr=asyncio.subprocess.DEVNULL,
        )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait until it has ended, and return its exit code."""
        if self.process is None:
            return 0
        try:
            return await asyncio.wait_for(self.process.wait(), _PATIENCE)
        except asyncio.TimeoutError:
            self.send(signal.SIGKILL)
            return await self.process.wait()


@dataclass
class Applications:
    """All writers of a round."""

    every: list[Application]
    rng: Random
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, place: Place, directory: Path, secret: str, rng: Random, plant: str) -> Applications:
        """Return three writers with a right clock, and one whose clock is a day off."""
        # diskcache removes by its own clock what has expired: ahead, it would take what others wrote with a TTL.
        days = -1 if place.kind == "disk" else rng.choice((-1, 1))
        every = []
        for number, off in enumerate((0, 0, 0, days)):
            name = f"w{number}"
            job = Job(
                place=place.as_json(),
                secret=secret,
                journal=str(directory / f"{name}.journal"),
                keys=[f"{name}-{key}" for key in range(KEYS)],
                ttl=not off,
                plant=plant,
                seed=rng.randrange(2**32),
            )
            every.append(Application(name, job, off))
        return cls(every, rng)

    async def start(self) -> None:
        """Start all."""
        for one in self.every:
            await one.start()

    async def kill(self) -> None:
        """Kill one at once, and start it again."""
        one = self.rng.choice(self.every)
        one.send(signal.SIGKILL)
        await one.ended()
        self.counts["killed"] += 1
        await one.start()

    async def pause(self) -> None:
        """Stop one for a while."""
        one = self.rng.choice(self.every)
        one.send(signal.SIGSTOP)
        self.counts["stopped"] += 1
        await asyncio.sleep(self.rng.uniform(0.3, 5.0))
        one.send(signal.SIGCONT)

    def hold(self, *, stopped: bool) -> None:
        """Stop all, as a host does that is suspended, or let them go on."""
        self.counts["stopped"] += len(self.every) * stopped
        for one in self.every:
            one.send(signal.SIGSTOP if stopped else signal.SIGCONT)

    async def end(self) -> list[str]:
        """Let all finish what they do, and return the names of those that ended in another way."""
        self.hold(stopped=False)
        for one in self.every:
            one.send(signal.SIGTERM)
        codes = [await one.ended() for one in self.every]
        return [
            f"{one.name} ended with {code}"
            for one, code in zip(self.every, codes, strict=True)
            if code not in _FINE
        ]
