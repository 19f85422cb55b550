"""
The control groups that this process is in, as files: version 1, version 2, and both at once.

A limit binds the group that sets it and every group below, so the groups are walked from this
process's own up to the highest that is mounted.  In a container the mount may begin at the
container's own group; the groups above are then out of sight, and bind all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path("/")


@dataclass(frozen=True, slots=True)
class Level:
    """One group on the way up: its version, its name, and the directory that describes it."""

    version: int
    name: str
    directory: Path

    def number(self, file: str, field: str | None = None) -> int | None:
        """Return the number in *file*, or behind *field* in it; `None` for `max` and for no such file."""
        text = read(self.directory / file)
        if field is not None:
            match = re.search(rf"^{field} (\d+)$", text, re.MULTILINE)
            text = match[1] if match else ""
        return int(text) if text.strip().isdigit() else None


def levels(controller: str, *, root: Path = ROOT) -> list[Level]:
    """Return this process's groups that can limit what *controller* counts, from its own group upwards."""
    groups = _own_groups(read(root / "proc/self/cgroup"))
    found: list[Level] = []
    for line in read(root / "proc/self/mountinfo").splitlines():
        mount = _Mount.parsed(line)
        group = None if mount is None else groups.get("" if mount.version == 2 else controller)  # noqa: PLR2004
        if mount is not None and group is not None and mount.serves(controller):
            found += mount.levels(group, root)
    return found


def read(path: Path) -> str:
    """Return the text of a file of the kernel, or nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class _Mount:
    """One hierarchy as it is mounted: the group at its top, and where that is."""

    version: int
    top: str
    point: str
    controllers: frozenset[str]

    @classmethod
    def parsed(cls, line: str) -> _Mount | None:
        """Return the hierarchy of a line of mountinfo, see proc_pid_mountinfo(5)."""
        before, _, behind = line.partition(" - ")
        fields, kind = before.split(" "), behind.split(" ")
        versions = {"cgroup": 1, "cgroup2": 2}
        if kind[0] not in versions or len(fields) < 5 or len(kind) < 3:  # noqa: PLR2004
            return None
        top, point = map(_unescaped, fields[3:5])
        return cls(versions[kind[0]], top, point, frozenset(kind[2].split(",")))

    def serves(self, controller: str) -> bool:
        return self.version != 1 or controller in self.controllers

    def levels(self, group: str, root: Path) -> Iterator[Level]:
        """Yield *group* and every group above it that the mount shows."""
        top = self.top.rstrip("/")
        below = group[len(top) :] if group == top or group.startswith(top + "/") else ""
        names = [name for name in below.split("/") if name]
        if ".." in names:
            # The group is outside of this process's cgroup namespace; only the top is known to be there.
            names = []
        directory = root / self.point.lstrip("/")
        for depth in range(len(names), -1, -1):
            name = "/".join([top, *names[:depth]]) or "/"
            yield Level(self.version, name, directory.joinpath(*names[:depth]))


def _own_groups(text: str) -> dict[str, str]:
    """Return the group of each controller; version 2 has all of them in one group, whose controller is ""."""
    groups = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        groups.update(dict.fromkeys(controllers.split(","), group))
    return groups


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
