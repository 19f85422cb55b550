"""vaultctl as a person runs it: commands in, both streams and the exit code out."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.filetree import FileTreeStore
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper

from kvseal.cli.app import run

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

PROGRAM = Path(sys.executable).parent / "vaultctl"
SECRET = "a passphrase that must not be seen"
NEW_SECRET = "another passphrase that must not be seen"
FERNET_KEY = "b2xkIGtleSBvZiB0aGUgb2xkIGFwcGxpY2F0aW9uISE="
PLAINTEXT = "token-that-must-not-be-seen"

_VARYING = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<sha256>"),
    (re.compile(r"\b[0-9a-f]{48}\b"), "<nonce>"),
    (re.compile(r"\bbefore-\w+-\w+\.kvseal"), "before-<time>.kvseal"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<vault>"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "<slot>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)"), "<time>"),
    (re.compile(r"KVSEAL1(?:-\w+)+"), "<secret>"),
    (re.compile(r"KVSEALR1(?:-\w+)+"), "<recovery key>"),
    (re.compile(r"\b[\d,]+ bytes;"), "<size> bytes;"),
    (re.compile(r'"bytes":\d+'), '"bytes":<size>'),
    (re.compile(r"; \d+\.\d s\b"), "; <t> s"),
    (re.compile(r'"seconds":[\d.e-]+'), '"seconds":<t>'),
)


@dataclass(frozen=True)
class Done:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """The JSON Lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        """The one JSON object on stderr."""
        error: dict[str, Any] = json.loads(self.err)
        return error


class Terminalless:
    """vaultctl inside this process, with no terminal anywhere: what most tests need."""

    def __init__(
        self, directory: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.directory = directory
        self._capsys = capsys
        self._patch = patch

    def __call__(self, command: str, *, stdin: str = "") -> Done:
        """Run one command line, without the name of the program."""
        self._patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        self._capsys.readouterr()
        code = run(shlex.split(command))
        captured = self._capsys.readouterr()
        return Done(code, captured.out, captured.err)

    def transcript(self, text: str) -> str:
        """Run every `$ vaultctl …` line of *text*, and return the transcript as it came out."""
        shown: list[str] = []
        for line in text.splitlines():
            if not line.startswith("$ "):
                continue
            command, _, stdin = line[2:].partition(" <<< ")
            done = self(command.removeprefix("vaultctl"), stdin="".join(shlex.split(stdin)))
            # A restore writes entries beside each other, so the order of a store's entries is not its own.
            out = (
                sorted(done.out.splitlines())
                if line.startswith("$ vaultctl list ")
                else done.out.splitlines()
            )
            shown += [line, *out, *(f"! {told}" for told in done.err.splitlines())]
            if done.code:
                shown.append(f"(exit {done.code})")
        return "\n".join(self._normal(line).rstrip() for line in shown) + "\n"

    def _normal(self, line: str) -> str:
        line = line.replace(str(self.directory), "<dir>")
        for pattern, name in _VARYING:
            line = pattern.sub(name, line)
        return line

    def tree(self) -> list[str]:
        """Return every path in the working directory."""
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*"))


def real(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the installed program in a process of its own."""
    return subprocess.run(
        [str(PROGRAM), *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        text=True,
        check=False,
        timeout=60,
        **{"capture_output": True, "stdin": subprocess.DEVNULL, **options},
    )


def old_store(directory: Path, values: Mapping[str, Any], *, key: str = FERNET_KEY, ttl: Any = None) -> None:
    """Write *values* into collection `c` of a disk store as the old application did."""

    async def fill(store: DiskStore) -> None:
        wrapper = FernetEncryptionWrapper(store, fernet=Fernet(key))
        for name, value in values.items():
            await wrapper.put(name, value, collection="c", ttl=ttl)

    with_store(directory, fill)


def with_store(directory: Path, work: Any) -> Any:
    """Return the result of the coroutine function *work* on the disk store in *directory*."""
    store = DiskStore(directory=directory)
    try:
        return asyncio.run(work(store))
    finally:
        store._cache.close()


def with_tree(directory: Path, work: Any) -> Any:
    """Return the result of the coroutine function *work* on the file tree in *directory*, which processes share."""
    directory.mkdir(exist_ok=True)
    return asyncio.run(work(FileTreeStore(data_directory=directory)))
