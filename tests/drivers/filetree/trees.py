# ruff: noqa: ASYNC240 - tests may block
"""File tree stores on a real disk, and what is in their files."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from key_value.aio._utils.sanitization import PassthroughStrategy
from key_value.aio.stores.filetree import (
    FileTreeStore,
    FileTreeV1CollectionSanitizationStrategy,
    FileTreeV1KeySanitizationStrategy,
)

from kvseal.drivers.filetree.names import StrategyRule

TOO_LONG_OR_NO_FILE = frozenset(
    {("plain", "https://host/path?q=1#f"), ("pl/ain", "a/../b"), ("plain", "k" * 300), ("c" * 260, "key")}
)


PLAIN = StrategyRule(PassthroughStrategy())


def v1_store(directory: Path, **options: Any) -> FileTreeStore:
    """Return a store with py-key-value's V1 strategies, as FastMCP makes it."""
    directory.mkdir(exist_ok=True)
    return FileTreeStore(
        data_directory=directory,
        key_sanitization_strategy=FileTreeV1KeySanitizationStrategy(directory),
        collection_sanitization_strategy=FileTreeV1CollectionSanitizationStrategy(directory),
        **options,
    )


async def write_in_one_thread(file: Any, text: str) -> None:
    """Do what the store's own `write_file_atomic` does, without its threads and its wait for the disk."""
    handle, temporary = tempfile.mkstemp(dir=str(file.parent), suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as writer:
        writer.write(text)
    Path(temporary).replace(Path(file))


async def trust(*, path: Any, root_directory: Any) -> None:
    """Do not look, in yet another thread, for links that lead out of a store of one's own."""


def put_raw(directory: Path, n: int | str, *, name: str = "key", collection: str = "coll") -> None:
    """Replace one file as the store does."""
    text = json.dumps({"created_at": f"2024-01-01T00:00:00.{n:0>6}+00:00", "value": {"n": n}, "version": 1})
    asyncio.run(write_in_one_thread(directory / collection / f"{name}.json", text))


def value_of(directory: Path, name: str = "key", collection: str = "coll") -> Any:
    """Return the value that lies in one file, or `None` if there is no file."""
    file = directory / collection / f"{name}.json"
    return json.loads(file.read_text())["value"] if file.exists() else None


def temporaries(directory: Path) -> list[str]:
    """Return the names of all temporary files, the store's and kvseal's."""
    return sorted(p.name for p in directory.rglob("*.tmp"))


def python(script: str, *args: object) -> subprocess.Popen[str]:
    """Start a script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Wait for the end of *process*; return what it has printed and its exit code."""
    return process.communicate()[0], process.returncode
