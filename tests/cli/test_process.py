"""vaultctl as a process: signals, pipes, and a person at a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import termios
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.harness import FERNET_KEY, PLAINTEXT, PROGRAM, SECRET, Terminalless, old_store, real

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW_STORE = """
import sys
from key_value.aio.stores.disk import DiskStore

async def make():
    print("ready", flush=True)
    return DiskStore(directory="kv")
"""

# Makes the pseudo terminal the controlling one, as a login does, and becomes vaultctl.
_AT_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")


class Person:
    """Somebody who runs one command at a terminal, reads and types."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _AT_TERMINAL, str(PROGRAM), *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        os.close(slave)
        self.screen = ""

    def reads(self, text: str) -> None:
        """Wait until *text* is on the screen behind what was read before."""
        seen = len(self.screen) if text not in self.screen else 0
        while text not in self.screen[seen:]:
            assert self._more(), f"{text!r} never came: {self.screen!r}"

    def types(self, text: str) -> None:
        """Type *text*, once the program takes it without an echo or with one."""
        os.write(self._master, text.encode())

    def interrupts(self) -> None:
        """Press Ctrl-C, once the program waits: Python itself misses a signal in the instant before it does."""
        status = Path(f"/proc/{self.process.pid}/stat")
        while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "S":
            os.sched_yield()
        self.types("\x03")

    def has_no_echo(self) -> bool:
        """Whether what is typed now stays off the screen."""
        return not termios.tcgetattr(self._master)[3] & termios.ECHO

    def leaves(self) -> int:
        """Read to the end, and return the exit code."""
        while self._more():
            pass
        os.close(self._master)
        return self.process.wait(timeout=30)

    def _more(self) -> bool:
        if not select.select([self._master], [], [], 30)[0]:
            self.process.kill()
            msg = f"nothing more came: {self.screen!r}"
            raise AssertionError(msg)
        # A terminal whose program has gone answers with an error on Linux, with nothing elsewhere.
        with contextlib.suppress(OSError):
            read = os.read(self._master, 4096)
            self.screen += read.decode(errors="replace")
            return bool(read)
        return False


@pytest.mark.processes
def test_a_secret_is_typed_twice_for_a_new_vault(vaultctl: Terminalless) -> None:
    """Creation asks twice and off the screen, opening once; two different entries create nothing."""
    kinds = {"init": ["init", "--create-store", "--secret", "prompt:", "--argon2", "1,8,1"]}

    person = Person(*kinds["init"])
    person.reads("Master secret: ")
    assert person.has_no_echo()
    person.types(f"{SECRET}\n")
    person.reads("Again: ")
    person.types("something else\n")
    assert 2 == person.leaves()
    assert "the two entries differ" in person.screen
    assert 10 == vaultctl("status").code

    person = Person(*kinds["init"])
    person.reads("Master secret: ")
    person.types(f"{SECRET}\n")
    person.reads("Again: ")
    person.types(f"{SECRET}\n")
    assert 0 == person.leaves()
    assert SECRET not in person.screen

    person = Person("status", "--secret", "prompt:Passphrase", env={"NO_COLOR": "1"})
    person.reads("Passphrase: ")
    person.types(f"{SECRET}\n")
    assert 0 == person.leaves()
    assert "Again" not in person.screen
    # Bold and italics are no colours.
    assert "\x1b[" in person.screen
    assert not re.search(r"\x1b\[(?:[\d;]*;)?(?:[34][0-8]|9[0-7])m", person.screen)


@pytest.mark.processes
@pytest.mark.parametrize("at", ["secret", "confirmation", "value"])
def test_ctrl_c_at_a_question(vaultctl: Terminalless, at: str) -> None:
    """One Ctrl-C ends a command that waits for a person, with 130 and the terminal's echo back."""
    old_store(Path("kv"), {"a": {"t": PLAINTEXT}})
    assert 0 == vaultctl("init --argon2 1,8,1").code
    command, question = {
        "secret": ("status --secret prompt:", "Master secret: "),
        "confirmation": ("delete c a", "for good? [y/N]: "),
        "value": ("put c k", "type one JSON object, then Ctrl-D:"),
    }[at]

    person = Person(*command.split())
    person.reads(question)
    person.interrupts()

    assert 130 == person.leaves()
    assert "vaultctl: error: interrupted" in person.screen
    assert "Traceback" not in person.screen


@pytest.mark.processes
def test_a_person_says_yes_and_no(vaultctl: Terminalless) -> None:
    """A confirmation at a terminal: anything but yes leaves things as they are."""
    old_store(Path("kv"), {"a": {"t": PLAINTEXT}})

    for answer, code in (("n", 130), ("y", 0)):
        person = Person("delete", "c", "a")
        person.reads("Delete c/a for good? [y/N]: ")
        person.types(f"{answer}\n")
        assert code == person.leaves()
        assert ("" if code == 0 else "c\ta\n") == vaultctl("list").out


@contextlib.contextmanager
def write_locked(directory: Path) -> Iterator[None]:
    """Hold the write lock of a disk store: whoever wants to write has to wait."""
    with closing(sqlite3.connect(directory / "cache.db", isolation_level=None)) as con:
        con.execute("BEGIN IMMEDIATE")
        yield
        con.execute("ROLLBACK")


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_and_again(vaultctl: Terminalless, number: signal.Signals) -> None:
    """An interrupted migration exits with 130 after the batch in flight; the same command finishes it."""
    Path("slow.py").write_text(SLOW_STORE)
    old_store(Path("kv"), {f"{number}": {"v": number} for number in range(20)})
    assert 0 == vaultctl("init --argon2 1,8,1").code
    command = [
        str(PROGRAM),
        *["migrate-from-fernet", "--fernet-key", "env:OLD", "--yes", "--store", "python:slow:make"],
    ]

    with write_locked(Path("kv")):
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert running.stdout is not None
        assert "ready\n" == running.stdout.readline()
        running.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            # Only as long as it takes to see that it is not killed while a write may be under way.
            running.wait(timeout=0.01)
    out, err = running.communicate(timeout=60)
    again = vaultctl("migrate-from-fernet --fernet-key env:OLD --yes --json")

    assert (130, "") == (running.returncode, out)
    assert "vaultctl: error: interrupted\nhint: run the same command again to resume\n" == err.lstrip("\n")
    assert (20, 0) == (again.lines[-1]["formats"]["kvseal"], again.code)


# Stops for ever in the second page of a backup, and says so; the survey before it has one pass of its own.
STALLED_BACKUP = """
import asyncio
from key_value.aio.stores.disk import DiskStore
from kvseal.backup import taking

add = taking._Backup._add

async def stalled(self, writer, entries):
    await add(self, writer, entries)
    if self.scanned > 10:
        print("backing up", flush=True)
        await asyncio.Event().wait()

taking._Backup._add = stalled

async def make():
    return DiskStore(directory="kv")
"""


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_backup(vaultctl: Terminalless, number: signal.Signals) -> None:
    """A backup that is interrupted leaves no part of itself, hidden or not; the same command begins anew."""
    Path("stalled.py").write_text(STALLED_BACKUP)
    old_store(Path("kv"), {f"{number}": {"v": number} for number in range(20)})
    command = "migrate-from-fernet --fernet-key env:OLD --yes --argon2 1,8,1 --backup b.kvseal"
    before = {path for path in vaultctl.directory.rglob("*") if path.name.startswith(".")}

    running = subprocess.Popen(
        [str(PROGRAM), *command.split(), "--store", "python:stalled:make"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert "backing up\n" == running.stdout.readline()
    assert before != {path for path in vaultctl.directory.rglob("*") if path.name.startswith(".")}
    running.send_signal(number)
    _, err = running.communicate(timeout=60)

    assert 130 == running.returncode
    assert err.endswith("vaultctl: error: interrupted\nhint: run the same command again to resume\n")
    assert before == {path for path in vaultctl.directory.rglob("*") if path.name.startswith(".")}
    assert not Path("b.kvseal").exists()
    assert 0 == vaultctl(command).code


# Takes the backup, and then waits to be killed.
KILLED_AFTER = """
import asyncio
from key_value.aio.stores.disk import DiskStore
from kvseal.cli.migration.backing_up import BackupBefore

take = BackupBefore.take

async def taken(self, driver):
    await take(self, driver)
    print("taken", flush=True)
    await asyncio.Event().wait()

BackupBefore.take = taken

async def make():
    return DiskStore(directory="kv")
"""


@pytest.mark.processes
@pytest.mark.parametrize("command", ["migrate-from-fernet --fernet-key env:OLD", "reencrypt"])
def test_a_kill_right_after_the_backup(vaultctl: Terminalless, command: str) -> None:
    """The same command adopts the backup of the run that was killed, and does the rest."""
    Path("after.py").write_text(KILLED_AFTER)
    old_store(Path("kv"), {f"{number}": {"v": number} for number in range(20)})
    assert 0 == vaultctl("init --argon2 1,8,1").code
    if command == "reencrypt":
        assert 0 == vaultctl("migrate-from-fernet --fernet-key env:OLD --yes --no-backup").code
        assert 0 == vaultctl("rotate --dek").code
    command += " --yes --backup b.kvseal"

    running = subprocess.Popen(
        [str(PROGRAM), *command.split(), "--store", "python:after:make"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert running.stdout is not None
    assert "taken\n" == running.stdout.readline()
    running.kill()
    running.communicate(timeout=60)
    before = Path("b.kvseal").read_bytes()
    done = vaultctl(command)

    assert -signal.SIGKILL == running.returncode
    assert 0 == done.code
    assert "backup: adopted, 2" in done.err
    assert before == Path("b.kvseal").read_bytes()
    assert ["b.kvseal"] == [path.name for path in vaultctl.directory.glob("*.kvseal")]
    assert 0 == vaultctl("verify").code


# Becomes the program, and is interrupted in the middle of the imports that this takes.
EARLY = """
import os, signal, sys, builtins

real, number, where = builtins.__import__, getattr(signal, sys.argv[1]), sys.argv[2]

def interrupting(name, *rest):
    if name == where:
        os.kill(os.getpid(), number)
    return real(name, *rest)

import vaultctl
builtins.__import__ = interrupting
sys.argv = ["vaultctl", *sys.argv[3:]]
vaultctl.main()
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "where"), [("SIGINT", "signal"), ("SIGINT", "kvseal.cli.app"), ("SIGTERM", "kvseal.cli.app")]
)
def test_a_signal_while_the_program_is_imported(number: str, where: str) -> None:
    """Before the program is there, a signal ends it as later: 130 and two lines, and no traceback."""
    command = [sys.executable, "-c", EARLY, number, where, "status"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=60)

    hint = "run the same command again to resume"
    assert (130, "", f"vaultctl: error: interrupted\nhint: {hint}\n") == (
        told.returncode,
        told.stdout,
        told.stderr,
    )
    error = {"type": "error", "schema": 1, "code": 130, "error": "KeyboardInterrupt"}
    assert (130, {**error, "message": "interrupted", "hint": hint}) == (
        as_json.returncode,
        json.loads(as_json.stderr),
    )


@pytest.mark.processes
def test_an_ignored_signal_stays_ignored(vaultctl: Terminalless) -> None:
    """What was started to outlive its terminal, as by `nohup`, does."""
    old_store(Path("kv"), {"a": {"v": 1}})
    command = "trap '' HUP; exec " + f"{PROGRAM} status --store python:hup:make"
    Path("hup.py").write_text(
        "import os, signal\nfrom key_value.aio.stores.disk import DiskStore\n"
        "async def make():\n    os.kill(os.getpid(), signal.SIGHUP)\n    return DiskStore(directory='kv')\n"
    )
    assert 0 == vaultctl("init --argon2 1,8,1").code

    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.processes
def test_whoever_reads_has_gone(vaultctl: Terminalless) -> None:
    """`vaultctl list | head -1` ends without a traceback and without a complaint of Python's."""
    old_store(Path("kv"), {f"{number}" * 50: {"v": number} for number in range(1000)})
    reader, writer = os.pipe()

    running = subprocess.Popen([str(PROGRAM), "list"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    _, err = running.communicate(timeout=60)

    assert (1, "") == (running.returncode, err)


@pytest.mark.processes
def test_streams_of_a_real_process(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generated secret goes into a file for its owner alone; where it is, is told on stderr."""
    monkeypatch.delenv("KVSEAL_MASTER_KEY")
    old_store(Path("kv"), {"a": {"t": PLAINTEXT}})
    command = ["migrate-from-fernet", "--fernet-key", "env:OLD", "--yes", "--json", "--argon2", "1,8,1"]

    done = real(*command, cwd=vaultctl.directory)

    key_file = Path(os.environ["XDG_DATA_HOME"]) / "kvseal" / "master.key"
    secret = key_file.read_text().strip()
    lines = [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert (0, ["backup", "summary"]) == (done.returncode, lines)
    assert f"generated into file:{key_file}: back it up" in done.stderr
    assert 0o600 == key_file.stat().st_mode & 0o777
    assert not [shown for shown in (secret, FERNET_KEY, PLAINTEXT) if shown in done.stdout + done.stderr]
    assert 0 == vaultctl("verify").code


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["completion", "bash"], []])
def test_what_needs_no_store_loads_none(arguments: list[str]) -> None:
    """Help, version, a completion and a usage error, such as it is, load no library that a store needs."""
    heavy = ["asyncio", "cryptography", "rich", *([] if not arguments else ["beartype", "key_value"])]
    code = (
        f"import sys; from kvseal.cli.app import run; code = run({arguments!r}); "
        f"print(code, sorted(set(sys.modules) & set({heavy!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert f"{0 if arguments else 2} []" == done.stdout.splitlines()[-1]


@pytest.mark.processes
def test_completion_of_a_name_loads_no_command() -> None:
    """What a shell asks for at a tab is answered from the table of commands, with what each does."""
    environment = {
        **os.environ,
        "_VAULTCTL_COMPLETE": "fish_complete",
        "COMP_WORDS": "vaultctl re",
        "COMP_CWORD": "re",
    }
    code = (
        "import sys, atexit; from kvseal.cli.app import cli; "
        "atexit.register(lambda: print(sorted({'asyncio', 'key_value'} & set(sys.modules)))); "
        "cli.main([], prog_name='vaultctl')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )

    assert "restore" in done.stdout
    assert "[]" == done.stdout.splitlines()[-1]


@pytest.mark.processes
def test_beartype_is_switched_off() -> None:
    """In vaultctl's own process py-key-value does not check the types of every call, unless its operator says so."""
    code = (
        "import os, sys; from kvseal.cli import app; app.run = lambda _: print(os.environ[app.NO_BEARTYPE]) or 0; "
        "app.main([])"
    )
    shown = []
    for given in ({}, {"PY_KEY_VALUE_DISABLE_BEARTYPE": "false"}):
        environment = {**os.environ, **given}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
        )
        shown.append(done.stdout)

    assert ["true\n", "false\n"] == shown


@pytest.mark.processes
def test_importing_is_quick_enough() -> None:
    """No backend's library and nothing of the tests is imported before it is needed."""
    code = "import sys, kvseal.cli.app; print([m for m in ('diskcache', 'keyring', 'hypothesis') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]\n" == done.stdout
