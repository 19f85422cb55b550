"""
The crash table's operations, and what other processes do: `python -m tests.processes VERB …`.

`crash NAME DIRECTORY N` runs an operation and dies at its N-th store operation.
`join NAME DIRECTORY` reads lines `ROUND` and joins the vault of each round, or `read ROUND NAMES…`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from key_value.aio.stores.disk import DiskStore
from tests.fakes import Death, HookedDriver

from kvseal import Argon2idParams, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy import FERNET
from kvseal.recode import recode, reencryption, retire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kvseal.drivers.base import Driver

OLD = Secret(b"the old secret")
NEW = Secret(b"the new secret")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
COSTLIER = Argon2idParams(time_cost=2, memory_cost=16, parallelism=1)
SPARE = Secret(b"the spare secret")
DAY = timedelta(days=1)
LEGACY = LegacyKey(FERNET, bytes(32))
DIED = 9


async def create(driver: Driver) -> None:
    """Create a vault."""
    await Vault.create(driver, secret=OLD, kdf=CHEAP)


def opened_and(change: Callable[[Vault], Awaitable[object]]) -> Callable[[Driver], Awaitable[None]]:
    """Return the operation that opens the vault with the old secret and makes *change*."""

    async def run(driver: Driver) -> None:
        await change(await Vault.open(driver, secret=OLD))

    return run


async def reencrypted(driver: Driver) -> None:
    """Bring every record to the active DEK."""
    await recode(driver, reencryption(await Vault.open(driver, secret=OLD)))


async def retired(driver: Driver) -> None:
    """Retire DEK 1, as if every process had been restarted."""
    await retire(driver, await Vault.open(driver, secret=OLD), 1, grace=timedelta())


OPERATIONS: dict[str, Callable[[Driver], Awaitable[None]]] = {
    "create": create,
    "rotate the secret": opened_and(lambda vault: vault.rotate(new_secret=NEW)),
    "rotate the cost": opened_and(lambda vault: vault.rotate(kdf=COSTLIER)),
    "rotate both": opened_and(lambda vault: vault.rotate(new_secret=NEW, kdf=COSTLIER)),
    "rotate, and keep": opened_and(lambda vault: vault.rotate(new_secret=NEW, keep_old_for=DAY)),
    "add a slot": opened_and(lambda vault: vault.slots.add(SPARE, label="added", kdf=CHEAP)),
    "remove a slot": opened_and(lambda vault: vault.slots.remove("spare")),
    "rotate the DEK": opened_and(lambda vault: vault.rotate_dek()),
    "read legacy": opened_and(lambda vault: vault.read_legacy_with([LEGACY], plaintext=True)),
    "end legacy reads": opened_and(lambda vault: vault.end_legacy_reads()),
    "re-encrypt": reencrypted,
    "retire the DEK": retired,
}


async def crash(name: str, directory: str, at: str) -> None:
    """Run an operation on the disk store in *directory* and end this process before its *at*-th step."""
    store = DiskStore(directory=Path(directory))
    await OPERATIONS[name](HookedDriver(driver_for(store), Death(at=int(at), die=die)))


async def join(name: str, directory: str) -> None:
    """Answer each line of standard input, as the process *name*."""
    vaults: dict[str, Vault] = {}
    for line in sys.stdin:
        verb, round_, *names = line.split()
        if verb == "open":
            store = DiskStore(directory=Path(directory) / round_)
            vaults[round_] = await Vault.open_or_create(store, secret=OLD, kdf=CHEAP)
            await vaults[round_].wrap().put(name, {"from": name})
            print(vaults[round_].keyring.vault_id.hex(), flush=True)  # noqa: T201
        else:
            values = await vaults[round_].wrap().get_many(names)
            print(*[(value or {}).get("from") for value in values], flush=True)  # noqa: T201


def die() -> NoReturn:
    """End this process at once: no `finally`, no destructor, no flush."""
    os._exit(DIED)


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    asyncio.run({"crash": crash, "join": join}[verb](*arguments))
