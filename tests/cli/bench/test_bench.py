"""`vaultctl bench argon2`: on a machine whose every time is known, and once on this one."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.calibration.machines import Machine
from tests.cli.harness import PROGRAM, SECRET, Terminalless
from tests.cli.test_process import Person

from kvseal.calibration import machine as machines
from kvseal.calibration import measurement
from kvseal.calibration.measurement import Comparison
from kvseal.calibration.memory_limit import MemoryLimit
from kvseal.cli.bench import bench, plot

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 2**30
FACTS = machines.Machine(
    processor="Abacus 9",
    cpus=4,
    memory=MemoryLimit(8 * GIB, "cgroup v2 memory.max of /app"),
    system="Linux 6 x86_64",
    python="CPython 3.13",
    argon2_cffi="25",
    cryptography="46, OpenSSL 3.5",
)
GOLDEN = Path(__file__).parent / "bench.txt"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    """Let vaultctl measure a machine whose every time is known."""

    def become(**facts: Any) -> Machine:
        machine = Machine(**{"rate": 4e-3, **facts})
        monkeypatch.setattr(measurement, "measure", machine)
        return machine

    monkeypatch.setattr(bench, "this_machine", lambda: FACTS)
    monkeypatch.setattr(measurement, "compare", lambda params, runs: Comparison(500.0, 450.0))
    become()
    return become


@pytest.fixture
def vault(vaultctl: Terminalless) -> Terminalless:
    """Return vaultctl beside a vault at the least cost."""
    assert 0 == vaultctl("init --create-store --argon2 1,8,1").code
    return vaultctl


def cost(vaultctl: Terminalless) -> list[tuple[int, int, int]]:
    """Return the cost of every slot."""
    (line,) = vaultctl("slot list --json").lines
    return [(slot["t"], slot["m"], slot["p"]) for slot in line["slots"]]


def test_what_people_see(vaultctl: Terminalless, known: Callable[..., Machine]) -> None:
    """Machine, table, chart, choice and what starts at once take, line by line; no store is needed."""
    done = vaultctl("bench argon2 --starts 100")

    assert (0, GOLDEN.read_text()) == (
        done.code,
        "".join(f"{line.rstrip()}\n" for line in done.out.splitlines()),
    )
    assert "next: vaultctl rotate --argon2 1,512000,4, or this command with --apply\n" == done.err


def test_what_scripts_see(vaultctl: Terminalless, known: Callable[..., Machine]) -> None:
    """Every measurement is a line as it is taken, and the last line is the summary of all."""
    machine = known()
    *lines, summary = vaultctl("bench argon2 --json --starts 100").lines

    asked = [(one.time_cost, one.memory_cost, one.parallelism) for one in machine.asked]
    assert asked == [(line["t"], line["m"], line["p"]) for line in lines]
    assert {"measurement"} == {line["type"] for line in lines}
    assert ("summary", 1, "bench argon2") == (summary["type"], summary["schema"], summary["command"])
    assert "vaultctl rotate --argon2 1,512000,4" == summary["apply"]
    assert (1, 512000, 4) == tuple(summary["choice"][name] for name in "tmp")
    assert ("the target time", True, False, False) == tuple(
        summary[name] for name in ("decided_by", "steady", "interrupted", "applied")
    )
    assert {"1", "2", "4", "8", "16", "100"} == set(summary["starts"])
    assert 100 * 512000 * 1024 == summary["starts"]["100"]
    assert 0.9 == summary["comparison"]["ratio"]
    assert "cgroup v2 memory.max of /app" == summary["machine"]["memory"]["source"]


@pytest.mark.parametrize(
    ("options", "facts", "expected"),
    [
        ("--max-memory 128M --target-ms 525", {}, "--max-memory"),
        ("--target-ms 5000", {"rate": 1e-3}, "a quarter of cgroup v2 memory.max of /app"),
        ("--max-memory 64G --target-ms 8200", {"rate": 4e-3}, "kvseal's own ceiling of 4 GiB"),
        ("", {"rate": 1.0}, "the floor, RFC 9106's second option"),
    ],
    ids=["option", "limit", "ceiling", "floor"],
)
def test_what_decided_is_named(
    vaultctl: Terminalless, known: Callable[..., Machine], options: str, facts: dict[str, Any], expected: str
) -> None:
    """The limit that decided it is in the summary."""
    known(**facts)

    assert expected == vaultctl(f"bench argon2 --json {options}").lines[-1]["decided_by"]


def test_a_busy_machine(vault: Terminalless, known: Callable[..., Machine]) -> None:
    """Where measurements disagree that is said, and --apply changes nothing."""
    known(noise=(1.0, 2.0))

    said, refused = vault("bench argon2"), vault("bench argon2 --apply --yes")

    assert (0, 1) == (said.code, refused.code)
    assert "too busy to decide" in said.err
    assert "Not confirmed" in said.out
    assert "vaultctl rotate" not in said.out
    assert "too busy to decide" in refused.err
    assert [(1, 8, 1)] == cost(vault)


class TestApply:
    """`--apply` on a vault on disk."""

    def test_the_slot_gets_the_cost(self, vault: Terminalless, known: Callable[..., Machine]) -> None:
        """The slot that the secret opens is wrapped anew, and opens at its new cost; again there is nothing to do."""
        known(rate=4.0)
        command = "bench argon2 --apply --yes --allow-weak --target-ms 500"
        done = vault(command)

        assert (0, [(1, 512, 4)]) == (done.code, cost(vault))
        assert "next: vaultctl status" in done.err
        assert "has this cost already" in vault(command).err
        assert SECRET not in done.out + done.err

    def test_in_json(self, vault: Terminalless, known: Callable[..., Machine]) -> None:
        """The summary is the last line, and says that it was applied."""
        known(rate=4.0)

        done = vault("bench argon2 --apply --yes --allow-weak --json")

        assert ("summary", True) == (done.lines[-1]["type"], done.lines[-1]["applied"])

    def test_dry_run(self, vault: Terminalless, known: Callable[..., Machine]) -> None:
        """With --dry-run it says what it would ask, and writes nothing."""
        done = vault("bench argon2 --apply --dry-run")

        assert (0, [(1, 8, 1)]) == (done.code, cost(vault))
        assert "nothing was written; it would be asked: Re-wrap the slot" in done.err

    def test_a_generated_secret(
        self, vaultctl: Terminalless, known: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The light cost of a generated secret is explained before it is raised."""
        assert 0 == vaultctl("init --create-store --argon2 owasp-minimum").code

        assert "which cannot be guessed at any cost" in vaultctl("bench argon2 --apply --dry-run").err

    def test_less_than_before(self, vaultctl: Terminalless, known: Callable[..., Machine]) -> None:
        """A lower cost than the slot has is called that."""
        assert 0 == vaultctl("init --create-store --argon2 3,64,1").code
        known(rate=40.0)

        done = vaultctl("bench argon2 --apply --dry-run --allow-weak --target-ms 100")

        assert "less than it has now" not in vaultctl("bench argon2 --apply --dry-run").err
        assert "That is less than it has now." in done.err

    @pytest.mark.parametrize(
        ("options", "code"),
        [("", 2), ("--yes --store disk:nowhere", 10), ("--yes --secret env:NEW", 12)],
        ids=["nobody-to-ask", "no-store", "wrong-secret"],
    )
    def test_refused_before_measuring(
        self, vault: Terminalless, known: Callable[..., Machine], options: str, code: int
    ) -> None:
        """What cannot be applied is refused before a minute is spent."""
        machine = known()

        assert (code, []) == (vault(f"bench argon2 --apply {options}").code, machine.asked)


@pytest.mark.parametrize("stops_at", [1, 2, 5, 9])
def test_interrupted(vault: Terminalless, known: Callable[..., Machine], stops_at: int) -> None:
    """Ctrl-C prints what there is, applies nothing and exits with 130."""
    known(stops_at=stops_at)
    done = vault("bench argon2 --apply --yes")
    known(stops_at=stops_at)
    data = vault("bench argon2 --json")

    assert (130, 130) == (done.code, data.code)
    assert "this is the measurements so far" in done.err
    assert "Choice" not in done.out
    assert (stops_at - 1, True) == (len(data.lines) - 1, data.lines[-1]["interrupted"])
    assert [(1, 8, 1)] == cost(vault)


@pytest.mark.processes
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_interrupted_at_a_terminal(vaultctl: Terminalless) -> None:
    """A person who presses Ctrl-C while this machine is measured sees the table of what was."""
    person = Person("bench", "argon2", "--runs", "3", "--target-ms", "60000")
    person.reads("1 of about")
    person.interrupts()

    assert 130 == person.leaves()
    assert "Measured" in person.screen
    assert "64 MiB" in person.screen
    assert "interrupted" in person.screen


@pytest.mark.exhaustive
class TestPlot:
    """`--plot FILE`, by matplotlib."""

    @pytest.fixture(autouse=True)
    def _matplotlib(self) -> None:
        pytest.importorskip("matplotlib")

    def test_png(self, vaultctl: Terminalless, known: Callable[..., Machine]) -> None:
        """A name with .png gets a PNG that has a size."""
        assert 0 == vaultctl("bench argon2 --plot found.png").code

        head = Path("found.png").read_bytes()[:24]
        assert b"\x89PNG\r\n\x1a\n" == head[:8]
        assert min(struct.unpack(">II", head[16:24])) > 100

    def test_svg(self, vaultctl: Terminalless, known: Callable[..., Machine]) -> None:
        """A name with .svg gets an SVG in which the profiles and the choice are marked."""
        assert 0 == vaultctl("bench argon2 --plot found.SVG").code

        text = Path("found.SVG").read_text()
        assert ET.fromstring(text).tag.endswith("}svg")
        for mark in (
            "rfc9106-low-memory",
            "owasp-minimum",
            "choice: t=1, m=512000 KiB, p=4",
            "t=2",
            "most memory",
        ):
            assert f"<!-- {mark} -->" in text

    def test_interrupted(self, vaultctl: Terminalless, known: Callable[..., Machine]) -> None:
        """What was measured until Ctrl-C is drawn; nothing is no plot."""
        known(stops_at=4)
        assert 130 == vaultctl("bench argon2 --plot some.svg").code
        known(stops_at=1)
        assert 130 == vaultctl("bench argon2 --plot none.svg").code

        assert ["some.svg"] == vaultctl.tree()

    @pytest.mark.parametrize("name", ["found.pdf", "found", "nowhere/found.png"])
    def test_refused_before_measuring(
        self, vaultctl: Terminalless, known: Callable[..., Machine], name: str
    ) -> None:
        """A name that cannot become a plot is refused before a minute is spent."""
        machine = known()

        assert (2, []) == (vaultctl(f"bench argon2 --plot {name}").code, machine.asked)

    def test_without_matplotlib(
        self, vaultctl: Terminalless, known: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the extra, --plot names it, and all the rest works."""
        monkeypatch.setattr(plot, "find_spec", lambda name: None)
        done = vaultctl("bench argon2 --plot found.png")

        assert 2 == done.code
        assert "pip install 'kvseal[plot]'" in done.err
        assert 0 == vaultctl("bench argon2").code


def test_another_output_is_not_kept_quiet(
    vaultctl: Terminalless, known: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the two implementations disagree, or one is missing, the line of the comparison says so."""
    monkeypatch.setattr(measurement, "compare", lambda params, runs: Comparison(1.0, 1.0, agree=False))
    assert "A DIFFERENT OUTPUT" in vaultctl("bench argon2").out

    monkeypatch.setattr(measurement, "compare", lambda params, runs: Comparison(missing="no OpenSSL 3.2"))
    assert "not compared: no OpenSSL 3.2" in vaultctl("bench argon2").out


def within(limit: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run vaultctl in a process that may map *limit* bytes."""
    script = f'ulimit -v {limit // 1024}; exec "$@"'
    return subprocess.run(
        ["bash", "-c", script, "bash", str(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux enforces RLIMIT_AS")
def test_a_real_limit_is_honoured(vaultctl: Terminalless) -> None:
    """Under a real RLIMIT_AS the whole program measures this machine below it, and below it alone."""
    options = ("--allow-weak", "--target-ms", "1", "--runs", "3", "--max-memory", "8G", "--json")
    done = within(2 * GIB, "bench", "argon2", *options)

    assert (0, "") == (done.returncode, done.stderr)
    *lines, summary = map(json.loads, done.stdout.splitlines())
    assert "RLIMIT_AS" == summary["goal"]["max_memory_by"]
    assert 0 < summary["machine"]["memory"]["size"] < 2 * GIB
    assert [] == [line for line in lines if line["m"] * 1024 >= 2 * GIB or line["failure"]]


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux enforces RLIMIT_AS")
def test_less_than_the_floor(vaultctl: Terminalless) -> None:
    """Where a quarter of a real limit is less than the floor, that is said, and nothing is measured."""
    done = within(300 * 2**20, "bench", "argon2")

    assert (1, "") == (done.returncode, done.stdout)
    assert "a quarter of RLIMIT_AS leaves" in done.stderr
    assert "--allow-weak" in done.stderr
