"""
What every driver promises, tested through the driver and the real store object alone.

A driver's test module subclasses `DriverContract` under a name that pytest collects and
overrides the `backend` fixture.  Class variables say what the backend cannot do.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from tests.drivers.entries import (
    COLLECTIONS,
    CREATED,
    FUTURE,
    KEYS,
    LARGE,
    META_COLLECTION,
    META_KEY,
    ODD_NAMES,
    PAST,
    SMALL,
    TRESPASSES,
    VALUES,
    Backend,
    clock_is_ahead,
    entry,
    fetched,
    fill,
    numbers,
    scanned,
)

from kvseal import clock
from kvseal.drivers import abilities, base, landing_of
from kvseal.drivers.base import PAGE_SIZE, Count, Driver, Entry, Replacement, Times
from kvseal.drivers.chain import Chain
from kvseal.errors import (
    Conflict,
    StoreError,
    StoreUnreachableError,
    UnsealableValueError,
    UnsupportedStoreError,
)


async def _rest(driver: Driver, bounds: str, after: str | None) -> list[Entry]:
    """Return what a scan within *bounds* has behind *after*."""
    pages = abilities.scan_part(driver, (0, 1), bounds, after=after)
    return [found async for page in pages for found in page.entries]


class DriverContract:
    """Subclass it, override `backend`, and every promise of `kvseal.drivers.base` is tested."""

    values: ClassVar[list[Any]] = VALUES
    """Values that the store can hold: pytest's parameters, of which each is an `any_value`."""
    unsupported_names: ClassVar[frozenset[tuple[str, str]]] = frozenset()
    """Names that the store itself refuses."""
    many: ClassVar[int] = 10_050
    """How many keys a complete scan finds: more than any `keys()` of the stores."""
    page: ClassVar[int] = PAGE_SIZE
    """Entries in a page at most; the tests of a slow server let a page have fewer."""
    times: ClassVar[Times] = Times.EXACT
    """How exactly creation time and expiry are stored."""
    counts_exactly: ClassVar[bool] = True
    """Whether a count is exact, and no estimate."""
    store_clock: ClassVar[Literal["host's", "server's", "unknown"]] = "host's"
    """Whose clock the backend goes by."""
    splits: ClassVar[bool] = False
    """Whether a few pages of entries are split, rather than read whole for each part."""
    counts_expired: ClassVar[bool] = False
    """Whether a count, which is an estimate then, has what has expired and is still there."""
    keeps_expired: ClassVar[bool] = True
    """Whether the backend takes an entry that has expired already, and keeps it until it is removed."""
    largest_body: ClassVar[int | None] = None
    """How many bytes the backend holds of one entry at most, if less than tests put into one."""

    def same_expiry(self, expected: datetime | None, actual: datetime | None) -> bool:
        """Whether *actual* is what has become of *expected*; where no times are kept, to the minute."""
        if expected is None or actual is None:
            return expected == actual
        if self.times is Times.LOST:
            return abs(expected - actual) < timedelta(minutes=1)
        return self.kept(expected, up=True) == actual

    def same_entry(self, expected: Entry | None, actual: Entry | None) -> bool:
        """Whether two entries that were read are the same, as far as the driver promises."""
        if self.times is not Times.LOST or expected is None or actual is None:
            return expected == actual
        same = self.same_expiry(expected.expires_at, actual.expires_at)
        return same and expected == replace(actual, expires_at=expected.expires_at)

    def names_in_a_scan(self, collection: str, key: str) -> tuple[str | None, str | None]:
        """Return what a scan says of an entry with these names: the names, where the backend gives them back."""
        return collection, key

    def kept(self, time: datetime, *, up: bool) -> datetime:
        """Return *time* as the backend keeps it: creation times are rounded down, and expiries *up*."""
        beyond = time.microsecond % 1000 if self.times is Times.MILLISECONDS else 0
        return time + timedelta(microseconds=(1000 if up and beyond else 0) - beyond)

    @property
    def created(self) -> datetime | None:
        """What has become of `CREATED`."""
        return None if self.times is Times.LOST else self.kept(CREATED, up=False)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give a test that takes any value each of the store's."""
        if "any_value" in metafunc.fixturenames:
            metafunc.parametrize("any_value", self.values)

    @pytest.fixture
    async def backend(self) -> Backend:
        """Return, or yield and then release, an empty store and its driver."""
        raise NotImplementedError

    # Between the store and the driver

    async def test_store_reads_what_the_driver_put(self, backend: Backend, any_value: dict[str, Any]) -> None:
        """A value that the driver stored is what the store's `get` returns."""
        assert await backend.driver.put_if_absent(entry(value=any_value))

        assert any_value == await backend.store.get("key", collection="coll")

    async def test_driver_reads_what_the_store_put(self, backend: Backend, any_value: dict[str, Any]) -> None:
        """A value that the store put comes back from the driver with its names and times."""
        before = datetime.now(timezone.utc)
        await backend.store.put("key", any_value, collection="coll", ttl=3600)

        found = await fetched(backend.driver)

        assert ("coll", "key", any_value, "") == (found.collection, found.key, found.value, found.problem)
        assert found.expires_at is not None
        if self.times is not Times.LOST:
            assert found.created_at is not None
            assert self.kept(before, up=False) <= found.created_at <= datetime.now(timezone.utc)
        assert timedelta(seconds=3590) < found.expires_at - before

    async def test_store_reads_the_expiry_that_the_driver_put(self, backend: Backend) -> None:
        """The store's `ttl` counts down to the expiry of the entry that was put."""
        expires_at = datetime.now(timezone.utc) + timedelta(days=1)
        await backend.driver.put_if_absent(entry(expires_at=expires_at))

        value, ttl = await backend.store.ttl("key", collection="coll")

        assert {"n": 0} == value
        assert 0 < ttl <= 86_400

    async def test_put_keeps_times(self, backend: Backend) -> None:
        """An entry has its own creation time and expiry, as exactly as the driver says, not the moment's."""
        assert self.times is backend.driver.capabilities.times
        if self.times is Times.LOST:
            pytest.skip("the driver does not keep times")
        await backend.driver.put_if_absent(entry(expires_at=FUTURE))

        found = await fetched(backend.driver)

        assert (self.created, self.kept(FUTURE, up=True)) == (found.created_at, found.expires_at)

    async def test_entry_without_times_has_none(self, backend: Backend) -> None:
        """What has no expiry gets none, on its way in and on its way out."""
        await backend.store.put("key", SMALL, collection="coll")

        assert (await fetched(backend.driver)).expires_at is None
        assert (SMALL, None) == await backend.store.ttl("key", collection="coll")

    @pytest.mark.parametrize(("collection", "key"), ODD_NAMES)
    async def test_odd_names(self, backend: Backend, collection: str, key: str) -> None:
        """Odd names reach the same entry through the store and through the driver, and come back from a scan."""
        if (collection, key) in self.unsupported_names:
            pytest.skip("the store refuses this name")
        await backend.store.put(key, {"by": "store"}, collection=collection)

        found = await fetched(backend.driver, key, collection)

        assert (collection, key) == (found.collection, found.key)
        assert [(*self.names_in_a_scan(collection, key), {"by": "store"})] == [
            (e.collection, e.key, e.value) for e in await scanned(backend.driver)
        ]
        assert await backend.driver.delete_if_unchanged(found)
        assert await backend.store.get(key, collection=collection) is None
        assert await backend.driver.put_if_absent(replace(found, value={"by": "driver"}))
        assert {"by": "driver"} == await backend.store.get(key, collection=collection)

    async def test_proves(self, backend: Backend) -> None:
        """An entry of a scan proves its own key, and no other."""
        await backend.store.put("key", SMALL, collection="coll")

        (found,) = await scanned(backend.driver)

        assert [True, False] == [abilities.proves(backend.driver, found, key) for key in ("key", "other")]

    async def test_leads(self, backend: Backend) -> None:
        """Names lead to the entry that they are the names of, whatever of them a scan gives back; others do not."""
        await backend.store.put("key", SMALL, collection="coll")
        (found,) = await scanned(backend.driver)
        claims = [("coll", "key"), ("coll", "other"), ("other", "key")]

        assert [True, False, False] == [abilities.leads(backend.driver, found, *names) for names in claims]

    async def test_loses_names(self, backend: Backend) -> None:
        """The landing of a store and its driver say the same of whether names get lost."""
        assert landing_of(backend.store).loses_names == abilities.loses_names(backend.driver)

    async def test_default_collection(self, backend: Backend) -> None:
        """What the store puts without a collection is where the wrapper chain says."""
        await backend.store.put("key", SMALL)

        default = Chain.of(backend.store).default_collection
        assert SMALL == (await fetched(backend.driver, collection=default)).value

    async def test_missing_is_none(self, backend: Backend) -> None:
        """An entry that was never put is `None`, in a collection that exists and in one that does not."""
        await backend.store.put("other", SMALL, collection="coll")

        assert await backend.driver.get("coll", "key") is None
        assert await backend.driver.get("nowhere", "key") is None

    # Where names land

    @pytest.mark.parametrize(("collection", "key"), TRESPASSES)
    async def test_trespasses(self, backend: Backend, collection: str, key: str) -> None:
        """No known way around reaches the vault meta, whether it is refused or goes somewhere else."""
        await self.put_beside(backend, collection, key)

    @given(collection=COLLECTIONS, key=KEYS)
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    async def test_no_name_reaches_another_entry(self, backend: Backend, collection: str, key: str) -> None:
        """No name that is let through reaches an entry of kvseal, nor one whose place is another."""
        await self.put_beside(backend, collection, key)

    async def put_beside(self, backend: Backend, collection: str, key: str) -> None:
        """Put an entry of that name if it is let through; the vault meta and a neighbour stay what they are."""
        landing = landing_of(Chain.of(backend.store).base)
        await backend.store.put(META_KEY, {"meta": 1}, collection=META_COLLECTION)
        await backend.store.put("b::c", {"neighbour": 1}, collection="a")
        with suppress(StoreError):
            if landing.check_key is not None:
                landing.check_key(key)
            if landing.reaches(collection, META_COLLECTION):
                return
            if landing.place(collection, key) == landing.place("a", "b::c"):
                return
            with suppress(Exception):  # What the store itself refuses does no harm.
                await backend.store.put(key, {"trespasser": 1}, collection=collection)
                await backend.store.delete(key, collection=collection)

        assert {"meta": 1} == await backend.store.get(META_KEY, collection=META_COLLECTION)
        assert {"neighbour": 1} == await backend.store.get("b::c", collection="a")

    # Scans

    @pytest.mark.exhaustive
    async def test_scan_is_complete(self, backend: Backend) -> None:
        """A scan goes past the 10,000 keys at which the stores' own enumeration ends, in bounded pages."""
        await fill(backend.store, self.many)

        pages = [page.entries async for page in backend.driver.scan()]

        assert dict.fromkeys(range(self.many), 1) == numbers([found for page in pages for found in page])
        assert max(map(len, pages)) <= self.page
        assert len(pages) >= self.many // self.page

    @pytest.mark.exhaustive
    async def test_scan_beside_writers(self, backend: Backend) -> None:
        """
        Entries that are rewritten while a scan runs, or that newcomers jostle, are seen nevertheless.

        The scan ends, although more is added after every page than the page had.
        """
        count = 3 * self.page
        await fill(backend.store, count)
        seen: list[Entry] = []
        rounds = 0

        async for page in backend.driver.scan():
            seen += page.entries
            again = {f"key-{n}": {"n": n, "again": rounds} for n in range(rounds, count, 7)}
            new = {f"new-{rounds}-{n}": {"n": -1} for n in range(self.page + 1 if rounds < 10 else 0)}
            written = again | new
            await backend.store.put_many([*written], [*written.values()], collection="coll")
            rounds += 1

        assert set(range(count)) <= numbers(seen).keys()
        assert rounds < 10

    @pytest.mark.exhaustive
    async def test_scan_resumes_behind_a_cursor(self, backend: Backend) -> None:
        """A scan that goes on behind any page's cursor sees what the pages before it did not have."""
        count = 4 * self.page - 1
        await fill(backend.store, count)
        pages = [page async for page in backend.driver.scan()]

        for done in range(1, len(pages) + 1):
            rest = await scanned(backend.driver, after=pages[done - 1].cursor)
            seen = [found for page in pages[:done] for found in page.entries]

            assert dict.fromkeys(range(count), 1) == numbers(seen + rest)

    @pytest.mark.parametrize("parts", [2, 5])
    async def test_partitions(self, backend: Backend, parts: int) -> None:
        """The parts of a scan are disjoint, together the whole, resumable, and none is empty."""
        count = 3 * self.page
        await fill(backend.store, count)
        entries: list[Entry] = []

        for part in range(parts):
            scan = backend.driver.scan(partition=(part, parts))
            first = await anext(scan)
            entries += first.entries
            rest = await scanned(backend.driver, partition=(part, parts), after=first.cursor)
            entries += rest

            assert first.entries

        assert dict.fromkeys(range(count), 1) == numbers(entries)

    async def test_split(self, backend: Backend) -> None:
        """
        Within the bounds of all parts is the whole, each part is resumable, and what is written later is in one.

        Where names bound the parts, an entry is in one part alone.  Bounds are text, and no text but those.
        """
        driver, count = backend.driver, 3 * PAGE_SIZE
        await fill(backend.store, count)
        bounds = await abilities.split(driver, 5)
        assert self.splits == (bounds is not None)
        if bounds is None:
            return
        await backend.store.put_many(["0", "zzz"], [{"n": count}, {"n": count + 1}], collection="coll-z")

        entries: list[Entry] = []
        for each in bounds:
            assert await abilities.is_split_so(driver, each)
            first = await anext(abilities.scan_part(driver, (0, 1), each))
            entries += first.entries
            entries += await _rest(driver, each, first.cursor)

        assert dict.fromkeys(range(count + 2), 1) == numbers(entries)
        assert not await abilities.is_split_so(driver, "no bounds")
        with pytest.raises(StoreUnreachableError, match=r"bounds"):
            await _rest(driver, "no bounds", None)

    async def test_scan_of_nothing(self, backend: Backend) -> None:
        """An empty store has no pages and counts nothing."""
        assert [] == await scanned(backend.driver)
        assert 0 == (await abilities.count(backend.driver)).entries

    async def test_scan_spans_collections(self, backend: Backend) -> None:
        """A scan has the entries of every collection."""
        for n in range(5):
            await backend.store.put("key", {"n": n}, collection=f"coll-{n}")

        assert {f"coll-{n}": n for n in range(5)} == {
            e.collection: e.value["n"] for e in await scanned(backend.driver) if e.value
        }

    async def test_count(self, backend: Backend) -> None:
        """The count is exact where the driver says so."""
        await fill(backend.store, 25)

        count = await abilities.count(backend.driver)

        assert self.counts_exactly == count.exact
        if count.exact:
            assert Count(25, exact=True) == count

    # Replacing

    @pytest.mark.parametrize("expires_at", [None, FUTURE])
    @pytest.mark.parametrize("old", [SMALL, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize("new", [SMALL, LARGE], ids=["small", "large"])
    async def test_replace_keeps_times(
        self, backend: Backend, old: dict[str, Any], new: dict[str, Any], expires_at: datetime | None
    ) -> None:
        """A replacement changes the value alone, whatever the sizes of the old one and the new one."""
        await backend.driver.put_if_absent(entry(value=old, expires_at=expires_at))
        new = {**new, "new": True}

        await base.replace(backend.driver, await fetched(backend.driver), new)

        found = await fetched(backend.driver)
        assert (new, self.created) == (found.value, found.created_at)
        assert self.same_expiry(expires_at, found.expires_at)
        assert new == await backend.store.get("key", collection="coll")

    async def test_replace_keeps_what_the_store_wrote(self, backend: Backend) -> None:
        """Times that the store itself wrote are as unchanged as those of the driver."""
        await backend.store.put("key", SMALL, collection="coll", ttl=1234.5)
        before = await fetched(backend.driver)

        await base.replace(backend.driver, before, LARGE)

        after = await fetched(backend.driver)
        assert before.created_at == after.created_at
        assert self.same_expiry(before.expires_at, after.expires_at)
        value, ttl = await backend.store.ttl("key", collection="coll")
        assert LARGE == value
        assert 0 < ttl <= 1234.5

    @pytest.mark.parametrize("before", [None, FUTURE])
    @pytest.mark.parametrize("after", [None, FUTURE + timedelta(microseconds=1)])
    async def test_replace_with_another_expiry(
        self, backend: Backend, before: datetime | None, after: datetime | None
    ) -> None:
        """A replacement may set or clear the expiry, and the creation time stays nevertheless."""
        await backend.driver.put_if_absent(entry(expires_at=before))

        done = await backend.driver.replace_many([Replacement(await fetched(backend.driver), SMALL, after)])

        found = await fetched(backend.driver)
        _, ttl = await backend.store.ttl("key", collection="coll")
        assert [True] == list(done)
        assert (SMALL, self.created) == (found.value, found.created_at)
        assert self.same_expiry(after, found.expires_at)
        assert (after is None) == (ttl is None)

    @pytest.mark.parametrize("value", [SMALL, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize("change", ["rewritten", "deleted", "put again", "another ttl", "replaced"])
    async def test_conflict(self, backend: Backend, value: dict[str, Any], change: str) -> None:
        """What another writer did since the entry was read wins over a replacement and a deletion."""
        if change == "put again" and self.times is Times.LOST:
            pytest.skip("without a creation time nothing shows that the same was put again")
        await backend.store.put("key", value, collection="coll", ttl=1000)
        stale = await fetched(backend.driver)
        match change:
            case "rewritten":
                await backend.store.put("key", {"newer": 1}, collection="coll")
            case "deleted":
                await backend.store.delete("key", collection="coll")
            case "put again":
                await backend.store.delete("key", collection="coll")
                await backend.store.put("key", value, collection="coll", ttl=1000)
            case "another ttl":
                await backend.store.put("key", value, collection="coll", ttl=2000)
            case "replaced":
                await base.replace(backend.driver, stale, {"newer": 2})
        winner = await backend.driver.get("coll", "key")

        with pytest.raises(Conflict):
            await base.replace(backend.driver, stale, {"lost": True})

        assert await backend.driver.delete_if_unchanged(stale) is False
        assert self.same_entry(winner, await backend.driver.get("coll", "key"))

    async def test_batch_with_conflicts(self, backend: Backend) -> None:
        """In a batch every entry is decided by itself, a second change of the same entry included."""
        await fill(backend.store, 6)
        stale = [await fetched(backend.driver, f"key-{n}") for n in range(6)]
        await backend.store.put("key-1", {"live": 1}, collection="coll")
        await backend.store.delete("key-4", collection="coll")

        batch = [
            *(Replacement(e, {"new": n}) for n, e in enumerate(stale)),
            Replacement(stale[0], {"new": 99}),
        ]
        done = await backend.driver.replace_many(batch)

        values = await backend.store.get_many([f"key-{n}" for n in range(6)], collection="coll")
        assert [True, False, True, True, False, True, False] == list(done)
        assert [{"new": 0}, {"live": 1}, {"new": 2}, {"new": 3}, None, {"new": 5}] == values

    async def test_empty_batch(self, backend: Backend) -> None:
        """A batch of nothing is nothing."""
        assert [] == list(await backend.driver.replace_many([]))

    async def test_delete_if_unchanged(self, backend: Backend) -> None:
        """An unchanged entry is deleted, once, for the store as well."""
        await backend.store.put("key", LARGE, collection="coll")
        found = await fetched(backend.driver)

        assert await backend.driver.delete_if_unchanged(found) is True
        assert await backend.driver.delete_if_unchanged(found) is False
        assert await backend.store.get("key", collection="coll") is None

    async def test_no_lost_update(self, backend: Backend) -> None:
        """Of concurrent read-and-replace loops of drivers over one counter, every success is counted."""
        await backend.driver.put_if_absent(entry(value={"n": 0}))

        async def count_up() -> int:
            successes = 0
            for _ in range(10):
                found = await fetched(backend.driver)
                assert found.value is not None
                (done,) = await backend.driver.replace_many([Replacement(found, {"n": found.value["n"] + 1})])
                successes += done
            return successes

        successes = sum(await asyncio.gather(*(count_up() for _ in range(5))))

        assert {"n": successes} == await backend.store.get("key", collection="coll")
        assert successes > 0

    # Putting if absent

    async def test_put_if_absent_leaves_what_is_there(self, backend: Backend) -> None:
        """A live entry is neither overwritten nor touched, whoever put it."""
        await backend.store.put("key", SMALL, collection="coll", ttl=1000)
        before = await fetched(backend.driver)

        assert await backend.driver.put_if_absent(entry()) is False
        assert self.same_entry(before, await fetched(backend.driver))

    async def test_put_if_absent_race(self, backend: Backend) -> None:
        """Of many tasks that put the same name at once, exactly one succeeds, and its value is there."""
        puts = (backend.driver.put_if_absent(entry(value={"n": n})) for n in range(20))

        done = await asyncio.gather(*puts)

        assert 1 == done.count(True)
        assert {"n": done.index(True)} == await backend.store.get("key", collection="coll")

    async def test_put_if_absent_race_of_threads(self, backend: Backend) -> None:
        """The same holds among threads with event loops of their own."""
        puts = [backend.driver.put_if_absent(entry(value={"n": n})) for n in range(8)]

        done = await asyncio.gather(*(asyncio.to_thread(asyncio.run, put) for put in puts))

        assert 1 == done.count(True)
        assert {"n": done.index(True)} == (await fetched(backend.driver)).value

    async def test_put_many_if_absent(self, backend: Backend, any_value: dict[str, Any]) -> None:
        """A batch stores each entry exactly as it would be stored alone; once more, it changes nothing."""
        alone, *batch = (entry(key, any_value, expires_at=FUTURE) for key in ("alone", "a", "b", "c"))
        await backend.driver.put_if_absent(alone)

        assert [True] * 3 == list(await abilities.put_many_if_absent(backend.driver, batch))

        found = [await fetched(backend.driver, key) for key in "abc"]
        expected = await fetched(backend.driver, "alone")
        assert [(any_value, expected.created_at)] * 3 == [(e.value, e.created_at) for e in found]
        assert all(self.same_expiry(expected.expires_at, e.expires_at) for e in found)
        assert [any_value] * 3 == await backend.store.get_many(["a", "b", "c"], collection="coll")
        assert [False] * 3 == list(await abilities.put_many_if_absent(backend.driver, batch))
        for before in found:
            assert self.same_entry(before, await fetched(backend.driver, before.key or ""))

    async def test_put_many_if_absent_with_odd_names(self, backend: Backend) -> None:
        """Each name in a batch leads to where the store has it."""
        odd = [tuple(names.values) for names in ODD_NAMES]
        names = [pair for pair in odd if pair not in self.unsupported_names]
        # Two of them are one key in some stores.
        names.remove(("a::b", "c"))
        batch = [entry(key, {"n": n}, collection=collection) for n, (collection, key) in enumerate(names)]

        assert [True] * len(names) == list(await abilities.put_many_if_absent(backend.driver, batch))

        for n, (collection, key) in enumerate(names):
            assert {"n": n} == await backend.store.get(key, collection=collection)

    async def test_put_many_if_absent_beside_what_is_there(self, backend: Backend) -> None:
        """Each entry has its own outcome: over a live one, an expired one, itself, without a name or a value."""
        await backend.store.put("live", LARGE, collection="coll")
        await backend.driver.put_if_absent(entry("expired", LARGE, expires_at=PAST))
        batch = [
            entry("first", LARGE),
            entry("live"),
            entry("expired", SMALL, expires_at=FUTURE),
            entry("first", SMALL),
            replace(entry(), key=None),
            entry("no JSON", {"a": object()}),
            entry("in the other", {"n": 1}, collection="other"),
            entry("last", {"n": 2}),
        ]

        puts = await abilities.put_many_if_absent(backend.driver, batch)

        assert [True, False, True, False, StoreError, UnsealableValueError, True, True] == [
            put
            if isinstance(put, bool)
            else next(c for c in (UnsealableValueError, StoreError) if isinstance(put, c))
            for put in puts
        ]
        assert [LARGE, LARGE, SMALL, {"n": 2}] == await backend.store.get_many(
            ["first", "live", "expired", "last"], collection="coll"
        )
        assert {"n": 1} == await backend.store.get("in the other", collection="other")

    async def test_put_many_if_absent_race(self, backend: Backend) -> None:
        """Of many batches with the same names, in any order, each name is stored once, and by its winner."""
        keys = [f"key-{n}" for n in range(20)]
        batches = [[entry(key, {"by": n}) for key in (keys, keys[::-1])[n % 2]] for n in range(6)]

        done = await asyncio.gather(
            *(abilities.put_many_if_absent(backend.driver, batch) for batch in batches)
        )

        won = {
            e.key: e.value
            for batch, puts in zip(batches, done, strict=True)
            for e, put in zip(batch, puts, strict=True)
            if put
        }
        assert 20 == sum(puts.count(True) for puts in map(list, done))
        assert [won[key] for key in keys] == await backend.store.get_many(keys, collection="coll")

    async def test_put_many_if_absent_of_nothing(self, backend: Backend) -> None:
        """No entries are no operation."""
        assert [] == list(await abilities.put_many_if_absent(backend.driver, []))

    @pytest.mark.parametrize("fields", [{"collection": None}, {"key": None}, {"value": None}])
    async def test_incomplete_entry_is_refused(self, backend: Backend, fields: dict[str, Any]) -> None:
        """An entry without a name or a value is not stored under a guess."""
        with pytest.raises(StoreError):
            await backend.driver.put_if_absent(replace(entry(), **fields))

    # Expired entries

    async def test_expired_is_absent(self, backend: Backend) -> None:
        """An expired entry is not read, scanned or counted, and does not block a new one."""
        await backend.driver.put_if_absent(entry(value=LARGE, expires_at=PAST))

        assert await backend.driver.get("coll", "key") is None
        assert [] == await scanned(backend.driver)
        assert int(self.counts_expired) == (await abilities.count(backend.driver)).entries
        assert await backend.driver.put_if_absent(entry(value=SMALL, expires_at=FUTURE)) is True
        assert SMALL == await backend.store.get("key", collection="coll")
        assert [True] == [self.same_expiry(FUTURE, e.expires_at) for e in await scanned(backend.driver)]

    async def test_scan_under_a_clock_that_is_ahead(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A scan of all entries has what this host's fast clock takes for expired, with its expiry, in parts too."""
        expires_at = datetime.now(timezone.utc) + timedelta(hours=1)
        for key in ("key", "other"):
            await backend.driver.put_if_absent(entry(key, LARGE, expires_at=expires_at))
        clock_is_ahead(monkeypatch, timedelta(days=1))

        found = await scanned(backend.driver, expired=True)
        parts = [await scanned(backend.driver, partition=(n, 2), expired=True) for n in range(2)]

        assert {("coll", "key"), ("coll", "other")} == {(e.collection, e.key) for e in found}
        assert [LARGE, LARGE] == [e.value for e in found]
        assert self.times is Times.LOST or self.same_expiry(expires_at, found[0].expires_at)
        assert 2 == len(parts[0] + parts[1])

    async def test_scan_of_what_has_expired(self, backend: Backend) -> None:
        """A scan of all entries has those that nothing has removed yet, and resumes behind any of its pages."""
        if not self.keeps_expired:
            pytest.skip("the backend drops what has expired")
        count = self.page + 1
        entries = [entry(f"key-{n}", {"n": n}, expires_at=PAST) for n in range(count)]
        await abilities.put_many_if_absent(backend.driver, entries)

        pages = [page async for page in backend.driver.scan(expired=True)]
        rest = await scanned(backend.driver, after=pages[0].cursor, expired=True)

        assert [] == await scanned(backend.driver)
        assert dict.fromkeys(range(count), 1) == numbers([e for page in pages for e in page.entries])
        assert dict.fromkeys(range(count), 1) == numbers([*pages[0].entries, *rest])
        assert {PAST} == {e.expires_at for e in rest}

    async def test_deleted_is_not_expired(self, backend: Backend) -> None:
        """What was deleted is gone from a scan of all entries too."""
        await backend.driver.put_if_absent(entry())
        await backend.driver.delete_if_unchanged(await fetched(backend.driver))

        assert [] == await scanned(backend.driver, expired=True)

    async def test_expired_is_not_what_was_read(self, backend: Backend) -> None:
        """An entry that expired since it was read is neither replaced nor deleted."""
        await backend.driver.put_if_absent(entry())
        await backend.driver.replace_many([Replacement(await fetched(backend.driver), SMALL, FUTURE)])
        stale = await fetched(backend.driver)
        await backend.driver.replace_many([Replacement(stale, SMALL, PAST)])

        assert [False] == list(await backend.driver.replace_many([Replacement(stale, LARGE)]))
        assert await backend.driver.delete_if_unchanged(stale) is False

    # Entries that cannot be read

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param("", id="empty"),
            pytest.param('{"value": {"n": 1}', id="truncated"),
            pytest.param("[1]", id="no object"),
            pytest.param('{"version": 1}', id="no value"),
            pytest.param('{"value": 7}', id="value is a number"),
            pytest.param('{"value": "not json"}', id="value is text"),
            pytest.param('{"value": {}, "created_at": "yesterday"}', id="no time"),
            pytest.param('{"value": {}, "created_at": 12}', id="time is a number"),
            pytest.param('{"value": {}, "expires_at": "0001-01-01T00:00:00+14:00"}', id="time out of range"),
            pytest.param('{"value": {}, "key": "key"}', id="one name"),
            pytest.param('{"value": ' + '{"a":' * 100_000 + "1" + "}" * 100_001, id="too deep"),
        ],
    )
    async def test_unreadable_body(self, backend: Backend, body: str) -> None:
        """What cannot be read is yielded with a problem, never skipped, never changed and never in the way."""
        if backend.write_raw is None:
            pytest.skip("the backend stores no bodies")
        if self.largest_body is not None and len(body) > self.largest_body:
            pytest.skip("the backend takes no body as large as this")
        await backend.write_raw("coll", "broken", body, None)
        await backend.driver.put_if_absent(entry())

        (broken,) = [e for e in await scanned(backend.driver) if e.problem]

        assert ("coll", "broken", None) == (broken.collection, broken.key, broken.value)
        assert 2 == (await abilities.count(backend.driver)).entries
        assert await backend.driver.put_if_absent(entry("broken")) is False
        with pytest.raises(StoreError, match="cannot be read"):
            await backend.driver.replace_many([Replacement(broken, SMALL)])
        with pytest.raises(StoreError, match="cannot be read"):
            await backend.driver.delete_if_unchanged(broken)
        assert broken == await backend.driver.get("coll", "broken")

    async def test_problem_does_not_quote_the_value(self, backend: Backend) -> None:
        """The problem of an unreadable body says nothing of what is in it."""
        if backend.write_raw is None:
            pytest.skip("the backend stores no bodies")
        await backend.write_raw("coll", "broken", '{"value": {"password": "hunter2"}, oops', None)

        (broken,) = await scanned(backend.driver)

        assert broken.problem
        assert "hunter2" not in broken.problem
        assert "hunter2" not in repr(broken)

    async def test_value_as_text(self, backend: Backend) -> None:
        """A body with its value as JSON text is read as the store reads it, and stays readable when replaced."""
        if backend.write_raw is None:
            pytest.skip("the backend stores no bodies")
        await backend.write_raw("coll", "key", '{"value": "{\\"n\\": 1}", "extra": [1.50]}', None)
        found = await fetched(backend.driver)

        assert {"n": 1} == found.value == await backend.store.get("key", collection="coll")
        await base.replace(backend.driver, found, {"n": 2})
        assert {"n": 2} == await backend.store.get("key", collection="coll")
        assert b'"extra": [1.5]' in (await fetched(backend.driver)).stored

    # The driver itself

    async def test_close_twice(self, backend: Backend) -> None:
        """Closing is idempotent and leaves the application's store open."""
        await backend.driver.put_if_absent(entry())

        await backend.driver.close()
        await backend.driver.close()

        assert {"n": 0} == await backend.store.get("key", collection="coll")

    async def test_location_and_capabilities(self, backend: Backend) -> None:
        """A driver says where it is and what it can, without touching the backend."""
        assert backend.driver.location
        assert isinstance(backend.driver.capabilities, base.Capabilities)

    async def test_store_time(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        """The backend's clock is the server's, however this host's clock goes, or else this host's."""
        clock_is_ahead(monkeypatch, timedelta(days=1))
        before, now = clock.monotonic(), clock.utc_now()

        found = await abilities.store_time(backend.driver)

        if self.store_clock == "unknown":
            assert found is None
            return
        assert found is not None
        assert before <= found.before <= found.after <= clock.monotonic()
        expected = now - timedelta(days=1) if self.store_clock == "server's" else now
        assert abs(found.at - expected) < timedelta(minutes=5)

    # Purge

    async def skip_without_purge(self, backend: Backend) -> None:
        """Skip a test of purge where there is none, which says what to do instead."""
        if isinstance(backend.driver, abilities.Purges):
            return
        with pytest.raises(UnsupportedStoreError, match="only the store's own tools") as raised:
            await abilities.purge(backend.driver)
        assert "vaultctl backup" in raised.value.hint
        pytest.skip("the driver has no purge")

    async def test_purge_changes_no_entry(self, backend: Backend) -> None:
        """After a purge every entry is what it was, where it was, and can be replaced as it was read."""
        await self.skip_without_purge(backend)
        for key, value, expires_at in (("a", SMALL, None), ("b", LARGE, FUTURE), ("c", {}, None)):
            await backend.driver.put_if_absent(entry(key, value, expires_at=expires_at))
        before = await scanned(backend.driver)

        await abilities.purge(backend.driver, dry_run=True)
        await abilities.purge(backend.driver)

        assert before == await scanned(backend.driver)
        assert [True] * 3 == list(await backend.driver.replace_many([Replacement(e, SMALL) for e in before]))

    async def test_purge_beside_writers(self, backend: Backend) -> None:
        """What writers put and replace while a purge runs is there afterwards, the last of it."""
        await self.skip_without_purge(backend)
        rounds, keys = 15, [f"key-{n}" for n in range(4)]

        async def write(key: str) -> None:
            for n in range(rounds):
                await backend.store.put(key, {"n": n, **(LARGE if n % 2 else {})}, collection="coll")
                await asyncio.sleep(0)

        async def purge() -> None:
            for _ in range(3):
                await abilities.purge(backend.driver)

        await asyncio.gather(purge(), *(write(key) for key in keys))

        assert [rounds - 1] * 4 == [(await backend.store.get(k, collection="coll"))["n"] for k in keys]
