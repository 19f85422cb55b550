"""`vaultctl slot`: a recovery key that is typed back, and what each command leaves in the store."""

from __future__ import annotations

import os

import pytest
from tests.cli.harness import NEW_SECRET, Terminalless
from tests.cli.test_process import Person

INIT = "init --create-store --argon2 1,8,1"
RECOVERY = ("slot", "add", "--recovery", "--argon2", "1,8,1")


@pytest.fixture
def vault(vaultctl: Terminalless) -> Terminalless:
    """Return vaultctl beside a vault."""
    assert 0 == vaultctl(INIT).code
    return vaultctl


def labels(vaultctl: Terminalless) -> list[tuple[str, bool]]:
    """Return the label of every slot, and whether it lasts."""
    (line,) = vaultctl("slot list --json").lines
    return [(slot["label"], slot["expires_at"] is None) for slot in line["slots"]]


def is_asked(person: Person, times: int) -> None:
    """Wait until the key has been asked for so many times: what is typed before is thrown away."""
    while person.screen.count("Type the recovery key: ") < times:
        assert person._more(), person.screen


def printed(person: Person) -> str:
    """Wait for the recovery key, and read it from the screen."""
    is_asked(person, 1)
    return next(line for line in person.screen.splitlines() if line.startswith("KVSEALR1-"))


@pytest.mark.processes
@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
def test_a_recovery_key_is_typed_back(vault: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for off the screen, in any spelling, and only then lasts; it truly opens the vault."""
    person = Person(*RECOVERY)
    key = printed(person)
    assert person.has_no_echo()
    assert [("primary", True), ("recovery", False)] == labels(vault)
    person.types(key.lower().replace("-", " ") + "\n")

    assert 0 == person.leaves()
    assert [("primary", True), ("recovery", True)] == labels(vault)
    monkeypatch.setenv("TYPED", key)
    (line,) = vault("slot verify --secret env:TYPED --json").lines
    assert ["recovery"] == [slot["label"] for slot in line["slots"]]


@pytest.mark.processes
@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
def test_a_typing_error_is_located_and_may_be_mended(vault: Terminalless) -> None:
    """Who mistypes is told the group, and asked again."""
    person = Person(*RECOVERY)
    key = printed(person)
    wrong = "0" if key[12] != "0" else "1"
    person.types(f"{key[:12]}{wrong}{key[13:]}\n")
    is_asked(person, 2)
    assert "look at group 1 of 14" in person.screen
    person.types(f"{key}\n")

    assert 0 == person.leaves()
    assert [("primary", True), ("recovery", True)] == labels(vault)


@pytest.mark.processes
@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
def test_a_recovery_key_that_nobody_can_type_is_none(vault: Terminalless) -> None:
    """After three other answers the slot is gone, and the command has failed."""
    person = Person(*RECOVERY)
    printed(person)
    for times in (1, 2, 3):
        is_asked(person, times)
        person.types("hunter2\n")

    assert 2 == person.leaves()
    assert [("primary", True)] == labels(vault)


@pytest.mark.processes
@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
def test_interrupted_before_the_key_is_typed(vault: Terminalless) -> None:
    """A slot whose key nobody has confirmed does not last, even if nobody is left to remove it."""
    person = Person(*RECOVERY)
    printed(person)
    person.interrupts()

    assert 130 == person.leaves()
    assert [("primary", True), ("recovery", False)] == labels(vault)


def test_a_recovery_key_goes_to_stdout_alone(vault: Terminalless) -> None:
    """With no terminal it is printed once, on stdout, and its slot lasts."""
    done = vault(" ".join(RECOVERY))

    assert 1 == (done.out + done.err).count("KVSEALR1-")
    assert done.out.startswith("KVSEALR1-")
    assert [("primary", True), ("recovery", True)] == labels(vault)


def test_no_secret_is_shown(vault: Terminalless) -> None:
    """Adding a slot shows its label and never its secret."""
    done = vault("slot add --label laptop --new-secret env:NEW --argon2 1,8,1 --debug")

    assert 0 == done.code
    assert NEW_SECRET not in done.out + done.err


def test_global_options_stand_anywhere(vault: Terminalless) -> None:
    """`--json` means the same before the group, behind it, and behind the command."""
    lines = [
        vault(words).lines[0]["type"]
        for words in ("--json slot list", "slot --json list", "slot list --json")
    ]

    assert ["slots"] * 3 == lines
