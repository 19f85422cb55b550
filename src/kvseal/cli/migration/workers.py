"""
One migration shared among processes: each does one part, and one report comes out.

Each worker is this command, started again for one part.  Workers take their secrets by the same
references, so a reference that can be read only once cannot be shared.  A worker reads its standard
input, on which nothing is sent: when it ends, the parent process has ended, for any reason, and the
worker is interrupted as by Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from kvseal.cli.streams import tell
from kvseal.errors import ExitCode, RecodeError, UsageError
from kvseal.observe.events import Failure, Progress
from kvseal.recoding.report import Report, followed_by

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Iterator

    from kvseal.cli.migration.recipe import Recipe
    from kvseal.cli.migration.recoding import Recoding
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.drivers.base import Driver

_ONCE: Final = ("prompt:", "fd:")
_COUNTERS: Final = ("scanned", "changed", "already", "skipped", "failed", "conflicts")
# Without the current directory, from which the installed program imports nothing either.
_START: Final = (
    "import sys; sys.path = [p for p in sys.path if p];from kvseal.cli.app import main; main(sys.argv[1:])"
)
_LONGEST_LINE: Final = 2**20
_ENDED: Final = (ExitCode.OK, ExitCode.SOME_FAILED, ExitCode.WORK_PENDING)
"""Exit codes of a worker that has come to the end of its part: some may have failed, or be left over."""


class WorkerError(RecodeError):
    """A worker has not come to the end of its part: in its own words, with its own exit code."""

    def __init__(self, message: str, *, hint: str, code: int) -> None:
        super().__init__(message, hint=hint)
        # Each worker fails in its own way; there is no class to look at.
        self.exit_code = code  # type: ignore[misc]


@dataclass(slots=True)
class _Sum:
    """What all workers have reported."""

    counters: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    deks: Counter[int] = field(default_factory=Counter)
    pending: int = 0
    seconds: float = 0.0
    command: str = ""
    progress: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, summary: dict[str, Any]) -> None:
        self.counters.update({name: summary[name] for name in _COUNTERS})
        self.formats.update(summary.get("formats", {}))
        self.deks.update({int(number): count for number, count in summary.get("deks", {}).items()})
        self.pending += summary.get("pending", 0)
        self.seconds = max(self.seconds, summary["seconds"])
        self.command = summary["command"]

    def report(self) -> Report:
        numbers: dict[str, Any] = {name: self.counters[name] for name in _COUNTERS}
        return Report(
            command=self.command,
            seconds=self.seconds,
            formats=dict(self.formats),
            deks=dict(self.deks),
            pending=self.pending,
            **numbers,
        )


async def share(output: Output, settings: Settings, count: int) -> Report:
    """
    Run this command in *count* processes, each for one part, and return one report of all.

    Interrupted, they all stop at their next batch, and the same command goes on.

    Raises:
        WorkerError: a worker has failed; the others have done their parts.
    """
    total = _Sum()
    workers: list[Process] = []
    try:
        while len(workers) < count:
            workers.append(await _start(settings.arguments, len(workers) + 1, count))
        ends = await asyncio.gather(
            *(_followed(worker, number, total, output) for number, worker in enumerate(workers, 1))
        )
    finally:
        for worker in workers:
            _stop(worker)
        await asyncio.gather(*(worker.communicate() for worker in workers))
    for number, (worker, error) in enumerate(zip(workers, ends, strict=True), 1):
        if worker.returncode not in _ENDED:
            raise _failure(f"worker {number} of {count}", worker.returncode or 0, error)
    return total.report()


def with_what_workers_did(last: Report, shared: Report) -> Report:
    """Return the report of the *last* run, over all that the *shared* one did: each record counts once."""
    return replace(followed_by(shared, last), seconds=shared.seconds + last.seconds)


def begun(options: Recoding, settings: Settings) -> tuple[Recoding, Settings]:
    """
    Return both with what the recipe says; a worker ends with its parent process.

    Raises:
        UsageError: options contradict each other, or workers cannot be given what they need.
    """
    options, settings = options.completed(settings)
    if options.worker is not None:
        end_with_parent()
    if options.is_shared:
        refuse_references_of_one_use(settings, options.recipe)
    return options, settings


def refuse_references_of_one_use(settings: Settings, recipe: Recipe | None) -> None:
    """Raise `UsageError` where a secret comes from a person or a pipe: only one process could read it."""
    for reference in _references(settings, recipe):
        if reference.startswith(_ONCE):
            scheme = reference.partition(":")[0]
            msg = f"{scheme}: can be read by one process only, and there are several workers"
            raise UsageError(msg, hint="use env:, file:, keyring: or cred:, or leave --workers out")


def refuse_one_writer(written: Driver) -> None:
    """Raise `UsageError` where workers would wait for each other, and so take longer than one process."""
    if written.capabilities.one_writer:
        msg = f"{written.location} has one writer at a time, so workers would take longer than one process"
        raise UsageError(msg, hint="leave --workers out")


def end_with_parent() -> None:
    """Be interrupted when standard input ends, as it does with the process that shares its work."""

    def watch() -> None:
        # Not by `sys.stdin`, whose lock no thread may hold when the interpreter ends.
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def _references(settings: Settings, recipe: Recipe | None) -> Iterator[str]:
    """Yield whatever may be a reference to a secret."""
    for argument in settings.arguments:
        yield argument.partition("=")[2] if argument.startswith("--") else argument
    yield settings.secret or ""
    if recipe is not None:
        for value in asdict(recipe.source.keys).values():
            yield from map(str, value if isinstance(value, tuple) else (value,))


async def _start(arguments: tuple[str, ...], index: int, count: int) -> Process:
    own = ("--worker", f"{index}/{count}", "--yes", "--json")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _START, *arguments, *own),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
        # Ctrl-C is for the one process that a person sees: twice would be too much for a worker.
        start_new_session=True,
    )


def _stop(worker: Process) -> None:
    if worker.stdin is not None:
        worker.stdin.close()


async def _followed(worker: Process, number: int, total: _Sum, output: Output) -> dict[str, Any] | None:
    """Follow what *worker* prints until it ends; return its error, if it has printed one."""
    error, _ = await asyncio.gather(_errors(worker), _lines(worker, number, total, output))
    await worker.wait()
    return error


async def _lines(worker: Process, number: int, total: _Sum, output: Output) -> None:
    if worker.stdout is None:
        raise AssertionError
    async for text in worker.stdout:
        line = _parsed(text) or {"type": "nothing"}
        if line["type"] == "summary":
            total.add(line)
        elif line["type"] == "failure":
            output.event(Failure(line["collection"], line["key"], line["reason"]))
        elif line["type"] == "progress":
            total.progress[number] = line
            output.event(_sum_of(total))


async def _errors(worker: Process) -> dict[str, Any] | None:
    if worker.stderr is None:
        raise AssertionError
    error = None
    async for text in worker.stderr:
        line = _parsed(text)
        if line is None:
            tell(text.decode(errors="replace"), nl=False)
        else:
            error = line
    return error


def _parsed(text: bytes) -> dict[str, Any] | None:
    """Return the JSON object that a worker has printed; of one that was killed, the last line may be cut."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _failure(name: str, code: int, error: dict[str, Any] | None) -> WorkerError:
    again = "run the same command again to resume"
    if error is not None:
        return WorkerError(f"{name}: {error['message']}", hint=error["hint"] or again, code=code)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return WorkerError(f"{name} {how}", hint=again, code=max(1, code))


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
