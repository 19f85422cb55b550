"""`keygen`: a new master secret."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvseal.cli.options import command_options
from kvseal.secrets.key_file import write_key_file
from kvseal.secrets.secret import generate

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings


@click.command()
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this new file, mode 0600."
)
@command_options
def keygen(output: Output, settings: Settings, *, out: Path | None) -> None:
    """
    Generate a 256-bit master secret as text with a checksum.

    \b
    Examples:
      vaultctl keygen --out master.key
      export KVSEAL_MASTER_KEY="$(vaultctl keygen)"
    """
    del settings
    text = generate().reveal().decode()
    if out is None:
        if output.as_json:
            output.json({"type": "secret", "schema": 1, "secret": text})
        else:
            output.text(text)
        return
    write_key_file(out, text.encode() + b"\n")
    output.note(
        f"wrote {out}; use it as file:{out}, and keep a copy in a safe place: without it nothing can be read"
    )
