"""`inspect`, `get`, `put`, `delete` and `list`: one record at a time."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from key_value.aio.errors import InvalidTTLError

from kvseal import exact_json
from kvseal.cli import connect
from kvseal.cli.options import command_options
from kvseal.cli.output import Table, ascii_json, interruptible, printable
from kvseal.cli.streams import tell
from kvseal.cli.values import Duration, contexts_option, names_inside_option
from kvseal.drivers.abilities import loses_names
from kvseal.envelope.stored import has_names_inside
from kvseal.errors import UsageError, VaultHeldError
from kvseal.keys.keyring import codec_key
from kvseal.records import by_name

if TYPE_CHECKING:
    from kvseal.cli.output import Output
    from kvseal.cli.settings import Settings
    from kvseal.drivers.base import Entry


@click.command()
@click.argument("collection")
@click.argument("key")
@command_options
@connect.synchronous
async def inspect(output: Output, settings: Settings, *, collection: str, key: str) -> None:
    """
    Show the header of one record, never its plaintext.  Needs no secret.

    \b
    Examples:
      vaultctl inspect default_collection session-7
    """
    async with connect.stores(settings) as found:
        info = await by_name.inspect_record(found.data, collection, key)
    rows = [(name.replace("_", " "), value) for name, value in info.as_dict().items() if value is not None]
    output.result(info, Table("", ("", ""), rows))


@click.command()
@click.argument("collection")
@click.argument("key")
@command_options
@connect.synchronous
async def get(output: Output, settings: Settings, *, collection: str, key: str) -> None:
    """
    Print the value of one record as JSON: it is a secret, mind where it goes.

    \b
    Examples:
      vaultctl get default_collection session-7 | jq .access_token
    """
    async with connect.vault(settings) as (found, vault):
        value = await by_name.get_record(found.data, vault.codecs[""], collection, key)
    text, portable = exact_json.dumps(value)
    output.text(ascii_json(text.decode()) if portable else exact_json.ascii_text(value))


@click.command()
@click.argument("collection")
@click.argument("key")
@click.option(
    "--value-file", type=click.File("rb"), default="-", help="Read the value from this file, not from stdin."
)
@click.option("--ttl", type=Duration(), metavar="DURATION", help="Let it expire: 90s, 15m, 24h, 30d.")
@click.option("--dry-run", is_flag=True, help="Check the value and the vault, and write nothing.")
@command_options
@connect.synchronous
async def put(
    output: Output,
    settings: Settings,
    *,
    collection: str,
    key: str,
    value_file: BinaryIO,
    ttl: float | None,
    dry_run: bool,
) -> None:
    """
    Seal a JSON object, read from stdin, and store it.

    \b
    Examples:
      echo '{"token": "…"}' | vaultctl put default_collection session-7 --ttl 24h
    """
    value = _json_object(value_file)
    async with connect.vault(settings) as (found, vault):
        await vault.confirm()
        if vault.holds:
            msg = "the vault's policy holds new values in the old format, and this would seal one"
            raise VaultHeldError(msg, hint="vaultctl policy seal first, or let the application write it")
        codec = vault.codecs[codec_key("", loses_names=loses_names(found.data))]
        if dry_run:
            codec.seal(value, collection, key)
        else:
            connect.require_offline(found.data, settings)
            try:
                await by_name.put_record(found.data, codec, collection, key, value, ttl=ttl)
            except InvalidTTLError:
                msg = "--ttl reaches beyond the year 9999"
                raise UsageError(msg, hint="leave it out, so that the record does not expire") from None
    output.note(
        "nothing was written" if dry_run else f"sealed {collection}/{key} with DEK {codec.active_dek}"
    )


@click.command()
@click.argument("collection")
@click.argument("key")
@click.option("--dry-run", is_flag=True, help="Check whether there is one, and delete nothing.")
@command_options
@connect.synchronous
async def delete(output: Output, settings: Settings, *, collection: str, key: str, dry_run: bool) -> None:
    """
    Delete one record.  Needs no secret.

    \b
    Examples:
      vaultctl delete default_collection session-7 --yes
    """
    async with connect.stores(settings) as found:
        info = await by_name.find_record(found.data, collection, key)
        if dry_run:
            output.result(
                info, Table("", ("would be deleted", "format"), [(f"{collection}/{key}", info.format)])
            )
            return
        connect.require_offline(found.data, settings)
        output.confirm(f"Delete {collection}/{key} for good?", settings)
        await by_name.delete_record(found.data, collection, key)
    output.note(f"deleted {collection}/{key}")


@dataclass(frozen=True, slots=True)
class _Listed:
    collection: str | None
    key: str | None
    expires_at: str | None
    problem: str

    @classmethod
    def of(cls, entry: Entry) -> _Listed:
        expires_at = None if entry.expires_at is None else entry.expires_at.isoformat()
        return cls(entry.collection, entry.key, expires_at, entry.problem)

    def columns(self) -> list[str]:
        names = [self.collection or "", self.key or ""]
        return [*names, self.problem] if self.problem else names

    def as_dict(self) -> dict[str, Any]:
        return {"type": "record", "schema": 1, **asdict(self)}


@click.command("list")
@click.argument("collection", required=False)
@names_inside_option
@contexts_option
@command_options
@connect.synchronous
async def list_(
    output: Output,
    settings: Settings,
    *,
    collection: str | None,
    names_inside: bool,
    contexts: tuple[str, ...],
) -> None:
    """
    List the names of all records, or of one collection's.  Needs no secret but with --names-inside.

    \b
    Examples:
      vaultctl list
      vaultctl list default_collection --json
      vaultctl list --names-inside

    A store that sanitizes names, such as FastMCP's, does not give all of them back, and the records in it
    carry them.  With --names-inside the vault is opened and they are shown.
    """
    hidden = 0
    async with AsyncExitStack() as stack:
        if names_inside:
            found, vault = await stack.enter_async_context(connect.vault(settings))
            codecs = [vault.codecs[context] for context in ("", *contexts)]
        else:
            found, codecs = await stack.enter_async_context(connect.stores(settings)), []
        async for entry in by_name.list_records(found.data, collection, codecs=codecs):
            hidden += entry.key is None and has_names_inside(entry.value or {})
            listed = _Listed.of(entry)
            if output.as_json:
                output.json(listed.as_dict())
            else:
                output.text("\t".join(map(printable, listed.columns())))
    if hidden and not names_inside:
        output.note(f"{hidden:,} records carry names that the store does not show: --names-inside")


def _json_object(file: BinaryIO) -> dict[str, Any]:
    try:
        with interruptible():
            if file is sys.stdin.buffer and sys.stdin.isatty():
                tell("type one JSON object, then Ctrl-D:")
            value = exact_json.loads(file.read())
    except ValueError:
        value = None
    if type(value) is not dict:
        msg = "the value is not one JSON object"
        raise UsageError(msg, hint='it looks like {"name": "text"}')
    return value
