"""Measurements by real processes, with costs so small that they say nothing but that they were taken."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kvseal import Argon2idParams
from kvseal.calibration import child, measurement
from kvseal.calibration.measurement import Comparison, Measurement, child_environment, compare, measure

if TYPE_CHECKING:
    from pathlib import Path

LEAST = Argon2idParams(1, 8, 1)
MIB = 2**20

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux")


@pytest.mark.processes
def test_the_median_of_the_runs() -> None:
    """As many runs as were asked for are behind the warm-up, and their median is what counts."""
    found = measure(LEAST, runs=4)

    assert (LEAST, 4, "") == (found.params, len(found.runs), found.failure)
    assert min(found.runs) <= found.median <= max(found.runs)


@pytest.mark.processes
def test_a_slow_warm_up_is_enough() -> None:
    """A cost that takes too long is not derived again."""
    assert 1 == len(measure(LEAST, runs=4, enough_ms=0).runs)


@pytest.mark.processes
@linux
def test_the_peak_is_that_of_the_derivation() -> None:
    """It holds what Argon2id was told to, and nothing that the process held that measures."""
    held = bytearray(200 * MIB)
    held[:: resource.getpagesize()] = b"x" * len(held[:: resource.getpagesize()])

    small, large = measure(LEAST, runs=3), measure(Argon2idParams(1, 16 * 1024, 1), runs=3)

    assert 200 * MIB == len(held)
    assert small.peak < 100 * MIB
    assert 15 * MIB < large.rise < 20 * MIB
    assert large.rise < large.peak


@pytest.mark.processes
@linux
def test_memory_that_cannot_be_had() -> None:
    """In a process with a limit, a cost above it is a measurement that failed, and one below it is none."""
    script = (
        "import json, resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))\n"
        "from kvseal.envelope.kdf import Argon2idParams\n"
        "from kvseal.calibration.measurement import measure\n"
        "costs = Argon2idParams(1, 1024, 1), Argon2idParams(1, 512 * 1024, 1)\n"
        "print(json.dumps([measure(cost, runs=3).failure for cost in costs]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ["", "Memory allocation error"] == json.loads(done.stdout)


def clock_that(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process that measures run *script* instead."""
    path = tmp_path / "clock.py"
    path.write_text(script)
    monkeypatch.setattr(measurement, "_CHILD", path)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("script", "failure"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "killed, as the kernel does where memory runs out",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("raise SystemExit('no such thing')", "the process failed: no such thing"),
    ],
    ids=["out-of-memory", "segmentation-fault", "any-other"],
)
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_process_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, failure: str
) -> None:
    """A process that the kernel kills, or that fails otherwise, is a result."""
    clock_that(tmp_path, script, monkeypatch)

    assert Measurement(LEAST, failure=failure) == measure(LEAST, runs=3)
    assert Comparison(missing=failure) == compare(LEAST, runs=3)


@pytest.mark.processes
def test_a_process_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, and ended."""
    clock_that(tmp_path, "import signal; signal.pause()", monkeypatch)
    monkeypatch.setattr(measurement, "_LONGEST", 0.1)

    assert "not done within" in measure(LEAST, runs=3).failure


@pytest.mark.processes
def test_no_secret_goes_to_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment it gets what a Python needs, and no variable that could hold a secret."""
    monkeypatch.setenv("KVSEAL_MASTER_KEY", "must not be seen")
    monkeypatch.setenv("ANY_OTHER", "must not be seen")
    clock_that(
        tmp_path,
        "import json, os, sys; print(json.dumps({'failure': json.dumps([dict(os.environ), sys.argv])}))",
        monkeypatch,
    )

    environment, arguments = json.loads(measure(LEAST, runs=3).failure)
    assert {*child_environment()} >= {*environment} - {"LC_CTYPE"}
    assert not {"KVSEAL_MASTER_KEY", "ANY_OTHER"} & {*environment}
    assert ["1", "8", "1", "3", "inf", "measure"] == arguments[1:]


@pytest.mark.processes
def test_the_working_directory_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that lies in the current directory is not imported in place of the real one."""
    (tmp_path / "argon2.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)

    assert "" == measure(LEAST, runs=3).failure


@pytest.mark.processes
def test_the_comparison_is_of_the_same_output() -> None:
    """Both derive the same bytes, and the ratio is of the two medians."""
    found = compare(LEAST, runs=3)

    assert ("", True) == (found.missing, found.agree)
    assert found.ratio == found.cryptography_ms / found.argon2_cffi_ms
    assert child.argon2_cffi(2, 64, 2) == child.openssl(2, 64, 2)


def test_the_comparison_sees_another_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that differ are told, whatever the times are."""
    monkeypatch.setattr(child, "openssl", lambda t, m, p: bytes(32))

    assert child.compared((1, 8, 1), 3)["agree"] is False


def test_where_cryptography_has_no_argon2id(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenSSL before 3.2 has none, and that is said."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.kdf.argon2", None)

    assert "ModuleNotFoundError" in child.compared((1, 8, 1), 3)["missing"]


@pytest.mark.parametrize(
    ("runs", "median", "spread"),
    [((10.0,), 10, 0), ((10.0, 10.0, 10.0), 10, 0), ((8.0, 9.0, 10.0, 11.0, 100.0), 10, 0.2)],
)
def test_the_spread_is_of_the_middle_half(runs: tuple[float, ...], median: float, spread: float) -> None:
    """One run that something else disturbed changes neither median nor spread much."""
    found = Measurement(LEAST, runs)

    assert (median, spread) == (found.median, found.spread)


@pytest.mark.processes
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_interrupted_it_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C ends the process that measures too."""
    script = (
        "import pathlib, sys\n"
        "from kvseal.envelope.kdf import Argon2idParams\n"
        "from kvseal.calibration import measurement\n"
        "measurement._CHILD = pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    measurement.measure(Argon2idParams(1, 8, 1))\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    fifo, clock = tmp_path / "fifo", tmp_path / "clock.py"
    os.mkfifo(fifo)
    clock.write_text(f"import signal\nheld = open({str(fifo)!r}, 'w')\nsignal.pause()\n")
    process = subprocess.Popen([sys.executable, "-c", script, str(clock)], stdout=subprocess.PIPE, text=True)
    with fifo.open() as held:
        process.send_signal(signal.SIGINT)

        assert "interrupted\n" == process.communicate(timeout=60)[0]
        # The end comes when nobody holds the other side any more.
        assert "" == held.read()
