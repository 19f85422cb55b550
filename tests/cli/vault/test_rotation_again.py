"""A rotation that was stopped after its last write, and is started again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.harness import Terminalless


@pytest.fixture
def made(vaultctl: Terminalless) -> Terminalless:
    """Return vaultctl with a vault."""
    assert 0 == vaultctl("init --create-store --argon2 1,8,1").code
    return vaultctl


@pytest.mark.parametrize("options", ["", "--argon2 2,16,1"])
def test_the_same_command_says_that_it_is_done(made: Terminalless, options: str) -> None:
    """Its end was not seen, so the same command is given again: it succeeds, says so and changes nothing."""
    command = f"rotate --new-secret env:NEW {options}"
    assert 0 == made(command).code
    before = made("status --secret env:NEW --json").lines[0]

    again = made(command)
    as_json = made(f"{command} --json")

    assert (0, 0) == (again.code, as_json.code)
    assert "this rotation is done already" in again.err
    assert "that of --secret opens no slot" in again.err
    assert before["revision"] == as_json.lines[0]["revision"]
    ids = [slot["id"] for slot in before["slots"]]
    assert ids == [slot["id"] for slot in made("status --secret env:NEW --json").lines[0]["slots"]]


def test_a_rotation_that_keeps_the_old_secret(made: Terminalless) -> None:
    """One that keeps the old secret for a time goes on with the slots that it has made."""
    command = "rotate --new-secret env:NEW --keep-old-for 24h"
    assert 0 == made(command).code
    before = [slot["id"] for slot in made("status --json").lines[0]["slots"]]

    assert 0 == made(command).code
    assert before == [slot["id"] for slot in made("status --json").lines[0]["slots"]]


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("--new-secret env:NEW", "--new-secret env:OLD", 12),
        ("--new-secret env:NEW", "--new-secret env:NEW --argon2 2,16,1", 12),
        ("--new-secret env:NEW --keep-old-for 24h", "--new-secret env:OLD", 1),
    ],
)
def test_another_rotation_is_not_done(made: Terminalless, first: str, second: str, code: int) -> None:
    """A rotation to another secret or cost is the error that it was."""
    assert 0 == made(f"rotate {first}").code

    done = made(f"rotate {second}")

    assert (code, "") == (done.code, done.out)
    assert "done already" not in done.err
