"""`init` and `status`: the vault and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from kvseal import clock
from kvseal.cli import connect
from kvseal.cli.options import Duration, argon2_option, command_options
from kvseal.cli.output import table
from kvseal.cli.vault.policy import age_of, rows_of
from kvseal.cli.vault.slot import slots_table
from kvseal.errors import ExitCode, SecretNotFoundError
from kvseal.keys.meta import time_text
from kvseal.keys.policy import MOST_DEK_RECORDS, Policy, whole_seconds
from kvseal.recoding import open_recode
from kvseal.recoding.census import none, readers_of, take_census
from kvseal.secrets.defaults import names_wrap_key, secret_for_opening
from kvseal.vault.creation import check_creation
from kvseal.vault.metastore import MetaStore
from kvseal.vault.vault import Vault

if TYPE_CHECKING:
    from rich.table import Table

    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.recoding import Checkpoint
    from kvseal.recoding.census import Census
    from kvseal.secrets.sources import Unlocker
    from kvseal.vault.status import VaultStatus


@click.command()
@click.option("--label", default="primary", show_default=True, help="The name of the first keyslot.")
@click.option("--create-store", is_flag=True, help="Create the store too, if there is none at that place.")
@click.option("--dry-run", is_flag=True, help="Check store and secret, and create nothing.")
@click.option("--max-dek-age", type=Duration(), metavar="DURATION", help="Policy: see vaultctl policy set.")
@click.option(
    "--max-dek-records",
    type=click.IntRange(1, MOST_DEK_RECORDS),
    metavar="N",
    help="Policy: see vaultctl policy set.",
)
@argon2_option
@command_options
@connect.synchronous
async def init(
    output: Output,
    settings: Settings,
    *,
    label: str,
    create_store: bool,
    dry_run: bool,
    max_dek_age: float | None,
    max_dek_records: int | None,
    kdf: Argon2idParams | None,
) -> None:
    """
    Create the vault: root key, DEK 1 and the first keyslot.

    \b
    Examples:
      vaultctl init --store disk:/var/lib/app/kv --secret file:master.key
      vaultctl init --store disk:new --create-store

    Without --secret and with none in the environment, a secret is generated into the
    keyring, or into a key file that only you can read.
    """
    age = None if max_dek_age is None else whole_seconds(age_of(max_dek_age))
    limits = Policy(max_dek_age=age, max_dek_records=max_dek_records)
    async with connect.stores(settings, create=create_store, dry_run=dry_run) as found:
        if dry_run:
            await _check_creation(found, settings)
        secret = await connect.given_secret(settings.secret, settings, confirm=True)
        if dry_run:
            await _tell_what_init_would(output, settings, secret)
            return
        vault = await Vault.create(
            found.data,
            secret=secret,
            meta_store=found.meta,
            label=label,
            kdf=kdf,
            policy=limits,
            pin=settings.pin,
        )
        output.result(vault.status(), *tables_of(vault.status()))
        await vault.close()
    away = "key service is out of reach" if names_wrap_key(secret) else "secret is lost"
    output.note(f"next: vaultctl slot add --recovery, for the day on which the {away}")
    output.note("then: wrap the store with EnvelopeEncryptionWrapper, or vaultctl migrate-from-fernet")


async def _check_creation(found: connect.Stores, settings: Settings) -> None:
    """Raise what `Vault.create` would before it writes."""
    async with MetaStore.reached(found.meta or found.data, pin=settings.pin) as metastore:
        await check_creation(metastore, None if found.meta is None else found.data)


async def _tell_what_init_would(output: Output, settings: Settings, secret: Unlocker | None) -> None:
    try:
        await secret_for_opening(secret)
        asked = "the key service would be asked; it was not yet"
        output.note(asked if names_wrap_key(secret) else "the secret is there")
    except SecretNotFoundError:
        if secret is not None:
            raise
        output.note("a master secret would be generated, because none was named and none is here")
    output.note(f"nothing was written; a vault would be created in {settings.required_store()}")


@dataclass(frozen=True, slots=True)
class _Shown:
    """The vault, the recode that is open, and the records where they were counted."""

    status: VaultStatus
    recode: Checkpoint | None
    records: Census | None
    due: str | None

    def as_dict(self) -> dict[str, Any]:
        shown = {
            **self.status.as_dict(),
            "rotation_due": self.due,
            "recode": None if self.recode is None else self._recode(self.recode),
        }
        if self.records is None:
            return shown
        deks = {str(number): count for number, count in sorted(self.records.deks.items())}
        return {**shown, "records": {"formats": dict(self.records.formats), "deks": deks}}

    def _recode(self, opened: Checkpoint) -> dict[str, Any]:
        return {
            "command": opened.command,
            "started_at": _begun(opened),
            "parts": len(opened.parts),
            "done": sum(part.done for part in opened.parts),
            "scanned": sum(part.tally.scanned for part in opened.parts),
            "holders": [str(holder) for holder in opened.holders(clock.wall_ms())],
        }


@click.command()
@click.option(
    "--count", is_flag=True, help="Count the records per format and per DEK: reads the whole store."
)
@click.option(
    "--max-dek-age",
    type=Duration(),
    metavar="DURATION",
    help="Ask for a rotation at this age of the active DEK, and not at the policy's.",
)
@click.option("--check", is_flag=True, help="Exit with 4 if policy asks for a rotation of the DEK.")
@command_options
@connect.synchronous
async def status(
    output: Output, settings: Settings, *, count: bool, max_dek_age: float | None, check: bool
) -> int:
    """
    Show slots, DEKs, policy and legacy keys.

    \b
    Examples:
      vaultctl status
      vaultctl status --count --json
      vaultctl status --check
      vaultctl status --check --max-dek-age 90d

    Where the policy limits the number of records, --check counts them like --count, unless the age
    is reason enough.
    """
    async with connect.vault(settings) as (found, vault):
        now, opened, census = vault.status(), await open_recode(vault), None
        due, most = now.due(max_age=max_dek_age), now.policy.get("max_dek_records")
        if count or (check and due is None and most is not None):
            census = await take_census(found.data, readers_of(vault), opens=none, listener=output.event)
            due = now.due(max_age=max_dek_age, records=census.deks[now.active_dek])
    if opened is not None:
        output.note(_open_text(opened))
    counted = [] if census is None else [_count_table(census)]
    output.result(_Shown(now, opened, census, due), *tables_of(now), *counted)
    if due is not None:
        output.note(f"{due}; next: vaultctl rotate --dek")
    elif census is None and most is not None:
        output.note(f"the records of DEK {now.active_dek} were not counted; --count does")
    return ExitCode.WORK_PENDING if check and due is not None else 0


def _open_text(opened: Checkpoint) -> str:
    """Say that a recode has begun and not come to its end, and who works on it."""
    holders = ", ".join(map(str, opened.holders(clock.wall_ms())))
    who = f"being done by {holders}" if holders else "stopped; the same command goes on with it"
    return f"open: {opened.command}, begun {_begun(opened)}, {who}"


def _begun(opened: Checkpoint) -> str:
    return time_text(datetime.fromtimestamp(opened.started_at // 1000, timezone.utc))


def tables_of(now: VaultStatus) -> list[Table]:
    """Show the vault: facts, slots, DEKs and legacy keys."""
    facts = [
        ("vault", now.vault_id),
        ("store", now.location),
        ("revision", now.revision),
        ("updated", now.updated_at),
        *rows_of(now.policy),
    ]
    tables = [
        table("", ("", ""), facts),
        slots_table(now.slots),
        table("DEKs", ("number", "state", "created"), [(d.id, d.state, d.created_at) for d in now.deks]),
    ]
    if now.legacy:
        rows = [(key.id, key.kind, key.created_at) for key in now.legacy]
        tables.append(table("Legacy keys", ("id", "kind", "held since"), rows))
    return tables


def _count_table(census: Census) -> Table:
    rows = [*sorted(census.formats.items()), *((f"DEK {n}", c) for n, c in sorted(census.deks.items()))]
    return table("Records", ("format or DEK", "records"), [(name, f"{count:,}") for name, count in rows])
