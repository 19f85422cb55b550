"""
How much memory this process may still use, and what says so.

A container's limit is nowhere in the machine's own figures, and a process that believes those is
killed when it takes as much.  So every bound that Linux knows is asked: free memory, the
control groups of both versions, and the limits of the process itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvseal.calibration.cgroups import ROOT, levels, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kvseal.calibration.cgroups import Level

_KIB: Final = 1024


@dataclass(frozen=True, slots=True, order=True)
class MemoryLimit:
    """`size` bytes, and the name of the bound that leaves the least."""

    size: int
    source: str


def memory_limit(*, root: Path = ROOT, rlimit: Callable[[str], int | None] | None = None) -> MemoryLimit:
    """
    Return the tightest of all bounds, as bytes that are left beside what is in use already.

    *root* is where `/proc` and the control groups are looked for, *rlimit* what returns the soft limit of
    a name such as `RLIMIT_AS`, or `None` for no limit: by default those of this very process.
    """
    return min(bounds(root=root, rlimit=rlimit or soft_limit))


def bounds(*, root: Path, rlimit: Callable[[str], int | None]) -> Iterator[MemoryLimit]:
    """Yield every bound that there is."""
    yield _machine(read(root / "proc/meminfo"))
    for level in levels("memory", root=root):
        yield from _of_group(level)
    status = read(root / "proc/self/status")
    # The whole address space counts for the one, private writable memory for the other; see setrlimit(2).
    for name, used in (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")):
        limit = rlimit(name)
        if limit is not None:
            yield MemoryLimit(max(0, limit - (_kib(status, used) or 0)), name)


def soft_limit(name: str) -> int | None:
    """Return the soft limit of this process, or `None` where it has none."""
    try:
        import resource  # noqa: PLC0415 - POSIX alone has it
    except ImportError:
        return None
    limit: int = resource.getrlimit(getattr(resource, name))[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _machine(meminfo: str) -> MemoryLimit:
    free = _kib(meminfo, "MemAvailable")
    if free is not None:
        return MemoryLimit(free, "the free memory of this machine")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return MemoryLimit(total, "the memory of this machine")


def _of_group(level: Level) -> Iterator[MemoryLimit]:
    """Yield the limits of one group, less what its processes use and the kernel could not take back."""
    files: tuple[str, ...]
    if level.version == 1:
        files, usage, reclaimable = ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"
    else:
        # Above memory.high the kernel throttles the group until it crawls: no place to measure, or to run.
        files, usage, reclaimable = ("memory.max", "memory.high"), "memory.current", "inactive_file"
    limits = {file: level.number(file) for file in files}
    # It knows of groups above the mount too.  Without a limit it is a huge number, which decides nothing.
    limits["hierarchical_memory_limit"] = level.number("memory.stat", "hierarchical_memory_limit")
    used = (level.number(usage) or 0) - (level.number("memory.stat", reclaimable) or 0)
    for file, limit in limits.items():
        if limit is not None:
            source = f"cgroup v{level.version} {file} of {level.name}"
            yield MemoryLimit(max(0, limit - max(0, used)), source)


def _kib(text: str, field: str) -> int | None:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * _KIB
    return None
