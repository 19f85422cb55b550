"""What a hostile review has found in recodes, each as a case."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.filetree import FileTreeStore
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import HookedDriver
from tests.recoding.worlds import adds_up, entries_of, failed, fernet, fill, leave_checkpoint, old

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.backup import backup, restore
from kvseal.drivers import driver_for, generic
from kvseal.drivers.base import Replacement
from kvseal.errors import RecodeError
from kvseal.keys.keyring import LegacyKey
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.legacy import FERNET
from kvseal.legacy.fernet import parse_key
from kvseal.recoding import PlaintextRule, import_keys, migrate, plan_rollback, recode
from kvseal.recoding.progress.lease import Lease
from kvseal.recoding.progress.lease_holder import LeaseHolder
from kvseal.recoding.progress.part import LONGEST, Part

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

SECRET = Secret(b"the secret of the new vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)


@pytest.mark.exhaustive
async def test_a_copy_that_was_interrupted(store: MemoryStore) -> None:
    """What was written behind the first run's back, or lost in the copy, is found by the second run."""
    copy = MemoryStore()
    await fill(store, {f"{number:04}": {"v": number} for number in range(1200)})
    puts = 0

    async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal puts
        puts += name == "put_if_absent"
        if puts == 700 and name == "put_if_absent":
            running.cancel()
        return await do()

    options: Any = {"secret": SECRET, "kdf": CHEAP}
    target = HookedDriver(driver_for(copy), around)
    running = asyncio.create_task(migrate(store, [fernet()], to=target, **options))
    with pytest.raises(asyncio.CancelledError):
        await running
    await old(store).put("new", {"v": "new"}, collection="c")
    await copy.delete("0000", collection="c")

    done = await migrate(store, [fernet()], to=copy, **options)

    wrapper = EnvelopeEncryptionWrapper(copy, secret=SECRET, create=False)
    assert [{"v": "new"}, {"v": 0}] == await wrapper.get_many(["new", "0000"], collection="c")
    assert done.report is not None
    assert adds_up(done.report)
    assert {"kvseal": 1201} == done.report.formats


async def test_parts_of_a_copy_are_all_opened(store: MemoryStore) -> None:
    """The parts of the one store are not those of the other: each verify pass looks at all that is there."""
    copy = MemoryStore()
    await fill(store, {f"{number}": {"v": number} for number in range(40)})
    for index in range(2):
        done = await migrate(store, [fernet()], to=copy, secret=SECRET, kdf=CHEAP, partition=(index, 2))

    assert done.report is not None
    assert {"kvseal": 40} == done.report.formats


async def test_a_name_that_the_other_store_cannot_hold(store: MemoryStore, tmp_path: Path) -> None:
    """It fails by itself, and everything else is copied."""
    await fill(store, {"https://x/y": {"v": 1}, "a": {"v": 2}})

    done = await migrate(
        store, [fernet()], to=FileTreeStore(data_directory=tmp_path), secret=SECRET, kdf=CHEAP
    )

    assert done.report is not None
    assert (["https://x/y"], 1) == (failed(done.report), done.report.changed)


async def test_a_store_copied_onto_itself(store: MemoryStore) -> None:
    """Two ways to one store end in an error, and its records stay as they are."""
    await fill(store, {"a": {"v": 1}})

    with pytest.raises(RecodeError, match="is the store that is read"):
        await migrate(driver_for(store), [fernet()], to=driver_for(store), secret=SECRET, kdf=CHEAP)

    assert {"v": 1} == await old(store).get("a", collection="c")


async def test_finalizing_what_a_manifest_names(store: MemoryStore) -> None:
    """Where not every record is seen, none is known to be the last one."""
    await fill(store, {"a": {"v": 1}})
    driver = generic.for_store(store, [("c", "a")])

    with pytest.raises(RecodeError, match="manifest"):
        await migrate(driver, [fernet()], secret=SECRET, kdf=CHEAP, meta_store=MemoryStore(), finalize=True)


async def test_finalizing_while_plaintext_is_read(store: MemoryStore) -> None:
    """Plaintext that wrappers read is not left behind unreadable."""
    await fill(store, {"a": {"v": 1}})
    await store.put("open", {"v": 2}, collection="c")
    key = LegacyKey(FERNET, parse_key(b"b2xkIGtleSBvZiB0aGUgb2xkIGFwcGxpY2F0aW9uISE="))
    await import_keys(store, [key], secret=SECRET, kdf=CHEAP, plaintext=PlaintextRule.SEAL)

    done = await migrate(store, secret=SECRET, plaintext=PlaintextRule.SKIP, finalize=True)

    assert not done.finalized
    wrapper = EnvelopeEncryptionWrapper(store, secret=SECRET, create=False)
    assert {"v": 2} == await wrapper.get("open", collection="c")


async def test_a_sealed_expiry_on_the_way_back(store: MemoryStore) -> None:
    """What has expired by its seal is not revived, and what will expire keeps doing so."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    codec, now = vault.codecs[""], datetime.now(timezone.utc).replace(microsecond=0)
    for name, end in {"past": now - timedelta(hours=1), "future": now + timedelta(hours=1)}.items():
        sealed = codec.seal({"v": name}, "c", name, int(end.timestamp() * 1000))
        # Whoever can write the backend has taken its own expiry away.
        await store.put(name, sealed, collection="c")

    report = await recode(store, plan_rollback(vault, fernet()))

    assert (1, 1, 0) == (report.changed, report.skipped, report.failed)
    assert now + timedelta(hours=1) == (await entries_of(store))["c", "future"].expires_at


async def test_old_records_that_are_left_over(store: MemoryStore) -> None:
    """A run that ends while an old application still writes does not end with 0."""
    await fill(store, {"a": {"v": 1}})
    written = 0

    async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal written
        if name == "scan":
            written += 1
            await old(store).put(f"late-{written}", {"v": 1}, collection="c")
        return await do()

    done = await migrate(HookedDriver(driver_for(store), around), [fernet()], secret=SECRET, kdf=CHEAP)

    assert done.report is not None
    assert done.report.pending
    assert (4, 0) == (done.report.exit_code, done.report.failed)
    assert done.report.pending == done.report.as_dict()["pending"]


async def test_the_lease_of_a_clock_that_is_wrong(store: MemoryStore) -> None:
    """A lease that would last for hours is none."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    now = int(datetime.now(timezone.utc).timestamp() * 1000)
    holder = replace(LeaseHolder.new(), machine="elsewhere")
    part = Part("", holder, now + LONGEST + 60_000)
    await leave_checkpoint(vault, "other", part)

    await Lease(vault, "p", "migrate", (0, 1)).acquire()


async def test_a_backup_that_no_run_has_taken(store: MemoryStore) -> None:
    """Only the run that goes on where one with a backup has stopped does without another."""
    taken: list[int] = []
    await fill(store, {"a": {"v": 1}})

    async def stopped(run: int, *, backs_up: bool) -> None:
        swaps = 0

        async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
            nonlocal swaps
            swaps += name == "replace_many"
            if swaps == 2 - (run == 1):
                swaps += 1
                raise asyncio.CancelledError
            return await do()

        async def before(_: Any) -> None:
            taken.append(run)

        driver = HookedDriver(driver_for(store), around)
        options: Any = {"secret": SECRET, "kdf": CHEAP, "before_writes": before if backs_up else None}
        with pytest.raises(asyncio.CancelledError):
            await migrate(driver, [fernet()], **options)

    await stopped(1, backs_up=False)
    await stopped(2, backs_up=True)
    await stopped(3, backs_up=True)

    assert [2] == taken


class TestVaultMetaThatEnds:
    """Somebody who can write the backend gives the vault meta an expiry."""

    async def doomed(self, store: MemoryStore) -> Vault:
        """Return the vault in *store*, whose meta ends in an hour."""
        vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
        driver = driver_for(store)
        entry = await driver.get(META_COLLECTION, META_KEY)
        assert entry is not None
        assert entry.value is not None
        end = datetime.now(timezone.utc) + timedelta(hours=1)
        await driver.replace_many([Replacement(entry, entry.value, end)])
        return vault

    async def test_it_is_said(self, store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
        """Whoever opens the vault is warned."""
        await self.doomed(store)

        await Vault.open(store, secret=SECRET)

        assert "which kvseal did not set" in caplog.text

    async def test_the_next_change_mends_it(self, store: MemoryStore) -> None:
        """Every change of the vault meta takes the expiry away."""
        vault = await self.doomed(store)

        await vault.rotate_dek()

        entry = await driver_for(store).get(META_COLLECTION, META_KEY)
        assert entry is not None
        assert entry.expires_at is None

    async def test_a_backup_of_it_lasts(self, store: MemoryStore, tmp_path: Path) -> None:
        """What is restored has no end."""
        await self.doomed(store)
        await backup(store, tmp_path / "b.kvseal")
        restored = MemoryStore()

        await restore(tmp_path / "b.kvseal", restored)

        entry = await driver_for(restored).get(META_COLLECTION, META_KEY)
        assert entry is not None
        assert entry.expires_at is None
