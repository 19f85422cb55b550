"""A MongoDB database of an OAuth server that stays online while it is migrated from Fernet, by vaultctl alone."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import UNSTABLE, Place, place
from tests.hammer import Job, summed
from tests.processes import NEW
from tests.recoding.test_hold_flip import until_all_write
from tests.recoding.test_no_downtime import (
    HOT,
    check_values,
    deployed,
    fill,
    others_than,
    untouched_times,
)
from tests.recoding.worlds import old

from kvseal import EnvelopeEncryptionWrapper, Vault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.harness import Done, Terminalless

pytestmark = [pytest.mark.processes, pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]

# What FastMCP's OAuth proxy keeps, in two of its collections.
TOKENS = {
    f"token:{n}": {
        "upstream_token_id": f"token:{n}",
        "access_token": "x" * 700,
        "expires_at": 4e9 + n,
        "scope": None,
    }
    for n in range(60)
}
CLIENTS = {
    f"https://client.example/{n}": {
        "client_id": f"https://client.example/{n}",
        "redirect_uris": ["http://localhost/"],
    }
    for n in range(20)
}
OF_FASTMCP = {"mcp-upstream-tokens": TOKENS, "mcp-oauth-proxy-clients": CLIENTS}


@pytest.fixture
def database(
    request: pytest.FixtureRequest, tmp_path: Path, vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """Yield an empty database, named in the environment with the secret."""
    for found in place("mongodb", request, tmp_path):
        monkeypatch.setenv("VAULTCTL_STORE", found.where)
        monkeypatch.setenv("KVSEAL_MASTER_KEY", NEW.reveal().decode())
        yield found


async def put_fastmcp(store: Any) -> None:
    """Write what FastMCP has written, through the wrapper that it was given."""
    app = old(store)
    for collection, values in OF_FASTMCP.items():
        await app.put_many(list(values), list(values.values()), collection=collection, ttl=86_400.5)


async def test_migrate_from_fernet_while_users_are_online(database: Place, vaultctl: Terminalless) -> None:
    """
    Hold, deploy, flip, recode, finalize and verify by the commands of the runbook, beside writers all the time.

    No read of an old or a new application fails, no write is lost, and no time of an entry changes.
    """

    async def command(line: str) -> Done:
        return await asyncio.to_thread(vaultctl, line)

    told = {"place": database.as_json()}
    async with database.opened() as store:
        await fill(store)
        await put_fastmcp(store)
        before = await untouched_times(database, store)
        async with deployed(
            database, store, [Job(**told, role="old", keys=HOT["old"], others=others_than("old"), writes=2)]
        ) as running:
            (former,) = running
            held = await command(
                "migrate-from-fernet --fernet-key env:OLD --import-keys --hold --argon2 1,8,1"
            )
            jobs = [
                Job(**told, role="holding", keys=HOT[name], others=others_than(name))
                for name in ("one", "two")
            ]
            async with deployed(database, store, jobs) as new:
                await former.finish()
                boards = [await former.stop()]
                flipped = await command("policy seal")
                await until_all_write(store, new, sealed=True)
                migrated = await command("migrate-from-fernet --rate 2000 --backup live.kvseal --yes --json")
                code = 4
                while code == 4:  # An application may have written an old record before it saw the flip.
                    code = (await command("migrate-from-fernet --finalize --grace 0 --yes")).code
                boards += [await one.stop() for one in new]
        verified = await command("verify --json")

        summary = json.loads(verified.out.splitlines()[-1])
        assert (0, 0, 0, 0, 0) == (held.code, flipped.code, migrated.code, code, verified.code)
        assert {"kvseal"} == set(summary["formats"])
        assert before == await untouched_times(database, store)
        assert [] == summed(boards)["lost"] + summed(boards)["flashes"]
        vault = await Vault.open(store, secret=NEW)
        await check_values(vault, store, boards)
        await check_fastmcp(vault, store)
        assert () == vault.status().legacy
        await vault.close()


async def check_fastmcp(vault: Vault, store: Any) -> None:
    """Check that what FastMCP had written reads as it was."""
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    for collection, values in OF_FASTMCP.items():
        assert list(values.values()) == await kv.get_many(list(values), collection=collection)
    await kv.release()


def test_a_restore_says_that_times_are_rounded(database: Place, vaultctl: Terminalless) -> None:
    """A backup of a disk store is restored into MongoDB, and the operator is told how exactly times are kept there."""
    assert 0 == vaultctl("init --store disk:kv --create-store --argon2 1,8,1").code
    assert 0 == vaultctl("backup kv.kvseal --store disk:kv").code

    restored = vaultctl("restore kv.kvseal --create-store")
    back = vaultctl("restore kv.kvseal --create-store --store disk:other")

    assert [0, 0] == [restored.code, back.code]
    assert [True, False] == [
        "times and expiries to the millisecond" in one.out + one.err for one in (restored, back)
    ]
