"""
The table of vaultctl's commands, each of which is loaded when it runs.

A start of the program that shows help, a version or a completion loads none of them: most of its time went
into what only the commands need.  So the first sentences of their help stand here, too; a test compares them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Mapping


class Place(NamedTuple):
    """Where a command is, and what it does."""

    module: str
    """Below `kvseal.cli`."""
    name: str
    summary: str

    def load(self) -> click.Command:
        """Return the command."""
        command: click.Command = getattr(import_module(f"kvseal.cli.{self.module}"), self.name)
        return command


COMMANDS: Final[Mapping[str, Place]] = {
    "backup": Place(
        "store.backup", "backup", "Write every entry as it is stored, still sealed, into a new file."
    ),
    "bench": Place("bench.bench", "bench", "Measure this machine."),
    "completion": Place("completion", "completion", "Print the completion script for SHELL."),
    "dek": Place(
        "vault.dek", "dek", "List the keys that seal records, and retire those that no record needs."
    ),
    "delete": Place("store.records", "delete", "Delete one record."),
    "get": Place(
        "store.records", "get", "Print the value of one record as JSON: it is a secret, mind where it goes."
    ),
    "help": Place("help", "help_command", "Show help on a command, or on a topic: exit-codes."),
    "init": Place("vault.init", "init", "Create the vault: root key, DEK 1 and the first keyslot."),
    "inspect": Place("store.records", "inspect", "Show the header of one record, never its plaintext."),
    "keygen": Place("vault.keygen", "keygen", "Generate a 256-bit master secret as text with a checksum."),
    "list": Place("store.records", "list_", "List the names of all records, or of one collection's."),
    "migrate": Place(
        "migration.general",
        "migrate",
        "Seal a store whose values were encrypted in any way: by a recipe, or by a codec of your own.",
    ),
    "migrate-back": Place(
        "migration.general",
        "migrate_back",
        "Turn every sealed record into one of the old application: the way back from migrate.",
    ),
    "migrate-from-authsome": Place(
        "migration.migrate",
        "migrate_from_authsome",
        "Re-import a vault of authsome: 0.3 and 0.4 (flat), 0.5 and later (envelope), or both in one store.",
    ),
    "migrate-from-fernet": Place(
        "migration.migrate",
        "migrate_from_fernet",
        "Re-import a vault of FernetEncryptionWrapper: in place, or into another store.",
    ),
    "migrate-to-fernet": Place(
        "migration.rollback",
        "migrate_to_fernet",
        "Turn every sealed record into one of FernetEncryptionWrapper: roll a migration back, or leave.",
    ),
    "policy": Place(
        "vault.policy",
        "policy",
        "Show and set the policy: what new values are written as, and when a rotation of the DEK is asked "
        "for.",
    ),
    "purge": Place(
        "store.purge", "purge", "Let the store drop what it keeps of overwritten and deleted records."
    ),
    "put": Place("store.records", "put", "Seal a JSON object, read from stdin, and store it."),
    "reencrypt": Place(
        "migration.reencrypt",
        "reencrypt",
        "Re-seal every record that an older DEK sealed, while the application goes on.",
    ),
    "restore": Place("store.backup", "restore", "Put back what is missing, with its own times."),
    "rotate": Place(
        "vault.rotate", "rotate", "Re-wrap the root key for a new secret and/or a new Argon2id cost."
    ),
    "slot": Place(
        "vault.slot",
        "slot",
        "List, add, verify and remove keyslots: up to 32 ways in, each with a secret of its own.",
    ),
    "status": Place("vault.status", "status", "Show slots, DEKs, policy and legacy keys."),
    "verify": Place(
        "store.verify", "verify", "Open every record, count formats and DEKs, and name what fails."
    ),
}


class LazyCommands(click.Group):
    """A group of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - they are the same everywhere
        """Return the names."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load the command."""
        place = COMMANDS.get(cmd_name)
        return None if place is None else place.load()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and first sentences, as a group does that has loaded its commands."""
        stands_in = {name: click.Command(name, help=place.summary) for name, place in COMMANDS.items()}
        click.Group(commands=stands_in).format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the names, and the options, that begin with *incomplete*."""
        names = [
            CompletionItem(name, help=click.Command(name, help=COMMANDS[name].summary).get_short_help_str())
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]
