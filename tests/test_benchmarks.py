"""The gate over the benchmarks: what fails it, how often it measures first, and what it then says."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from benchmarks import gate, recode, shares, stall, upkeep
from benchmarks.contest import Turn
from benchmarks.cores import apart
from benchmarks.gate import Comparison
from benchmarks.ratio import Goal, Ratio, judge
from benchmarks.report import START, render_project_page
from benchmarks.ticker import stall_during

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AT_LEAST = Goal("put 1 KiB, times as fast as fernet", 5)
AT_MOST = Goal("get 1 KiB, of the floor's time", 1.2, at_most=True)
GUARDED = Goal("recode on disk, times as fast as the loop", 4, guard=2.5)


def ratio(median: float) -> Ratio:
    """Return a ratio with some spread."""
    return Ratio(median, median - 0.25, median + 0.5)


@pytest.mark.parametrize(
    ("goal", "kept", "missed"),
    [(AT_LEAST, 4.5, 4.49), (AT_MOST, 1.32, 1.33), (GUARDED, 2.25, 2.24)],
    ids=["at least", "at most", "guarded"],
)
def test_tolerance(goal: Goal, kept: float, missed: float) -> None:
    """A ratio may be beyond its goal, or beyond the guard in its place, by the tolerance and no more."""
    assert [] == goal.shortfall(ratio(kept), 0.1)
    assert 1 == len(goal.shortfall(ratio(missed), 0.1))


def test_failure_in_words() -> None:
    """A failure names the ratio, its measured spread, the goal with its guard, and the tolerance."""
    said = "recode on disk, times as fast as the loop: 2.00, middle half 1.75 to 2.50; "

    assert [said + "goal >= 4, guarded at 2.5, tolerance 15%"] == GUARDED.shortfall(ratio(2), 0.15)


@pytest.mark.parametrize(
    ("measured", "fails"),
    [([5.5], False), ([3.0, 5.5], False), ([3.0, 3.0, 5.5], False), ([3.0, 3.0, 3.0], True)],
    ids=["good", "second try", "last try", "slow"],
)
def test_repeated_before_it_fails(measured: list[float], fails: bool) -> None:
    """What falls short is measured again, and fails only if it falls short every time."""
    left = iter(measured)

    last, failures = judge(lambda: ratio(next(left)), lambda one: AT_LEAST.shortfall(one, 0.05))

    assert [] == list(left)
    assert (ratio(measured[-1]), fails) == (last, bool(failures))


def test_comparison_fails_for_each_goal() -> None:
    """A comparison tells the floor, whose time is to be approached, from peers that are to be left behind."""
    names = ("kvseal", "floor", "by hand", "fernet")
    comparison = Comparison("put", "flat 1 KiB", names, ((2.0, 1.0, 1.0, 2.0),) * 4)

    failures = comparison.failures(0.05)

    assert ["put flat 1 KiB, of the floor's time: 2.00", "put flat 1 KiB, times as fast as fernet: 1.00"] == [
        failure.partition(",")[0] + "," + failure.split(",")[1] for failure in failures
    ]
    assert [] == Comparison("put", "flat 1 KiB", names, ((1.0, 0.9, 5.0, 9.0),) * 4).failures(0.05)


def test_recode_fails_below_its_guard() -> None:
    """A recode is judged by its turns beside the loop."""
    slow = recode.Result("redis", 10, [Turn(loop=4.0, recode=1.0, verified=2.0)] * 3, {})
    fast = recode.Result("redis", 10, [Turn(loop=7.0, recode=1.0, verified=2.0)] * 3, {})

    assert 1 == len(slow.failures())
    assert [] == fast.failures()


async def test_shares_add_up() -> None:
    """What only the whole benchmark measures runs too: the shares of a migration's time, by part."""
    result = await recode.measure("disk", 40, 1, with_shares=True)

    assert {"loop", "recode"} == set(result.shares)
    for parts in result.shares.values():
        assert {*shares.PARTS, "rest"} == set(parts)
        assert 1 == pytest.approx(sum(parts.values()), abs=0.01)
        assert all(parts[part] > 0 for part in shares.PARTS)


@pytest.mark.parametrize("goal", [*stall.GOALS.values()], ids=[*stall.GOALS])
def test_derivation_in_the_loop_would_fail(goal: Goal) -> None:
    """A stall as long as one derivation is beyond the guard, and a twentieth of it is not."""
    assert 1 == len(upkeep.failures_of({goal: Ratio.of([1.0] * 4)}))
    assert [] == upkeep.failures_of({goal: Ratio.of([0.05] * 4)})


async def stand_still(seconds: float) -> None:
    """Do what a derivation in the loop's own thread would."""
    done = time.perf_counter() + seconds
    while time.perf_counter() < done:
        pass


async def test_ticker_sees_a_stall() -> None:
    """Whoever keeps the loop from turning is seen, even if the work ends with that."""
    stalled, took = await stall_during(stand_still(0.01))

    assert 0.005 < stalled
    assert 0.01 <= took


def test_every_missed_goal_is_said(gate_figures: Callable[..., dict[str, object]]) -> None:
    """The README names a goal that the committed figures miss, whichever peer it is against."""
    page = f"before\n{START}old\n<!-- end of numbers -->\nafter\n"

    text = render_project_page(page, gate_figures(fernet=5.0, floor=1.1))

    assert "The goal against Fernet is missed at put flat 1 KiB (5.00, goal 6.5)." in text
    assert "against the floor is missed" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")


@pytest.fixture
def gate_figures() -> Callable[..., dict[str, object]]:
    """Return what builds committed results with one comparison."""

    def build(**medians: float) -> dict[str, object]:
        ratios = {peer: {"median": one, "low": one, "high": one} for peer, one in medians.items()}
        goals = [
            {
                "operation": "put",
                "value": "flat 1 KiB",
                "peer": peer,
                "factor": gate.goal_of("put", "flat 1 KiB", peer).factor,
            }
            for peer in medians
        ]
        row = {"operation": "put", "value": "flat 1 KiB", "ratios": ratios, "microseconds": {}}
        machine = {"python": "P", "system": "S", "cpu": "C", "cores": 2, "libraries": {}}
        return {
            "gate": {"comparisons": [row], "goals": goals, "machine": machine},
            "suite": {"benchmarks": []},
            "recode": {"backends": {}},
        }

    return build


def test_a_server_has_a_core_of_its_own() -> None:
    """What is started apart stays on one core, its users on the others, and afterwards all is as it was."""
    before = os.sched_getaffinity(0)

    with apart(_affinity()) as server:
        beside = os.sched_getaffinity(0)

    assert before == os.sched_getaffinity(0)
    assert server | beside == before
    assert (len(before) == 1) == bool(server & beside)


@contextmanager
def _affinity() -> Iterator[set[int]]:
    """Yield the cores that a process started here would have."""
    yield os.sched_getaffinity(0)
