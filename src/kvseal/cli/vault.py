"""`init`, `status` and `rotate`: the vault and its keys."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

import click

from kvseal.cli import connect
from kvseal.cli.dek import MAX_AGE, rotate_dek, rotation_due
from kvseal.cli.options import Duration, argon2_option, command_options
from kvseal.cli.output import table
from kvseal.cli.slot import slots_table, told_after_rotation
from kvseal.envelope.kdf import Argon2idParams
from kvseal.errors import SecretNotFoundError, UsageError, VaultExistsError
from kvseal.keys.defaults import secret_for_opening
from kvseal.keys.meta import time_text
from kvseal.metastore import MetaStore
from kvseal.recode import open_recode
from kvseal.recode.verify import none, readers_of, take_census
from kvseal.vault import Vault

WORK_PENDING: Final = 4
"""Exit code of a check that found something to do."""

if TYPE_CHECKING:
    from rich.table import Table

    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.keys.secret import Secret
    from kvseal.recode import Checkpoint
    from kvseal.recode.verify import Census
    from kvseal.status import VaultStatus


@click.command()
@click.option("--label", default="primary", show_default=True, help="The name of the first keyslot.")
@click.option("--create-store", is_flag=True, help="Create the store too, if there is none at that place.")
@click.option("--dry-run", is_flag=True, help="Check store and secret, and create nothing.")
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
    async with connect.stores(settings, create=create_store, dry_run=dry_run) as found:
        if dry_run:
            await _check_creation(found)
        secret = await connect.given_secret(settings.secret, settings, confirm=True)
        if dry_run:
            await _tell_what_init_would(output, settings, secret)
            return
        vault = await Vault.create(
            found.data,
            secret=secret,
            meta_store=found.meta,
            label=label,
            kdf=kdf or Argon2idParams.RFC_9106_LOW_MEMORY,
        )
        output.result(vault.status(), *_tables(vault.status()))
        await vault.close()
    output.note("next: vaultctl slot add --recovery, for the day on which the secret is lost")
    output.note("then: wrap the store with EnvelopeEncryptionWrapper, or vaultctl migrate-from-fernet")


async def _check_creation(found: connect.Stores) -> None:
    """Raise what `Vault.create` would before it writes."""
    async with MetaStore.reached(found.meta or found.data) as metastore:
        await metastore.refuse_eviction()
        if await metastore.load() is not None:
            msg = f"there already is a vault in {metastore.location}"
            raise VaultExistsError(msg, hint="open it, or choose another store")
        await metastore.refuse_orphaned_records(None if found.meta is None else found.data)


async def _tell_what_init_would(output: Output, settings: Settings, secret: Secret | None) -> None:
    try:
        await secret_for_opening(secret)
        output.note("the secret is there")
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

    def as_dict(self) -> dict[str, Any]:
        shown = {
            **self.status.as_dict(),
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
            "holders": [str(holder) for holder in opened.holders(int(time.time() * 1000))],
        }


@click.command()
@click.option(
    "--count", is_flag=True, help="Count the records per format and per DEK: reads the whole store."
)
@click.option(
    "--max-dek-age",
    type=Duration(),
    default=MAX_AGE,
    show_default=True,
    metavar="DURATION",
    help="The age at which the active DEK is to be replaced.",
)
@click.option("--check", is_flag=True, help="Exit with 4 if a DEK rotation is due.")
@command_options
@connect.synchronous
async def status(output: Output, settings: Settings, *, count: bool, max_dek_age: float, check: bool) -> int:
    """
    Show slots, DEKs, policy and legacy keys.

    \b
    Examples:
      vaultctl status
      vaultctl status --count --json
      vaultctl status --check --max-dek-age 90d
    """
    async with connect.vault(settings) as (found, vault):
        now, opened, census = vault.status(), await open_recode(vault), None
        if count:
            census = await take_census(found.data, readers_of(vault), opens=none, listener=output.event)
    if opened is not None:
        output.note(_open_text(opened))
    counted = [] if census is None else [_count_table(census)]
    output.result(_Shown(now, opened, census), *_tables(now), *counted)
    due = rotation_due(now, max_dek_age)
    if due is not None:
        output.note(due)
    return WORK_PENDING if check and due is not None else 0


@click.command()
@click.option("--new-secret", metavar="REF", help="The secret that opens the vault from now on.")
@click.option(
    "--keep-old-for", type=Duration(), metavar="DURATION", help="Let the old secret open for so long: 24h."
)
@click.option("--dek", is_flag=True, help="Leave the secret, and make a new DEK for new records.")
@click.option("--dry-run", is_flag=True, help="Check both secrets, and change nothing.")
@argon2_option
@command_options
@connect.synchronous
async def rotate(
    output: Output,
    settings: Settings,
    *,
    new_secret: str | None,
    keep_old_for: float | None,
    dek: bool,
    dry_run: bool,
    kdf: Argon2idParams | None,
) -> None:
    """
    Re-wrap the root key for a new secret and/or a new Argon2id cost.

    \b
    Examples:
      vaultctl rotate --new-secret file:new.key
      vaultctl rotate --new-secret file:new.key --keep-old-for 24h
      vaultctl rotate --argon2 3,262144,4
      vaultctl rotate --dek

    Touches one entry, whatever the number of records.  It does not undo a leak: a copy of
    the old vault meta still opens with the old secret.  With --keep-old-for, the old secret opens
    for so long, while a rolling deployment gives every process the new one; then it is refused,
    and the next change of the vault drops its slot.  With --dek, new records get a new key,
    and vaultctl reencrypt brings the others under it.
    """
    if dek:
        if new_secret is not None or kdf is not None or keep_old_for is not None:
            msg = "--dek goes with neither --new-secret, --keep-old-for nor --argon2"
            raise UsageError(msg, hint="run one after the other")
        await rotate_dek(output, settings, dry_run=dry_run)
        return
    if new_secret is None and kdf is None:
        msg = "there is nothing to rotate to"
        raise UsageError(msg, hint="give --new-secret REF, --argon2 T,M,P or both, or --dek")
    async with connect.vault(settings) as (_, vault):
        secret = await connect.given_secret(new_secret, settings, confirm=True)
        if dry_run:
            output.result(vault.status(), *_tables(vault.status()))
            output.note("nothing was written; the slot that opened now would be replaced")
            return
        kept = None if keep_old_for is None else timedelta(seconds=keep_old_for)
        now = await vault.rotate(new_secret=secret, kdf=kdf, keep_old_for=kept)
    output.result(now, *_tables(now))
    for line in told_after_rotation(now, new_secret=secret is not None):
        output.note(line)


def _open_text(opened: Checkpoint) -> str:
    """Say that a recode has begun and not come to its end, and who works on it."""
    holders = ", ".join(map(str, opened.holders(int(time.time() * 1000))))
    who = f"being done by {holders}" if holders else "stopped; the same command goes on with it"
    return f"open: {opened.command}, begun {_begun(opened)}, {who}"


def _begun(opened: Checkpoint) -> str:
    return time_text(datetime.fromtimestamp(opened.started_at // 1000, timezone.utc))


def _tables(now: VaultStatus) -> list[Table]:
    facts = [
        ("vault", now.vault_id),
        ("store", now.location),
        ("revision", now.revision),
        ("updated", now.updated_at),
        *((name.replace("_", " "), value) for name, value in now.policy.items()),
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
