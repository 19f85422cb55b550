"""Whatever walks a store refuses a stack whose wrappers hide its records, before anything is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from tests.drivers.test_wrapper_orders import HIDING
from tests.fakes import dump
from tests.recoding.worlds import KEY, fernet, fill

from kvseal import Argon2idParams, Secret, Vault
from kvseal.errors import UnsupportedStackError
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy import FERNET
from kvseal.legacy.fernet import parse_key
from kvseal.recoding import import_keys, migrate, plan_reencryption, recode, verify

SECRET = Secret(b"the secret of the vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)

Tool = Callable[[Any, Vault], Awaitable[Any]]
READING: dict[str, Tool] = {
    "verify": verify,
    "a dry run": lambda stack, _: migrate(stack, [fernet()], secret=SECRET, dry_run=True),
    "migrate from it": lambda stack, _: migrate(
        stack, [fernet()], to=MemoryStore(), secret=SECRET, kdf=CHEAP
    ),
}
WRITING: dict[str, Tool] = {
    "migrate": lambda stack, _: migrate(stack, [fernet()], secret=SECRET),
    "migrate to it": lambda stack, _: migrate(MemoryStore(), [fernet()], to=stack, secret=SECRET, kdf=CHEAP),
    "import keys": lambda stack, _: import_keys(stack, [LegacyKey(FERNET, parse_key(KEY))], secret=SECRET),
    "re-encrypt": lambda stack, vault: recode(stack, plan_reencryption(vault)),
}


@pytest.mark.parametrize("tool", [*READING.values(), *WRITING.values()], ids=[*READING, *WRITING])
@pytest.mark.parametrize("stack", HIDING.values(), ids=HIDING)
async def test_hidden(store: MemoryStore, stack: Callable[[Any], Any], tool: Tool) -> None:
    """What a driver would see below is not what the application sees."""
    await fill(store, {"a": {"v": 1}})
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    before = dump(store)

    with pytest.raises(UnsupportedStackError):
        await tool(stack(store), vault)

    assert before == dump(store)


@pytest.mark.parametrize("tool", WRITING.values(), ids=WRITING)
async def test_read_only(store: MemoryStore, tool: Tool) -> None:
    """A store that somebody made read-only is not written past that."""
    await fill(store, {"a": {"v": 1}})
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    before = dump(store)

    with pytest.raises(UnsupportedStackError):
        await tool(ReadOnlyWrapper(store), vault)

    assert before == dump(store)


@pytest.mark.parametrize("tool", READING.values(), ids=READING)
async def test_reading_what_is_read_only(store: MemoryStore, tool: Tool) -> None:
    """What writes nothing there may read it."""
    await fill(store, {"a": {"v": 1}})
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)

    await tool(ReadOnlyWrapper(store), vault)
