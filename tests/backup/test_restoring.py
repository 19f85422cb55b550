"""A restore: what is missing comes back as it was, what is there stays, and the vault is never rolled back."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from tests.backup.made import (
    CREATED,
    FUTURE,
    LARGE,
    PAST,
    backup_bytes,
    backup_file,
    entry,
    everything,
    put_all,
)
from tests.fakes import BatchingDriver, Death, HookedDriver, Killed, dump, flipped, put_raw_meta, raw_meta
from tests.recoding.worlds import plant
from tests.strategies import any_text, json_objects
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.backup import Failure, Progress, RestoreReport, backup, restore
from kvseal.backup.file import BATCH_ENTRIES
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry
from kvseal.errors import (
    BackupFileError,
    Conflict,
    MalformedBackupError,
    StoreUnreachableError,
    UnknownBackupVersionError,
    UnsupportedStackError,
    VaultExistsError,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.vault.seen import newest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ENTRIES = [entry("a"), entry("b", LARGE, expires_at=FUTURE), entry("c", {"n": 2**70}, created_at=None)]
MANY = [entry(f"k{n}") for n in range(BATCH_ENTRIES + 1)]
AnyStore = MemoryStore | DiskStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a backup of `ENTRIES`."""
    return backup_file(tmp_path, *ENTRIES)


def counts(report: RestoreReport) -> dict[str, int]:
    """Return the counters that are not zero."""
    assert report.scanned == sum(getattr(report, name) for name in report.OUTCOMES)
    return {name: getattr(report, name) for name in report.OUTCOMES if getattr(report, name)}


def reasons(report: RestoreReport) -> dict[str | None, str]:
    """Return why each key failed."""
    return {failure.key: failure.reason for failure in report.failures}


async def held(store: AnyStore, key: str) -> Any:
    """Return the entry of collection `c`."""
    found = await driver_for(store).get("c", key)
    assert found is not None
    return found


class TestEntries:
    """Entries are put if they are absent, with their own times."""

    async def test_into_an_empty_store(self, any_store: AnyStore, path: Path) -> None:
        """Values, creation times and expiries are those of the backup, and the application reads them."""
        report = await restore(path, any_store)

        found = await everything(driver_for(any_store))
        assert {"restored": 3} == counts(report)
        assert {"a": [CREATED, None], "b": [CREATED, FUTURE], "c": [None, None]} == {
            names[1]: times for names, (_, *times) in found.items()
        }
        assert LARGE == await any_store.get("b", collection="c")

    async def test_again(self, any_store: AnyStore, path: Path) -> None:
        """What is there already with the same value counts as done, and nothing is written."""
        await restore(path, any_store)
        before = dump(any_store)

        report = await restore(path, any_store, overwrite=True)

        assert ({"already": 3}, before) == (counts(report), dump(any_store))

    async def test_what_has_expired_since(self, store: MemoryStore, tmp_path: Path) -> None:
        """An entry whose time is over is left out and counted."""
        path = backup_file(tmp_path, *ENTRIES, entry("late", expires_at=PAST))

        assert {"restored": 3, "expired": 1} == counts(await restore(path, store))
        assert await store.get("late", collection="c") is None

    @pytest.mark.parametrize("there", [{"n": 2}, {"n": 1.0}, {"n": True}, {"n": 1, "m": 1}, {}])
    async def test_another_value_stays(self, any_store: AnyStore, path: Path, there: dict[str, Any]) -> None:
        """What is there with another value, be it only of another type, stays and is named."""
        await any_store.put("a", there, collection="c")
        before = await held(any_store, "a")
        heard: list[Any] = []

        report = await restore(path, any_store, listener=heard.append)

        failure = Failure("c", "a", "another value is there")
        assert ({"restored": 2, "failed": 1}, 3) == (counts(report), report.exit_code)
        assert (failure,) == report.failures == tuple(e for e in heard if isinstance(e, Failure))
        assert before == await held(any_store, "a")

    async def test_overwrite(self, any_store: AnyStore, path: Path) -> None:
        """With `overwrite` the value and the expiry of the backup are there afterwards."""
        await any_store.put("a", {"other": 1}, collection="c", ttl=60)
        await any_store.put("b", {"other": 2}, collection="c")

        report = await restore(path, any_store, overwrite=True)

        found = [await held(any_store, key) for key in "ab"]
        assert {"restored": 1, "overwritten": 2} == counts(report)
        assert [({"n": 1}, None), (LARGE, FUTURE)] == [(e.value, e.expires_at) for e in found]

    async def test_overwrite_beside_a_writer(self, store: MemoryStore, path: Path) -> None:
        """What is written between the look and the swap is looked at again, and not lost unseen."""
        await store.put("a", {"other": 1}, collection="c")
        seen: list[Any] = []

        async def around(name: str, operation: Any) -> Any:
            if name == "replace_many":
                seen.append(await store.get("a", collection="c"))
                if len(seen) == 1:
                    await store.put("a", {"other": 2}, collection="c")
            return await operation()

        report = await restore(path, HookedDriver(driver_for(store), around), overwrite=True)

        assert {"restored": 2, "overwritten": 1} == counts(report)
        assert [{"other": 1}, {"other": 2}] == seen

    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_an_entry_that_is_in_it_twice(
        self, store: MemoryStore, tmp_path: Path, overwrite: bool
    ) -> None:
        """Of an entry that was written during the backup, the later line is put later."""
        path = backup_file(tmp_path, *(entry("twice", {"n": n}) for n in range(20)))

        async def around(_: str, operation: Any) -> Any:
            # Whoever comes later is faster.
            for _ in range(20 - flown.pop(0) if flown else 0):
                await asyncio.sleep(0)
            return await operation()

        flown = list(range(20))
        report = await restore(path, HookedDriver(driver_for(store), around), overwrite=overwrite)

        rest = "overwritten" if overwrite else "failed"
        assert {"restored": 1, rest: 19} == counts(report)
        assert {"n": 19 if overwrite else 0} == await store.get("twice", collection="c")

    async def test_a_page_is_one_operation(self, any_store: AnyStore, tmp_path: Path) -> None:
        """What the file has of a page is put at once; what is there already is looked at alone."""
        await any_store.put("k1", {"other": 1}, collection="c")
        await any_store.put("k2", {"n": 1}, collection="c")
        path = backup_file(tmp_path, *MANY, entry("bad", {"n": 1}, collection="\ud800"))
        death = Death()

        report = await restore(path, BatchingDriver(driver_for(any_store), death))

        refused = isinstance(any_store, DiskStore)
        expected = {"restored": BATCH_ENTRIES - 1 + (not refused), "already": 1, "failed": 1 + refused}
        assert expected == counts(report)
        assert reasons(report)["k1"] == "another value is there"
        assert ["get", "put_many_if_absent", "get", "get", "put_many_if_absent"] == death.operations

    async def test_a_writer_without_end(self, store: MemoryStore, path: Path) -> None:
        """An entry that changes all the time is given up and named."""
        await store.put("a", {"other": 0}, collection="c")
        changes = 0

        async def around(name: str, operation: Any) -> Any:
            nonlocal changes
            if name == "replace_many":
                changes += 1
                await store.put("a", {"other": changes}, collection="c")
            return await operation()

        report = await restore(path, HookedDriver(driver_for(store), around), overwrite=True)

        assert {"a": "other processes keep changing it"} == reasons(report)

    async def test_what_was_unreadable_is_not_restored(self, store: MemoryStore, tmp_path: Path) -> None:
        """Bytes that nobody could read are named, and never put anywhere."""
        path = backup_file(tmp_path, *ENTRIES, Entry("c", "bad", None, stored=b"?", problem="odd"))

        report = await restore(path, store)

        assert {"restored": 3, "failed": 1} == counts(report)
        assert {"bad": "it could not be read when the backup was taken: odd"} == reasons(report)

    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_what_is_unreadable_there_stays(
        self, store: MemoryStore, path: Path, overwrite: bool
    ) -> None:
        """An entry of the store that nobody understands is not replaced either."""
        await store.setup_collection(collection="c")
        plant(store, "a", "no JSON")

        dry = await restore(path, store, overwrite=overwrite, dry_run=True)
        report = await restore(path, store, overwrite=overwrite)

        assert {"restored": 2, "failed": 1} == counts(report)
        assert (counts(report), report.failures) == (counts(dry), dry.failures)
        assert b"no JSON" == (await held(store, "a")).stored

    async def test_names_that_share_a_place(self, tmp_path: Path) -> None:
        """Where the store cannot tell two names apart, the second one is named instead of lost."""
        store = DiskStore(directory=tmp_path / "kv")
        same = {"v": 1}
        path = backup_file(tmp_path, entry("b::c", same), entry("c", same, collection="c::b"))

        report = await restore(path, store)

        assert {"restored": 1, "failed": 1} == counts(report)
        assert report.failures[0].reason.endswith("in its place")
        store._cache.close()

    async def test_a_name_that_the_store_cannot_hold(self, tmp_path: Path) -> None:
        """An entry that this store can never hold is named, and the others are restored."""
        from kvseal.drivers import driver_from_url

        driver = await driver_from_url(f"filetree:{tmp_path}/tree?names=plain", create=True)
        path = backup_file(tmp_path, entry("a/b"), *ENTRIES)

        report = await restore(path, driver)

        assert {"restored": 3, "failed": 1} == counts(report)
        assert "cannot hold the name" in reasons(report)["a/b"]
        await driver.close()

    async def test_an_entry_without_a_name(self, any_store: AnyStore, tmp_path: Path) -> None:
        """A name that the old store did not tell cannot be made up in another kind of store."""
        path = backup_file(tmp_path, Entry("c", None, {}, path="c/S_x-00000000.json"), *ENTRIES)

        for dry_run in (True, False):
            report = await restore(path, any_store, dry_run=dry_run)
            assert {"restored": 3, "failed": 1} == counts(report)
            why = "its name is not known, so only a file tree store can hold it"
            assert {None: f"{why} (c/S_x-00000000.json)"} == reasons(report)


class TestDryRun:
    """A dry run says what would be, and writes nothing."""

    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_it_says_what_then_happens(
        self, store: MemoryStore, tmp_path: Path, overwrite: bool
    ) -> None:
        """The same numbers and the same failures, and a store as it was."""
        path = backup_file(tmp_path, *ENTRIES, entry("late", expires_at=PAST))
        await store.put("a", {"other": 1}, collection="c")
        await store.put("b", LARGE, collection="c")
        before = dump(store)

        dry = await restore(path, ReadOnlyWrapper(store), dry_run=True, overwrite=overwrite)
        after = dump(store)
        done = await restore(path, store, overwrite=overwrite)

        assert before == after
        assert (counts(done), done.failures) == (counts(dry), dry.failures)
        assert {**done.as_dict(), "dry_run": True, "seconds": 0} == {**dry.as_dict(), "seconds": 0}

    async def test_a_store_that_may_not_be_written(self, store: MemoryStore, path: Path) -> None:
        """A real run through a read-only wrapper is refused."""
        with pytest.raises(UnsupportedStackError):
            await restore(path, ReadOnlyWrapper(store))


class TestFile:
    """The whole file is checked before the first write."""

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            (backup_bytes(*MANY)[:-1], MalformedBackupError),
            (backup_bytes(*MANY) + b"x", MalformedBackupError),
            (b"", MalformedBackupError),
        ],
        ids=["cut off", "continued", "empty"],
    )
    async def test_a_bad_file(
        self, store: MemoryStore, tmp_path: Path, content: bytes, error: type[Exception]
    ) -> None:
        """A file that is bad only at its end changes nothing: the store is not even asked."""
        path = tmp_path / "bad"
        path.write_bytes(content)
        death = Death()

        with pytest.raises(error):
            await restore(path, HookedDriver(driver_for(store), death))
        assert [] == death.operations

    async def test_a_file_of_the_future(self, store: MemoryStore, tmp_path: Path) -> None:
        """A later version is its own error."""
        from tests.backup.made import HEADER, frame

        path = tmp_path / "later"
        path.write_bytes(frame(HEADER.line().replace(b'"version":1', b'"version":2')))

        with pytest.raises(UnknownBackupVersionError, match="version 2"):
            await restore(path, store)

    @pytest.mark.parametrize("name", ["missing", "."])
    async def test_no_file(self, store: MemoryStore, tmp_path: Path, name: str) -> None:
        """A file that is not there, or is none, is a usage error."""
        with pytest.raises(BackupFileError) as caught:
            await restore(tmp_path / name, store)
        assert 2 == caught.value.exit_code

    async def test_a_file_that_is_changed_after_the_check(self, store: MemoryStore, path: Path) -> None:
        """It is checked while it is read again, so that a restore never succeeds with another file."""

        def cut(event: Any) -> None:
            if isinstance(event, Progress) and event.phase == "check":
                path.write_bytes(path.read_bytes()[:-4])

        with pytest.raises(MalformedBackupError):
            await restore(path, store, listener=cut)


class TestVaultMeta:
    """The vault meta claims the store first, and never goes back by accident."""

    @pytest.fixture
    async def vault(self, store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> AsyncIterator[Vault]:
        """Yield a vault with one record."""
        vault = await Vault.create(store, secret=secret, kdf=cheap)
        await EnvelopeEncryptionWrapper(store, vault=vault).put("k", {"token": "t"}, collection="c")
        yield vault
        await vault.close()

    @pytest.fixture
    async def saved(self, vault: Vault, store: MemoryStore, tmp_path: Path) -> Path:
        """Return a backup of it."""
        await backup(store, tmp_path / "saved")
        return tmp_path / "saved"

    async def test_into_an_empty_store(self, any_store: AnyStore, saved: Path, secret: Secret) -> None:
        """File and secret are all that is needed to read again."""
        assert {"restored": 2} == counts(await restore(saved, any_store))

        vault = await Vault.open(any_store, secret=secret)
        assert {"token": "t"} == await EnvelopeEncryptionWrapper(any_store, vault=vault).get(
            "k", collection="c"
        )
        await vault.close()

    async def test_the_meta_alone(self, any_store: AnyStore, saved: Path, secret: Secret) -> None:
        """Of the whole backup the vault meta alone is put back: a record that is not there stays away."""
        assert {"restored": 1} == counts(await restore(saved, any_store, only_meta=True))

        assert [(META_COLLECTION, META_KEY, None)] == list(await everything(driver_for(any_store)))
        await (await Vault.open(any_store, secret=secret)).close()

    async def test_no_meta_to_put_back(self, store: MemoryStore, path: Path) -> None:
        """A backup without a vault meta cannot put one back, and puts nothing."""
        with pytest.raises(BackupFileError, match="no vault meta"):
            await restore(path, store, only_meta=True)

        assert {} == dump(store)

    async def test_a_later_revision_stays(
        self, vault: Vault, store: MemoryStore, saved: Path, secret: Secret
    ) -> None:
        """After a rotation, records come back and the rotated vault meta stays, even with `overwrite`."""
        await vault.rotate_dek()
        rotated = await raw_meta(store)
        await store.delete("k", collection="c")

        report = await restore(saved, store, overwrite=True)

        assert {"restored": 1, "already": 1} == counts(report)
        assert rotated == await raw_meta(store)
        assert {"token": "t"} == await EnvelopeEncryptionWrapper(store, vault=vault).get("k", collection="c")

    @pytest.mark.parametrize("there", ["another vault", "older", "same revision", "foreign", "unreadable"])
    async def test_another_vault_meta_is_refused(
        self,
        store: MemoryStore,
        saved: Path,
        tmp_path: Path,
        secret: Secret,
        cheap: Argon2idParams,
        there: str,
    ) -> None:
        """Where the vault meta is another one, nothing at all is written, not even with `overwrite`."""
        other = MemoryStore()
        if there == "another vault":
            vault = await Vault.create(other, secret=secret, kdf=cheap)
            await vault.rotate_dek()
            await vault.close()
        elif there == "unreadable":
            await other.setup_collection(collection=META_COLLECTION)
            plant(other, META_KEY, "no JSON", collection=META_COLLECTION)
        else:
            meta = await raw_meta(store)
            await put_raw_meta(other, {"dek": "x"} if there == "foreign" else meta)
        if there == "same revision":
            await flipped(other, "mac")
        if there == "older":
            vault = await Vault.open(store, secret=secret)
            await vault.rotate_dek()
            await vault.close()
            saved = tmp_path / "newer"
            await backup(store, saved)
        before = dump(other)

        for options in ({}, {"overwrite": True}, {"dry_run": True}):
            with pytest.raises(VaultExistsError, match="a different vault meta"):
                await restore(saved, other, **options)
        assert before == dump(other)

    async def test_rolled_back_on_purpose(self, vault: Vault, store: MemoryStore, saved: Path) -> None:
        """Only with a flag of its own the older vault meta is put back."""
        older = await raw_meta(store)
        await vault.rotate_dek()

        report = await restore(saved, store, overwrite_meta=True)

        assert {"overwritten": 1, "already": 1} == counts(report)
        assert older == await raw_meta(store)

    async def test_overwriting_the_meta_overwrites_no_record(
        self, vault: Vault, store: MemoryStore, saved: Path
    ) -> None:
        """The two flags are independent."""
        await vault.rotate_dek()
        await EnvelopeEncryptionWrapper(store, vault=vault).put("k", {"token": "new"}, collection="c")

        report = await restore(saved, store, overwrite_meta=True)

        assert {"overwritten": 1, "failed": 1} == counts(report)

    async def test_an_evicting_store_is_warned_of(
        self, saved: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A store that may drop the vault meta gets it back with a warning."""
        with caplog.at_level(logging.WARNING, "kvseal"):
            await restore(saved, MemoryStore(max_entries_per_collection=5))

        assert "drops entries when it is full" in caplog.text


class TestInterrupted:
    """A restore can be killed around any store operation, and run again."""

    @pytest.fixture
    async def saved(self, tmp_path: Path, secret: Secret, cheap: Argon2idParams) -> Path:
        """Return a backup of a vault with three records."""
        source = MemoryStore()
        vault = await Vault.create(source, secret=secret, kdf=cheap)
        await EnvelopeEncryptionWrapper(source, vault=vault).put_many(
            ["a", "b", "c"], [{"n": n} for n in range(3)]
        )
        await vault.close()
        await backup(source, tmp_path / "saved")
        return tmp_path / "saved"

    async def test_the_vault_meta_is_put_first(self, store: MemoryStore, saved: Path) -> None:
        """Whoever starts during a restore finds the vault, and cannot create another one."""
        there = []

        async def around(_: str, operation: Any) -> Any:
            result = await operation()
            there.append([names[0] for names in await everything(driver_for(store))])
            return result

        await restore(saved, HookedDriver(driver_for(store), around))

        assert [META_COLLECTION] == there[0]

    async def test_the_table_is_complete(self, store: MemoryStore, saved: Path) -> None:
        """These are the store operations of this restore."""
        death = Death()

        await restore(saved, HookedDriver(driver_for(store), death))

        assert ["put_if_absent", "get", *["put_if_absent"] * 3, "get"] == death.operations

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6])
    async def test_killed(
        self, any_store: AnyStore, saved: Path, secret: Secret, cheap: Argon2idParams, at: int, after: bool
    ) -> None:
        """What is there can be read by whoever starts next; the same command finishes the rest."""
        with pytest.raises(Killed):
            await restore(saved, HookedDriver(driver_for(any_store), Death(at, after=after)))

        there = {names[1] for names in await everything(driver_for(any_store))}
        assert not there or META_KEY in there
        report = await restore(saved, any_store)
        vault = await Vault.open(any_store, secret=secret)
        assert 4 == report.restored + report.already
        assert [{"n": 0}, {"n": 1}, {"n": 2}] == await EnvelopeEncryptionWrapper(
            any_store, vault=vault
        ).get_many(["a", "b", "c"])
        await vault.close()

    @pytest.mark.parametrize("after", [False, True])
    async def test_killed_around_a_page(
        self, any_store: AnyStore, saved: Path, secret: Secret, cheap: Argon2idParams, after: bool
    ) -> None:
        """Killed around the write of a page, a restore has written all of it or nothing; the next one ends it."""
        death = Death(of="put_many_if_absent", at=1, after=after)
        with pytest.raises(Killed):
            await restore(saved, BatchingDriver(driver_for(any_store), death))

        there = await everything(driver_for(any_store))
        report = await restore(saved, any_store)

        assert (1 + 3 * after) == len(there)
        assert {"restored": 3 - 3 * after, "already": 1 + 3 * after} == {"restored": 0} | counts(report)
        vault = await Vault.open(any_store, secret=secret)
        wrapper = EnvelopeEncryptionWrapper(any_store, vault=vault)
        assert [{"n": 0}, {"n": 1}, {"n": 2}] == await wrapper.get_many(["a", "b", "c"])
        await vault.close()

    async def test_an_unreachable_store_ends_it(self, store: MemoryStore, saved: Path) -> None:
        """That the store is gone is no failure of each record, but the end."""
        operations = []

        async def around(name: str, operation: Any) -> Any:
            operations.append(name)
            if len(operations) > 1:
                msg = "gone"
                raise StoreUnreachableError(msg)
            return await operation()

        with pytest.raises(StoreUnreachableError):
            await restore(saved, HookedDriver(driver_for(store), around))


@pytest.mark.exhaustive
async def test_ten_thousand_entries(tmp_path: Path) -> None:
    """More entries than any `keys()` of the stores lists come back, a few of them in flight at a time."""
    source, target = MemoryStore(), MemoryStore()
    count = 10_050
    await source.put_many([f"k{n}" for n in range(count)], [{"n": n} for n in range(count)], collection="c")
    saved = await backup(source, tmp_path / "many")
    flying = most = 0

    async def around(_: str, operation: Any) -> Any:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0)
        result = await operation()
        flying -= 1
        return result

    report = await restore(tmp_path / "many", HookedDriver(driver_for(target), around))

    assert (count, count) == (saved.saved, report.restored)
    assert await everything(driver_for(source)) == await everything(driver_for(target))
    assert 1 < most <= 16


@pytest.mark.exhaustive
@pytest.mark.parametrize("fake", [HookedDriver, BatchingDriver])
async def test_memory(tmp_path: Path, fake: type[HookedDriver]) -> None:
    """However many entries a backup has, a restore holds no more than a few pages of them."""

    async def around(name: str, operation: Any) -> Any:
        # A store that keeps nothing, so that all memory is the restore's own.
        return None if name == "get" else True if name == "put_if_absent" else [True] * BATCH_ENTRIES

    async def peak(pages: int) -> int:
        entries = (entry(f"k{n}", {"text": f"{n:08}" * 32}) for n in range(pages * BATCH_ENTRIES))
        path = backup_file(tmp_path, *entries)
        driver = fake(driver_for(MemoryStore()), around)
        gc.collect()
        tracemalloc.start()
        try:
            report = await restore(path, driver)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        path.unlink()
        assert pages * BATCH_ENTRIES == report.restored
        return most

    await peak(1)
    few, many = await peak(3), await peak(12)

    assert many < 1.5 * few


times = st.none() | st.datetimes(timezones=st.just(CREATED.tzinfo))
later = st.none() | st.datetimes(min_value=FUTURE.replace(tzinfo=None), timezones=st.just(FUTURE.tzinfo))


@pytest.mark.exhaustive
@settings(max_examples=60)
@given(st.dictionaries(st.tuples(any_text, any_text), st.tuples(json_objects, times, later), max_size=5))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, made: Any) -> None:
    """Whatever names, values and times a store holds, another one holds after backup and restore."""
    path = tmp_path_factory.mktemp("trip") / "file"

    async def trip() -> None:
        source, target = MemoryStore(), MemoryStore()
        await put_all(driver_for(source), [Entry(*names, *rest) for names, rest in made.items()])

        saved = await backup(source, path)
        report = await restore(path, target)

        there = {names for names in made if names[0] != META_COLLECTION}
        assert (len(there), len(there)) == (saved.saved, report.restored)
        assert await everything(driver_for(source)) == await everything(driver_for(target))
        assert dump(source) == dump(target)

    asyncio.run(trip())


def test_summary() -> None:
    """The summary is one line with every number."""
    report = RestoreReport(15, 1, 2, 3, 4, 5, 0.12345)

    expected = {"scanned": 15, "restored": 1, "overwritten": 2, "already": 3, "expired": 4, "failed": 5}
    expected |= {"type": "summary", "schema": 1, "command": "restore", "seconds": 0.123}
    assert expected == report.as_dict()
    assert {**expected, "dry_run": True} == replace(report, dry_run=True).as_dict()


@pytest.mark.parametrize("overwrite", [False, True])
async def test_records_of_a_retired_dek(
    store: MemoryStore, cheap: Argon2idParams, tmp_path: Path, overwrite: bool
) -> None:
    """What this vault can no longer open is named, and neither replaces a record nor comes back as restored."""
    vault = await Vault.create(store, secret=Secret(b"the secret"), kdf=cheap)
    await wrapped(vault).put_many(["stays", "deleted"], [{"v": 1}] * 2)
    await backup(store, tmp_path / "file")
    await vault.rotate_dek()
    await wrapped(vault).put("stays", {"v": 2})
    await store.delete("deleted")
    await vault.drop_dek(1)

    report = await restore(tmp_path / "file", store, overwrite=overwrite)

    assert (0, 0, 2) == (report.restored, report.overwritten, report.failed)
    assert all("needs a DEK 1" in failure.reason for failure in report.failures)
    assert [{"v": 2}, None] == await wrapped(vault).get_many(["stays", "deleted"])


async def test_another_dek_of_the_same_number(
    store: MemoryStore, cheap: Argon2idParams, tmp_path: Path
) -> None:
    """After a rotation was lost and made again, records of the lost DEK are named, and not put back as if they opened."""
    vault = await Vault.create(store, secret=Secret(b"the secret"), kdf=cheap)
    await wrapped(vault).put("first", {"v": 1})
    before = await raw_meta(store)
    await vault.rotate_dek()
    await wrapped(vault).put("lost", {"v": 2})
    await backup(store, tmp_path / "file")
    for key in ("first", "lost"):
        await store.delete(key)
    await put_raw_meta(store, before)
    newest._newest.clear()
    again = await Vault.open(store, secret=Secret(b"the secret"))
    await again.rotate_dek()
    await again.rotate_dek()

    report = await restore(tmp_path / "file", store)

    assert (1, 1, ["lost"]) == (report.restored, report.failed, [f.key for f in report.failures])
    assert "needs a DEK 2 that this vault has retired or never had" in report.failures[0].reason
    assert {"v": 1} == await wrapped(again).get("first")


async def test_the_same_dek_under_a_new_root_key(
    store: MemoryStore, cheap: Argon2idParams, tmp_path: Path
) -> None:
    """A DEK that was wrapped anew for a new root key is the same one."""
    vault = await Vault.create(store, secret=Secret(b"the secret"), kdf=cheap)
    await wrapped(vault).put("k", {"v": 1})
    await backup(store, tmp_path / "file")
    await vault.rotate_root()
    await store.delete("k")

    report = await restore(tmp_path / "file", store)

    assert (1, 0) == (report.restored, report.failed)
    assert {"v": 1} == await wrapped(vault).get("k")


async def test_a_dek_is_retired_meanwhile(store: MemoryStore, cheap: Argon2idParams, tmp_path: Path) -> None:
    """A census may have been before the record came back: the restore says so, and does not succeed."""
    vault = await Vault.create(store, secret=Secret(b"the secret"), kdf=cheap)
    await wrapped(vault).put("k", {"v": 1})
    await backup(store, tmp_path / "file")
    await store.delete("k")
    await vault.rotate_dek()
    puts: list[bool] = []

    async def around(name: str, operation: Any) -> Any:
        puts.append(name == "put_if_absent")
        if sum(puts) == 2:
            await vault.retire_dek(1)
        return await operation()

    with pytest.raises(Conflict, match="DEK 1 was retired or lost during the restore"):
        await restore(tmp_path / "file", HookedDriver(driver_for(store), around))


async def test_nothing_is_replaced_by_what_nothing_opens(
    store: MemoryStore, cheap: Argon2idParams, tmp_path: Path
) -> None:
    """Where no vault meta is seen, a sealed record takes the place of no other value, whatever was asked."""
    vault = await Vault.create(store, secret=Secret(b"the secret"), kdf=cheap)
    await wrapped(vault).put_many(["a", "b"], [{"v": 1}] * 2)
    await store.delete(META_KEY, collection=META_COLLECTION)
    await backup(store, tmp_path / "file")
    await store.put("a", {"v": "readable"})
    await store.delete("b")

    report = await restore(tmp_path / "file", store, overwrite=True)

    assert (1, 0, 1, 3) == (report.restored, report.overwritten, report.failed, report.exit_code)
    assert "no vault meta was seen that opens it" in report.failures[0].reason
    assert {"v": "readable"} == await store.get("a")
