"""
Who holds a lease: enough to see, on the same machine, that a process is gone.

A lease expires by itself.  But who kills a run and starts it again at once should not
have to wait for that, so a holder says on which boot of which machine it lives, in which
namespace of process numbers, and when it began, because numbers are given out again.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

_START_FIELD: Final = 19
"""Of /proc/PID/stat behind the name in parentheses: clock ticks from boot to start, proc(5)."""


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """One run in one process; *token* tells apart those of the same process."""

    host: str
    machine: str
    pid: int
    started: int
    token: str

    @classmethod
    def new(cls) -> LeaseHolder:
        """Return this process with a token of its own."""
        pid = os.getpid()
        return cls(socket.gethostname(), _machine(), pid, _started(pid) or 0, os.urandom(8).hex())

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LeaseHolder:
        """Read what `as_json` wrote; raises `KeyError` or `TypeError` where it is something else."""
        holder = cls(value["host"], value["machine"], value["pid"], value["started"], value["token"])
        if tuple(map(type, (holder.pid, holder.started))) != (int, int):
            msg = "not a holder"
            raise TypeError(msg)
        return holder

    def as_json(self) -> dict[str, Any]:
        """Return it as it stands in a checkpoint."""
        return {
            "host": self.host,
            "machine": self.machine,
            "pid": self.pid,
            "started": self.started,
            "token": self.token,
        }

    def is_gone(self) -> bool:
        """Whether the process is known to have ended; of other machines nothing is known."""
        if not self.machine or self.machine != _machine():
            return False
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@cache
def _machine() -> str:
    """Return what is the same for processes that see each other's numbers, or nothing where nobody knows."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return sha256(boot + str(namespace).encode() + socket.gethostname().encode()).hexdigest()[:16]


def _started(pid: int) -> int | None:
    """Return when the process began, or `None` if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    # A killed process that nobody has waited for yet works no more.
    return None if fields[0] in "ZX" else int(fields[_START_FIELD])
