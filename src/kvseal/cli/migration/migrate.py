"""`migrate-from-fernet` and `migrate-from-authsome`: an old vault becomes a sealed one."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvseal.cli import connect
from kvseal.cli.migration.origin import Origin, authsome_masters, fastmcp_origin, fernet_origin
from kvseal.cli.migration.recipe import AuthsomeKeys, FastMCPKeys, FernetKeys, NoKeys
from kvseal.cli.migration.recoding import (
    LEFT_OVER,
    backing_up,
    confirm,
    exit_code,
    recode_options,
    target_of,
)
from kvseal.cli.migration.workers import begun, share, with_what_workers_did
from kvseal.cli.options import argon2_option, command_options
from kvseal.errors import ExitCode, UsageError
from kvseal.recoding import Migration, import_keys, migrate, prepare
from kvseal.recoding.authsome import take_over_authsome
from kvseal.recoding.engine import WHOLE
from kvseal.vault.metastore import MetaStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kvseal.cli.migration.recipe import Recipe
    from kvseal.cli.migration.recoding import Recoding
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.drivers.base import Driver
    from kvseal.recoding import Report
    from kvseal.recoding.migration import Options


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
@click.option("--fastmcp-client-secret", metavar="REF", help="The OAuth client secret of a FastMCP server.")
@click.option("--fastmcp-signing-key", metavar="REF", help="The jwt_signing_key of a FastMCP server.")
@click.option("--fastmcp-encryption-key", metavar="REF", help="FASTMCP_OAUTH_ENCRYPTION_KEY of a client.")
@click.option(
    "--fastmcp-server-url",
    "fastmcp_server_urls",
    metavar="URL",
    multiple=True,
    help="A server whose tokens a FastMCP client has stored.",
)
@recode_options()
@argon2_option
@command_options
@connect.synchronous
async def migrate_from_fernet(output: Output, settings: Settings, *, options: Recoding, **given: Any) -> int:
    """
    Re-import a vault of FernetEncryptionWrapper: in place, or into another store.

    \b
    Examples:
      vaultctl migrate-from-fernet --fernet-key env:OLD_KEY --dry-run
      vaultctl migrate-from-fernet --fernet-key env:OLD_KEY --yes
      vaultctl migrate-from-fernet --fernet-key file:new.key --fernet-key file:older.key --yes
      vaultctl migrate-from-fernet --source-material env:STORAGE_SECRET --salt env:STORAGE_SALT
      vaultctl migrate-from-fernet --fernet-key env:OLD_KEY --to disk:/var/lib/app/sealed
      vaultctl migrate-from-fernet --fastmcp-client-secret env:GITHUB_CLIENT_SECRET

    Creates the kvseal vault if there is none yet.  That a key fits, and that there is no
    plaintext, is found out before the first write, and a backup is taken.  Names, creation
    times and expiries stay as they are; records that no key opens stay as they are and are
    named (exit code 3).  Run it again to resume.

    In place the old application has to be stopped, as it cannot read sealed records.  With
    users online, take three steps:

    \b
      vaultctl migrate-from-fernet --fernet-key env:OLD_KEY --import-keys
      # deploy EnvelopeEncryptionWrapper: it reads old records and new ones
      vaultctl migrate-from-fernet --finalize --yes
    """
    options, settings = begun(options, settings)
    origin = await _fernet_or_fastmcp(options.recipe, given, settings)
    if origin.store is not None and settings.store is None:
        output.note(f"the store of this key is {origin.store}")
        settings = settings.overridden(store=origin.store)
    async with _places(output, settings, options) as (found, target):
        extra: Options = {"plaintext": options.rule}
        return await _migrate(output, settings, options, origin, found, target, extra)


@click.command("migrate-from-authsome")
@click.option(
    "--authsome-key-file",
    "key_files",
    type=click.Path(path_type=Path),
    metavar="PATH",
    multiple=True,
    help="The master.key of authsome, of whichever version.",
)
@click.option(
    "--authsome-secret",
    "secrets",
    metavar="REF",
    multiple=True,
    help="AUTHSOME_MASTER_KEY, or keyring:authsome/master_key.",
)
@recode_options(
    *("recipe", "to", "create_store", "backup", "no_backup", "finalize"),
    *("partition", "workers", "worker", "rate", "dry_run", "check"),
)
@argon2_option
@command_options
@connect.synchronous
async def migrate_from_authsome(
    output: Output,
    settings: Settings,
    *,
    options: Recoding,
    key_files: tuple[Path, ...],
    secrets: tuple[str, ...],
) -> int:
    """
    Re-import a vault of authsome: 0.3 and 0.4 (flat), 0.5 and later (envelope), or both in one store.

    \b
    Examples:
      vaultctl migrate-from-authsome --store disk:~/.authsome/server/kv_store \\
          --authsome-key-file ~/.authsome/server/master.key --yes
      vaultctl migrate-from-authsome --authsome-secret env:AUTHSOME_MASTER_KEY --check

    Stop authsome first.  Its own key record lies where the vault meta has to: the new vault
    takes its place and holds its keys, wrapped, in one write.  A home that was upgraded from
    0.4 may need the old key as well as the new secret: both options may be repeated.  Plain
    control data (indexes, the version) stays as it is.
    """
    options, settings = begun(options, settings)
    named = [
        *(AuthsomeKeys(key_file=path) for path in key_files),
        *(AuthsomeKeys(secret=reference) for reference in secrets),
    ]
    if options.recipe is not None:
        if not isinstance(options.recipe.source.keys, AuthsomeKeys):
            raise _foreign(options.recipe)
        named = named or [options.recipe.source.keys]
    masters = [master for keys in named for master in await authsome_masters(keys, settings)]
    async with _places(output, settings, options) as (found, target):
        takeover = await take_over_authsome(found.data, masters)
        # Another store has no record of authsome's to make room.
        adopts = takeover.adopts if target is None else None
        extra: Options = {"plaintext": options.rule, "leaves": takeover.leaves, "adopts": adopts}
        return await _migrate(output, settings, options, Origin(takeover.legacy), found, target, extra)


async def _migrate(
    output: Output,
    settings: Settings,
    options: Recoding,
    origin: Origin,
    found: connect.Stores,
    target: Driver | None,
    extra: Options,
) -> int:
    creates = options.writes and not await _has_vault(found, target, extra)
    extra["secret"] = await connect.given_secret(settings.secret, settings, confirm=creates)
    extra["meta_store"], extra["pin"] = found.meta, settings.pin
    if options.kdf is not None:
        extra["kdf"] = options.kdf
    if options.import_keys:
        if not origin.keys:
            msg = "there are no keys to import"
            raise UsageError(msg, hint="name them, such as with --fernet-key REF")
        done = await import_keys(
            found.data, origin.keys, dry_run=not options.writes, listener=output.event, **extra
        )
        _tell_imported(output, done)
        return 0
    done = await _recoded(output, settings, options, origin, found, target, extra)
    return _tell_migrated(output, done, options)


async def _recoded(
    output: Output,
    settings: Settings,
    options: Recoding,
    origin: Origin,
    found: connect.Stores,
    target: Driver | None,
    extra: Options,
) -> Migration:
    command = click.get_current_context().command.name or "migrate"
    back_up, shared = backing_up(output, options), None
    if options.is_shared:
        vault = await prepare(
            found.data,
            origin.codecs,
            to=target,
            before_writes=back_up,
            command=command,
            listener=output.event,
            **extra,
        )
        shared = await share(output, settings, options.workers or 1)
        if shared.failed or not options.finalize:
            return Migration(shared, vault)
    done = await migrate(
        found.data,
        origin.codecs,
        to=target,
        partition=options.part,
        rate=options.rate,
        finalize=bool(options.finalize),
        dry_run=not options.writes,
        before_writes=None if shared else back_up,
        command=command,
        listener=output.event,
        **extra,
    )
    if shared is None or done.report is None:
        return done
    return replace(done, report=with_what_workers_did(done.report, shared))


@asynccontextmanager
async def _places(
    output: Output, settings: Settings, options: Recoding
) -> AsyncIterator[tuple[connect.Stores, Driver | None]]:
    """Yield the stores, and that of `--to`, once a person has agreed."""
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(
            connect.stores(settings, create_meta=bool(options.create_store), dry_run=not options.writes)
        )
        target = await target_of(stack, found.data, options)
        if target is None and options.writes:
            connect.require_offline(found.data, settings)
        if not options.import_keys and options.worker is None:
            confirm(output, settings, options, found.data, "Re-seal every record of {} in place?")
        yield found, target


async def _has_vault(found: connect.Stores, target: Driver | None, extra: Options) -> bool:
    adopts = extra.get("adopts")
    adopted = None if adopts is None or found.meta is not None else adopts.record
    async with MetaStore.reached(found.meta or target or found.data) as metastore:
        return (await metastore.find(adopted)).meta is not None


async def _fernet_or_fastmcp(recipe: Recipe | None, given: dict[str, Any], settings: Settings) -> Origin:
    fernet = FernetKeys(given["fernet_keys"], given["source_material"], given["salt"])
    fastmcp = FastMCPKeys(
        given["fastmcp_client_secret"],
        given["fastmcp_signing_key"],
        given["fastmcp_encryption_key"],
        given["fastmcp_server_urls"],
    )
    named = [fastmcp.client_secret, fastmcp.signing_key, fastmcp.encryption_key]
    keys = [*fernet.keys, fernet.source_material, fernet.salt, *named]
    if not any(keys) and recipe is not None:
        return await _of_recipe(recipe, settings)
    if not any(named):
        return await fernet_origin(fernet, settings)
    if any(keys[: -len(named)]) or named.count(None) != len(named) - 1:
        msg = "the options name the keys of more than one vault"
        raise UsageError(
            msg, hint="give --fernet-key, or --source-material and --salt, or one --fastmcp- key"
        )
    return await fastmcp_origin(fastmcp, settings)


async def _of_recipe(recipe: Recipe, settings: Settings) -> Origin:
    keys = recipe.source.keys
    if isinstance(keys, FernetKeys):
        return await fernet_origin(keys, settings)
    if isinstance(keys, FastMCPKeys):
        return await fastmcp_origin(keys, settings)
    if isinstance(keys, NoKeys) and recipe.source.format == "plaintext":
        return Origin()
    raise _foreign(recipe)


def _foreign(recipe: Recipe) -> UsageError:
    msg = f"{recipe.path} is not a recipe for this command, but for {recipe.source.format}"
    return UsageError(msg, hint="see vaultctl -h for the command of that format")


def _tell_imported(output: Output, done: Migration) -> None:
    if done.vault is None or not done.vault.legacy:
        output.note("nothing was written; the keys fit")
        return
    held = len(done.vault.legacy)
    output.note(f"the vault holds {held} old key{'s'[: held != 1]}, and its wrappers read old records")
    output.note("next: deploy EnvelopeEncryptionWrapper everywhere, then run this with --finalize")


def _tell_migrated(output: Output, done: Migration, options: Recoding) -> int:
    report = done.report
    if report is None:
        raise AssertionError
    output.summary(report)
    code = exit_code(report, options)
    if report.dry_run:
        todo = (
            "next: the same command without --dry-run or --check"
            if report.changed
            else "nothing is left to do"
        )
        output.note(f"nothing was written; {todo}")
        return code
    if done.vault is not None:
        output.note(f"DEK {done.vault.active_dek} is active in vault {done.vault.vault_id}")
    _tell_next(output, done, report, options)
    return ExitCode.WORK_PENDING if options.finalize and not (done.finalized or report.failed) else code


def _tell_next(output: Output, done: Migration, report: Report, options: Recoding) -> None:
    if report.failed:
        output.note("what failed is untouched and may need the old key: keep that until nothing fails")
        output.note("next: run again with the key that opens what failed, or delete what nothing opens")
    elif report.pending and not options.finalize:
        output.note(LEFT_OVER)
    elif options.part != WHOLE:
        index, count = options.part
        output.note(
            f"part {index + 1} of {count} is done; next: the other parts, then this without --partition"
        )
    elif options.finalize and not done.finalized:
        output.note("not finalized: something wrote old records meanwhile; stop it, and run this again")
    elif done.finalized:
        output.note("finalized: nothing old is left, old reads have ended and the old keys are dropped")
    elif done.vault is not None and done.vault.legacy:
        output.note("next: run this with --finalize to end old reads and drop the old keys")
    else:
        output.note("next: vaultctl verify, then deploy EnvelopeEncryptionWrapper and retire the old key")
