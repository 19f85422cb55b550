"""
What every `make.py` does alike: an environment with the real software, and a store that can be committed.

`make.py` imports this module in two places: in the Python that somebody starts it with, and in the
environments that it builds.  So it needs nothing but the standard library.

    python migrations/freezing.py

writes the checksums of what is there, which is the last step of a new folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import venv
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).resolve().parent
CHECKSUMS = ROOT / "CHECKSUMS"

_FROZEN = ("expected.jsonl", "recipe.toml", "keys/**/*", "vault/**/*")

EXPIRY = datetime(2099, 12, 31, 23, 59, 59, tzinfo=timezone.utc)
"""When the frozen entries that expire do so, to within the time that their put took."""


def folder_of(make: str) -> Path:
    """Return the folder of the `make.py` at *make*, or that which `--into` names: to try a generator."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--into", type=Path, default=Path(make).parent)
    parser.add_argument("--step", default="")
    return parser.parse_known_args()[0].into.resolve()


def step() -> str:
    """Return which environment this process was started in by `in_environment`, or nothing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--step", default="")
    return parser.parse_known_args()[0].step


def in_environment(make: str, folder: Path, name: str, *requirements: str) -> None:
    """Install *requirements* into an environment of their own and run `make.py --step NAME` there."""
    with tempfile.TemporaryDirectory(prefix="kvseal-migrations-") as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory) / "bin" / "python"
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, *requirements], check=True)
        subprocess.run([python, make, "--step", name, "--into", folder], check=True)


def emptied(folder: Path) -> Path:
    """Return the `vault` of *folder*, which is made anew."""
    vault = folder / "vault"
    shutil.rmtree(vault, ignore_errors=True)
    (folder / "expected.jsonl").unlink(missing_ok=True)
    vault.mkdir(parents=True)
    return vault


def ttl() -> float:
    """Return how long it is until `EXPIRY`."""
    return (EXPIRY - datetime.now(tz=timezone.utc)).total_seconds()


def key(folder: Path, name: str, generate: Any) -> bytes:
    """Return the test secret *name* of *folder*, which is generated once and then kept."""
    path = folder / "keys" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(generate() + b"\n")
        path.chmod(0o600)
    return path.read_bytes().strip()


def expect(folder: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add *lines* to what the migrated vault must open to."""
    with (folder / "expected.jsonl").open("a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, allow_nan=True) + "\n")


def disk_times(vault: Path, collection: str, key: str) -> dict[str, str]:
    """Return creation time and expiry of an entry of a DiskStore, as its row and its body say."""
    with sqlite3.connect(vault / "cache.db") as con:
        columns = "value, filename, expire_time"
        row_key = f"{collection}::{key}"
        found = con.execute(f"SELECT {columns} FROM Cache WHERE key = ?", (row_key,)).fetchone()
    con.close()
    value, filename, expire_time = found
    body = json.loads((vault / filename).read_text(encoding="utf-8") if filename else value)
    times = {"created_at": body["created_at"]}
    if expire_time is not None:
        times["expires_at"] = datetime.fromtimestamp(expire_time, tz=timezone.utc).isoformat()
    return times


def damage(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return *stored* with one character in the middle of its ciphertext changed, as a failing disk would."""
    data = stored["__encrypted_data__"]
    middle = len(data) // 2
    other = "A" if data[middle] != "A" else "B"
    return {**stored, "__encrypted_data__": data[:middle] + other + data[middle + 1 :]}


def freeze(folder: Path) -> None:
    """Empty the write-ahead logs of every database in *folder*, and refuse what must not be committed."""
    for path in sorted(folder.rglob("*.db")):
        con = sqlite3.connect(path)
        con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        con.close()
    for path in sorted(p for p in (folder / "vault").rglob("*") if p.is_file()):
        _refuse_traces(path)
        # Whoever checks the repository out has no more than this from git.
        path.chmod(0o644)


def _refuse_traces(path: Path) -> None:
    if path.name.endswith(("-wal", "-shm")):
        sys.exit(f"{path} is left: somebody still has the database open")
    content = path.read_bytes()
    traces = (str(Path.home()), tempfile.gettempdir(), socket.gethostname(), os.getcwd())  # noqa: PTH109
    for trace in traces:
        if len(trace) > len("/tmp") - 1 and trace.encode() in content:
            sys.exit(f"{path} names {trace}, which is of this machine alone")


def checksums() -> str:
    """Return what `CHECKSUMS` has to say: a line for every frozen file, as `sha256sum --check` takes it."""
    found = {path for pattern in _FROZEN for path in ROOT.glob(f"[0-9]*/{pattern}") if path.is_file()}
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT).as_posix()}\n"
        for path in sorted(found)
    ]
    return "".join(lines)


if __name__ == "__main__":
    CHECKSUMS.write_text(checksums(), encoding="utf-8")
