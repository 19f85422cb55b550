"""`--partition auto`: the part of the array job of which a command is a task, and waiting for its lease."""

from __future__ import annotations

import pickle
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from tests.cli.harness import SECRET, Terminalless, old_store, with_store
from tests.recoding.worlds import take_over

from kvseal import Secret, Vault, clock
from kvseal.cli.migration.partition import part_of_array
from kvseal.errors import ExitCode, LeaseHeldError
from kvseal.recoding.progress.lease_holder import LeaseHolder

VALUES = {f"{number}": {"v": number} for number in range(20)}
MIGRATE = "migrate-from-fernet --fernet-key env:OLD --yes --argon2 1,8,1 --no-backup"
PAGE = Path(__file__).parents[3] / "docs/scale.md"

KUBERNETES = {"JOB_COMPLETION_INDEX": "3"}
BATCH = {"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "4"}
CLOUD_RUN = {"CLOUD_RUN_TASK_INDEX": "2", "CLOUD_RUN_TASK_COUNT": "4"}
SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}


@pytest.fixture
def old(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> Terminalless:
    """Return vaultctl in a directory with old records and a vault, in no array job."""
    for name in (*KUBERNETES, *BATCH, *CLOUD_RUN, *SLURM, "SLURM_ARRAY_TASK_STEP", "VAULTCTL_PARTS"):
        monkeypatch.delenv(name, raising=False)
    old_store(Path("kv"), VALUES)
    assert 0 == vaultctl("init --argon2 1,8,1").code
    return vaultctl


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({**KUBERNETES, "VAULTCTL_PARTS": "4"}, (3, 4)),
        (BATCH, (0, 4)),
        ({**BATCH, "VAULTCTL_PARTS": "4"}, (0, 4)),
        (CLOUD_RUN, (2, 4)),
        ({**SLURM, "SLURM_ARRAY_TASK_STEP": "2"}, (3, 4)),
        ({**SLURM, "SLURM_ARRAY_TASK_ID": "1"}, (0, 4)),
    ],
    ids=str,
)
def test_the_part_of_a_task(environment: dict[str, str], part: tuple[int, int]) -> None:
    """Each scheduler says by its own variables which task this is, from 0 or from where the array begins."""
    assert part == part_of_array(environment)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "none of JOB_COMPLETION_INDEX and "),
        ({"VAULTCTL_PARTS": "4"}, "none of"),
        (KUBERNETES, "a Kubernetes Indexed Job, and VAULTCTL_PARTS is not set"),
        ({**BATCH, "AWS_BATCH_JOB_ARRAY_SIZE": ""}, "AWS_BATCH_JOB_ARRAY_SIZE are not set"),
        ({**BATCH, "VAULTCTL_PARTS": "5"}, "VAULTCTL_PARTS and AWS_BATCH_JOB_ARRAY_SIZE differ"),
        ({**BATCH, **CLOUD_RUN}, "several of AWS_BATCH_JOB_ARRAY_INDEX and CLOUD_RUN_TASK_INDEX"),
        ({**KUBERNETES, "VAULTCTL_PARTS": "3"}, "JOB_COMPLETION_INDEX=3 is none of 3 parts"),
        ({**KUBERNETES, "VAULTCTL_PARTS": "1025"}, "at most 1024"),
        ({**KUBERNETES, "VAULTCTL_PARTS": "four"}, "VAULTCTL_PARTS is no number"),
        ({**KUBERNETES, "VAULTCTL_PARTS": "\u0664"}, "VAULTCTL_PARTS is no number"),
        ({**SLURM, "SLURM_ARRAY_TASK_ID": "0"}, "is none of 4 parts"),
        ({**SLURM, "SLURM_ARRAY_TASK_STEP": "4"}, "is none of 4 parts"),
    ],
    ids=str,
)
def test_no_part_of_a_task(environment: dict[str, str], reason: str) -> None:
    """What does not say one part, of how many, is refused rather than guessed."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        part_of_array(environment)


def test_the_parts_of_an_array_job(old: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task does its part, by one command line for all."""
    monkeypatch.setenv("CLOUD_RUN_TASK_COUNT", "3")
    changed = []
    for index in range(3):
        monkeypatch.setenv("CLOUD_RUN_TASK_INDEX", f"{index}")
        done = old(f"{MIGRATE} --partition auto --json")
        assert 0 == done.code
        changed.append(done.lines[-1]["changed"])

    assert len(VALUES) == sum(changed)
    assert all(changed)


def test_auto_outside_of_an_array_job(old: Terminalless) -> None:
    """Without an array job `auto` is an error of usage, and nothing is migrated."""
    done = old(f"{MIGRATE} --partition auto")

    assert 2 == done.code
    assert "auto: none of JOB_COMPLETION_INDEX" in done.err


async def held(store: Any, *, seconds: float) -> None:
    """Let another machine hold the first part, for some seconds from now on."""
    vault = await Vault.open(store, secret=Secret(SECRET.encode()))
    holder = LeaseHolder("elsewhere", "another machine", 1, 1, "token")
    await take_over(vault, holder=holder, until=clock.wall_ms() + round(seconds * 1000), done=False)
    await vault.close()


def test_waiting_for_a_lease(old: Terminalless) -> None:
    """A part that another machine holds is refused with the exit code for that, and done once its lease has ended."""
    assert 0 == old(f"{MIGRATE} --partition 1/3").code
    with_store(Path("kv"), lambda store: held(store, seconds=200))
    refused = old(f"{MIGRATE} --partition 1/3 --json")
    with_store(Path("kv"), lambda store: held(store, seconds=0))
    waited = old(f"{MIGRATE} --partition 1/3 --wait-for-lease 1m --json")

    assert (11, True) == (refused.code, "--wait-for-lease" in refused.error["hint"])
    assert 0 == waited.code


def test_until_when_a_lease_is_held() -> None:
    """The error says when the lease ends, also in another process that it is sent to."""
    until = datetime(2030, 1, 1, tzinfo=timezone.utc)
    sent = pickle.loads(pickle.dumps(LeaseHeldError("held", hint="wait", until=until)))

    assert (until, "wait") == (sent.until, sent.hint)


def test_the_manifest(old: Terminalless) -> None:
    """The Job in the documentation has as many tasks as parts, options that there are, and exit codes of vaultctl."""
    (text,) = re.findall(r"```yaml\n(apiVersion: batch/v1.*?)```", PAGE.read_text(), re.DOTALL)
    (completions,) = re.findall(r"completions: (\d+)", text)
    (parts,) = re.findall(r'name: VAULTCTL_PARTS, value: "(\d+)"', text)
    (arguments,) = re.findall(r"args: \[(.*?)\]", text, re.DOTALL)
    words = [word.strip() for word in arguments.split(",")]
    codes = {int(code) for found in re.findall(r"values: \[([\d, ]+)\]", text) for code in found.split(",")}

    assert completions == parts
    assert {ExitCode.USAGE, ExitCode.SOME_FAILED, ExitCode.NO_KEYSLOT_OPENS} == codes
    assert 0 == old(" ".join([*words, "--help"])).code
    assert "auto" == words[words.index("--partition") + 1]
