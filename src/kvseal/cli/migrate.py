"""`migrate-from-fernet`: an old vault becomes a sealed one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click

from kvseal.cli import connect
from kvseal.cli.options import argon2_option, command_options
from kvseal.envelope.kdf import Argon2idParams
from kvseal.errors import UsageError
from kvseal.legacy import FernetCodec
from kvseal.legacy.fernet import derive_key, parse_key
from kvseal.recode import PlaintextRule, migrate

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.recode import Migration


@click.command("migrate-from-fernet")
@click.option(
    "--fernet-key",
    "fernet_keys",
    metavar="REF",
    multiple=True,
    help="A Fernet key; repeat to try several in order.",
)
@click.option("--source-material", metavar="REF", help="What the old wrapper derived its key from …")
@click.option("--salt", metavar="REF", help="… and its salt.")
@click.option("--to", metavar="URL", help="Put sealed copies into this store instead of re-sealing in place.")
@click.option(
    "--plaintext",
    type=click.Choice([rule.value for rule in PlaintextRule]),
    default=PlaintextRule.REFUSE.value,
    show_default=True,
    help="What to do with records that were never encrypted.",
)
@click.option(
    "--create-store", is_flag=True, help="Create the store of --to, if there is none at that place."
)
@click.option("--dry-run", is_flag=True, help="Do everything but write.")
@click.option("--check", is_flag=True, help="Like --dry-run, and exit with 4 if there is work to do.")
@argon2_option
@command_options
@connect.synchronous
async def migrate_from_fernet(
    output: Output,
    settings: Settings,
    *,
    fernet_keys: tuple[str, ...],
    source_material: str | None,
    salt: str | None,
    to: str | None,
    plaintext: str,
    create_store: bool,
    dry_run: bool,
    check: bool,
    kdf: Argon2idParams | None,
) -> int:
    """
    Re-import a vault of FernetEncryptionWrapper: in place, or into another store.

    \b
    Examples:
      vaultctl migrate-from-fernet --fernet-key env:OLD_KEY --dry-run
      vaultctl migrate-from-fernet --fernet-key env:OLD_KEY --yes
      vaultctl migrate-from-fernet --fernet-key file:new.key --fernet-key file:older.key --yes
      vaultctl migrate-from-fernet --source-material env:STORAGE_SECRET --salt env:STORAGE_SALT
      vaultctl migrate-from-fernet --fernet-key env:OLD_KEY --to disk:/var/lib/app/sealed

    Creates the kvseal vault if there is none yet.  That a key fits, and that there is no
    plaintext, is found out before the first write.  Names, creation times and expiries stay
    as they are; records that no key opens stay as they are and are named (exit code 3).  Run
    it again to resume.

    In place, stop the old application first: it cannot read sealed records.
    """
    codec = await _codec(settings, fernet_keys, source_material, salt)
    writes = not (dry_run or check)
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(connect.stores(settings))
        target = None
        if to is not None:
            target = await stack.enter_async_context(
                connect.store(to, create=create_store, dry_run=not writes)
            )
            if target.location == found.data.location:
                msg = f"--to names the very store that is to be migrated, {target.location}"
                raise UsageError(msg, hint="leave --to out to migrate in place")
        elif writes:
            output.confirm(f"Re-seal every record of {found.data.location} in place?", settings)
        is_new = not await connect.Stores(target or found.data, found.meta).has_vault()
        migration = await migrate(
            found.data,
            [codec],
            secret=await connect.given_secret(settings.secret, settings, confirm=writes and is_new),
            to=target,
            meta_store=found.meta,
            kdf=kdf or Argon2idParams.RFC_9106_LOW_MEMORY,
            plaintext=PlaintextRule(plaintext),
            dry_run=not writes,
            command="migrate-from-fernet",
            listener=output.event,
        )
    output.summary(migration.report)
    _tell_next(output, migration)
    return migration.report.check_exit_code if check else migration.report.exit_code


async def _codec(
    settings: Settings, fernet_keys: tuple[str, ...], source_material: str | None, salt: str | None
) -> FernetCodec:
    if (source_material is None) != (salt is None):
        msg = "--source-material and --salt belong together"
        raise UsageError(msg, hint="give both, as the old wrapper was given both")
    if not fernet_keys and source_material is None:
        msg = "no Fernet key was named"
        raise UsageError(msg, hint="give --fernet-key REF, or --source-material REF with --salt REF")
    keys = [parse_key(await _read(reference, settings)) for reference in fernet_keys]
    if source_material is not None and salt is not None:
        material, salted = await _read(source_material, settings), await _read(salt, settings)
        keys.append(await asyncio.to_thread(derive_key, material, salted))
    return FernetCodec(keys)


async def _read(reference: str, settings: Settings) -> bytes:
    secret = await connect.given_secret(reference, settings)
    if secret is None:
        raise AssertionError
    return secret.reveal()


def _tell_next(output: Output, migration: Migration) -> None:
    report = migration.report
    if report.dry_run:
        todo = (
            "next: the same command without --dry-run or --check"
            if report.changed
            else "nothing is left to do"
        )
        output.note(f"nothing was written; {todo}")
        return
    if migration.vault is not None:
        output.note(f"DEK {migration.vault.active_dek} is active in vault {migration.vault.vault_id}")
    if report.failed:
        output.note("what failed is untouched and may need the old key: keep that until nothing fails")
        output.note("next: run again with the key that opens what failed, or delete what nothing opens")
        return
    output.note("next: vaultctl verify, then deploy EnvelopeEncryptionWrapper and retire the Fernet key")
