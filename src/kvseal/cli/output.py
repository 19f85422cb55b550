"""
What a command says: data on stdout, everything else on stderr.

With `--json` the same dataclasses are printed as JSON Lines instead of tables.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import click
import orjson

from kvseal import clock
from kvseal.cli.settings import usage_error
from kvseal.cli.streams import give, is_terminal, tell
from kvseal.observe.events import Failure, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from kvseal.cli.settings import Settings
    from kvseal.recoding import Event, Report

_SECONDS_BETWEEN_LINES: Final = 5.0
_SECONDS_BETWEEN_DRAWINGS: Final = 0.1
_WIDTH_WITHOUT_TERMINAL: Final = 160
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]+")


class Printable(Protocol):
    """A dataclass that knows its JSON form."""

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        ...


class Output:
    """The two streams of one run."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._printed_at = clock.monotonic()
        self._drawn = False

    def result(self, data: Printable, *tables: RenderableType) -> None:
        """Print *data* as one JSON line, or the *tables* that show it to people."""
        self._clear()
        give(self._shown(data, tables))

    def done(self, data: Printable, *tables: RenderableType) -> None:
        """Print *data* as `result` does, after a change, which is made whether it can be shown or not."""
        self._clear()
        tell(self._shown(data, tables), err=False)

    def json(self, line: Any) -> None:
        """Print one JSON line of data on stdout."""
        give(json_line(line))

    def text(self, line: str) -> None:
        """Print one line of data on stdout."""
        give(line)

    def report(self, line: dict[str, Any]) -> None:
        """Print one JSON line about the work on stdout, if it can be printed."""
        tell(json_line(line), err=False)

    def note(self, line: str) -> None:
        """Print a line for people, on stderr."""
        if not self.quiet and not self.as_json:
            self._clear()
            tell(printable(line))

    def event(self, event: Event) -> None:
        """Draw progress, or print it every few seconds; print every failure at once."""
        if isinstance(event, Failure):
            self._failure(event)
        elif self.as_json:
            if self._due(_SECONDS_BETWEEN_LINES):
                self.report(event.as_dict())
        elif not self.quiet:
            self._progress(event)

    def step(self, line: str) -> None:
        """Draw what is being done now, or print it every few seconds."""
        if self.as_json or self.quiet:
            return
        terminal = is_terminal(sys.stderr)
        if self._due(0.0 if terminal else _SECONDS_BETWEEN_LINES):
            self._draw(line, terminal=terminal)

    def summary(self, report: Report) -> None:
        """Print the end of a recode."""
        self._clear()
        if self.as_json:
            self.report(report.as_dict())
            return
        would = "would be " if report.dry_run else ""
        counts = [f"{report.scanned:,} record{'' if report.scanned == 1 else 's'}"]
        if report.command != "verify":
            counts.append(f"{report.changed:,} {would}re-sealed")
        counts += [f"{n:,} {word}" for n, word in _rest(report) if n]
        tell(f"{report.command}: {', '.join(counts)}; {report.seconds:.1f} s", err=False)
        if report.units is not None:
            units = report.units
            tell(
                f"  a run takes {units.scanning:,} read units ({units.scans} scans of {units.scan:,}) and"
                f" {units.write:,} write units; a backup is one scan more",
                err=False,
            )
        for title, found in (("formats", report.formats), ("DEKs", report.deks)):
            if found:
                counted = ", ".join(f"{name}: {n:,}" for name, n in sorted(found.items()))
                tell(f"  {title}: {counted}", err=False)

    def ended(self, report: Printable, line: str) -> None:
        """Print the end of a long command: *report* as its JSON summary, or *line* for people."""
        self._clear()
        if self.as_json:
            self.report(report.as_dict())
        else:
            tell(line, err=False)

    def confirm(self, question: str, settings: Settings) -> None:
        """Go on only with `--yes` or a yes from a person; raises `UsageError` without a terminal."""
        if settings.yes:
            return
        if not settings.may_ask:
            msg = f"{question} There is no terminal to ask at"
            raise usage_error(msg, hint="add --yes")
        with interruptible():
            agreed = click.confirm(printable(question), err=True)
        if not agreed:
            raise click.Abort

    def _failure(self, failure: Failure) -> None:
        self._clear()
        if self.as_json:
            self.report(failure.as_dict())
        else:
            names = "/".join(
                "(unknown)" if name is None else name for name in (failure.collection, failure.key)
            )
            tell(f"  {printable(f'failed: {names}: {failure.reason}')}")

    def _shown(self, data: Printable, tables: Sequence[RenderableType]) -> str:
        """Return what is printed of *data*, without the last line break."""
        if self.as_json:
            return json_line(data.as_dict())
        terminal = is_terminal(sys.stdout)
        drawn = io.StringIO()
        # Not to stdout itself: the console has its own way to end a program whose reader has gone.
        from rich.console import Console  # noqa: PLC0415 - only where something is drawn

        console = Console(
            file=drawn,
            width=None if terminal else _WIDTH_WITHOUT_TERMINAL,
            force_terminal=terminal,
            highlight=False,
            no_color=_no_color(),
        )
        for table in tables:
            console.print(table)
        return drawn.getvalue().removesuffix("\n")

    def _progress(self, progress: Progress) -> None:
        terminal = is_terminal(sys.stderr)
        if not self._due(_SECONDS_BETWEEN_DRAWINGS if terminal else _SECONDS_BETWEEN_LINES):
            return
        self._draw(_progress_text(progress), terminal=terminal)

    def _draw(self, line: str, *, terminal: bool) -> None:
        if terminal:
            tell(f"\r\x1b[K{line}", nl=False)
            self._drawn = True
        else:
            tell(line)

    def _due(self, interval: float) -> bool:
        now = clock.monotonic()
        if now - self._printed_at < interval:
            return False
        self._printed_at = now
        return True

    def _clear(self) -> None:
        if self._drawn:
            tell("\r\x1b[K", nl=False)
            self._drawn = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose cells are folded, never cut; nothing is drawn of it with `--json`."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def __rich__(self) -> RenderableType:
        """Return what is drawn."""
        from rich import table  # noqa: PLC0415 - only where something is drawn
        from rich.text import Text  # noqa: PLC0415 - as above

        built = table.Table(
            title=self.title or None,
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="bold",
            show_header=any(self.columns),
        )
        for column in self.columns:
            built.add_column(column, overflow="fold")
        for row in self.rows:
            # As `Text`, so that brackets in a name are no markup.
            built.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
        return built


def printable(text: str) -> str:
    """Return *text* with everything escaped that breaks a line or steers a terminal: a name may hold both."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def json_line(data: Any) -> str:
    """Return *data* as one line of JSON in ASCII, which every encoding and every reader can carry."""
    try:
        return ascii_json(orjson.dumps(data).decode())
    except orjson.JSONEncodeError:
        # A name may hold a lone surrogate.
        return json.dumps(data, separators=(",", ":"))


def ascii_json(text: str) -> str:
    """Return the JSON *text* with everything that is not ASCII, which stands in strings alone, escaped."""
    return text if text.isascii() else _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a question at once: the event loop's own handler would wait for the answer."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _rest(report: Report) -> list[tuple[int, str]]:
    return [
        (report.already, "in order" if report.command == "verify" else "already done"),
        (report.skipped, "skipped"),
        (report.conflicts, "changed by other processes and decided again"),
        (report.pending, "written by other processes meanwhile, not yet converted"),
        (report.failed, "FAILED and left as they are"),
    ]


def _progress_text(progress: Progress) -> str:
    rate = progress.scanned / progress.seconds if progress.seconds else 0.0
    text = f"{progress.phase}: {progress.scanned:,}"
    if progress.total is not None:
        text += f" of {progress.total:,}"
        if rate and progress.total > progress.scanned:
            text += f", {(progress.total - progress.scanned) / rate:,.0f} s to go"
    return f"{text}, {rate:,.0f}/s" + (f", {progress.failed:,} failed" if progress.failed else "")


def _no_color() -> bool | None:
    return True if os.environ.get("NO_COLOR") else None
