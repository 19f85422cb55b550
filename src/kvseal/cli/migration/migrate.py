"""`migrate-from-fernet` and `migrate-from-authsome`: an old vault becomes a sealed one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvseal.cli import connect
from kvseal.cli.migration.origin import Origin, authsome_masters, fernet_or_fastmcp_origin, foreign_recipe
from kvseal.cli.migration.recipe import AuthsomeKeys
from kvseal.cli.migration.recoding import recode_options
from kvseal.cli.migration.run import opened_run
from kvseal.cli.migration.workers import begun
from kvseal.cli.options import command_options
from kvseal.cli.values import argon2_option
from kvseal.errors import KDFParametersError
from kvseal.legacy.fernet_keys import ENCODINGS, KDF_FORMS, parse_kdf
from kvseal.recoding.authsome import take_over_authsome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.cli.migration.recoding import Recoding
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.legacy.fernet_keys import KeyDerivation
    from kvseal.recoding.migration import Options


if TYPE_CHECKING:
    _KdfType = click.ParamType[KeyDerivation]
else:
    # Older releases of click have no generic ParamType.
    _KdfType = click.ParamType


class FernetKdf(_KdfType):
    """How a Fernet key was derived, in one of the forms that the library knows."""

    name = "kdf"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> KeyDerivation:
        """Return the derivation, or fail with what is wrong."""
        try:
            return parse_kdf(value)
        except KDFParametersError as exc:
            self.fail(str(exc), param, ctx)


@click.command("migrate-from-fernet")
@click.option(
    "--fernet-key",
    "fernet_keys",
    metavar="REF",
    multiple=True,
    help="A Fernet key, or several with commas or white space between; repeat to try more, in order.",
)
@click.option("--source-material", metavar="REF", help="What the old application derived its key from …")
@click.option("--salt", metavar="REF", help="… and its salt.")
@click.option(
    "--fernet-kdf",
    type=FernetKdf(),
    metavar="KDF",
    help=f"How: {KDF_FORMS}.  [default: as FernetEncryptionWrapper]",
)
@click.option(
    "--source-material-encoding", type=click.Choice(ENCODINGS), help="How it is written.  [default: raw]"
)
@click.option("--salt-encoding", type=click.Choice(ENCODINGS), help="How it is written.  [default: raw]")
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
      vaultctl migrate-from-fernet --source-material file:passphrase --fernet-kdf sha256
      vaultctl migrate-from-fernet --fernet-key env:OLD_KEY --to disk:/var/lib/app/sealed
      vaultctl migrate-from-fernet --fastmcp-client-secret env:GITHUB_CLIENT_SECRET

    Creates the kvseal vault if there is none yet.  Before the first
    write the whole store is checked, for a key that fits and for plaintext, and a backup is
    taken.  Names, creation times and expiries stay as they are; records that no key opens stay
    as they are and are named (exit code 3).  Run it again to resume.

    In place the old application has to be stopped, as it cannot read sealed records.  With
    users online, take three steps:

    \b
      vaultctl migrate-from-fernet --fernet-key env:OLD_KEY --import-keys
      # deploy EnvelopeEncryptionWrapper: it reads old records and new ones
      vaultctl migrate-from-fernet --finalize --yes
    """
    options, settings = begun(options, settings)
    origin = await fernet_or_fastmcp_origin(options.recipe, given, settings)
    if origin.store is not None and settings.store is None:
        output.note(f"this key belongs to the store {origin.store}")
        settings = settings.overridden(store=origin.store)
    async with opened_run(output, settings, options) as run:
        return await run.migrate(origin, {"plaintext": options.rule})


@click.command("migrate-from-authsome")
@click.option(
    "--authsome-key-file",
    "key_files",
    type=click.Path(path_type=Path),
    metavar="PATH",
    multiple=True,
    help="The master.key of authsome, of any version.",
)
@click.option(
    "--authsome-secret",
    "secrets",
    metavar="REF",
    multiple=True,
    help="AUTHSOME_MASTER_KEY, or keyring:authsome/master_key.",
)
@recode_options(
    *("recipe", "to", "create_store", "backup", "no_backup", "finalize", "grace"),
    *("prepare", "partition", "workers", "worker", "rate", "wait_for_lease", "dry_run", "check"),
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

    Stop authsome first.  Its key record is at the place of the vault meta: the new vault
    replaces it and holds its keys, wrapped, in one write.  A home that was upgraded from 0.4
    may need the old key as well as the new secret: both options may be repeated.  Plain
    control data (indexes, the version) stays as it is.
    """
    options, settings = begun(options, settings)
    named = [
        *(AuthsomeKeys(key_file=path) for path in key_files),
        *(AuthsomeKeys(secret=reference) for reference in secrets),
    ]
    if options.recipe is not None:
        if not isinstance(options.recipe.source.keys, AuthsomeKeys):
            raise foreign_recipe(options.recipe)
        named = named or [options.recipe.source.keys]
    return await migrate_authsome(output, settings, options, named)


async def migrate_authsome(
    output: Output, settings: Settings, options: Recoding, named: Sequence[AuthsomeKeys]
) -> int:
    """Migrate a store of authsome's with the keys that are *named*, and return the exit code."""
    masters = [master for keys in named for master in await authsome_masters(keys, settings)]
    async with opened_run(output, settings, options) as run:
        takeover = await take_over_authsome(run.found.data, masters)
        # Another store has no record of authsome's to make room.
        adopts = takeover.adopts if run.target is None else None
        how: Options = {"plaintext": options.rule, "leaves": takeover.leaves, "adopts": adopts}
        return await run.migrate(Origin(takeover.legacy), how)
