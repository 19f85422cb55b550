"""
What a writer did, in a file that outlives it: attempts, acknowledged writes, errors, warnings; one JSON list a line.

    ["try", key, n]   ["ack", key, n, health]   ["error", class]   ["warn", text]   ["older", key, n, read]

An acknowledged write is synchronised before the writer goes on, so a kill loses none of them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

COLLECTION = "c"
_DELETED = 19
_LARGE = 23
"""One value in so many is larger than diskcache keeps in a row."""


def is_delete(n: int) -> bool:
    """Whether write *n* of a key deletes it."""
    return n % _DELETED == 0


def value_of(key: str, n: int) -> dict[str, Any]:
    """Return value *n* of *key*: its content follows from both, so a reader knows whether it is whole."""
    digest = sha256(f"{key}/{n}".encode()).hexdigest()
    return {"n": n, "digest": digest, "text": digest * (700 if n % _LARGE == 0 else 1 + n % 7)}


class Journal:
    """The file of one writer, which appends."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, *what: Any) -> None:
        """Append one line, which survives the death of this process."""
        os.write(self._file, json.dumps(what).encode() + b"\n")

    def acknowledged(self, key: str, n: int, health: str) -> None:
        """Append what the wrapper has confirmed, and wait for the disk."""
        self.note("ack", key, n, health)
        os.fsync(self._file)


@dataclass
class Record:
    """What the journals of all writers say together; each key has one writer."""

    tried: dict[str, int] = field(default_factory=dict)
    acked: dict[str, int] = field(default_factory=dict)
    health: dict[str, str] = field(default_factory=dict)
    """Of a key: the state of the vault as its writer saw it when the last write was acknowledged."""
    writes: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    older: list[tuple[str, int, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, paths: list[Path]) -> Record:
        """Read the journals; the last line of a killed writer may be cut."""
        record = cls()
        for path in paths:
            for line in path.read_bytes().split(b"\n")[:-1]:
                record._add(*json.loads(line))
        return record

    def _add(self, kind: str, *rest: Any) -> None:
        if kind == "try":
            self.tried[rest[0]] = rest[1]
        elif kind == "ack":
            self.acked[rest[0]], self.health[rest[0]] = rest[1], rest[2]
            self.writes += 1
        elif kind == "error":
            self.errors[rest[0]] += 1
        elif kind == "warn":
            self.warnings[rest[0]] += 1
        else:
            self.older.append((rest[0], rest[1], rest[2]))
