"""One case of the suite: as many values in a round as make it long beside the clock's resolution."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

COMPARISON: Final = "comparison"
"""The name in pytest-benchmark's extra facts under which a case says what it is."""

_SLICE: Final = 0.005
"""Seconds for one round."""
_ROUNDS: Final = 15
_MAX_SECONDS: Final = 1.0
_MIN_ROUNDS: Final = 3
_MAX_TIMES: Final = 2000


@dataclass(frozen=True, slots=True)
class Case:
    """One peer at one operation: where, with which sizes, and how many values one call has."""

    store: str
    operation: str
    size: str
    peer: str
    batch: int = 1


def measure(benchmark: Any, case: Case, run: Callable[[int], object]) -> None:
    """Let *benchmark* time rounds of `run(times)`, each of a few milliseconds."""
    run(1)
    started = perf_counter()
    run(1)
    seconds = perf_counter() - started
    times = min(_MAX_TIMES, max(1, round(_SLICE / seconds)))
    rounds = max(_MIN_ROUNDS, min(_ROUNDS, round(_MAX_SECONDS / (seconds * times))))
    benchmark.group = f"{case.store}: {case.operation} {case.size}"
    benchmark.extra_info[COMPARISON] = {**asdict(case), "values": times * case.batch}
    benchmark.pedantic(run, args=(times,), rounds=rounds, warmup_rounds=1)
