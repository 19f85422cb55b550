"""
kvseal in a simulated world: many seeds, every loss that was found, every bug that was planted.

The simulation replaces the clocks of its interpreter before kvseal is imported, so each test here starts
interpreters of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.simulation.drawing import KINDS
from tests.simulation.planted import BUGS

pytestmark = pytest.mark.processes
STILL_LOST: dict[str, str] = {}
"""By plan: the promise that it still breaks.  Every other plan has to hold; mend kvseal, and take its line out."""

WITH_LOSSES: set[str] = set()
"""Kinds of fault that break a promise until kvseal is mended."""

ROOT = Path(__file__).parents[2]


def simulate(*words: str, hash_seed: str = "0", succeeds: bool = True) -> str:
    """Return what `python -m tests.simulation` prints, which ends as it should."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if succeeds:
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def plans() -> dict[str, Any]:
    """Return what came of every plan that is kept."""
    found: dict[str, Any] = json.loads(simulate("plans"))
    return found


def test_a_seed_is_one_run() -> None:
    """The same seed is the same run to the byte: twice in one interpreter, and with other hash seeds."""
    first, second = json.loads(simulate("digests", "2", "0", "20", hash_seed="0"))
    (other,) = json.loads(simulate("digests", "1", "0", "20", hash_seed="4711"))
    assert (first, first) == (second, other)


FIRST_SEED = 91_000_000
"""The seeds are these and not drawn, so that a finding is one of the change at hand.  `make test-simulation` draws."""


@pytest.mark.parametrize("first", [FIRST_SEED, FIRST_SEED + 250])
def test_five_hundred_seeds_break_no_promise(first: int) -> None:
    """Five hundred seeds break no promise."""
    kinds = sorted(set(KINDS) - WITH_LOSSES)
    said = simulate(str(first), "250", f"only={','.join(kinds)}")
    assert said.startswith("250 seeds")
    assert "no promise was broken" in said


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "tests/simulation/plans").glob("*.json"))
)
def test_plan(name: str, plans: dict[str, Any]) -> None:
    """What a plan once lost is not lost again; what is not mended yet is still found."""
    kinds, story = set(plans[name]["kinds"]), "\n".join(plans[name]["story"])
    if name in STILL_LOST:
        assert STILL_LOST[name] in kinds, story
    else:
        assert set() == kinds, story


@pytest.fixture(scope="module")
def planted() -> dict[str, Any]:
    """Return where each planted bug was caught, if it was."""
    found: dict[str, Any] = json.loads(simulate("planted", succeeds=False))
    return found


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_caught(name: str, planted: dict[str, Any]) -> None:
    """The oracle finds a bug that is planted, and finds nothing of it where it is not."""
    assert planted[name]["caught"], f"not in {BUGS[name].seeds} seeds: {BUGS[name].what}"


def test_a_broken_promise_is_told_as_a_short_story() -> None:
    """What was found is made smaller, and told in a few lines that say when and who."""
    said = json.loads(simulate("planted", "keep-old-ignored", "--story"))["keep-old-ignored"]
    assert said["events"] <= 3
    assert "begins rotate_" in said["story"][0]
    assert any("ORACLE   locked_out" in line for line in said["story"])
