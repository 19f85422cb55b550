"""`migrate` and `migrate-back`: from every format that a recipe or a codec describes, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvseal.cli import connect
from kvseal.cli.migration.codecs import NAMES, codec_of, codec_of_options
from kvseal.cli.migration.migrate import migrate_authsome
from kvseal.cli.migration.origin import Origin, origin_of
from kvseal.cli.migration.recipe import AuthsomeKeys
from kvseal.cli.migration.recoding import recode_options
from kvseal.cli.migration.rollback import Way, rolled_back
from kvseal.cli.migration.run import opened_run
from kvseal.cli.migration.workers import begun
from kvseal.cli.options import command_options
from kvseal.cli.values import argon2_option
from kvseal.errors import UsageError
from kvseal.legacy import SealingCodec
from kvseal.legacy.fernet_keys import ENCODINGS
from kvseal.legacy.foreign import ForeignCodec

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvseal.cli.migration.recoding import Recoding
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings


def codec_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a codec and its keys; the command gets them as it is given them."""
    for option in (
        click.option("--key-encoding", type=click.Choice(ENCODINGS), help="How the keys are written."),
        click.option(
            "--key", "keys", metavar="REF", multiple=True, help="A key; repeat to try several in order."
        ),
        click.option(
            "--codec",
            metavar="NAME",
            help=f"{', '.join(NAMES)}, or python:MODULE:CODEC; or a recipe says it.",
        ),
    ):
        function = option(function)
    return function


@click.command()
@codec_options
@recode_options(
    *("recipe", "to", "create_store", "plaintext", "backup", "no_backup", "finalize", "grace"),
    *("prepare", "partition", "workers", "worker", "rate", "wait_for_lease", "dry_run", "check"),
)
@argon2_option
@command_options
@connect.synchronous
async def migrate(output: Output, settings: Settings, *, options: Recoding, **given: Any) -> int:
    """
    Seal a store whose values were encrypted in any way: by a recipe, or by a codec of your own.

    \b
    Examples:
      vaultctl migrate --recipe recipe.toml --dry-run
      vaultctl migrate --codec aes-gcm --key env:STORE_KEY --yes
      vaultctl migrate --codec python:myapp.crypto:Codec --key env:STORE_KEY --yes

    A recipe says which cipher it was, where its parts are and what the associated data is:
    migrations/README.md.  For anything else, docs/legacy-codecs.md shows a codec in Python.
    Everything else is as with migrate-from-fernet, which is its well-known case.
    """
    options, settings = begun(options, settings)
    if (
        given["codec"] is None
        and options.recipe is not None
        and isinstance(options.recipe.source.keys, AuthsomeKeys)
    ):
        return await migrate_authsome(output, settings, options, [options.recipe.source.keys])
    origin = await _origin(options, given, settings)
    if origin.store is not None and settings.store is None:
        settings = settings.overridden(store=origin.store)
    async with opened_run(output, settings, options) as run:
        return await run.migrate(origin, {"plaintext": options.rule})


@click.command("migrate-back")
@codec_options
@recode_options(
    "recipe",
    "to",
    "create_store",
    "backup",
    "no_backup",
    "partition",
    "rate",
    "wait_for_lease",
    "dry_run",
    "check",
)
@command_options
@connect.synchronous
async def migrate_back(output: Output, settings: Settings, *, options: Recoding, **given: Any) -> int:
    """
    Turn every sealed record into one of the old application: the way back from migrate.

    \b
    Examples:
      vaultctl migrate-back --codec aes-gcm --key env:STORE_KEY --dry-run
      vaultctl migrate-back --codec python:myapp.crypto:Codec --key env:STORE_KEY --yes

    Stop every process that uses the vault first: its wrappers cannot read what this writes.
    Of a codec in Python it needs the method seal.  With a recipe, its source says the format; its
    target and its backup are of the way there, and are not looked at.
    """
    recipe, options = options.recipe, options.checked()
    if recipe is not None:
        secret = None if "secret" in settings.given else recipe.target.secret
        store = None if "store" in settings.given else recipe.target.store or recipe.source.store
        settings = settings.overridden(secret=secret, store=store)
    origin = await _origin(options, given, settings)
    codec = next(iter(origin.codecs), None)
    if not isinstance(codec, SealingCodec) or (isinstance(codec, ForeignCodec) and not codec.seals):
        msg = "there is no way back into this format: nothing seals it"
        raise UsageError(msg, hint="give the codec a method seal(value, collection, key)")
    way = Way(codec.format, "the old application")
    return await rolled_back(output, settings, options, codec, way)


async def _origin(options: Recoding, given: dict[str, Any], settings: Settings) -> Origin:
    if given["codec"] is not None:
        stored_format, keys = codec_of_options(given["codec"], given["keys"], given["key_encoding"])
        return Origin((await codec_of(stored_format, keys, settings),))
    if given["keys"] or given["key_encoding"]:
        msg = "--key and --key-encoding belong to --codec"
        raise UsageError(msg, hint="give --codec, or name the keys in the recipe")
    if options.recipe is None:
        msg = "what the records are encrypted with was not said"
        raise UsageError(msg, hint="give --recipe FILE, or --codec and --key")
    return await origin_of(options.recipe, settings)
