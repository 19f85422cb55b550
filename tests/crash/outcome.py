"""What holds after every death: the vault opens, every record reads, and what was begun can be finished."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.legacy.test_authsome import MASTER, OLD_MASTER
from tests.processes import NEW, OLD, SPARE
from tests.recoding.worlds import entries_of, old

from kvseal import EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.errors import (
    ForeignVaultError,
    LegacyRecordError,
    PlaintextRecordError,
    VaultNotFoundError,
    WrongSecretError,
)
from kvseal.keys import unlocking
from kvseal.legacy.base import merged
from kvseal.recoding import take_over_authsome
from kvseal.secrets.defaults import default_key_file
from kvseal.vault.seen import newest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.crash.beginnings import Names
    from tests.crash.commands import Command
    from tests.crash.ends import World

    from kvseal.drivers.base import Driver, Entry


async def opened(driver: Driver) -> Vault:
    """Open the vault with the old secret, or else the new one, or else what was generated."""
    secrets = [OLD, NEW, *([None] if default_key_file().exists() else [])]
    for secret in secrets[:-1]:
        with suppress(WrongSecretError):
            return await Vault.open(driver, secret=secret)
    return await Vault.open(driver, secret=secrets[-1])


async def opens(driver: Driver, secret: Secret | None) -> bool:
    """Whether *secret* opens the vault."""
    try:
        await (await Vault.open(driver, secret=secret)).close()
    except WrongSecretError:
        return False
    return True


async def by_fernet(store: Any, names: Names) -> Any:
    """Read a record as the old application does."""
    return await old(store).get(names[1], collection=names[0])


async def by_authsome(store: Any, names: Names) -> Any:
    """Read a record as authsome does."""
    found = await take_over_authsome(store, [MASTER, OLD_MASTER])
    stored = await store.get(names[1], collection=names[0])
    (codec,) = [codec for codec in merged(found.legacy) if codec.recognises(stored)]
    return codec.open(stored)


async def value_of(command: Command, world: World, vault: Vault | None, names: Names) -> Any:
    """Read one record, as the old application does where it is not sealed yet and no vault reads it."""
    if command.by_the_old is None and vault is None:
        raise AssertionError(names)
    if vault is not None:
        try:
            return await EnvelopeEncryptionWrapper(world.store, vault=vault).get(
                names[1], collection=names[0]
            )
        except (LegacyRecordError, PlaintextRecordError):
            if command.by_the_old is None:
                raise
    assert command.by_the_old is not None
    return await command.by_the_old(world.store, names)


async def assert_nothing_is_lost(command: Command, world: World) -> None:
    """The vault opens, every record reads, and is as old and lives as long as at first."""
    try:
        vault = await opened(world.driver)
    except VaultNotFoundError:
        assert command.by_the_old or not command.records
        vault = None
    except ForeignVaultError:
        assert by_authsome is command.by_the_old
        vault = None
    values = {names: await value_of(command, world, vault, names) for names in command.records}
    assert command.records == values
    assert times_of(world.original) == times_of(await entries_of(world.driver))
    if vault is not None:
        await vault.close()


async def assert_done(command: Command, world: World) -> None:
    """The command has had its effect, and the vault has the slots that it was to have, and no others."""
    vault = await Vault.open(
        world.driver, secret=command.opens[-1] if command.opens == (OLD, NEW) else command.opens[0]
    )
    slots = [slot.label + "…" * (slot.expires_at is not None) for slot in vault.status().slots]
    assert list(command.slots) == sorted(slots)
    await command.check(vault, world)
    # Where a secret was generated, it is the only one.
    candidates = [None] if None in command.opens else [OLD, NEW, SPARE]
    assert list(command.opens) == [secret for secret in candidates if await opens(world.driver, secret)]
    await vault.close()


def times_of(entries: Mapping[Names, Entry]) -> dict[Names, tuple[Any, Any]]:
    """Return creation time and expiry of each."""
    return {names: (entry.created_at, entry.expires_at) for names, entry in entries.items()}


def be_a_new_process() -> None:
    """Forget which revisions were seen, and the keys that are held."""
    newest._newest.clear()
    unlocking._held.clear()
