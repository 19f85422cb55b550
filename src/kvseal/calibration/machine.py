"""The machine that is measured: what a figure without it would mean nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.backends.openssl import backend

from kvseal.calibration.cgroups import ROOT, levels, read
from kvseal.calibration.memory_limit import MemoryLimit, memory_limit

if TYPE_CHECKING:
    from pathlib import Path

    from kvseal.calibration.cgroups import Level


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor, CPUs that this process may use, memory that it may still use, and the software."""

    processor: str
    cpus: int
    memory: MemoryLimit
    system: str
    python: str
    argon2_cffi: str
    cryptography: str

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def this_machine() -> Machine:
    """Describe the machine, as this process is allowed to use it."""
    return Machine(
        processor=_processor(read(ROOT / "proc/cpuinfo")),
        cpus=usable_cpus(),
        memory=memory_limit(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        argon2_cffi=f"{version('argon2-cffi')}, bindings {version('argon2-cffi-bindings')}",
        cryptography=f"{version('cryptography')}, {backend.openssl_version_text()}",
    )


def usable_cpus(*, root: Path = ROOT, affinity: int | None = None) -> int:
    """Return how many CPUs this process may keep busy: by its affinity, and by the quotas of its groups."""
    usable = affinity or _affinity()
    for level in levels("cpu", root=root):
        quota = _quota(level)
        if quota is not None:
            usable = min(usable, quota)
    return max(1, usable)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(level: Level) -> int | None:
    """Return the CPUs that a group may keep busy, a begun one counted, or `None`."""
    if level.version == 1:
        quota, period = level.number("cpu.cfs_quota_us"), level.number("cpu.cfs_period_us")
    else:
        first, _, second = read(level.directory / "cpu.max").partition(" ")
        quota = int(first) if first.isdigit() else None
        period = int(second) if second.strip().isdigit() else None
    return None if not quota or not period else -(-quota // period)


def _processor(cpuinfo: str) -> str:
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
