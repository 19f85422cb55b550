"""
The holder of a lease, with enough detail to see, on the same machine, that its process has ended.

A lease expires by itself.  An operator who kills a run and starts it again at once should not have
to wait for that.  A holder therefore records the machine and its boot, the namespace of process
numbers, and the start time of the process, because the system reuses process numbers.
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
"""Of /proc/PID/stat, after the name in parentheses: clock ticks from boot to start, proc(5)."""


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """One run in one process; *token* distinguishes the runs of one process."""

    host: str
    machine: str
    pid: int
    started: int
    token: str

    @classmethod
    def new(cls) -> LeaseHolder:
        """Return a holder for this process, with a new token."""
        pid = os.getpid()
        return cls(socket.gethostname(), _machine(), pid, _started(pid) or 0, os.urandom(8).hex())

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LeaseHolder:
        """Read what `as_json` wrote; raises `KeyError` or `TypeError` for anything else."""
        holder = cls(value["host"], value["machine"], value["pid"], value["started"], value["token"])
        if tuple(map(type, (holder.pid, holder.started))) != (int, int):
            msg = "not a holder"
            raise TypeError(msg)
        return holder

    def as_json(self) -> dict[str, Any]:
        """Return the holder as a checkpoint stores it."""
        return {
            "host": self.host,
            "machine": self.machine,
            "pid": self.pid,
            "started": self.started,
            "token": self.token,
        }

    def is_gone(self) -> bool:
        """Whether the process is known to have ended; for other machines this is never known."""
        if not self.machine or self.machine != _machine():
            return False
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@cache
def _machine() -> str:
    """Return the same text for all processes that see each other's numbers, or "" if that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return sha256(boot + str(namespace).encode() + socket.gethostname().encode()).hexdigest()[:16]


def _started(pid: int) -> int | None:
    """Return the start time of the process, or `None` if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    # A zombie does no more work.
    return None if fields[0] in "ZX" else int(fields[_START_FIELD])
