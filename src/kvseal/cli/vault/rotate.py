"""`rotate`: a new secret or cost, a new DEK, or a new root key."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from kvseal.cli import connect
from kvseal.cli.options import command_options
from kvseal.cli.values import Duration, argon2_option
from kvseal.cli.vault.dek import rotate_dek
from kvseal.cli.vault.tables import slots_table, tables_of
from kvseal.errors import KvsealError, UsageError, WrongSecretError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.vault.changing.root_rotation import RootRotated
    from kvseal.vault.status import SlotStatus, VaultStatus


@click.command()
@click.option("--new-secret", metavar="REF", help="The secret that opens the vault from now on.")
@click.option(
    "--keep-old-for", type=Duration(), metavar="DURATION", help="How long the old secret still opens: 24h."
)
@click.option("--dek", is_flag=True, help="Leave the secret, and make a new DEK for new records.")
@click.option("--root", is_flag=True, help="Leave the secrets, and make a new root key.")
@click.option(
    "--slot-secret",
    "slot_secrets",
    metavar="REF",
    multiple=True,
    help="With --root: the secret of another keyslot to keep. Repeatable.",
)
@click.option("--drop-slots", is_flag=True, help="With --root: drop the keyslots whose secret is not given.")
@click.option("--dry-run", is_flag=True, help="Check the secrets, and change nothing.")
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
    root: bool,
    slot_secrets: Sequence[str],
    drop_slots: bool,
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
      vaultctl rotate --root --slot-secret file:recovery.key

    Changes one entry, for any number of records.  It does not undo a leak: a copy of the old
    vault meta still opens with the old secret.  With --keep-old-for, the old secret still opens
    for that time, while a rolling deployment gives every process the new one; then it is refused,
    and the next change of the vault drops its slot.  With --dek, new records get a new key,
    and vaultctl reencrypt re-seals the others under it.

    With --root, for when an attacker may have seen the root key, a new one wraps every DEK.  A
    keyslot stays if its secret is given: --secret for one of them, --slot-secret for each other one.
    """
    _check_options(
        one=new_secret is not None or kdf is not None or keep_old_for is not None,
        dek=dek,
        root=root,
        of_root=bool(slot_secrets) or drop_slots,
    )
    if dek:
        await rotate_dek(output, settings, dry_run=dry_run)
    elif root:
        await _rotate_root(output, settings, slot_secrets, drop_slots=drop_slots, dry_run=dry_run)
    else:
        kept = None if keep_old_for is None else timedelta(seconds=keep_old_for)
        await _rotate_secret(output, settings, new_secret, kdf=kdf, keep_old_for=kept, dry_run=dry_run)


def _check_options(*, one: bool, dek: bool, root: bool, of_root: bool) -> None:
    """Raise `UsageError` for options of different rotations: each is a change of its own."""
    if dek and (one or root):
        msg = "--dek cannot be used together with --new-secret, --keep-old-for, --argon2 or --root"
        raise UsageError(msg, hint="run one after the other")
    if root and one:
        msg = "--root cannot be used together with --new-secret, --keep-old-for or --argon2"
        raise UsageError(
            msg,
            hint="run one after the other, --root first: then the new secret never opened the old root key",
        )
    if of_root and not root:
        msg = "--slot-secret and --drop-slots are for --root: nothing else drops slots"
        raise UsageError(msg, hint="add --root, or leave them out")


async def _rotate_secret(
    output: Output,
    settings: Settings,
    new_secret: str | None,
    *,
    kdf: Argon2idParams | None,
    keep_old_for: timedelta | None,
    dry_run: bool,
) -> None:
    """Re-wrap the root key for a new secret, a new cost or both."""
    if new_secret is None and kdf is None:
        msg = "nothing to rotate to was given"
        raise UsageError(msg, hint="give --new-secret REF, --argon2 T,M,P or both, or --dek, or --root")
    secret = None
    try:
        async with connect.vault(settings) as (_, vault):
            secret = await connect.given_secret(new_secret, settings, confirm=True)
            if dry_run:
                output.result(vault.status(), *tables_of(vault.status()))
                output.note("nothing was written; the slot that opened now would be replaced")
                return
            now = await vault.rotate(new_secret=secret, kdf=kdf, keep_old_for=keep_old_for)
    except WrongSecretError:
        if new_secret is None or not await _was_done(output, settings.overridden(secret=new_secret), kdf):
            raise
        return
    output.done(now, *tables_of(now))
    for line in _told_of_secret(now, new_secret=secret is not None):
        output.note(line)


async def _was_done(output: Output, settings: Settings, kdf: Argon2idParams | None) -> bool:
    """
    Whether an earlier run was stopped after its last write; if so, say that the rotation is done.

    The old secret opens no slot any more.  *settings* name the new one, which opens one of the wanted cost.
    """
    try:
        async with connect.vault(settings) as (_, vault):
            now = vault.status()
    except KvsealError:
        return False
    (opened,) = (slot for slot in now.slots if slot.opened)
    cost = (opened.t, opened.m, opened.p)
    if kdf is not None and cost != (kdf.time_cost, kdf.memory_cost, kdf.parallelism):
        return False
    output.done(now, *tables_of(now))
    output.note(
        f"this rotation is done already: the new secret opens slot {opened.id} ({opened.label}),"
        " and that of --secret opens no slot"
    )
    output.note("next: give the new secret to every process, then vaultctl status")
    return True


async def _rotate_root(
    output: Output, settings: Settings, references: Sequence[str], *, drop_slots: bool, dry_run: bool
) -> None:
    """Make a new root key; only slots that the operator has been shown are dropped."""
    async with connect.vault(settings) as (_, vault):
        secrets = []
        for reference in references:
            secret = await connect.given_secret(reference, settings)
            if secret is not None:
                secrets.append(secret)
        agreed: list[str] = []
        if drop_slots or dry_run:
            plan = await vault.rotate_root(secrets, dry_run=True)
            if dry_run:
                output.result(plan, *tables_of(plan.status))
                output.note(f"nothing was written; the root key would be replaced{_would_go(plan)}")
                return
            agreed = [slot.id for slot in plan.dropped]
            if agreed:
                output.confirm(f"Drop the slots {_names(plan.dropped)}, whose secrets are missing?", settings)
        done = await vault.rotate_root(secrets, drop_slots=agreed)
    dropped = [slots_table(done.dropped, title="Dropped keyslots")] if done.dropped else []
    output.done(done, *tables_of(done.status), *dropped)
    for line in _told_of_root(done):
        output.note(line)


def _told_of_secret(now: VaultStatus, *, new_secret: bool) -> Iterator[str]:
    """Yield what a rotation did, what it does not undo, and the next command."""
    (opened,) = (slot for slot in now.slots if slot.opened)
    ends = [s.expires_at or "" for s in now.slots if s.label == opened.label and not s.opened]
    if ends:
        yield f"the old slot opens until {max(ends)}; the next change of the vault after that drops it"
        yield "a copy of the vault meta from before this rotation, as in a backup, opens without that end"
        yield "next: give the new secret to every process in time, then vaultctl slot list"
    elif new_secret:
        yield (
            "the old slot is gone; a copy of the old vault meta, as in a backup,"
            " still opens with the old secret"
        )
        yield "next: give the new secret to every process, then vaultctl status"
    else:
        yield "the slot has its new cost; a copy of the old vault meta still opens at the old one"
        yield "next: vaultctl status"


def _told_of_root(done: RootRotated) -> Iterator[str]:
    """Yield what a rotation of the root key did, what it does not undo, and the next commands."""
    yield "the root key is new; the old one opens no vault meta that is written from now on"
    yield "a copy of the old vault meta still gives the old DEKs, and they open every record sealed so far"
    if done.dropped:
        yield "a process that opened the vault through a dropped slot seals nothing more after a while"
    yield "next: vaultctl rotate --new-secret REF, with each secret that opens the vault; restart processes"
    yield "then: vaultctl rotate --dek, reencrypt and dek retire, then purge: see docs/operations.md"


def _would_go(plan: RootRotated) -> str:
    return f", and the slots {_names(plan.dropped)} dropped" if plan.dropped else ""


def _names(slots: Sequence[SlotStatus]) -> str:
    return ", ".join(f"{slot.id} ({slot.label})" for slot in slots)
