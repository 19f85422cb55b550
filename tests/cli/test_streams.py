"""Reporting decides nothing: what cannot be printed ends no work and changes no exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from tests.cli.harness import FERNET_KEY, PROGRAM, Terminalless, old_store, with_store, with_tree
from tests.recoding.worlds import damage

from kvseal.cli.output import ascii_json, json_line

if TYPE_CHECKING:
    from collections.abc import Callable

MIGRATE = ("migrate-from-fernet", "--fernet-key", "env:OLD", "--yes", "--argon2", "1,8,1", "--no-backup")
NAMES = ("plain", "größer", "ключ", "\U0001f511", "line\nbreak", "\x1b[31m")
LATIN = {"PYTHONIOENCODING": "iso-8859-1", "PYTHONUTF8": "0"}

processes = pytest.mark.processes


@pytest.fixture
def old(vaultctl: Terminalless) -> Terminalless:
    """Return vaultctl beside a store of names that no terminal likes, with a damaged record under each."""
    old_store(Path("kv"), {name: {"v": name} for name in NAMES} | {f"{name}!": {"v": 1} for name in NAMES})

    async def harm(store: Any) -> None:
        for name in NAMES:
            await damage(store, f"{name}!")

    with_store(Path("kv"), harm)
    return vaultctl


def ended(*arguments: str, env: dict[str, str] | None = None, **streams: Any) -> subprocess.Popen[bytes]:
    """Run the program to its end with *streams*."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    # With buffers, as a user has them: what is left in one is flushed by Python at its end.
    env = {**os.environ, "PYTHONUNBUFFERED": "", **(env or {})}
    process = subprocess.Popen([str(PROGRAM), *arguments], env=env, **streams)
    out, err = process.communicate(timeout=120)
    process.out, process.err = out or b"", err or b""  # type: ignore[attr-defined]
    return process


def is_migrated(vaultctl: Terminalless) -> bool:
    """Whether every record that opens was sealed."""
    formats = vaultctl("status --count --json").lines[0]["records"]["formats"]
    return formats == {"kvseal": len(NAMES), "fernet": len(NAMES)}


def full() -> Any:
    """Return a file of a full disk."""
    return Path("/dev/full").open("wb", buffering=0)


def gone() -> Any:
    """Return a pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb", buffering=0)


@processes
@pytest.mark.parametrize("more", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("bad", [full, gone], ids=["full", "gone"])
def test_a_stream_that_takes_nothing(
    old: Terminalless, bad: Callable[[], Any], stream: str, more: tuple[str, ...]
) -> None:
    """A migration whose stdout or stderr is full, or has no reader, seals everything, and its code is about that."""
    with bad() as file:
        done = ended(*MIGRATE, *more, **{stream: file})

    assert 3 == done.returncode
    assert is_migrated(old)


@processes
@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams(old: Terminalless, closed: str) -> None:
    """A stream that was closed before the start ends nothing, and no file of the store takes its number."""
    done = subprocess.run(
        f"{PROGRAM} {' '.join(MIGRATE)} {closed}", shell=True, check=False, timeout=120, capture_output=True
    )

    assert 3 == done.returncode
    assert is_migrated(old)


@processes
@pytest.mark.parametrize("more", [(), ("--json",)], ids=["text", "json"])
def test_an_encoding_that_lacks_letters(old: Terminalless, more: tuple[str, ...]) -> None:
    """Names that ISO-8859-1 has no letters for are named in an escaped form, and the run goes on."""
    done = ended(*MIGRATE, *more, env=LATIN)

    assert 3 == done.returncode
    assert is_migrated(old)
    assert b"Traceback" not in done.err  # type: ignore[attr-defined]
    if more:
        lines = [json.loads(line) for line in done.out.decode("ascii").splitlines()]  # type: ignore[attr-defined]
        failed = {line["key"] for line in lines if line["type"] == "failure"}
        assert {f"{name}!" for name in NAMES} == failed
    else:
        shown = done.err.decode("iso-8859-1")  # type: ignore[attr-defined]
        assert "c/größer!" in shown
        assert "c/\\u043a\\u043b\\u044e\\u0447!" in shown
        assert "c/\\U0001f511!" in shown


# Writes down what the standard streams are while the store is open.
NUMBERS = """
import os
from pathlib import Path
from key_value.aio.stores.disk import DiskStore

async def make():
    store = DiskStore(directory="kv")
    Path("numbers").write_text(" ".join(os.readlink(f"/proc/self/fd/{number}") for number in range(3)))
    return store
"""


@processes
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's list of open files")
def test_no_file_of_the_store_is_a_stream(old: Terminalless) -> None:
    """With all three streams closed, a file that is opened later does not become one of them."""
    Path("descriptors.py").write_text(NUMBERS)
    command = f"{PROGRAM} list --store python:descriptors:make 0<&- 1>&- 2>&-"

    subprocess.run(command, shell=True, check=False, timeout=120, cwd=old.directory)

    assert ["/dev/null"] * 3 == Path("numbers").read_text().split()


@processes
def test_data_in_an_encoding_that_lacks_letters(old: Terminalless) -> None:
    """A list of names for people is printed in full, with letters escaped that the encoding lacks."""
    assert 3 == old(" ".join(MIGRATE)).code

    done = ended("list", env=LATIN)

    assert (0, b"") == (done.returncode, done.err)  # type: ignore[attr-defined]
    shown = done.out.decode("iso-8859-1")  # type: ignore[attr-defined]
    assert "c\tgrößer\n" in shown
    assert "c\t\\u043a\\u043b\\u044e\\u0447\n" in shown


@processes
def test_workers_and_a_full_stderr(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and the process that shares the work among them go on, too."""

    async def fill(store: Any) -> None:
        wrapper = FernetEncryptionWrapper(store, fernet=Fernet(FERNET_KEY))
        for name in ("plain", "damaged"):
            await wrapper.put(name, {"v": name}, collection="c")
        await damage(store, "damaged")

    with_tree(Path("tree"), fill)
    monkeypatch.setenv("VAULTCTL_STORE", "filetree:tree")
    with full() as file:
        done = ended(*MIGRATE, "--workers", "2", stdout=file, stderr=file)

    assert 3 == done.returncode
    counted = vaultctl("status --count --json").lines[0]["records"]["formats"]
    assert {"kvseal": 1, "fernet": 1} == counted


@processes
@pytest.mark.parametrize("command", ["get c plain", "list", "status", "keygen", "list --json"])
def test_output_that_is_the_product(old: Terminalless, command: str) -> None:
    """Where the output is what a command is for, a full disk is its failure, in one line."""
    assert 3 == old(" ".join(MIGRATE)).code

    with full() as file:
        done = ended(*command.split(), stdout=file)

    assert 1 == done.returncode
    assert b"the output cannot be written: " in done.err  # type: ignore[attr-defined]
    assert b"Traceback" not in done.err  # type: ignore[attr-defined]


@processes
def test_a_rotation_that_cannot_be_shown(vaultctl: Terminalless) -> None:
    """A rotation is done, and exits with 0, where its result cannot be printed."""
    assert 0 == vaultctl("init --create-store --argon2 1,8,1").code

    with full() as file:
        done = ended("rotate", "--new-secret", "env:NEW", "--argon2", "1,8,1", stdout=file, stderr=file)

    assert 0 == done.returncode
    assert (12, 0) == (vaultctl("verify").code, vaultctl("verify --secret env:NEW").code)


@pytest.mark.parametrize("command", ["list --json", "get c {}", "verify --json", "inspect c {} --json"])
def test_json_is_ascii(old: Terminalless, command: str) -> None:
    """Whatever names and values hold, JSON is ASCII, and reads back as it was."""
    assert 3 == old(" ".join(MIGRATE)).code

    for name in ("größer", "ключ", "\U0001f511"):
        done = old(command.format(f"'{name}'"))
        assert done.out.isascii()
        assert done.lines
        if command.startswith("get"):
            assert [{"v": name}] == done.lines


def test_json_lines_of_every_text() -> None:
    """Letters beyond ASCII, pairs and lone surrogates are escaped, and nothing else changes."""
    for text in ("größer", "\U0001f511", "\ud83d", "a\u2028b", 'q"\\'):
        assert json_line({text: text}).isascii()
        assert {text: text} == json.loads(json_line({text: text}))
    assert '{"a":"\\u00fc\\ud83d\\udd11"}' == ascii_json('{"a":"ü\U0001f511"}')
    assert '{"a":1}' == json_line({"a": 1})


@processes
def test_the_program_starts_as_a_module(tmp_path: Path) -> None:
    """`python -m vaultctl` is the program, too."""
    done = subprocess.run(
        [sys.executable, "-m", "vaultctl", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "vaultctl ") == (done.returncode, done.stdout[:9])
    assert FERNET_KEY not in done.stderr
