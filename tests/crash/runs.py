"""What the commands of the crash table do, through the library."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from os import urandom
from typing import TYPE_CHECKING, Any

import pytest
from tests.crash.beginnings import LEGACY
from tests.legacy.test_authsome import DEK, FLAT_KEY, MASTER, OLD_MASTER, key_record
from tests.processes import CHEAP, NEW, OLD
from tests.recoding.worlds import fernet

from kvseal import Vault
from kvseal.backup import backup
from kvseal.cli.output import Output
from kvseal.cli.settings import Settings
from kvseal.cli.vault.slot import _handed_over
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy import AUTHSOME, AUTHSOME_FLAT
from kvseal.recoding import (
    engine,
    import_keys,
    migrate,
    plan_reencryption,
    recode,
    retire,
    take_over_authsome,
)
from kvseal.recoding.progress.lease import Lease
from kvseal.vault.creation import Adoption

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kvseal.drivers.base import Driver


PRINTED = "printed"
"""What vaultctl has written to stdout, in a directory of its own."""


def opened_and(change: Callable[[Vault], Awaitable[object]]) -> Callable[..., Awaitable[Any]]:
    """Return the run that opens the vault with the old secret and makes *change*."""

    async def run(driver: Driver, _: Path | None = None) -> Any:
        return await change(await Vault.open(driver, secret=OLD))

    return run


rotated = opened_and(lambda vault: vault.rotate(new_secret=NEW))


async def created(driver: Driver, _: Path) -> None:
    """Create the vault."""
    await Vault.create(driver, secret=OLD, kdf=CHEAP)


async def created_with_a_new_secret(driver: Driver, _: Path) -> None:
    """Create the vault with a secret that is generated."""
    await Vault.create(driver, kdf=CHEAP)


async def opened_or_created(driver: Driver, _: Path) -> None:
    """Open the vault or create it."""
    await Vault.open_or_create(driver, secret=OLD, kdf=CHEAP)


async def adopted(driver: Driver, _: Path) -> None:
    """Create a vault in place of authsome's key record."""
    keys = (LegacyKey(AUTHSOME, DEK), LegacyKey(AUTHSOME_FLAT, FLAT_KEY))
    await Vault.open_or_create(driver, secret=OLD, kdf=CHEAP, adopts=Adoption(key_record(), keys))


class Printer(Output):
    """Prints into a file of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(as_json=False, quiet=True)
        self._file = directory / PRINTED

    def text(self, line: str) -> None:
        """Print one line."""
        with self._file.open("a") as file:
            file.write(line + "\n")


async def recovery_key_added(driver: Driver, directory: Path) -> None:
    """Do what `slot add --recovery` does, with nobody to type the key back."""
    vault = await Vault.open(driver, secret=OLD)
    hand_over = partial(_handed_over, Printer(directory), Settings(no_input=True))
    await vault.slots.add_recovery(hand_over, kdf=CHEAP)


async def reencrypted(driver: Driver, _: Path) -> Any:
    """Bring every record to the active DEK."""
    return await recode(driver, plan_reencryption(await Vault.open(driver, secret=OLD)))


class BusyLease(Lease):
    """A lease that is renewed, and the checkpoint with it, whenever a page is done."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._noted = asyncio.Event()

    def note(self, cursor: str | None, tally: Any) -> None:
        """Note how far the part has come, and have that written."""
        super().note(cursor, tally)
        self._noted.set()

    async def renew_for_ever(self, seconds: float = 0) -> None:
        """Renew it after every note."""
        while True:
            await self._noted.wait()
            self._noted.clear()
            await self._update(self._held)


async def reencrypted_with_renewals(driver: Driver, directory: Path) -> Any:
    """Bring every record to the active DEK, and write after each page how far that has come."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "Lease", BusyLease)
        return await reencrypted(driver, directory)


kept = opened_and(lambda vault: vault.retire_dek(1))


async def retired(driver: Driver, _: Path) -> None:
    """Retire DEK 1, as if every process had been restarted."""
    await retire(driver, await Vault.open(driver, secret=OLD), 1, grace=timedelta())


async def keys_imported(driver: Driver, _: Path) -> None:
    """Hold the old key in the vault."""
    await import_keys(driver, [LEGACY], secret=OLD, kdf=CHEAP)


async def migrated(driver: Driver, _: Path) -> Any:
    """Re-seal what the old application wrote."""
    return (await migrate(driver, [fernet()], secret=OLD, kdf=CHEAP)).report


async def migrated_after_a_backup(driver: Driver, directory: Path) -> None:
    """Take a backup into a new file, and re-seal what the old application wrote."""

    async def back_up(there: Driver) -> None:
        await backup(there, directory / f"{urandom(4).hex()}.kvseal")

    await migrate(driver, [fernet()], secret=OLD, kdf=CHEAP, before_writes=back_up)


async def finalized(driver: Driver, _: Path) -> None:
    """Re-seal what is left with the keys that the vault holds, and drop them."""
    await migrate(driver, secret=OLD, finalize=True)


async def migrated_from_authsome(driver: Driver, _: Path) -> None:
    """Re-seal what authsome wrote, in a vault that takes the place of its key record."""
    found = await take_over_authsome(driver, [MASTER, OLD_MASTER])
    await migrate(driver, found.legacy, secret=OLD, kdf=CHEAP, adopts=found.adopts, leaves=found.leaves)
