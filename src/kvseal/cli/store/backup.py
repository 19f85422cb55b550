"""`backup` and `restore`: stored entries as they are, still sealed, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvseal import backup as library
from kvseal.cli import connect
from kvseal.cli.options import command_options
from kvseal.cli.values import contexts_option, names_inside_option
from kvseal.drivers.base import Times
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.secrets.given import secret_for_opening

if TYPE_CHECKING:
    from kvseal.backup import BackupReport, RestoreReport
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings

_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.command()
@_FILE
@command_options
@connect.synchronous
async def backup(output: Output, settings: Settings, *, file: Path) -> int:
    """
    Write every entry as it is stored, still sealed, into a new file.  Needs no secret.

    \b
    Examples:
      vaultctl backup kv-monday.kvseal

    The vault meta is in it, from --meta-store where it has a store of its own, so that the file
    and a master secret are all that a restore needs; records that were not encrypted in the
    store are not encrypted in the file.  The file is its owner's alone, is read back before this
    reports success, and never replaces another.  What cannot be read is kept as raw bytes and
    named (exit code 3).
    """
    async with connect.stores(settings) as found:
        report = await library.backup(found.data, file, meta_store=found.meta, listener=output.event)
    output.ended(report, _backup_text(report))
    if report.sealed_alone:
        output.note(
            f"{report.sealed_alone:,} records are sealed, and no vault meta is in this file:"
            " name the store that has it, --meta-store, and take the backup again"
        )
    if any((f.collection, f.key) == (META_COLLECTION, META_KEY) for f in report.failures):
        output.note("the vault meta is damaged: this file opens with that of an older backup only")
    if report.failed:
        output.note("entries that failed are in the file as raw bytes, which restore does not put back")
    output.note(f"next: copy {report.file} to another machine, and keep the master secret elsewhere")
    return report.exit_code


@click.command()
@_FILE
@click.option("--create-store", is_flag=True, help="Create the store, if there is none at that place.")
@click.option("--overwrite", is_flag=True, help="Replace entries that now have another value.")
@click.option(
    "--overwrite-vault-meta",
    "overwrite_meta",
    is_flag=True,
    help="Replace a different vault meta too, even a newer one.",
)
@click.option("--only-vault-meta", "only_meta", is_flag=True, help="Restore only the vault meta.")
@names_inside_option
@contexts_option
@click.option("--dry-run", is_flag=True, help="Check the file, compare, and write nothing.")
@command_options
@connect.synchronous
async def restore(
    output: Output,
    settings: Settings,
    *,
    file: Path,
    create_store: bool,
    overwrite: bool,
    overwrite_meta: bool,
    only_meta: bool,
    names_inside: bool,
    contexts: tuple[str, ...],
    dry_run: bool,
) -> int:
    """
    Put back what is missing, with its own times.  Needs no secret but with --names-inside.

    \b
    Examples:
      vaultctl restore kv-monday.kvseal --dry-run
      vaultctl restore kv-monday.kvseal --store disk:new --create-store
      vaultctl restore kv-monday.kvseal --only-vault-meta
      vaultctl restore fastmcp.kvseal --store redis://localhost --names-inside

    The whole file is checked before the first write.  What has expired since is left out.
    What is there already stays; where it has another value, it is named (exit code 3) unless
    --overwrite is given.  Run it again to finish one that was interrupted.

    A backup of a store that sanitizes names, such as FastMCP's, has the place of some entries and not their
    names.  It fits into a store of the same kind.  For another kind, --names-inside takes the secret and
    reads the names that the records carry.

    An older vault meta brings back what it accepted: with --overwrite-vault-meta, secrets
    that were rotated away open the vault again, and records sealed since may be lost.  Running
    processes refuse it, unless --secret names a secret that opens the older one: then it becomes
    a new revision, with the DEKs of both, and nothing sealed since is lost.
    """
    async with connect.stores(settings, create=create_store, dry_run=dry_run) as found:
        store = found.data
        if not dry_run:
            connect.require_offline(store, settings)
            replaced = "even the vault meta" if overwrite_meta else "what differs" if overwrite else ""
            if replaced:
                output.confirm(f"Replace {replaced} in {store.location} by what is in {file}?", settings)
        # Only on request: a restore needs no secret.
        asks = overwrite_meta or names_inside
        secret = await connect.given_secret(settings.secret, settings) if asks else None
        if names_inside:
            secret = await secret_for_opening(secret)
        report = await library.restore(
            file,
            store,
            meta_store=found.meta,
            dry_run=dry_run,
            overwrite=overwrite,
            overwrite_meta=overwrite_meta,
            only_meta=only_meta,
            secret=secret,
            names_inside=names_inside,
            contexts=("", *contexts),
            listener=output.event,
        )
    output.ended(report, _restore_text(report))
    _note_what_is_else(output, report)
    if not names_inside and any(failure.key is None for failure in report.failures):
        output.note("of entries without a name, kvseal's records may carry theirs: --names-inside")
    if dry_run:
        output.note("nothing was written; next: the same command without --dry-run")
    elif report.failed:
        output.note("entries that failed were not touched; the command can be run again")
    else:
        output.note("next: vaultctl verify, if there is a vault in it")
    return report.exit_code


def _note_what_is_else(output: Output, report: RestoreReport) -> None:
    """Say what the operator would not expect of a restore."""
    if report.follows:
        output.note("the older vault meta is a new revision now, which running processes follow")
    if report.times is not Times.EXACT:
        output.note(f"this store keeps creation times and expiries {report.times.value}")
    if report.unchecked:
        output.note(
            f"{report.unchecked:,} records are sealed, and no vault meta was seen that opens them:"
            " name the store that has it, --meta-store"
        )


def _backup_text(report: BackupReport) -> str:
    failed = f", {report.failed:,} CANNOT BE RESTORED" if report.failed else ""
    meta = "with" if report.has_vault_meta else "without"
    return (
        f"backup: {_entries(report.scanned)}{failed}, {meta} a vault meta,"
        f" {report.bytes:,} bytes; {report.seconds:.1f} s"
    )


def _restore_text(report: RestoreReport) -> str:
    would = "would be " if report.dry_run else ""
    words = (
        (report.restored, f"{would}restored"),
        (report.overwritten, f"{would}overwritten"),
        (report.already, "already there"),
        (report.expired, "expired since"),
        (report.failed, "FAILED"),
    )
    counts = [f"{number:,} {word}" for number, word in words if number]
    return f"restore: {', '.join((_entries(report.scanned), *counts))}; {report.seconds:.1f} s"


def _entries(number: int) -> str:
    return f"{number:,} entr{'y' if number == 1 else 'ies'}"
