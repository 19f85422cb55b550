"""`rotate --root`: what is asked, what is said, and who opens the vault afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cli.harness import NEW_SECRET, SECRET

if TYPE_CHECKING:
    from tests.cli.harness import Terminalless


@pytest.fixture
def vault(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> Terminalless:
    """Return vaultctl beside a vault of one record and two slots."""
    monkeypatch.setenv("THIRD", "a third passphrase that must not be seen")
    assert 0 == vaultctl("init --create-store --argon2 1,8,1").code
    assert 0 == vaultctl("slot add --label paper --new-secret env:NEW --argon2 1,8,1").code
    assert 0 == vaultctl("put c k", stdin='{"v":1}').code
    return vaultctl


def opens(vault: Terminalless) -> list[int]:
    """Return the exit codes of reading the record with the first secret and the second."""
    return [vault(f"get c k --secret env:{name}").code for name in ("KVSEAL_MASTER_KEY", "NEW")]


def test_every_secret_given(vault: Terminalless) -> None:
    """Nothing is asked, both slots stay, and what is next is said."""
    done = vault("rotate --root --slot-secret env:NEW")

    assert (0, [0, 0]) == (done.code, opens(vault))
    assert "next: vaultctl rotate --new-secret" in done.err
    assert "still gives the old DEKs" in done.err
    assert 0 == vault("verify").code


def test_without_consent(vault: Terminalless) -> None:
    """The slot that would go is named, with the flag that is needed; `--yes` is not that."""
    for command in ("rotate --root", "rotate --root --yes"):
        done = vault(f"{command} --json")
        assert (2, "SlotsLeftOutError") == (done.code, done.error["error"])
        assert "(paper)" in done.error["message"]
        assert "--drop-slots" in done.error["hint"]

    assert [0, 0] == opens(vault)


def test_consent_names_what_goes(vault: Terminalless) -> None:
    """`--drop-slots` shows which, and without a terminal wants `--yes`."""
    refused = vault("rotate --root --drop-slots")
    assert (2, [0, 0]) == (refused.code, opens(vault))
    assert "(paper)" in refused.err

    done = vault("rotate --root --drop-slots --yes --json")

    assert (0, [0, 12]) == (done.code, opens(vault))
    (line,) = done.lines
    assert (True, ["paper"], ["primary"]) == (
        line["changed"],
        [slot["label"] for slot in line["dropped"]],
        [slot["label"] for slot in line["slots"]],
    )


def test_a_dry_run(vault: Terminalless) -> None:
    """It needs no consent, and says what would go."""
    before = vault("status --json").lines[0]["revision"]

    done = vault("rotate --root --dry-run --json")

    assert (0, False, ["paper"]) == (
        done.code,
        done.lines[0]["changed"],
        [slot["label"] for slot in done.lines[0]["dropped"]],
    )
    assert "paper" in vault("rotate --root --dry-run").err
    assert before == vault("status --json").lines[0]["revision"]


def test_a_wrong_slot_secret(vault: Terminalless) -> None:
    """A secret that opens nothing ends the command with 12, whatever may be dropped."""
    done = vault("rotate --root --slot-secret env:THIRD --drop-slots --yes")

    assert (12, [0, 0]) == (done.code, opens(vault))


@pytest.mark.parametrize(
    "options",
    [
        "--root --new-secret env:NEW",
        "--root --argon2 1,8,1",
        "--root --keep-old-for 1h",
        "--root --dek",
        "--dek --slot-secret env:NEW",
        "--new-secret env:NEW --drop-slots",
        "--slot-secret env:NEW",
    ],
)
def test_options_that_do_not_go_together(vault: Terminalless, options: str) -> None:
    """Each rotation is a change of its own, refused before the vault is looked at."""
    before = vault("status --json").lines[0]["revision"]

    assert 2 == vault(f"rotate {options}").code
    assert before == vault("status --json").lines[0]["revision"]


def test_the_whole_way_after_a_compromise(vault: Terminalless) -> None:
    """Root key, secret, DEK, records, old DEK: each command says the next, and the record is read at the end."""
    assert 0 == vault("rotate --root --drop-slots --yes").code
    assert 0 == vault("rotate --new-secret env:THIRD").code
    for command in (
        "rotate --dek",
        "reencrypt --yes --no-backup",
        "dek retire 1 --grace 0 --yes",
        "verify",
        "get c k",
    ):
        done = vault(f"{command} --secret env:THIRD")
        assert 0 == done.code, done.err
    assert [12, 12] == opens(vault)


def test_no_secret_is_shown(vault: Terminalless) -> None:
    """Neither in what is printed nor in what fails."""
    for command in ("rotate --root --slot-secret env:NEW", "rotate --root --slot-secret env:THIRD --debug"):
        done = vault(command)
        assert [False, False, False] == [
            text in done.out + done.err for text in (SECRET, NEW_SECRET, "a third passphrase")
        ]
