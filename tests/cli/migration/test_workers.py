"""Recodes as real processes: stopped, killed, one part each, and several workers for one report."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from tests.backends import UNSTABLE, Place, place
from tests.cli.harness import FERNET_KEY, PROGRAM, SECRET, Terminalless, old_store, real, with_store
from tests.recoding.worlds import damage, old

from kvseal import EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.cli.migration import workers
from kvseal.drivers import driver_for
from kvseal.drivers.abilities import put_many_if_absent
from kvseal.recoding import open_recode

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="signals and process descriptors of Linux"),
    pytest.mark.filterwarnings(UNSTABLE),
]

# A process of vaultctl tells in a named pipe whenever it has written some records.
TOLD = """
import os
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.filetree import FileTreeStore
from kvseal.recoding import walk, writing

PIPE = os.open("pipe", os.O_WRONLY)
write = writing.InPlace.write

async def told(self, changes, tally):
    await write(self, changes, tally)
    os.write(PIPE, f"{os.getpid()}\\n".encode())

writing.InPlace.write = told
# Whoever waits for what is not in flight waits longer than this test.
walk.SECONDS_TO_FINISH = 1000

async def make():
    return DiskStore(directory="kv") if os.path.exists("kv/cache.db") else FileTreeStore(data_directory="kv")
"""
RECORDS = 1_600
RATE = "800"
"""At which a migration takes some seconds."""
VALUES = {f"{number}": {"v": number} for number in range(RECORDS)}
MIGRATE = ("migrate-from-fernet", "--fernet-key", "env:OLD", "--yes", "--argon2", "1,8,1", "--no-backup")
INTERRUPTED = "vaultctl: error: interrupted\nhint: run the same command again to resume\n"


class Pipe:
    """The named pipe in which processes tell that they write."""

    def __init__(self) -> None:
        os.mkfifo("pipe")
        # Also open to write, so that it has no end.
        self._fd = os.open("pipe", os.O_RDWR)

    def pids(self, count: int) -> list[int]:
        """Wait until *count* processes have written, and return their numbers."""
        read = b""
        while len(found := {int(line) for line in read.split(b"\n")[:-1]}) < count:
            assert select.select([self._fd], [], [], 60)[0], "nobody has written anything"
            read += os.read(self._fd, 4096)
        return sorted(found)


@pytest.fixture
def pipe(vaultctl: Terminalless) -> Pipe:
    """Return the pipe, beside a store of old records that tells in it, with a vault."""
    pipe = Pipe()
    Path("told.py").write_text(TOLD)
    old_store(Path("kv"), VALUES)
    assert 0 == vaultctl("init --argon2 1,8,1").code
    return pipe


@pytest.fixture
def files(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return a store of old records that several processes write at once."""
    Path("kv").mkdir()
    monkeypatch.setenv("VAULTCTL_STORE", "filetree:kv")
    where = Place("filetree", "kv")
    asyncio.run(filled(where))
    return where


@pytest.fixture
def pipes(vaultctl: Terminalless, files: Place) -> Pipe:
    """Return the pipe, beside such a store that tells in it, with a vault."""
    pipe = Pipe()
    Path("told.py").write_text(TOLD)
    assert 0 == vaultctl("init --argon2 1,8,1").code
    return pipe


@contextlib.contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a migration that takes some seconds, as a process."""
    process = subprocess.Popen(
        [str(PROGRAM), *MIGRATE, "--store", "python:told:make", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_the_end(pids: list[int]) -> None:
    """Wait until none of *pids* is there any more."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            assert select.select([descriptor], [], [], 60)[0], f"{pid} goes on"
            os.close(descriptor)


def check_stopped(vaultctl: Terminalless, parts: int) -> None:
    """Check that the migration stands in the middle, with a checkpoint that nobody holds, and finish it."""
    (status,) = vaultctl("status --count --json").lines
    formats = status["records"]["formats"]
    assert RECORDS == formats["kvseal"] + formats["fernet"]
    assert (parts, []) == (status["recode"]["parts"], status["recode"]["holders"])
    # Also for other machines, which cannot see that a process has ended.
    assert [None] * parts == (asyncio.run(of_files()) if parts > 1 else with_store(Path("kv"), holders))
    check_finishes(vaultctl)


async def holders(store: Any) -> list[Any]:
    """Return who holds each part, as the checkpoint has it."""
    vault = await Vault.open(store, secret=Secret(SECRET.encode()))
    checkpoint = await open_recode(vault)
    await vault.close()
    assert checkpoint is not None
    return [part.holder for part in checkpoint.parts]


async def of_files() -> list[Any]:
    """Return who holds each part of the file tree."""
    async with Place("filetree", "kv").opened() as store:
        found: list[Any] = await holders(store)
    return found


def check_finishes(vaultctl: Terminalless) -> None:
    """Check that the same command finishes what was begun."""
    done = vaultctl(f"{' '.join(MIGRATE)} --json")
    assert (0, RECORDS, {"kvseal": RECORDS}) == (
        done.code,
        done.lines[-1]["scanned"],
        done.lines[-1]["formats"],
    )
    assert None is vaultctl("status --json").lines[0]["recode"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle(vaultctl: Terminalless, pipe: Pipe, number: signal.Signals) -> None:
    """It ends with 130 and says how to resume; checkpoint and lease are given back."""
    with running("--rate", RATE) as process:
        pipe.pids(1)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)

    assert (130, "", INTERRUPTED) == (process.returncode, out, err.lstrip("\n"))
    check_stopped(vaultctl, 1)


def test_ctrl_c_at_a_low_rate(vaultctl: Terminalless) -> None:
    """A run that would wait for its next record for minutes ends at once."""
    pipe = Pipe()
    Path("told.py").write_text(TOLD)
    old_store(Path("kv"), {f"{number}": {"v": number} for number in range(20)})

    with running("--rate", "0.001") as process:
        pipe.pids(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    (status,) = vaultctl("status --count --json").lines
    assert (130, "", INTERRUPTED) == (process.returncode, out, err.lstrip("\n"))
    assert {"kvseal": 1, "fernet": 19} == status["records"]["formats"]
    assert 20 == vaultctl(f"{' '.join(MIGRATE)} --json").lines[-1]["formats"]["kvseal"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole_group", [False, True], ids=["parent", "group"])
def test_a_signal_with_workers(
    vaultctl: Terminalless, pipes: Pipe, whole_group: bool, number: signal.Signals
) -> None:
    """Workers end with the one who shares the work, whether a signal reaches it alone or its whole group."""
    with running("--rate", RATE, "--workers", "2") as process:
        workers = pipes.pids(2)
        if whole_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        out, err = process.communicate(timeout=60)

    assert process.pid not in workers
    assert (130, "", INTERRUPTED) == (process.returncode, out, err.lstrip("\n"))
    assert [] == [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    check_stopped(vaultctl, 2)


def test_workers_without_parent(vaultctl: Terminalless, pipes: Pipe) -> None:
    """Workers whose parent was killed end as well, and give their parts back."""
    with running("--rate", RATE, "--workers", "2") as process:
        workers = pipes.pids(2)
        process.kill()
        wait_for_the_end(workers)

    check_stopped(vaultctl, 2)


def test_a_killed_worker(vaultctl: Terminalless, pipes: Pipe) -> None:
    """A worker that was killed is named, the command fails, and the same command finishes at once."""
    with running("--rate", RATE, "--workers", "3") as process:
        os.kill(pipes.pids(3)[1], signal.SIGKILL)
        out, err = process.communicate(timeout=60)

    assert (1, "") == (process.returncode, out)
    assert "vaultctl: error: worker " in err
    assert err.endswith(" of 3 was ended by SIGKILL\nhint: run the same command again to resume\n")
    check_finishes(vaultctl)


def test_the_same_part_twice(vaultctl: Terminalless, pipes: Pipe) -> None:
    """Whoever comes second is told who holds the part, and may do another one."""
    with running("--rate", "8", "--partition", "1/4") as process:
        pipes.pids(1)
        second = real(*MIGRATE, "--partition", "1/4", cwd=vaultctl.directory)
        other = real(*MIGRATE, "--partition", "2/4", cwd=vaultctl.directory)
        shared = real(*MIGRATE, "--workers", "2", cwd=vaultctl.directory)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    held = f"migrate-from-fernet is being run on this vault by process {process.pid} on "
    assert (11, 0, 11, 130) == (second.returncode, other.returncode, shared.returncode, process.returncode)
    assert f"vaultctl: error: {held}" in second.stderr
    assert f" of 2: {held}" in shared.stderr
    assert "hint: wait for it, or stop it" in second.stderr
    check_finishes(vaultctl)


@pytest.fixture
def shared(
    request: pytest.FixtureRequest, vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch, kind: str
) -> Iterator[Place]:
    """Yield a store with old records that several processes can reach, named in the environment."""
    for somewhere in place(kind, request, vaultctl.directory):
        where = somewhere.where
        monkeypatch.setenv("VAULTCTL_STORE", where if ":" in where else f"{kind}:{where}")
        asyncio.run(filled(somewhere))
        yield somewhere


async def filled(where: Place) -> None:
    """Put old records there."""
    async with where.opened() as store:
        # A file tree's own put takes milliseconds: its records are made in memory, and put there at once.
        made = MemoryStore() if where.kind == "filetree" else store
        app = old(made, FERNET_KEY.encode())
        for key, value in VALUES.items():
            await app.put(key, value, collection="c")
        if made is not store:
            driver = driver_for(store)
            async for page in driver_for(made).scan():
                assert {True} == set(await put_many_if_absent(driver, page.entries))
            await driver.close()


async def damaged(where: Place) -> None:
    """Damage one record."""
    async with where.opened() as store:
        await damage(store, "7")


async def values(where: Place) -> list[Any]:
    """Return what the new application reads."""
    async with where.opened() as store:
        kv = EnvelopeEncryptionWrapper(store, secret=Secret(SECRET.encode()), create=False)
        found = await kv.get_many(list(VALUES), collection="c")
        await kv.release()
    return list(found)


@pytest.mark.parametrize(
    "kind", ["disk", "redis", "postgresql", pytest.param("mongodb", marks=pytest.mark.long)]
)
def test_parts_as_processes(shared: Place, vaultctl: Terminalless) -> None:
    """Three processes that begin at once, before there is a vault, do disjoint parts that are everything."""
    processes = [
        subprocess.Popen(
            [str(PROGRAM), *MIGRATE, "--json", "--partition", f"{part}/3"], stdout=subprocess.PIPE, text=True
        )
        for part in (1, 2, 3)
    ]
    outs = [process.communicate(timeout=60)[0] for process in processes]

    summaries = [json.loads(out.splitlines()[-1]) for out in outs]
    assert [0, 0, 0] == [process.returncode for process in processes]
    assert RECORDS == sum(summary["changed"] for summary in summaries)
    assert RECORDS == sum(summary["scanned"] for summary in summaries)
    assert [] == [summary for summary in summaries if not 0 < summary["changed"] == summary["scanned"]]
    assert list(VALUES.values()) == asyncio.run(values(shared))
    assert None is vaultctl("status --json").lines[0]["recode"]


@pytest.mark.parametrize("kind", ["filetree", "redis", "postgresql"])
def test_workers(shared: Place, vaultctl: Terminalless) -> None:
    """Three workers give one report; a backup is taken, a damaged record is told once and holds up the end."""
    asyncio.run(damaged(shared))
    command = [word for word in MIGRATE if word != "--no-backup"]
    assert 0 == vaultctl("migrate-from-fernet --fernet-key env:OLD --import-keys --argon2 1,8,1").code

    done = real(*command, "--json", "--workers", "3", "--finalize", "--backup", "b", cwd=vaultctl.directory)
    shown = real(*MIGRATE, "--workers", "3", cwd=vaultctl.directory)
    assert 0 == vaultctl("delete c 7 --yes").code
    ended = real(*command, "--workers", "3", "--finalize", cwd=vaultctl.directory)

    taken, failure, summary = (
        json.loads(line) for line in done.stdout.splitlines() if '"progress"' not in line
    )
    assert ("backup", "b") == (taken["type"], taken["file"])
    assert (3, "") == (done.returncode, done.stderr)
    assert ("failure", "7") == (failure["type"], failure["key"])
    assert {"kvseal": RECORDS - 1, "fernet": 1} == summary["formats"]
    assert (RECORDS, RECORDS - 1, 1) == tuple(summary[name] for name in ("scanned", "changed", "failed"))
    assert Path("b").is_file()
    assert (3, 1) == (shown.returncode, shown.stdout.count("records"))
    assert "records that failed are untouched" in shown.stderr
    assert (0, 1) == (ended.returncode, ended.stdout.count("records"))
    assert "finalized: nothing old is left" in ended.stderr
    assert [False] == [key["ended_at"] is None for key in vaultctl("status --json").lines[0]["legacy"]]


def test_work_that_is_left_over(
    vaultctl: Terminalless, files: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that end while an old application still writes have not failed: what is left over is summed up."""
    summary = dict.fromkeys(("scanned", "changed", "already", "skipped", "failed", "conflicts"), 0)
    line = {"type": "summary", "schema": 1, "command": "c", **summary, "seconds": 0, "pending": 2}
    monkeypatch.setattr(workers, "_START", f"print({json.dumps(json.dumps(line))}); raise SystemExit(4)")

    done = vaultctl(" ".join((*MIGRATE, "--workers", "3")))

    assert 4 == done.code
    assert "6 written by other processes meanwhile, not yet converted" in done.out
    assert "stop them, and run the same command again" in done.err


def test_workers_that_seal_and_finalize(vaultctl: Terminalless, files: Place) -> None:
    """What workers have sealed counts as sealed by this command, although the end of old reads looks again."""
    done = real(*MIGRATE, "--json", "--workers", "2", "--finalize", cwd=vaultctl.directory)

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    (summary,) = [line for line in lines if line["type"] == "summary"]
    assert (0, "") == (done.returncode, done.stderr)
    assert (RECORDS, RECORDS, 0) == tuple(summary[name] for name in ("scanned", "changed", "already"))


@pytest.mark.parametrize("command", [" ".join(MIGRATE), "reencrypt --yes --no-backup"])
def test_one_writer(vaultctl: Terminalless, command: str) -> None:
    """Of a store with one writer at a time workers are refused, before anything is written; a check is not."""
    old_store(Path("kv"), {"a": {"v": 1}})
    if "reencrypt" in command:
        assert 0 == vaultctl("init --argon2 1,8,1").code
    before = vaultctl.tree()

    refused = vaultctl(f"{command} --workers 2")
    checked = vaultctl(f"{command} --workers 2 --dry-run")

    assert (2, "", before) == (refused.code, refused.out, vaultctl.tree())
    assert "has one writer at a time" in refused.err
    assert "hint: leave --workers out" in refused.err
    assert 0 == checked.code


def test_one_writer_of_copies(vaultctl: Terminalless, files: Place) -> None:
    """For copies the other store is what counts."""
    done = vaultctl(f"{' '.join(MIGRATE)} --workers 2 --to disk:copy --create-store")

    assert 2 == done.code
    assert "disk:" in done.err
    assert "has one writer at a time" in done.err
