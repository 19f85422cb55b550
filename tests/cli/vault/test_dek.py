"""`rotate --dek`, `reencrypt`, `dek` and the checks that ask for them, as scripts use them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.harness import with_store
from tests.recoding.worlds import damage

from kvseal import clock

if TYPE_CHECKING:
    from tests.cli.harness import Terminalless


@pytest.fixture
def vault(vaultctl: Terminalless) -> Terminalless:
    """Return vaultctl beside a vault with three records of DEK 1."""
    return filled(vaultctl)


def filled(vaultctl: Terminalless) -> Terminalless:
    """Make the vault and put the records."""
    assert 0 == vaultctl("init --create-store --argon2 1,8,1").code
    for name in "abc":
        assert 0 == vaultctl(f"put c {name}", stdin='{"v":1}').code
    return vaultctl


def deks(vault: Terminalless) -> dict[int, tuple[str, int]]:
    """Return state and records of each DEK."""
    (listed,) = vault("dek list --count --json").lines
    return {one["id"]: (one["state"], one["records"]) for one in listed["deks"]}


def test_the_life_of_a_dek(vault: Terminalless) -> None:
    """Rotate, re-encrypt, retire: each step says what is next, and the last leaves nothing to do."""
    assert {1: ("active", 3)} == deks(vault)
    rotated = vault("rotate --dek")
    assert "up to 3 records still use DEK 1: vaultctl reencrypt" in rotated.err
    assert {1: ("readable", 3), 2: ("active", 0)} == deks(vault)
    assert 4 == vault("reencrypt --check").code
    assert "next: vaultctl dek retire 1" in vault("reencrypt --yes").err
    assert {1: ("readable", 0), 2: ("active", 3)} == deks(vault)
    assert 0 == vault("reencrypt --check").code
    assert 0 == vault("dek retire 1 --grace 0 --yes").code
    assert {1: ("retired", 0), 2: ("active", 3)} == deks(vault)
    assert 0 == vault("verify").code


@pytest.mark.processes
def test_workers(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes re-seal two parts, and one report comes out."""
    monkeypatch.setenv("VAULTCTL_STORE", "filetree:files")
    vault = filled(vaultctl)
    vault("rotate --dek")

    done = vault("reencrypt --workers 2 --no-backup --yes --json")

    assert (0, 3, {"2": 3}) == (done.code, done.lines[-1]["changed"], done.lines[-1]["deks"])


@pytest.mark.parametrize("command", ["rotate --dek", "reencrypt --yes", "dek retire 1 --grace 0 --yes"])
def test_dry_run(vault: Terminalless, command: str) -> None:
    """Each command can be tried."""
    if "rotate" not in command:
        vault("rotate --dek")
    if "retire" in command:
        vault("reencrypt --yes --no-backup")
    before, tree = deks(vault), vault.tree()

    done = vault(f"{command} --dry-run")

    assert 0 == done.code
    assert "nothing was written" in done.err
    assert (before, tree) == (deks(vault), vault.tree())


def test_what_fails_keeps_its_dek(vault: Terminalless) -> None:
    """A record that does not open is named, makes the exit code 3, and keeps its DEK."""
    with_store(vault.directory / "kv", lambda store: damage(store, "b"))
    vault("rotate --dek")

    done = vault("reencrypt --yes --no-backup")

    assert 3 == done.code
    assert "failed: c/b" in done.err
    refused = vault("dek retire 1 --grace 0 --yes --json")
    assert (1, "DEKNeededError", "1 record still uses DEK 1") == (
        refused.code,
        refused.error["error"],
        refused.error["message"],
    )


def test_contexts(vault: Terminalless) -> None:
    """Records of another context are re-sealed, and verified, with --context."""

    async def put(store: Any) -> None:
        from kvseal import EnvelopeEncryptionWrapper

        async with EnvelopeEncryptionWrapper(store, context="tenant") as wrapper:
            for name in "abc":
                await wrapper.put(name, {"v": 2}, collection="c")

    with_store(vault.directory / "kv", put)
    assert (3, 0) == (vault("verify").code, vault("verify --context tenant").code)
    vault("rotate --dek")

    assert 3 == vault("reencrypt --yes --no-backup").code
    assert 0 == vault("reencrypt --yes --no-backup --context tenant").code
    assert {1: ("readable", 0), 2: ("active", 3)} == deks(vault)


def test_a_rotation_is_due(vault: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """For cron and CI: exit code 4 once the active DEK is too old, and the command that helps."""
    assert 0 == vault("status --check").code
    later = clock.utc_seconds() + timedelta(days=91)
    monkeypatch.setattr("kvseal.clock.utc_seconds", lambda: later)

    assert 0 == vault("status --check").code
    checked = vault("status --check --max-dek-age 90d")
    assert 4 == checked.code
    assert "next: vaultctl rotate --dek" in checked.err
    assert 0 == vault("status --max-dek-age 90d").code
    vault("rotate --dek")
    assert 0 == vault("status --check --max-dek-age 90d").code
