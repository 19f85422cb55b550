"""vaultctl: the program.  Maps every error to its message, its hint and its exit code."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import click

from kvseal.cli.commands import LazyCommands
from kvseal.cli.options import global_options
from kvseal.cli.settings import Settings
from kvseal.cli.signals import end_at_once, interruptible_by_all
from kvseal.cli.streams import prepare, settle

NO_BEARTYPE: Final = "PY_KEY_VALUE_DISABLE_BEARTYPE"


@click.group(
    cls=LazyCommands,
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


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    # py-key-value checks the types of every call with beartype, which this program's own types make needless.
    os.environ.setdefault(NO_BEARTYPE, "true")
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
        return _failed()
    except (click.Abort, KeyboardInterrupt, click.ClickException, Exception) as exc:  # noqa: BLE001
        from kvseal.cli.failure import report  # noqa: PLC0415 - most runs of the program have no error

        return report(exc, arguments)
    return code if isinstance(code, int) else 0


def _failed() -> int:
    from kvseal.errors import ExitCode  # noqa: PLC0415 - as above

    return ExitCode.FAILED
