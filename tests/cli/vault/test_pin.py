"""vaultctl with a pin file: named by a flag, the environment or vaultctl.toml."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from kvseal.vault.seen import newest

if TYPE_CHECKING:
    from tests.cli.harness import Terminalless

INIT = "init --store disk:kv --create-store --argon2 1,8,1 --quiet"


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSEAL_MASTER_KEY", "a passphrase")


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_rolled_back(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """What somebody put back is refused by the next command, which names the file to delete."""
    monkeypatch.setenv("VAULTCTL_STORE", "disk:kv")
    flag = "--pin kv.pin" if how == "flag" else ""
    if how == "environment":
        monkeypatch.setenv("VAULTCTL_PIN", "kv.pin")
    elif how == "file":
        (vaultctl.directory / "vaultctl.toml").write_text('pin = "kv.pin"\n')
    assert 0 == vaultctl(f"{INIT} {flag}").code
    shutil.copytree(vaultctl.directory / "kv", vaultctl.directory / "old")
    assert 0 == vaultctl(f"rotate --dek --quiet {flag}").code
    shutil.rmtree(vaultctl.directory / "kv")
    shutil.copytree(vaultctl.directory / "old", vaultctl.directory / "kv")
    newest._newest.clear()

    for command in ("status", "verify", "migrate-from-fernet --plaintext seal --yes"):
        done = vaultctl(f"{command} {flag}")
        assert (1, "") == (done.code, done.out), command
        assert "but kv.pin has seen 2" in done.err
        assert "delete kv.pin" in done.err

    (vaultctl.directory / "kv.pin").unlink()
    assert 0 == vaultctl(f"status --quiet {flag}").code


def test_damaged(vaultctl: Terminalless) -> None:
    """A pin that is none ends the command with the code for a file that has to be changed."""
    assert 0 == vaultctl(INIT).code
    (vaultctl.directory / "kv.pin").write_text("?")

    done = vaultctl("status --store disk:kv --pin kv.pin")

    assert (2, "") == (done.code, done.out)
    assert "the pin file kv.pin is damaged" in done.err


def test_an_emptied_store(vaultctl: Terminalless) -> None:
    """A pinned vault is not created anew, nor does a migration do it."""
    assert 0 == vaultctl(f"{INIT} --pin kv.pin").code
    other = "--store disk:other --pin kv.pin"

    done = vaultctl(f"init --create-store --argon2 1,8,1 {other}")

    assert (1, "") == (done.code, done.out)
    assert "kv.pin pins vault" in done.err
