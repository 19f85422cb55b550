"""
One migration shared among processes: each does one part, and one report comes out.

The workers are this very command, started again for one part each.  They take their secrets by
the same references, so a reference that can be read only once cannot be shared.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kvseal.errors import UsageError
from kvseal.recode.events import Failure, Progress
from kvseal.recode.report import Report

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings

_ONCE: Final = ("prompt:", "fd:")
_COUNTERS: Final = ("scanned", "changed", "already", "skipped", "failed", "conflicts")
_START: Final = "import sys; from kvseal.cli.app import main; main(sys.argv[1:])"
_LONGEST_LINE: Final = 2**20


@dataclass(slots=True)
class _Sum:
    """What all workers have reported."""

    counters: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    deks: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    command: str = ""
    progress: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, summary: dict[str, Any]) -> None:
        self.counters.update({name: summary[name] for name in _COUNTERS})
        self.formats.update(summary.get("formats", {}))
        self.deks.update({int(number): count for number, count in summary.get("deks", {}).items()})
        self.seconds = max(self.seconds, summary["seconds"])
        self.command = summary["command"]

    def report(self) -> Report:
        counted = self.counters
        return Report(
            command=self.command,
            scanned=counted["scanned"],
            changed=counted["changed"],
            already=counted["already"],
            skipped=counted["skipped"],
            failed=counted["failed"],
            conflicts=counted["conflicts"],
            seconds=self.seconds,
            formats=dict(self.formats),
            deks=dict(self.deks),
        )


async def share(output: Output, settings: Settings, count: int) -> int:
    """
    Run this command in *count* processes, each for one part; print one report and return one exit code.

    Interrupted, they all stop at their next batch, and the same command goes on.
    """
    refuse_references_of_one_use(settings.arguments)
    total = _Sum()
    workers = [await _start(settings.arguments, index, count) for index in range(1, count + 1)]
    try:
        codes = await asyncio.gather(
            *(_followed(worker, number, total, output) for number, worker in enumerate(workers))
        )
    except BaseException:
        for worker in workers:
            with suppress(ProcessLookupError):
                worker.send_signal(signal.SIGINT)
        await asyncio.gather(*(worker.wait() for worker in workers))
        raise
    if total.command:
        output.summary(total.report())
    # What went wrong says more than that some records failed.
    return max(codes, key=lambda code: (code not in {0, 3}, code))


def refuse_references_of_one_use(arguments: tuple[str, ...]) -> None:
    """Raise `UsageError` where a secret comes from a person or a pipe: only one process could read it."""
    for argument in arguments:
        value = argument.partition("=")[2] if argument.startswith("--") else argument
        if value.startswith(_ONCE):
            msg = f"{value.partition(':')[0]}: can be read by one process, and there are several workers"
            raise UsageError(msg, hint="use env:, file:, keyring: or cred:, or leave --workers out")


async def _start(arguments: tuple[str, ...], index: int, count: int) -> Process:
    own = ("--worker", f"{index}/{count}", "--no-backup", "--yes", "--json")
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _START,
        *arguments,
        *own,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
    )


async def _followed(worker: Process, number: int, total: _Sum, output: Output) -> int:
    if worker.stdout is None:
        raise AssertionError
    async for text in worker.stdout:
        line = json.loads(text)
        if line["type"] == "summary":
            total.add(line)
        elif line["type"] == "failure":
            output.event(Failure(line["collection"], line["key"], line["reason"]))
        elif line["type"] == "progress":
            total.progress[number] = line
            output.event(_sum_of(total))
    return await worker.wait()


def _sum_of(total: _Sum) -> Progress:
    lines = list(total.progress.values())
    phases = [line["phase"] for line in lines]
    totals = [line["total"] for line in lines]
    return Progress(
        phase=phases[0],
        scanned=sum(line["scanned"] for line in lines),
        total=None if None in totals else sum(totals),
        changed=sum(line["changed"] for line in lines),
        failed=sum(line["failed"] for line in lines),
        seconds=max(line["seconds"] for line in lines),
    )
