"""
One target against many inputs, in a process of its own that may hang, crash and run out of memory.

The child puts each input into memory that it shares with its parent, so an input that kills it is known.  CPU
time is what an answer is measured by: on a busy machine a clock would blame the parser for its neighbours.
"""

from __future__ import annotations

import gc
import logging
import mmap
import multiprocessing
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tests.fuzz.coverage import LinesSeen
from tests.fuzz.mutation import Mutator
from tests.fuzz.target import CORPUS, NotAnInputError, scratch

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from tests.fuzz.target import Target

SLOWEST = 2.0
"""Seconds of CPU that an answer may take."""
MOST = 300 * 2**20
"""Bytes that the process may have in memory at once, Python and kvseal included."""

_ROOM = 4 * 2**30
"""Of address space: beyond it an allocation fails, before this machine suffers."""
_PATIENCE = 30.0
"""Seconds beyond its time after which a child hangs."""
_SHARED = 64 * 2**20
_SHRINKING = 2.0
_WATCHED = 8
"""One input in so many is watched for the lines that it reaches."""
_TOO_SLOW_TO_WATCH = 0.05
_CHANGED = 2**17
"""Bytes: a longer input is tried as it is, for all that is made of it would be slow."""


@dataclass(frozen=True)
class Finding:
    """An input that a target did not answer as it should, and what it did instead."""

    target: str
    what: str
    data: bytes = field(repr=False)

    @property
    def path(self) -> Path:
        """Where the input is kept from now on."""
        return CORPUS / self.target / sha256(self.data).hexdigest()[:16]

    def save(self) -> Path:
        """Write the input into the corpus."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(self.data)
        return self.path


@dataclass
class Outcome:
    """What one campaign came to."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    peak: int = 0
    lines: int = 0
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        rate = self.inputs / max(self.seconds, 0.001)
        return (
            f"{self.target:20} {self.inputs:9,} inputs {rate:8,.0f}/s  slowest {self.slowest * 1000:7.1f} ms  "
            f"peak {self.peak / 2**20:4.0f} MiB  {self.lines:4} lines  {len(self.findings)} findings"
        )


def run(target: Target, *, seed: int, seconds: float, inputs: int | None = None) -> Outcome:
    """Try the corpus of *target*, then new inputs: so many, or as many as *seconds* allow."""
    shared = mmap.mmap(-1, _SHARED)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=_child, args=(target, seed, seconds, inputs, shared, theirs)
    )
    child.start()
    theirs.close()
    try:
        if ours.poll(seconds + _PATIENCE):
            outcome: Outcome = ours.recv()
            return outcome
        return Outcome(target.name, findings=[Finding(target.name, "it hangs", _current(shared))])
    except EOFError:
        child.join()
        return Outcome(
            target.name,
            findings=[Finding(target.name, f"it ended its process ({child.exitcode})", _current(shared))],
        )
    finally:
        child.kill()
        child.join()


def _current(shared: mmap.mmap) -> bytes:
    size = int.from_bytes(shared[:8], "big")
    return shared[8 : 8 + size]


def _child(
    target: Target, seed: int, seconds: float, inputs: int | None, shared: mmap.mmap, pipe: Connection
) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ROOM, _ROOM))
    logging.disable()
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None
    scratch.cache_clear()
    trial = _Trial(target, Random(seed), shared)
    trial.run(seconds, inputs)
    # Before the outcome: then the parent ends this process.
    os.chdir("/")
    shutil.rmtree(scratch())
    pipe.send(trial.outcome)


class _Trial:
    """The work of the child."""

    def __init__(self, target: Target, rng: Random, shared: mmap.mmap) -> None:
        self.outcome = Outcome(target.name)
        self._target = target
        self._shared = shared
        self._seen: set[str] = set()
        self._lines = LinesSeen()
        self._inputs = target.inputs()
        pool = [data for data in self._inputs if len(data) < _CHANGED]
        self._mutator = Mutator(rng, pool, is_json=target.is_json, longest=target.longest)

    def run(self, seconds: float, inputs: int | None) -> None:
        start = time.monotonic()
        gc.collect()
        gc.freeze()
        for data in self._inputs:
            if self._try(data) < _TOO_SLOW_TO_WATCH:
                self._watch(data)
        while self.outcome.inputs < inputs if inputs is not None else time.monotonic() - start < seconds:
            data = self._mutator.next()
            if self._try(data) < _TOO_SLOW_TO_WATCH and not self.outcome.inputs % _WATCHED:
                self._watch(data)
        self.outcome.seconds = time.monotonic() - start
        self.outcome.lines = self._lines.count

    def _watch(self, data: bytes) -> None:
        """Answer *data* once more, much slower, to see which lines of kvseal that reaches."""
        with self._lines:
            self._answer(data)

    def _try(self, data: bytes) -> float:
        """Answer *data*, note what is wrong with it, and return how long it took."""
        self._shared[:8] = len(data).to_bytes(8, "big")
        self._shared[8 : 8 + len(data)] = data
        begin = time.process_time()
        what = self._answer(data)
        took = time.process_time() - begin
        self.outcome.inputs += 1
        self.outcome.slowest = max(self.outcome.slowest, took)
        if not what and took > SLOWEST:
            what = f"it takes {took:.1f} seconds"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if not what and peak > MOST >= self.outcome.peak:
            what = f"it takes {peak / 2**20:.0f} MiB"
        self.outcome.peak = max(self.outcome.peak, peak)
        name = what.partition(" seconds")[0] if " at " in what else what[:9]
        if what and name not in self._seen:
            self._seen.add(name)
            small = self._shrunk(data, what) if " at " in what else data
            self.outcome.findings.append(Finding(self._target.name, what, small))
        return took

    def _answer(self, data: bytes) -> str:
        """Return what is wrong with the answer, or nothing."""
        try:
            self._target.run(data)
        except (*self._target.allowed, NotAnInputError):
            return ""
        except Exception as exc:  # noqa: BLE001 - each is a finding
            return f"{type(exc).__name__} at {_place(exc)}"
        return ""

    def _shrunk(self, data: bytes, what: str) -> bytes:
        """Return a smaller input with the same answer, as small as two seconds allow."""
        end, size = time.monotonic() + _SHRINKING, len(data) // 2
        while size and time.monotonic() < end:
            for start in range(0, len(data), size):
                smaller = data[:start] + data[start + size :]
                if time.monotonic() > end:
                    break
                if self._answer(smaller) == what:
                    data = smaller
                    break
            else:
                size //= 2
        return data


def _place(exc: Exception) -> str:
    """Return where in kvseal *exc* was raised, or let through."""
    frames = traceback.extract_tb(exc.__traceback__)
    inside = [frame for frame in frames if "/kvseal/" in frame.filename]
    frame = inside[-1] if inside else frames[-1]
    return f"{Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno}"
