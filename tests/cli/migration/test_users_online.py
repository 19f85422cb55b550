"""What FastMCP's OAuth proxy keeps in a service's store stays online while vaultctl alone migrates it from Fernet."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import UNSTABLE, Place, place
from tests.processes import NEW
from tests.recoding.test_hold_flip import checked, job, until_all_write
from tests.recoding.test_no_downtime import check_values, deployed, fill, untouched_times
from tests.recoding.worlds import KEY, formats_of, old

from kvseal import EnvelopeEncryptionWrapper, Vault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.harness import Done, Terminalless

pytestmark = [pytest.mark.processes, pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]

# One of the clients is a URL, without its two slashes: SeaweedFS makes one of them.
CLIENT = "client.example/oauth"
OF_FASTMCP: dict[str, dict[str, Any]] = {
    "mcp-upstream-tokens": {
        f"token-{n}": {"access_token": "x" * 700, "expires_at": 4e9 + n} for n in range(10)
    },
    "mcp-oauth-proxy-clients": {CLIENT: {"client_id": CLIENT, "redirect_uris": ["http://localhost/"]}},
    "mcp-oauth-transactions": {"s" * 40: {"state": "s" * 400, "scope": None}},
}
COLLECTIONS = ",".join(["c", *OF_FASTMCP])
"""An object key with several slashes leaves open what is collection and what is key."""


@pytest.fixture(params=["dynamodb", "mongodb", pytest.param("s3", marks=pytest.mark.long)])
def service(
    request: pytest.FixtureRequest, tmp_path: Path, vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """Yield an empty store, named in the environment of vaultctl with the secrets."""
    for found in place(request.param, request, tmp_path):
        where = f"{found.where}&collections={COLLECTIONS}" if found.kind == "s3" else found.where
        monkeypatch.setenv("VAULTCTL_STORE", where)
        monkeypatch.setenv("KVSEAL_MASTER_KEY", NEW.reveal().decode())
        monkeypatch.setenv("OLD", KEY.decode())
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        yield found


async def put_fastmcp(store: Any) -> None:
    """Write what FastMCP has written, through the wrapper that it was given."""
    for collection, values in OF_FASTMCP.items():
        await old(store).put_many(list(values), list(values.values()), collection=collection, ttl=86_400.5)


async def check_fastmcp(vault: Vault, store: Any) -> None:
    """Check that what FastMCP had written reads as it was."""
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    for collection, values in OF_FASTMCP.items():
        assert list(values.values()) == await kv.get_many(list(values), collection=collection)
    await kv.release()


async def test_migrate_from_fernet(service: Place, vaultctl: Terminalless) -> None:
    """
    Hold, deploy, flip, recode, finalize and verify by the commands of the runbook, beside writers all the time.

    No read of an old or a new application fails, no write is lost, and no time of an entry changes.
    """

    async def command(line: str) -> Done:
        return await asyncio.to_thread(vaultctl, line)

    async with service.opened() as store:
        await fill(store)
        await put_fastmcp(store)
        before = await untouched_times(service, store)
        async with deployed(service, store, [job(service, "old", "old", writes=2)]) as (former,):
            held = await command(
                "migrate-from-fernet --fernet-key env:OLD --import-keys --hold --argon2 1,8,1"
            )
            jobs = [job(service, "holding", "one"), job(service, "holding", "two")]
            async with deployed(service, store, jobs) as new:
                await former.finish()
                boards = [await former.stop()]
                assert {1} == await formats_of(store)
                flipped = await command("policy seal")
                await until_all_write(store, new, sealed=True)
                planned = await command("migrate-from-fernet --dry-run")
                migrated = await command("migrate-from-fernet --rate 2000 --backup live.kvseal --yes")
                code = 4
                while code == 4:  # An application may have written an old record before it saw the flip.
                    finalized = await command("migrate-from-fernet --finalize --grace 0 --no-backup --yes")
                    code = finalized.code
                boards += [await one.stop() for one in new]
        verified = await command("verify --json")

        done = (held, flipped, planned, migrated, finalized, verified)
        assert [0] * len(done) == [one.code for one in done], [one.err for one in done]
        assert "finalized: nothing old is left" in finalized.err
        assert {"kvseal"} == set(json.loads(verified.out.splitlines()[-1])["formats"])
        assert before == await untouched_times(service, store)
        checked(boards, service.kind)
        vault = await Vault.open(store, secret=NEW)
        await check_values(vault, store, boards)
        await check_fastmcp(vault, store)
        assert () == vault.status().legacy
        await vault.close()
    if service.kind == "dynamodb":
        assert "read units (3 scans of" in planned.out + planned.err
