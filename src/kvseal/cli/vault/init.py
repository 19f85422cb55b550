"""`init`: a new vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvseal.cli import connect
from kvseal.cli.options import command_options
from kvseal.cli.values import Duration, argon2_option
from kvseal.cli.vault.policy import age_of
from kvseal.cli.vault.tables import tables_of
from kvseal.errors import SecretNotFoundError
from kvseal.keys.policy import MOST_DEK_RECORDS, Policy, whole_seconds
from kvseal.secrets.given import names_wrap_key, secret_for_opening
from kvseal.vault.creation import check_creation
from kvseal.vault.metastore import MetaStore
from kvseal.vault.vault import Vault

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.secrets.sources import Unlocker


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
        output.done(vault.status(), *tables_of(vault.status()))
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
