"""`slot list|add|verify|remove`: independent ways into the vault, a recovery key among them."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from kvseal.cli import connect
from kvseal.cli.options import command_options, global_options
from kvseal.cli.values import Duration, argon2_option
from kvseal.cli.vault.tables import slots_table
from kvseal.errors import MistypedSecretError, UsageError
from kvseal.secrets.secret import generate_recovery_key
from kvseal.vault.changing.slots import RECOVERY

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.secrets.secret import Secret
    from kvseal.vault.status import SlotStatus, VaultStatus

_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class _Shown:
    """Some keyslots, and the revision of the vault meta that they are from."""

    revision: int
    slots: tuple[SlotStatus, ...]

    def as_dict(self) -> dict[str, Any]:
        slots = [asdict(slot) for slot in self.slots]
        return {"type": "slots", "schema": 1, "revision": self.revision, "slots": slots}


def _show(output: Output, now: VaultStatus, *, only_opened: bool = False) -> None:
    slots = tuple(slot for slot in now.slots if slot.opened or not only_opened)
    output.result(_Shown(now.revision, slots), slots_table(slots))


@click.group(no_args_is_help=False)
@global_options
def slot() -> None:
    """
    List, add, verify and remove keyslots: up to 32 ways in, each with a secret of its own.

    \b
    Examples:
      vaultctl slot list
      vaultctl slot add --recovery
      vaultctl slot add --label backup-host --new-secret file:backup.key
      vaultctl slot verify --secret file:backup.key
      vaultctl slot remove backup-host
    """


@slot.command("list")
@command_options
@connect.synchronous
async def list_(output: Output, settings: Settings) -> None:
    """
    Show every keyslot.

    \b
    Examples:
      vaultctl slot list
      vaultctl slot list --json
    """
    async with connect.vault(settings) as (_, vault):
        _show(output, vault.status())


@slot.command()
@click.option("--label", help="The name of the slot; of a recovery key, by default, recovery.")
@click.option("--new-secret", metavar="REF", help="The secret that will open the vault too.")
@click.option("--recovery", is_flag=True, help="Generate a recovery key and print it, once.")
@click.option(
    "--expires-in", type=Duration(), metavar="DURATION", help="Refuse the slot after this time: 30d."
)
@click.option("--dry-run", is_flag=True, help="Check the secrets and the label, and add nothing.")
@argon2_option
@command_options
@connect.synchronous
async def add(
    output: Output,
    settings: Settings,
    *,
    label: str | None,
    new_secret: str | None,
    recovery: bool,
    expires_in: float | None,
    dry_run: bool,
    kdf: Argon2idParams | None,
) -> None:
    """
    Add a keyslot, and open it from what was stored before saying so.

    \b
    Examples:
      vaultctl slot add --recovery
      vaultctl slot add --label backup-host --new-secret file:backup.key
      vaultctl slot add --label audit --new-secret prompt: --expires-in 30d

    A generated secret, and a recovery key, has 256 random bits, which no Argon2id cost makes
    harder to guess: without --argon2 its slot has the light cost owasp-minimum.  A recovery key
    has to be typed back where there is a terminal; until then its slot expires within the hour.
    """
    name = _checked_label(label, new_secret=new_secret, recovery=recovery, expires=expires_in is not None)
    async with connect.vault(settings) as (_, vault):
        secret = await connect.given_secret(new_secret, settings, confirm=True)
        if secret is None and not dry_run:
            await vault.slots.add_recovery(partial(_handed_over, output, settings), label=name, kdf=kdf)
        else:
            ends = None if expires_in is None else timedelta(seconds=expires_in)
            given = secret or generate_recovery_key()
            await vault.slots.add(given, label=name, kdf=kdf, expires_in=ends, dry_run=dry_run)
        _show(output, vault.status())
    if dry_run:
        output.note(f"nothing was written; a slot {name} would be added")
        return
    if secret is None:
        output.note("keep the recovery key offline: it opens the vault and all backups")
        output.note("next: vaultctl slot verify --secret prompt: now and then, to check that it still opens")
        return
    output.note(f"the slot {name} was opened from what is stored")
    output.note("next: vaultctl slot verify --secret REF on the machine that will use it")


def _checked_label(label: str | None, *, new_secret: str | None, recovery: bool, expires: bool) -> str:
    """Return the label to add, or raise `UsageError` for options that do not go together."""
    if recovery == (new_secret is not None):
        msg = "a slot is for one secret"
        raise UsageError(msg, hint="give either --new-secret REF or --recovery")
    if recovery and expires:
        msg = "a recovery key that expires would not be there when it is needed"
        raise UsageError(msg, hint="leave --expires-in out")
    if label is None and not recovery:
        msg = "the slot needs a name"
        raise UsageError(msg, hint="give --label NAME")
    return label or RECOVERY


async def _handed_over(output: Output, settings: Settings, key: Secret, added: SlotStatus) -> bool:
    """Print *key*, and return whether a person, where one is there, has typed it back."""
    text = key.reveal().decode()
    if output.as_json:
        output.json({"type": "recovery_key", "schema": 1, "slot": added.id, "recovery_key": text})
    else:
        output.text(text)
    sys.stdout.flush()
    return not settings.may_ask or await _typed_back(output, settings, key)


async def _typed_back(output: Output, settings: Settings, key: Secret) -> bool:
    for _ in range(_ATTEMPTS):
        try:
            if await connect.given_secret("prompt:Type the recovery key", settings) == key:
                return True
            output.note("that is another secret; compare it with what was printed")
        except MistypedSecretError as exc:
            output.note(str(exc))
    return False


@slot.command()
@command_options
@connect.synchronous
async def verify(output: Output, settings: Settings) -> None:
    """
    Say which slot the secret opens.

    \b
    Examples:
      vaultctl slot verify --secret prompt:
      vaultctl slot verify --secret file:backup.key

    Exits with 12 if it opens none.
    """
    async with connect.vault(settings) as (_, vault):
        _show(output, vault.status(), only_opened=True)


@slot.command()
@click.argument("name", metavar="SLOT")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@command_options
@connect.synchronous
async def remove(output: Output, settings: Settings, *, name: str, dry_run: bool) -> None:
    """
    Remove the keyslot with this id or label.

    \b
    Examples:
      vaultctl slot remove backup-host
      vaultctl slot remove 0123456789abcdef --yes

    The last slot that does not expire stays.  A copy of the old vault meta, as in a backup,
    still opens with the removed slot's secret.
    """
    async with connect.vault(settings) as (_, vault):
        going = vault.slots.named(name)
        if dry_run:
            await vault.slots.remove(going.id, dry_run=True)
            _show(output, vault.status())
            output.note(f"nothing was written; the slot {going.id} ({going.label}) would be removed")
            return
        own = ", which is the one that its secret opened now" if going.opened else ""
        output.confirm(f"Remove the slot {going.id} ({going.label}){own}?", settings)
        await vault.slots.remove(going.id)
        _show(output, vault.status())
    output.note("the slot is gone; a copy of the old vault meta, as in a backup, still opens with its secret")
    output.note("next: vaultctl slot verify --secret REF with a secret that should open the vault")
