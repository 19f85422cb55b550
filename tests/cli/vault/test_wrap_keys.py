"""vaultctl with a key that a service holds: the reference goes wherever one of a secret does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.transit_server import ROOT_TOKEN, TransitKeyRing, TransitServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.harness import Terminalless

KEY = "transit:transit/kv"


@pytest.fixture
def transit(monkeypatch: pytest.MonkeyPatch) -> Iterator[TransitServer]:
    """Yield a transit engine with the key `transit/kv`, which the environment leads to."""
    for name in ("BAO_ADDR", "BAO_TOKEN", "BAO_NAMESPACE", "VAULT_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    with TransitServer() as server:
        server.keys["transit", "kv"] = TransitKeyRing()
        monkeypatch.setenv("VAULT_ADDR", server.url)
        monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
        yield server


def test_the_whole_life(vaultctl: Terminalless, transit: TransitServer) -> None:
    """Created by a service, opened, given a recovery key, rotated to a secret and back: all by reference."""
    made = vaultctl(f"init --secret {KEY} --create-store --json")
    assert (0, "transit", "transit/kv", None) == (
        made.code,
        *(made.lines[0]["slots"][0][name] for name in ("kind", "key", "t")),
    )
    assert 0 == vaultctl(f"put c k --secret {KEY}", stdin='{"v": 1}').code
    assert "transit transit/kv" in vaultctl(f"status --secret {KEY}").out
    assert "transit transit/kv" in vaultctl(f"slot verify --secret {KEY}").out
    added = vaultctl(f"slot add --secret {KEY} --label old --new-secret env:NEW --argon2 1,8,1 --json")
    assert (0, ["transit", "argon2id"]) == (added.code, [slot["kind"] for slot in added.lines[-1]["slots"]])
    assert [(None, 1, 8, 1)] == [
        (slot["key"], slot["t"], slot["m"], slot["p"])
        for slot in added.lines[-1]["slots"]
        if slot["kind"] == "argon2id"
    ]
    assert 0 == vaultctl(f"rotate --secret {KEY} --new-secret env:KVSEAL_MASTER_KEY --argon2 1,8,1").code
    assert 12 == vaultctl(f"status --secret {KEY}").code
    assert 0 == vaultctl(f"rotate --new-secret {KEY}").code
    assert '"v":1' in vaultctl(f"get c k --secret {KEY}").out.replace(" ", "")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        pytest.param(f"init --secret {KEY} --argon2 1,8,1 --create-store", 2, "derives nothing", id="a-cost"),
        pytest.param("status --secret transit:kv", 2, "MOUNT/KEY", id="no-mount"),
        pytest.param(
            "status --secret transit:transit/other", 12, "no keyslot of the transit key", id="other"
        ),
        pytest.param(
            f"migrate-from-fernet --secret {KEY} --fernet-key {KEY}", 2, "a reference", id="as-an-old-key"
        ),
    ],
)
def test_usage(command: str, code: int, words: str, vaultctl: Terminalless, transit: TransitServer) -> None:
    """What cannot work says so, with the exit code of its kind."""
    if not command.startswith("init"):
        assert 0 == vaultctl(f"init --secret {KEY} --create-store").code

    done = vaultctl(command)

    assert (code, True) == (done.code, words in done.err), done.err
    assert ROOT_TOKEN not in done.out + done.err


def test_exit_codes(vaultctl: Terminalless, transit: TransitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed service is 10, a revoked token 12, no address 2; nothing of it is in the output."""
    assert 0 == vaultctl(f"init --secret {KEY} --create-store").code

    transit.broken = (503, b'{"errors":["Vault is sealed"]}')
    sealed = vaultctl(f"status --secret {KEY}")
    transit.broken = None
    transit.tokens.clear()
    revoked = vaultctl(f"status --secret {KEY}")
    monkeypatch.delenv("VAULT_ADDR")
    nowhere = vaultctl(f"status --secret {KEY}")

    assert (10, 12, 2) == (sealed.code, revoked.code, nowhere.code)
    assert ("VaultDown" in sealed.err, "permission denied" in revoked.err) == (True, False)
    assert ROOT_TOKEN not in sealed.err + revoked.err + nowhere.err


def test_dry_run(vaultctl: Terminalless, transit: TransitServer) -> None:
    """A dry run of `init` says that the service would be asked, and does not."""
    done = vaultctl(f"init --secret {KEY} --create-store --dry-run")

    assert (0, []) == (done.code, transit.requests)
    assert "it was not yet" in done.err
