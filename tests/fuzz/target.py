"""What a fuzz target is: a parser as its caller meets it, real inputs for it, and what it may answer."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.mutation import LONGEST

from kvseal.errors import KvsealError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CORPUS = Path(__file__).parent / "corpus"
"""Findings, one file each, in a folder for each target."""
MIGRATIONS = Path(__file__).parents[2] / "migrations"
VECTORS = Path(__file__).parents[1] / "vectors"


@dataclass(frozen=True)
class Target:
    """
    One parser or several that see the same bytes.

    `run` is given any bytes.  It returns, or raises one of `allowed`; everything else is a finding.  *parsers*
    are the functions of kvseal that it reaches, by their dotted names below kvseal.
    """

    name: str
    parsers: tuple[str, ...]
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], object]
    is_json: bool = False
    longest: int = LONGEST
    allowed: tuple[type[Exception], ...] = (KvsealError,)

    @property
    def corpus(self) -> list[Path]:
        """The inputs that were findings once."""
        return sorted((CORPUS / self.name).glob("*"))

    def inputs(self) -> list[bytes]:
        """Return the real inputs and the former findings."""
        return [*self.seeds(), *(path.read_bytes() for path in self.corpus)]


class NotAnInputError(Exception):
    """The bytes are not what the target reads; another parser, with a target of its own, stands before it."""


@cache
def scratch() -> Path:
    """Return a folder of this process, in memory where there is such a place."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="kvseal-fuzz-", dir=memory if memory.is_dir() else None))


def a_file(data: bytes, name: str) -> Path:
    """Return the path of a file of this process's own that holds *data*."""
    path = scratch() / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the one event loop of this process."""
    return asyncio.new_event_loop()


def now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what *coroutine* does, from the one event loop of this process."""
    return loop().run_until_complete(coroutine)
