"""Every parser of kvseal has a fuzz target, and no input that was a finding once, nor a few new ones, is one now."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fuzz import campaign
from tests.fuzz.target import CORPUS, Target
from tests.fuzz.targets import ELSEWHERE, TARGETS

import kvseal

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(kvseal.__file__).parent
ROOT = Path(__file__).parents[2]
PARSER = re.compile(
    r"(parse|from|read|load|decode|canonical|convert|resolve|unpack)(s|d)?(_.*)?"
    r"|entry_of|of_url|strip_password|check_reference|check_unlocker|time_of|secret_from"
)
"""What functions are called that make something of what another program, or a person, wrote."""
INPUTS = 200
SEED = 1


def parsers() -> Iterator[str]:
    """Yield the dotted name below kvseal of every function with such a name."""
    for path in SOURCE.rglob("*.py"):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        yield from _named(ast.parse(path.read_text()), module)


def _named(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _named(child, f"{prefix}.{child.name}")
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and PARSER.fullmatch(child.name):
            yield f"{prefix}.{child.name}"


def test_every_parser_has_a_target() -> None:
    """A parser that is in no target, and a target's parser that is gone, are both errors."""
    covered = {parser for target in TARGETS.values() for parser in target.parsers}

    assert sorted(set(parsers())) == sorted(covered | set(ELSEWHERE))


def test_every_finding_belongs_to_a_target() -> None:
    """The folders of the corpus are targets, so each finding is tried again."""
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)


@pytest.mark.processes
@pytest.mark.exhaustive
def test_no_finding_is_left() -> None:
    """All real inputs, all former findings and a few new inputs are answered in time, in memory, by own errors."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--inputs",
        str(INPUTS),
        "--seed",
        str(SEED),
        "--keep-nothing",
    ]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (0, "nothing but kvseal's own errors") == (done.returncode, done.stdout.splitlines()[-1]), (
        done.stdout
    )


def _bad(data: bytes) -> None:
    """Be a parser with a fault for every kind of finding."""
    if data.startswith(b"raise"):
        raise KeyError
    if data.startswith(b"slow"):
        end = time.process_time() + campaign.SLOWEST + 0.1
        while time.process_time() < end:
            pass
    if data.startswith(b"large"):
        bytearray(b"x") * campaign.MOST
    if data.startswith(b"die"):
        sys.exit(3)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"raise", "KeyError at fuzz/test_fuzz.py"),
        (b"slow", "it takes "),
        (b"large", "it takes "),
        (b"die", "it ended its process"),
        (b"fine", ""),
    ],
)
def test_each_kind_of_finding_is_seen(data: bytes, what: str) -> None:
    """A parser with another's error, a slow one, a large one and one that ends its process are found, and only those."""
    target = Target("bad", (), lambda: [data], _bad)

    outcome = campaign.run(target, seed=SEED, seconds=30.0, inputs=1)

    found = outcome.findings[0].what if outcome.findings else ""
    assert found.startswith(what)
    assert bool(what) == bool(found)
