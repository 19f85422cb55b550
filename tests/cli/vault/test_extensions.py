"""vaultctl on a vault to which a later release has added a critical part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.harness import SECRET, with_store
from tests.fakes import put_raw_meta

from kvseal import Secret, Vault
from kvseal.keys.extensions import Extensions

if TYPE_CHECKING:
    from tests.cli.harness import Terminalless

PARTS = {"ext": {"lamp": 1, "tenants": {"since": "0.9.1"}}, "crit": ["tenants"]}


@pytest.fixture
def vault(vaultctl: Terminalless) -> Terminalless:
    """Return vaultctl beside a vault with one record, which a later release has changed since."""
    assert 0 == vaultctl("init --create-store --argon2 1,8,1").code
    assert 0 == vaultctl("put c a", stdin='{"v":1}').code

    async def extend(store: Any) -> None:
        vault = await Vault.open(store, secret=Secret(SECRET.encode()))
        meta = replace(
            vault.meta, revision=vault.meta.revision + 1, extensions=Extensions.from_json(PARTS)
        ).authenticated(vault.way_in().root)
        await put_raw_meta(store, meta.as_value())

    with_store(vaultctl.directory / "kv", extend)
    return vaultctl


def test_status_and_reads(vault: Terminalless) -> None:
    """Status names each part and what it means here, and records are read."""
    told = vault("status").out
    (listed,) = vault("status --json").lines

    assert "must not seal or change anything" in told
    assert "keeps it" in told
    assert [
        {"name": "lamp", "critical": False, "known": False},
        {"name": "tenants", "critical": True, "known": False},
    ] == listed["extensions"]
    assert 0 == vault("verify").code
    assert [{"v": 1}] == vault("get c a --json").lines


@pytest.mark.parametrize(
    "command", ["put c b", "rotate --dek", "reencrypt --yes", "policy set --max-dek-age 9d"]
)
def test_nothing_is_written(vault: Terminalless, command: str) -> None:
    """A command that would write says which release is needed."""
    done = vault(command, stdin='{"v":2}')

    assert (1, True) == (done.code, "only kvseal 0.9.1 or newer knows: tenants" in done.err)


def test_an_operator_removes_it(vault: Terminalless) -> None:
    """Who names the part removes it, after a question, and vaultctl writes again; the other part stays."""
    assert 2 == vault("policy drop-extension tenants").code
    assert 0 == vault("policy drop-extension tenants --dry-run").code
    assert 1 == vault("rotate --dek").code
    assert 0 == vault("policy drop-extension tenants --yes").code
    assert 0 == vault("rotate --dek").code
    assert "keeps it" in vault("status").out
    assert 1 == vault("policy drop-extension tenants --yes").code
