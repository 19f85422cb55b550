"""The part of a store that a command does: `i/n`, or `auto`, that of the array job of which it is a task."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from kvseal.recoding.progress.checkpoint import MAX_PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping

if TYPE_CHECKING:
    _PartitionType = click.ParamType[tuple[int, int]]
else:
    # Older releases of click have no generic ParamType.
    _PartitionType = click.ParamType

PARTS: Final = "VAULTCTL_PARTS"
"""How many parts there are, where the scheduler does not say so."""


@dataclass(frozen=True, slots=True)
class _Array:
    """The variables of one scheduler: a task's number, how many there are, the first number, the step."""

    name: str
    index: str
    count: str = ""
    first: str = ""
    step: str = ""


_ARRAYS: Final = (
    _Array("a Kubernetes Indexed Job", "JOB_COMPLETION_INDEX"),
    _Array("an AWS Batch array", "AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    _Array("a Cloud Run job", "CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
    _Array(
        "a Slurm array",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_COUNT",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_STEP",
    ),
)


class Partition(_PartitionType):
    """`i/n`, from 1/n to n/n, or `auto`."""

    name = "i/n|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return the index from 0, and how many parts there are; or fail."""
        if isinstance(value, tuple):
            return value
        if value == "auto":
            try:
                return part_of_array(os.environ)
            except ValueError as exc:
                self.fail(str(exc), param, ctx)
        match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", value)
        index, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= index <= count <= MAX_PARTS:
            self.fail(
                f"{value!r} is not a part such as 1/4, 2/4, 3/4 or 4/4 (at most {MAX_PARTS})", param, ctx
            )
        return index - 1, count


def part_of_array(environment: Mapping[str, str]) -> tuple[int, int]:
    """
    Return the part of the array job that *environment* is of: its index from 0, and how many there are.

    Raises:
        ValueError: it is of none, or of one that does not say how many parts there are.
    """
    arrays = [array for array in _ARRAYS if array.index in environment]
    if len(arrays) != 1:
        names = " and ".join(array.index for array in arrays or _ARRAYS)
        msg = f"auto: {'several of' if arrays else 'none of'} {names} {'are' if arrays else 'is'} set"
        raise ValueError(msg)
    (array,) = arrays
    first = _number(environment, array.first) or 0
    step = _number(environment, array.step) or 1
    counts = {name: _number(environment, name) for name in (PARTS, array.count)}
    known = {count for count in counts.values() if count is not None}
    if len(known) != 1:
        what = "differ" if known else "is not set" if not array.count else "are not set"
        msg = f"auto: this is a task of {array.name}, and {' and '.join(filter(None, counts))} {what}"
        raise ValueError(msg)
    index, rest = divmod((_number(environment, array.index) or 0) - first, step)
    (count,) = known
    if rest or not 0 <= index < count <= MAX_PARTS:
        msg = f"auto: {array.index}={environment[array.index]} is none of {count} parts (at most {MAX_PARTS})"
        raise ValueError(msg)
    return index, count


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "") if name else ""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        msg = f"auto: {name} is no number"
        raise ValueError(msg)
    return int(text)
