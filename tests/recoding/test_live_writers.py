"""Writers that do not stop: what they wrote between scan and swap wins, and no update is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from tests.fakes import HookedDriver
from tests.recoding.worlds import (
    AnyStore,
    adds_up,
    counts,
    entries_of,
    fernet,
    fill,
    formats_of,
    old,
    plant,
)

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.recoding import PlaintextRule, Report, migrate

if TYPE_CHECKING:
    from pathlib import Path

    from key_value.aio.stores.memory import MemoryStore

SECRET = Secret(b"the secret of the new vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)

Writer = Callable[[AnyStore], Awaitable[Any]]


def new(store: AnyStore) -> EnvelopeEncryptionWrapper:
    """Return the new application's view of *store*."""
    return EnvelopeEncryptionWrapper(store, secret=SECRET, create=False)


async def interleaved(store: AnyStore, write: Writer, *, times: int = 1) -> Report:
    """Migrate *store*, with *write* done between the scan and each of the first *times* swaps."""
    left = times

    async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal left
        if name == "replace_many" and left:
            left -= 1
            await write(store)
        return await operation()

    driver = HookedDriver(driver_for(store), around)
    done = await migrate(driver, [fernet()], secret=SECRET, kdf=CHEAP, plaintext=PlaintextRule.SKIP)
    await driver.close()
    return done.report


async def with_the_new_wrapper(store: AnyStore) -> None:
    """Write as the new application does."""
    await new(store).put("a", {"v": "newer"}, collection="c")


async def with_the_old_wrapper(store: AnyStore) -> None:
    """Write as the old application does."""
    await old(store).put("a", {"v": "newer"}, collection="c")


async def in_plaintext(store: AnyStore) -> None:
    """Write as somebody who encrypts nothing does."""
    await store.put("a", {"v": "newer"}, collection="c")


async def by_deleting(store: AnyStore) -> None:
    """Delete the entry."""
    await store.delete("a", collection="c")


async def by_writing_the_same(store: AnyStore) -> None:
    """Write the same value once more: another token, another creation time."""
    await fill(store, {"a": {"v": "old"}})


RACES: dict[str, tuple[Writer, dict[str, int], Any]] = {
    "new wrapper": (with_the_new_wrapper, {"changed": 1, "already": 1}, {"v": "newer"}),
    "old wrapper": (with_the_old_wrapper, {"changed": 2}, {"v": "newer"}),
    "same value": (by_writing_the_same, {"changed": 2}, {"v": "old"}),
    "delete": (by_deleting, {"changed": 1, "skipped": 1}, None),
}


@pytest.mark.parametrize(("write", "expected", "value"), RACES.values(), ids=RACES)
async def test_the_writer_wins(
    any_store: AnyStore, write: Writer, expected: dict[str, int], value: Any
) -> None:
    """What was written or deleted between scan and swap stays, is decided again, and the rest goes on."""
    await fill(any_store, {"a": {"v": "old"}, "b": {"v": "other"}})

    report = await interleaved(any_store, write)

    assert {"scanned": 2, "conflicts": 1, **expected} == counts(report)
    assert [value, {"v": "other"}] == await new(any_store).get_many(["a", "b"], collection="c")
    assert {2} == await formats_of(any_store)


async def test_plaintext_that_appears_meanwhile(any_store: AnyStore) -> None:
    """An entry that somebody replaced by plaintext is decided by the same rule as any other."""
    await fill(any_store, {"a": {"v": "old"}})

    report = await interleaved(any_store, in_plaintext)

    assert {"scanned": 1, "skipped": 1, "conflicts": 1} == counts(report)
    assert {"v": "newer"} == await any_store.get("a", collection="c")


async def test_an_entry_that_becomes_unreadable_meanwhile(store: MemoryStore) -> None:
    """It is named, and left as somebody left it."""
    await fill(store, {"a": {"v": "old"}})

    async def garble(_: AnyStore) -> None:
        plant(store, "a", "no JSON")

    report = await interleaved(store, garble)

    assert {"scanned": 1, "failed": 1, "conflicts": 1} == counts(report)
    assert b"no JSON" == (await entries_of(store))["c", "a"].stored


async def test_a_writer_that_never_rests(any_store: AnyStore) -> None:
    """An entry that changes before every swap is reported after a while, not chased for ever."""
    await fill(any_store, {"a": {"v": "old"}})

    report = await interleaved(any_store, with_the_old_wrapper, times=1000)

    assert {"scanned": 1, "failed": 1, "conflicts": 16} == counts(report)
    assert "other processes changed it 16 times in a row; run again" == report.failures[0].reason
    assert {"v": "newer"} == await old(any_store).get("a", collection="c")


@pytest.mark.exhaustive
async def test_writers_of_both_kinds_all_the_time(any_store: AnyStore) -> None:
    """While old and new applications keep writing, the last value that each wrote is what is there."""
    names = [f"{number}" for number in range(40)]
    await fill(any_store, {name: {"v": 0} for name in names})
    await (await Vault.create(any_store, secret=SECRET, kdf=CHEAP)).close()
    written: dict[str, int] = {}
    stop = asyncio.Event()

    async def keep_writing(wrapper: Any, mine: list[str]) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            for name in mine:
                await wrapper.put(name, {"v": turn}, collection="c")
                written[name] = turn
                await asyncio.sleep(0)

    writers = [
        asyncio.create_task(keep_writing(new(any_store), names[:10])),
        asyncio.create_task(keep_writing(old(any_store), names[10:20])),
    ]
    reports = [(await migrate(any_store, [fernet()], secret=SECRET, kdf=CHEAP)).report for _ in range(3)]
    stop.set()
    await asyncio.gather(*writers)
    last = (await migrate(any_store, [fernet()], secret=SECRET, kdf=CHEAP)).report

    assert all(map(adds_up, [*reports, last]))
    assert (0, 40) == (last.failed, last.scanned)
    assert {2} == await formats_of(any_store)
    assert [{"v": written.get(name, 0)} for name in names] == await new(any_store).get_many(
        names, collection="c"
    )


async def test_a_writer_in_a_thread_of_its_own(tmp_path: Path) -> None:
    """Another thread that writes through its own store object loses nothing, either."""
    store = DiskStore(directory=tmp_path)
    with closing(store._cache):
        await check_writer_in_thread(store)


async def check_writer_in_thread(any_store: DiskStore) -> None:
    """Migrate beside a thread that writes, and check that its last values are there."""
    await fill(any_store, {f"{number}": {"v": 0} for number in range(20)})
    directory = any_store._cache.directory
    written: dict[str, int] = {}
    stop, started = threading.Event(), threading.Event()

    async def keep_writing() -> None:
        store = DiskStore(directory=directory)
        while not stop.is_set():
            for name in map(str, range(5)):
                written[name] = written.get(name, 0) + 1
                await old(store).put(name, {"v": written[name]}, collection="c")
            started.set()
        store._cache.close()

    thread = threading.Thread(target=lambda: asyncio.run(keep_writing()))
    thread.start()
    await asyncio.to_thread(started.wait)
    report = (await migrate(any_store, [fernet()], secret=SECRET, kdf=CHEAP)).report
    stop.set()
    await asyncio.to_thread(thread.join)
    last = (await migrate(any_store, [fernet()], secret=SECRET, kdf=CHEAP)).report

    names = [f"{number}" for number in range(20)]
    assert adds_up(report)
    assert {"scanned": 20} == {k: v for k, v in counts(last).items() if k not in {"changed", "already"}}
    assert [{"v": written.get(name, 0)} for name in names] == await new(any_store).get_many(
        names, collection="c"
    )
