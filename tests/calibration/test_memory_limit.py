"""What a process may use: control groups of both versions as trees of files, and limits that are truly set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kvseal.calibration.cgroups import levels
from kvseal.calibration.machine import this_machine, usable_cpus
from kvseal.calibration.memory_limit import MemoryLimit, memory_limit

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
MIB = 2**20
UNLIMITED = 9223372036854771712
"""What version 1 says where there is no limit."""

V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V1_CPU = "36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
ELSEWHERE = "24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"


def kernel(
    root: Path, files: dict[str, object], *, mounts: tuple[str, ...] = (V2,), own: str = "0::/"
) -> Path:
    """Write a tree of files as the kernel shows them, of a machine with 32 GiB free."""
    texts = {
        "proc/meminfo": f"MemTotal: {64 * MIB} kB\nMemAvailable:   {32 * MIB} kB\n",
        "proc/self/cgroup": own + "\n",
        "proc/self/mountinfo": "\n".join((ELSEWHERE, *mounts)) + "\n",
        "proc/self/status": f"VmPeak: 9 kB\nVmSize:\t{100 * 1024} kB\nVmData:\t{10 * 1024} kB\n",
        **{f"sys/fs/cgroup/{name}": f"{text}\n" for name, text in files.items()},
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def unlimited(_: str) -> None:
    """Be a process without limits of its own."""


GROUPS = {
    "none": ((V2,), "0::/a", {"a/memory.max": "max"}, (32 * GIB, "the free memory of this machine")),
    "v2": ((V2,), "0::/a", {"a/memory.max": GIB}, (GIB, "cgroup v2 memory.max of /a")),
    "v2 of a parent": (
        (V2,),
        "0::/a/b/c",
        {"a/memory.max": GIB, "a/b/memory.max": 2 * GIB, "a/b/c/memory.max": "max"},
        (GIB, "cgroup v2 memory.max of /a"),
    ),
    "v2 of the leaf": (
        (V2,),
        "0::/a/b",
        {"a/memory.max": 2 * GIB, "a/b/memory.max": GIB},
        (GIB, "cgroup v2 memory.max of /a/b"),
    ),
    "v2 of a sibling": (
        (V2,),
        "0::/a/b",
        {"a/c/memory.max": MIB, "b/memory.max": MIB},
        (32 * GIB, "the free memory of this machine"),
    ),
    "v2 throttles": (
        (V2,),
        "0::/a",
        {"a/memory.max": 2 * GIB, "a/memory.high": GIB},
        (GIB, "cgroup v2 memory.high of /a"),
    ),
    "v2 partly used": (
        (V2,),
        "0::/a",
        {
            "a/memory.max": 2 * GIB,
            "a/memory.current": GIB + 5 * MIB,
            "a/memory.stat": f"anon 1\ninactive_file {5 * MIB}",
        },
        (GIB, "cgroup v2 memory.max of /a"),
    ),
    "v2 used up": (
        (V2,),
        "0::/a",
        {"a/memory.max": GIB, "a/memory.current": 2 * GIB},
        (0, "cgroup v2 memory.max of /a"),
    ),
    "v2 in a namespace": ((V2,), "0::/", {"memory.max": GIB}, (GIB, "cgroup v2 memory.max of /")),
    "v2 outside of its namespace": (
        (V2,),
        "0::/../other",
        {"memory.max": GIB, "../other/memory.max": MIB},
        (GIB, "cgroup v2 memory.max of /"),
    ),
    "v2 mounted from below": (
        ("31 23 0:28 /pods/x /sys/fs/cgroup ro - cgroup2 cgroup2 rw",),
        "0::/pods/x/app",
        {"memory.max": GIB, "app/memory.max": "max"},
        (GIB, "cgroup v2 memory.max of /pods/x"),
    ),
    "v1": (
        (V1,),
        "4:memory:/a",
        {"memory/a/memory.limit_in_bytes": GIB, "memory/memory.limit_in_bytes": UNLIMITED},
        (GIB, "cgroup v1 memory.limit_in_bytes of /a"),
    ),
    "v1 of a parent": (
        (V1,),
        "4:memory:/a/b",
        {"memory/a/memory.limit_in_bytes": GIB, "memory/a/b/memory.limit_in_bytes": UNLIMITED},
        (GIB, "cgroup v1 memory.limit_in_bytes of /a"),
    ),
    "v1 without a limit": (
        (V1,),
        "4:memory:/a",
        {
            "memory/a/memory.limit_in_bytes": UNLIMITED,
            "memory/a/memory.stat": f"hierarchical_memory_limit {UNLIMITED}",
        },
        (32 * GIB, "the free memory of this machine"),
    ),
    "v1 of a parent out of sight": (
        ("35 31 0:32 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory",),
        "4:memory:/docker/x",
        {
            "memory/memory.limit_in_bytes": UNLIMITED,
            "memory/memory.stat": f"cache 0\nhierarchical_memory_limit {GIB}\n",
        },
        (GIB, "cgroup v1 hierarchical_memory_limit of /docker/x"),
    ),
    "v1 partly used": (
        (V1,),
        "4:memory:/a",
        {
            "memory/a/memory.limit_in_bytes": 2 * GIB,
            "memory/a/memory.usage_in_bytes": GIB + MIB,
            "memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {MIB}",
        },
        (GIB, "cgroup v1 memory.limit_in_bytes of /a"),
    ),
    "v1 of another controller": (
        (V1_CPU,),
        "4:cpu,cpuacct:/a",
        {"cpu/a/memory.limit_in_bytes": MIB},
        (32 * GIB, "the free memory of this machine"),
    ),
    "hybrid": (
        (V1, UNIFIED),
        "4:memory:/a\n0::/s",
        {"memory/a/memory.limit_in_bytes": GIB, "unified/s/cgroup.procs": 1},
        (GIB, "cgroup v1 memory.limit_in_bytes of /a"),
    ),
    "both": (
        (V1, UNIFIED),
        "4:memory:/a\n0::/s",
        {"memory/a/memory.limit_in_bytes": 2 * GIB, "unified/s/memory.max": GIB},
        (GIB, "cgroup v2 memory.max of /s"),
    ),
    "a name with a space": (
        (r"31 23 0:28 / /sys/fs/cgroup/with\040space rw - cgroup2 cgroup2 rw",),
        "0::/a",
        {"with space/a/memory.max": GIB},
        (GIB, "cgroup v2 memory.max of /a"),
    ),
    "more than the machine has": (
        (V2,),
        "0::/a",
        {"a/memory.max": 999 * GIB},
        (32 * GIB, "the free memory of this machine"),
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_control_groups(tmp_path: Path, name: str) -> None:
    """The tightest limit of this process's group and of those above it counts, less what is in use."""
    mounts, own, files, (size, source) = GROUPS[name]
    root = kernel(tmp_path, files, mounts=mounts, own=own)

    assert MemoryLimit(size, source) == memory_limit(root=root, rlimit=unlimited)


@pytest.mark.parametrize(("name", "left"), [("RLIMIT_AS", GIB - 100 * MIB), ("RLIMIT_DATA", GIB - 10 * MIB)])
def test_limits_of_the_process(tmp_path: Path, name: str, left: int) -> None:
    """A limit of the process counts, less what it has mapped already."""
    root = kernel(tmp_path, {"memory.max": 2 * GIB})

    assert MemoryLimit(left, name) == memory_limit(root=root, rlimit={name: GIB}.get)


def test_a_limit_that_is_spent(tmp_path: Path) -> None:
    """A process beyond its limit may use nothing more, not less than nothing."""
    assert 0 == memory_limit(root=kernel(tmp_path, {}), rlimit={"RLIMIT_AS": MIB}.get).size


def test_no_proc_at_all(tmp_path: Path) -> None:
    """Where there is no /proc, all memory of the machine is the bound."""
    assert "the memory of this machine" == memory_limit(root=tmp_path, rlimit=unlimited).source
    assert [] == levels("memory", root=tmp_path)


@pytest.mark.parametrize(
    ("mounts", "own", "files", "cpus"),
    [
        ((V2,), "0::/a", {"a/cpu.max": "max 100000"}, 8),
        ((V2,), "0::/a", {"a/cpu.max": "150000 100000"}, 2),
        ((V2,), "0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "300000 100000"}, 1),
        (
            (V1_CPU,),
            "3:cpu,cpuacct:/a",
            {"cpu/a/cpu.cfs_quota_us": 200000, "cpu/a/cpu.cfs_period_us": 100000},
            2,
        ),
        ((V1_CPU,), "3:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": -1, "cpu/a/cpu.cfs_period_us": 100000}, 8),
        ((V2,), "0::/a", {"a/cpu.max": "9900000 100000"}, 8),
    ],
    ids=["v2-none", "v2", "v2-parent", "v1", "v1-none", "more-than-there-are"],
)
def test_usable_cpus(
    tmp_path: Path, mounts: tuple[str, ...], own: str, files: dict[str, object], cpus: int
) -> None:
    """A quota counts where it is less than the CPUs of the affinity; a begun CPU is one."""
    root = kernel(tmp_path, files, mounts=mounts, own=own)

    assert cpus == usable_cpus(root=root, affinity=8)


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux enforces RLIMIT_AS")
def test_rlimit_as_truly_set() -> None:
    """In a process with a limit, what may be used is that limit less what is mapped, and it can truly be had."""
    script = (
        "import json, resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"
        "from kvseal.calibration.memory_limit import memory_limit\n"
        "limit = memory_limit()\n"
        "held = bytearray(limit.size // 2)\n"
        "try:\n"
        "    bytearray(limit.size)\n"
        "except MemoryError:\n"
        "    print(json.dumps([limit.size, limit.source]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    size, source = json.loads(done.stdout)
    assert "RLIMIT_AS" == source
    assert 0 < size < 400 * MIB


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="Linux")  # noqa: PTH110 - a condition at import
def test_this_very_machine() -> None:
    """The real files are understood: there is a limit, and it is no more than there is memory."""
    machine = this_machine()

    assert 0 < machine.memory.size <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 <= machine.cpus <= (os.cpu_count() or 1)
    assert "" not in machine.as_dict().values()
