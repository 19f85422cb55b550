"""vaultctl: the program.  Maps every error to its message, its hint and its exit code."""

from __future__ import annotations

import sys
import traceback
from dataclasses import asdict, dataclass
from typing import Any

import click

from kvseal.cli.bench.bench import bench
from kvseal.cli.completion import completion
from kvseal.cli.help import help_command
from kvseal.cli.migration.general import migrate, migrate_back
from kvseal.cli.migration.migrate import migrate_from_authsome, migrate_from_fernet
from kvseal.cli.migration.reencrypt import reencrypt
from kvseal.cli.migration.rollback import migrate_to_fernet
from kvseal.cli.options import global_options
from kvseal.cli.output import json_line, printable
from kvseal.cli.settings import Settings
from kvseal.cli.signals import end_at_once, interruptible_by_all
from kvseal.cli.store.backup import backup, restore
from kvseal.cli.store.purge import purge
from kvseal.cli.store.records import delete, get, inspect, list_, put
from kvseal.cli.store.verify import verify
from kvseal.cli.streams import prepare, settle, tell
from kvseal.cli.vault.dek import dek
from kvseal.cli.vault.init import init
from kvseal.cli.vault.keygen import keygen
from kvseal.cli.vault.policy import policy
from kvseal.cli.vault.rotate import rotate
from kvseal.cli.vault.slot import slot
from kvseal.cli.vault.status import status
from kvseal.errors import ExitCode, KvsealError


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    # A usage error like any other: click would report the whole help text as its message.
    no_args_is_help=False,
)
@click.version_option(package_name="kvseal", message="vaultctl %(version)s")
@global_options
def cli() -> None:
    """
    Create, migrate, rotate and verify kvseal vaults.

    \b
    Examples:
      export VAULTCTL_STORE=disk:/var/lib/app/kv KVSEAL_MASTER_KEY=…
      vaultctl init
      vaultctl migrate-from-fernet --fernet-key env:OLD_FERNET_KEY --yes
      vaultctl rotate --new-secret file:new.key
      vaultctl verify
    """


for _command in (
    init,
    status,
    migrate_from_fernet,
    migrate_from_authsome,
    migrate_to_fernet,
    migrate,
    migrate_back,
    rotate,
    reencrypt,
    dek,
    policy,
    purge,
    slot,
    verify,
    inspect,
    get,
    put,
    delete,
    list_,
    backup,
    restore,
    keygen,
    bench,
    completion,
    help_command,
):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    prepare()
    code = run(sys.argv[1:] if arguments is None else arguments)
    end_at_once()
    settle()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        with interruptible_by_all():
            code: Any = cli.main(
                arguments,
                prog_name="vaultctl",
                standalone_mode=False,
                obj=Settings(arguments=tuple(arguments)),
            )
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except BrokenPipeError:
        # The process that read our output has ended, as `head` does.
        return ExitCode.FAILED
    except (click.Abort, KeyboardInterrupt, click.ClickException, Exception) as exc:  # noqa: BLE001
        if "--debug" in arguments:
            tell(traceback.format_exc(), nl=False)
        return _report(_explain(exc), as_json="--json" in arguments)
    return code if isinstance(code, int) else 0


@dataclass(frozen=True, slots=True)
class _Fatal:
    """Why a command ended early."""

    code: int
    error: str
    message: str
    hint: str


def _explain(error: BaseException) -> _Fatal:
    name = type(error).__name__
    if isinstance(error, KvsealError):
        return _Fatal(error.exit_code, name, str(error), error.hint)
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path} -h shows how" if context is not None else ""
        return _Fatal(ExitCode.USAGE, name, error.format_message(), hint)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return _Fatal(ExitCode.INTERRUPTED, name, "interrupted", "run the same command again to resume")
    hint = "this is a fault of vaultctl: run it again with --debug and report what it shows"
    return _Fatal(ExitCode.FAILED, name, f"unexpected {name}", hint)


def _report(fatal: _Fatal, *, as_json: bool) -> int:
    if as_json:
        tell(json_line({"type": "error", "schema": 1, **asdict(fatal)}))
        return fatal.code
    tell(f"vaultctl: error: {printable(fatal.message[:1].lower() + fatal.message[1:])}")
    for line in fatal.hint.splitlines():
        tell(f"hint: {printable(line)}")
    return fatal.code
