"""Mounts on which an orchestrator puts secrets: read-only, or in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/proc/self/mountinfo")
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


def is_secret_mount(descriptor: int) -> bool:
    """Whether the open file is on a file system that is read-only, or in memory."""
    if not hasattr(os, "fstatvfs"):
        return False
    if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
        return True
    device = os.fstat(descriptor).st_dev
    return _type_of(f"{os.major(device)}:{os.minor(device)}") in _IN_MEMORY


def _type_of(device: str) -> str:
    """Return the type of the file system on *device*, see proc_pid_mountinfo(5), or nothing."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, behind = line.partition(" - ")
        if fields.split(" ")[2:3] == [device]:
            return behind.partition(" ")[0]
    return ""
