"""`policy`: what new values are written as, and when a rotation of the DEK is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from kvseal.cli import connect
from kvseal.cli.options import command_options, global_options
from kvseal.cli.output import Table
from kvseal.cli.values import Duration
from kvseal.cli.vault.tables import rows_of
from kvseal.envelope.record import Binding
from kvseal.errors import UsageError
from kvseal.keys.policy import LONGEST_DEK_AGE, MOST_DEK_RECORDS, SEALED, Hold
from kvseal.legacy import FERNET

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.vault.status import VaultStatus


@dataclass(frozen=True, slots=True)
class _Shown:
    """The policy, and the revision of the vault meta that it is from."""

    revision: int
    policy: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"type": "policy", "schema": 1, "revision": self.revision, "policy": self.policy}


@click.group(no_args_is_help=False)
@global_options
def policy() -> None:
    """
    Show and set the policy: what new values are written as, and when a rotation of the DEK is asked for.

    \b
    Examples:
      vaultctl policy show
      vaultctl policy set --max-dek-age 90d
      vaultctl policy set --max-dek-records 10000000
      vaultctl policy seal
      vaultctl policy hold
    """


@policy.command("show")
@command_options
@connect.synchronous
async def show(output: Output, settings: Settings) -> None:
    """
    Show the policy that the vault meta holds.

    \b
    Examples:
      vaultctl policy show
      vaultctl policy show --json
    """
    async with connect.vault(settings) as (_, vault):
        _tell(output, vault.status())


@policy.command("set")
@click.option(
    "--max-dek-age", type=Duration(), metavar="DURATION", help="Ask when the active DEK is this old."
)
@click.option("--no-max-dek-age", is_flag=True, help="Ask at the default age, 365d.")
@click.option(
    "--max-dek-records",
    type=click.IntRange(1, MOST_DEK_RECORDS),
    metavar="N",
    help="Ask when the active DEK seals more records.",
)
@click.option("--no-max-dek-records", is_flag=True, help="Do not ask because of their number.")
@click.option(
    "--names-inside/--no-names-inside",
    default=None,
    help="Let every record carry its names, also on a store that keeps them.",
)
@click.option("--dry-run", is_flag=True, help="Open the vault, and change nothing.")
@command_options
@connect.synchronous
async def set_(
    output: Output,
    settings: Settings,
    *,
    max_dek_age: float | None,
    no_max_dek_age: bool,
    max_dek_records: int | None,
    no_max_dek_records: bool,
    names_inside: bool | None,
    dry_run: bool,
) -> None:
    """
    Set the policy; what is not named stays.

    \b
    Examples:
      vaultctl policy set --max-dek-age 90d --max-dek-records 10000000
      vaultctl policy set --no-max-dek-records
      vaultctl policy set --names-inside

    On a store that loses names, such as a sanitizing file tree, records always carry them.  With
    --names-inside they do everywhere, from the next write on; vaultctl reencrypt seals the others anew.
    --no-names-inside goes back to those stores alone.

    The limits are soft: nothing is refused once they are passed, but vaultctl status asks for a
    rotation, and vaultctl status --check exits with 4.  They are part of the vault meta, which a writer
    to the store cannot change undetected.
    """
    age = _one_of("--max-dek-age", max_dek_age, no_max_dek_age)
    records = _one_of("--max-dek-records", max_dek_records, no_max_dek_records)
    if age == records == "keep" and names_inside is None:
        msg = "no policy to set was given"
        raise UsageError(msg, hint="give --max-dek-age, --max-dek-records or --names-inside")
    async with connect.vault(settings) as (_, vault):
        if names_inside and vault.meta.policy.binding != Binding.COLLECTION_AND_KEY:
            msg = "the policy binds records to less than both names, so they carry none"
            raise UsageError(msg, hint="use --names-inside in a vault that binds collection and key")
        if dry_run:
            _tell(output, vault.status())
            output.note("nothing was written")
            return
        now = await vault.set_policy(
            max_dek_age=age_of(age) if isinstance(age, float) else age,
            max_dek_records=records,
            names_inside="keep" if names_inside is None else names_inside,
        )
    _tell(output, now)
    output.note("next: run vaultctl status --check from cron or CI")


@policy.command("seal")
@click.option("--dry-run", is_flag=True, help="Open the vault, and change nothing.")
@command_options
@connect.synchronous
async def seal(output: Output, settings: Settings, *, dry_run: bool) -> None:
    """
    Flip the vault: new values are sealed from now on, and no longer written in the old format.

    \b
    Examples:
      vaultctl policy seal

    Every process follows within seconds, without a restart, and reads both. An old release cannot read what
    is sealed: deploy the new one everywhere first. vaultctl policy hold flips back, until the migration is
    finalized.
    """
    await _write(output, settings, SEALED, dry_run=dry_run)
    output.note("next: vaultctl migrate-from-fernet, then the same with --finalize")


@policy.command("hold")
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Hold)),
    default=FERNET,
    show_default=True,
    help="The old format.",
)
@click.option("--dry-run", is_flag=True, help="Open the vault, and change nothing.")
@command_options
@connect.synchronous
async def hold(output: Output, settings: Settings, *, form: str, dry_run: bool) -> None:
    """
    Flip back: new values are written in the old format from now on, under the key that the vault holds.

    \b
    Examples:
      vaultctl policy hold
      vaultctl policy hold --format plaintext

    A process writes the old format only if it was configured with hold=, and refuses to write anything
    otherwise. What is sealed already stays sealed, and old releases cannot read it: vaultctl
    migrate-to-fernet brings it back.
    """
    await _write(output, settings, form, dry_run=dry_run)
    output.note("next: before an old release is deployed again, vaultctl migrate-to-fernet")


async def _write(output: Output, settings: Settings, form: str, *, dry_run: bool) -> None:
    async with connect.vault(settings) as (_, vault):
        if dry_run:
            _tell(output, vault.status())
            output.note("nothing was written")
            return
        now = await vault.write_as(form)
    _tell(output, now)


@policy.command("drop-extension")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Open the vault, and change nothing.")
@command_options
@connect.synchronous
async def drop_extension(output: Output, settings: Settings, *, name: str, dry_run: bool) -> None:
    """
    Remove the part NAME that a later kvseal has added to the vault meta.

    \b
    Examples:
      vaultctl policy drop-extension NAME --yes

    What the part was for is lost. A release that does not know a critical part reads records, and seals and
    changes nothing, until it is upgraded or the part is removed. vaultctl status names the parts.
    """
    async with connect.vault(settings) as (_, vault):
        if dry_run:
            vault.meta.extensions.without(name)
            _tell(output, vault.status())
            output.note("nothing was written")
            return
        output.confirm(f"Remove the extension {name}, and lose what it is for?", settings)
        now = await vault.drop_extension(name)
    _tell(output, now)


def age_of(seconds: float) -> timedelta:
    """Return the age that a duration names, or raise `UsageError` where a policy cannot keep it."""
    if seconds % 1 or seconds > LONGEST_DEK_AGE:
        msg = "the age of a DEK is a whole number of seconds, and no more than a hundred years"
        raise UsageError(msg, hint="give --max-dek-age as in 90d")
    return timedelta(seconds=seconds)


def _one_of(option: str, value: Any, none: bool) -> Any | Literal["keep"] | None:
    if value is not None and none:
        msg = f"{option} and --no-{option.removeprefix('--')} cannot be used together"
        raise UsageError(msg, hint="choose one")
    if none:
        return None
    return "keep" if value is None else value


def _tell(output: Output, now: VaultStatus) -> None:
    output.result(_Shown(now.revision, now.policy), _table(now.policy))


def _table(policy: dict[str, Any]) -> Table:
    return Table("", ("", ""), rows_of(policy))
