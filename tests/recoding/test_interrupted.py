"""A migration that is interrupted, and the one that is run after it; for its deaths see `tests.crash`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Any

import pytest
from tests.fakes import HookedDriver, Killed
from tests.recoding.worlds import AnyStore, adds_up, damage, failed, fernet, fill, formats_of, times_of

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.errors import StoreUnreachableError, VaultLockedError
from kvseal.recoding import Report, migrate, open_recode, walk
from kvseal.recoding.progress import lease
from kvseal.recoding.progress.lease_holder import LeaseHolder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from key_value.aio.stores.memory import MemoryStore

SECRET = Secret(b"the secret of the new vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
VALUES: dict[str, dict[str, Any]] = {f"{number}": {"v": number} for number in range(6)}


async def fill_for_migration(store: AnyStore) -> None:
    """Put six good records, one with a ttl, and a damaged one into *store*."""
    await fill(store, VALUES)
    await fill(store, {"damaged": {"v": 1}})
    await damage(store, "damaged")


async def migrated(store: Any) -> Report:
    """Migrate *store*."""
    return (await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP)).report


async def check_finished(store: AnyStore, times: Any) -> None:
    """Run the migration once more, and check that every record is sealed once and nothing is lost."""
    report = await migrated(store)
    again = await migrated(store)

    wrapper = EnvelopeEncryptionWrapper(store, secret=SECRET, create=False)
    assert adds_up(report)
    assert (7, 6, 1) == (report.scanned, report.changed + report.already, report.failed)
    assert ["damaged"] == failed(report)
    assert {"kvseal": 6, "fernet": 1} == report.formats
    assert (0, 6) == (again.changed, again.already)
    assert list(VALUES.values()) == await wrapper.get_many(list(VALUES), collection="c")
    assert times == await times_of(store)


@pytest.mark.parametrize("operation", ["scan", "put_if_absent", "replace_many"])
async def test_cancelling(any_store: AnyStore, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled migration leaves no task behind, even if the backend hangs, and the next one finishes it."""
    monkeypatch.setattr(walk, "SECONDS_TO_FINISH", 0)
    monkeypatch.setattr(lease, "SECONDS_TO_RELEASE", 0)
    monkeypatch.setattr(LeaseHolder, "is_gone", lambda _: True)
    await fill_for_migration(any_store)
    times = await times_of(any_store)
    reached = asyncio.Event()

    async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        if name == operation:
            reached.set()
            await asyncio.Event().wait()
        return await do()

    driver = HookedDriver(driver_for(any_store), around)
    running = asyncio.create_task(migrated(driver))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert {asyncio.current_task()} == asyncio.all_tasks()
    await driver.close()
    await check_finished(any_store, times)


async def test_the_batch_in_flight_is_finished(store: MemoryStore) -> None:
    """Who is interrupted while the last page is being written writes it to its end, and gives the lease back."""
    await fill(store, VALUES)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        if name == "replace_many":
            reached.set()
            await go_on.wait()
        return await do()

    running = asyncio.create_task(migrated(HookedDriver(driver_for(store), around)))
    await reached.wait()
    running.cancel()
    # The interruption arrives before the write may go on.
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert {2} == await formats_of(store)
    vault = await Vault.open(store, secret=SECRET)
    left = await open_recode(vault)
    assert left is not None
    assert [None] == [part.holder for part in left.parts]


async def three_pages(store: MemoryStore) -> None:
    """Put so many old records into *store* that three pages are swapped at the same time."""
    await fill(store, {"0": {"v": 1}})
    token = await store.get("0", collection="c")
    for number in range(1200):
        await store.put(f"{number}", token or {}, collection="c")


async def test_pages_that_fail_at_once(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    """The first error is raised, and asyncio has nothing to say about the others."""
    await three_pages(store)
    all_there = asyncio.Event()
    count = 0

    async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal count
        if name != "replace_many":
            return await do()
        count += 1
        if count == 1:
            return await do()
        if count == 4:
            all_there.set()
        await all_there.wait()
        msg = "gone"
        raise StoreUnreachableError(msg)

    with contextlib.suppress(StoreUnreachableError):
        await migrated(HookedDriver(driver_for(store), around))
    gc.collect()

    # The note before the first record is sealed, three pages, and the lease that is given back.
    assert 5 == count
    assert [] == [record.message for record in caplog.records if record.name == "asyncio"]
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_the_first_error_stops_the_other_pages(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that would wait for ever are cancelled when one page fails, and none is left behind."""
    monkeypatch.setattr(walk, "SECONDS_TO_FINISH", 0)
    await three_pages(store)
    count = 0

    async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal count
        if name != "replace_many":
            return await do()
        count += 1
        if count == 1:
            # The note before the first record is sealed.
            return await do()
        if count < 4:
            await asyncio.Event().wait()
        msg = "gone"
        raise StoreUnreachableError(msg)

    with pytest.raises(StoreUnreachableError):
        await migrated(HookedDriver(driver_for(store), around))

    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_the_vault_is_closed_when_the_run_fails(
    any_store: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key stays unlocked behind a migration that was stopped."""
    opened: list[Vault] = []
    remember = Vault.open_or_create

    async def remembering(*arguments: Any, **options: Any) -> Vault:
        opened.append(await remember(*arguments, **options))
        return opened[0]

    async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        if name == "replace_many":
            raise Killed
        return await do()

    monkeypatch.setattr(Vault, "open_or_create", remembering)
    await fill(any_store, VALUES)
    driver = HookedDriver(driver_for(any_store), around)

    with pytest.raises(Killed):
        await migrated(driver)

    with pytest.raises(VaultLockedError):
        _ = opened[0].keyring
    await driver.close()
