"""`bench argon2`: what Argon2id costs on this machine, and the cost to choose for it."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kvseal import clock
from kvseal.calibration import measurement
from kvseal.calibration.goal import LANES, CostGoal
from kvseal.calibration.machine import this_machine
from kvseal.calibration.search import TARGET_MS, Search, Step
from kvseal.cli import connect
from kvseal.cli.bench.plot import check_plot, plot
from kvseal.cli.bench.report import Bench
from kvseal.cli.options import command_options, global_options
from kvseal.cli.output import interruptible
from kvseal.envelope.kdf import MAX_PARALLELISM, Argon2idParams
from kvseal.errors import ExitCode, KDFParametersError, UsageError

if TYPE_CHECKING:
    from kvseal.calibration.machine import Machine
    from kvseal.calibration.measurement import Measurement
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.vault.status import SlotStatus
    from kvseal.vault.vault import Vault

if TYPE_CHECKING:
    _MemoryType = click.ParamType[int]
else:
    # Older releases of click have no generic ParamType.
    _MemoryType = click.ParamType

_UNITS: Final = {"K": 1, "M": 1024, "G": 1024**2}
_BAR: Final = 20
_STARTS: Final = (1, 2, 4, 8, 16)


class Memory(_MemoryType):
    """A number with K, M or G for KiB, MiB or GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return KiB, or fail."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([1-9]\d{0,11})([KMG])(?:iB)?", value)
        if match is None:
            self.fail(f"{value!r} is not a size such as 65536K, 512M or 2G", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


@click.group(no_args_is_help=False)
@global_options
def bench() -> None:
    """
    Measure this machine.

    \b
    Examples:
      vaultctl bench argon2
    """


@bench.command()
@click.option(
    "--target-ms",
    type=click.FloatRange(min=1, max=60_000),
    default=TARGET_MS,
    show_default=True,
    help="How long one derivation should take.",
)
@click.option(
    "--max-memory",
    type=Memory(),
    metavar="SIZE",
    help="The most memory of one derivation: 512M.  [default: a quarter of what this process may use]",
)
@click.option(
    "--parallelism",
    type=click.IntRange(1, MAX_PARALLELISM),
    default=LANES,
    show_default=True,
    metavar="P",
    help="Lanes.",
)
@click.option("--allow-weak", is_flag=True, help="Go below RFC 9106's second option (64 MiB, 3 passes).")
@click.option(
    "--runs",
    type=click.IntRange(measurement.LEAST_RUNS, 100),
    default=measurement.RUNS,
    show_default=True,
    help="Derivations of which each measurement is the median.",
)
@click.option(
    "--starts", type=click.IntRange(1, 100_000), metavar="N", help="Show what N starts at once would take."
)
@click.option(
    "--plot",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw time over memory: PNG or SVG.",
)
@click.option("--apply", is_flag=True, help="Re-wrap the slot that the secret opens with what was chosen.")
@click.option("--dry-run", is_flag=True, help="With --apply, measure and open the vault, but write nothing.")
@command_options
@connect.synchronous
async def argon2(
    output: Output,
    settings: Settings,
    *,
    target_ms: float,
    max_memory: int | None,
    parallelism: int,
    allow_weak: bool,
    runs: int,
    starts: int | None,
    file: Path | None,
    apply: bool,
    dry_run: bool,
) -> int:
    """
    Find the Argon2id cost that this machine pays in a given time and memory.

    \b
    Examples:
      vaultctl bench argon2
      vaultctl bench argon2 --target-ms 250 --max-memory 256M --starts 20
      vaultctl bench argon2 --plot argon2.svg
      vaultctl bench argon2 --apply

    Memory first, then passes, so that one derivation takes 95 to 110 percent of the target.  Limits
    of control groups and of the process are kept.  Every measurement is a process of its own.
    Takes about a minute; Ctrl-C ends it early and prints what it has.
    """
    if file is not None:
        check_plot(file)
    machine = this_machine()
    goal = CostGoal.within(
        machine.memory,
        target_ms=target_ms,
        max_memory=max_memory,
        parallelism=parallelism,
        allow_weak=allow_weak,
    )
    async with AsyncExitStack() as stack:
        vault = None
        if apply:
            _require_answer(settings, dry_run=dry_run)
            _, vault = await stack.enter_async_context(connect.vault(settings))
            _cost_of(_opened(vault))
        with interruptible():
            done = _measured(output, machine, goal, runs, sorted({*_STARTS, starts or 1}))
        if file is not None and done.found.measurements:
            plot(file, done.found, done.profiles)
            output.note(f"wrote {file}")
        if not output.as_json:
            output.result(done, *done.tables())
        if vault is not None:
            done.applied = await _apply(output, settings, vault, done, dry_run=dry_run)
    if output.as_json:
        output.json(done.as_dict())
    return _ended(output, done, applies=apply)


def _measured(output: Output, machine: Machine, goal: CostGoal, runs: int, starts: list[int]) -> Bench:
    """Measure until all is decided, or until Ctrl-C; then return what there is."""
    begun = clock.monotonic()

    def show(event: Step | Measurement) -> None:
        if isinstance(event, Step):
            output.step(_progress(event))
        elif output.as_json:
            output.json(event.as_dict())

    search = Search.here(goal, cpus=machine.cpus, runs=runs, listener=show)
    comparison, interrupted = None, False
    try:
        found = search.run()
        if found.choice is not None:
            output.step(f"comparing with cryptography: {found.choice.params}")
            comparison = measurement.compare(found.choice.params, runs=runs)
    except KeyboardInterrupt:
        interrupted = True
    return Bench(
        machine=machine,
        found=search.result(),
        comparison=comparison,
        starts=starts,
        interrupted=interrupted,
        seconds=clock.monotonic() - begun,
    )


def _progress(step: Step) -> str:
    filled = _BAR * step.done // step.expected
    bar = "#" * filled + "·" * (_BAR - filled)
    return f"[{bar}] {step.done} of about {step.expected}, now {step.params}"


def _require_answer(settings: Settings, *, dry_run: bool) -> None:
    """Refuse at once what could not be confirmed after a minute of measuring."""
    if not (settings.yes or settings.may_ask or dry_run):
        msg = "--apply asks before it changes the slot, and there is no terminal to ask at"
        raise UsageError(msg, hint="add --yes")


async def _apply(output: Output, settings: Settings, vault: Vault, done: Bench, *, dry_run: bool) -> bool:
    """Re-wrap the slot that opened *vault*, and return whether that was done."""
    choice, slot = done.found.choice, _opened(vault)
    if done.interrupted or choice is None or not done.found.steady:
        return False
    now = _cost_of(slot)
    if now == choice.params:
        output.note(f"the slot {slot.id} ({slot.label}) has this cost already")
        return False
    name = f"{slot.id} ({slot.label})"
    question = f"Re-wrap the slot {name} from {now} to {choice.params}?{_but(now, choice.params)}"
    if dry_run:
        output.note(f"nothing was written; it would be asked: {question}")
        return False
    output.confirm(question, settings)
    await vault.rotate(kdf=choice.params)
    output.note("the slot has its new cost; a copy of the old vault meta still opens at the old one")
    return True


def _opened(vault: Vault) -> SlotStatus:
    return next(one for one in vault.status().slots if one.opened)


def _cost_of(slot: SlotStatus) -> Argon2idParams:
    """
    Return the cost of *slot*.

    Raises:
        UsageError: it has none.
    """
    if slot.t is None or slot.m is None or slot.p is None:
        msg = f"the slot {slot.id} ({slot.label}) is of the kind {slot.kind}, which has no Argon2id cost"
        raise UsageError(msg, hint="open the vault with the secret of another slot: --secret REF")
    return Argon2idParams(slot.t, slot.m, slot.p)


def _but(now: Argon2idParams, then: Argon2idParams) -> str:
    if now == Argon2idParams.OWASP_MINIMUM:
        return (
            " It has the light cost of a generated secret, which cannot be guessed at any cost:"
            " a higher cost only makes every start slower."
        )
    if then.time_cost * then.memory_cost < now.time_cost * now.memory_cost:
        return " That is less than it has now."
    return ""


def _ended(output: Output, done: Bench, *, applies: bool) -> int:
    """Say what comes next, and return the exit code."""
    if done.interrupted:
        output.note("interrupted: this is the measurements so far")
        return ExitCode.INTERRUPTED
    if done.found.choice is None:
        msg = f"nothing could be chosen: {done.found.decided_by}"
        raise KDFParametersError(msg, hint="give this process more memory, or --allow-weak")
    if not done.found.steady:
        busy = "this machine is too busy to decide: measurements of one cost disagree"
        if applies:
            raise KDFParametersError(
                f"{busy}, so the slot was left as it is",
                hint=f"run it on a quiet machine, or: {done.command}",
            )
        output.note(f"{busy}; run it again on a quiet machine")
    elif not applies:
        output.note(f"next: {done.command}, or this command with --apply")
    elif done.applied:
        output.note("next: vaultctl status")
    return 0
