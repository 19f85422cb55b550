"""From an old vault to a sealed one: every value, name and time survives, and what does not open is named."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet, MultiFernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from tests.fakes import BatchingDriver, HookedDriver, dump
from tests.recoding.worlds import (
    KEY,
    OTHER_KEY,
    AnyStore,
    adds_up,
    counts,
    damage,
    entries_of,
    failed,
    fernet,
    fill,
    formats_of,
    old,
    plant,
    times_of,
)
from tests.strategies import json_objects, same
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.concurrency import owns_loop
from kvseal.drivers import driver_for
from kvseal.drivers.base import PAGE_SIZE
from kvseal.errors import (
    PlaintextFoundError,
    UnsealableValueError,
    VaultNotFoundError,
    WrongLegacyKeyError,
    WrongSecretError,
)
from kvseal.legacy.fernet_keys import UPSTREAM
from kvseal.recoding import PlaintextRule, Report, migrate, verify
from kvseal.recoding.surveying import SAMPLE

SECRET = Secret(b"the secret of the new vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)

ODD_NAMES = {
    "separator in the key": ("c", "a::b"),
    "separator in the collection": ("a::b", "c"),
    "overlapping separators": ("a:", ":b"),
    "slashes and dots": ("../../etc", "pass/wd"),
    "unicode": ("sammlung-ä", "schlüssel-🔑"),
    "250 characters and more": ("c" * 251, "k" * 300),
    "control characters": ("new\nline", "tab\tnul\x00"),
    "looks like a wrapper's": ("__encrypted_data__", "__encryption_version__"),
    "empty key": ("c", ""),
    "SQL": ("'; DROP TABLE Cache; --", '"'),
}


async def migrated(store: Any, *codecs: Any, **options: Any) -> Report:
    """Migrate *store* and return the report."""
    return (await migrate(store, codecs or [fernet()], secret=SECRET, kdf=CHEAP, **options)).report


def new(store: AnyStore) -> EnvelopeEncryptionWrapper:
    """Return the new application's view of *store*."""
    return EnvelopeEncryptionWrapper(store, secret=SECRET, create=False)


async def check_values_survive(values: list[dict[str, Any]], source: AnyStore, to: AnyStore | None) -> None:
    """Check that the new wrapper returns what the old one did, exactly."""
    await fill(source, {str(number): value for number, value in enumerate(values)})
    names = [str(number) for number in range(len(values))]
    before = await old(source).get_many(names, collection="c")

    report = await migrated(source, to=to)

    after = await new(to or source).get_many(names, collection="c")
    assert {"scanned": len(values), "changed": len(values)} == counts(report) or not values
    assert all(map(same, before, after))


@pytest.mark.exhaustive
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=st.lists(json_objects, max_size=6), copies=st.booleans())
def test_values_survive_in_memory(values: list[dict[str, Any]], copies: bool) -> None:
    """Whatever JSON the old wrapper could hold comes back in type, sign and order, in place and copied."""
    asyncio.run(check_values_survive(values, MemoryStore(), MemoryStore() if copies else None))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=st.lists(json_objects, max_size=6), copies=st.booleans())
def test_values_survive_on_disk(values: list[dict[str, Any]], copies: bool) -> None:
    """The same on a disk store, whose bodies are JSON once more."""
    with tempfile.TemporaryDirectory() as directory:
        source, target = (
            DiskStore(directory=Path(directory) / "a"),
            DiskStore(directory=Path(directory) / "b"),
        )
        with closing(source._cache), closing(target._cache):
            asyncio.run(check_values_survive(values, source, target if copies else None))


async def test_values_that_json_parsers_disagree_about(any_store: AnyStore) -> None:
    """NaN, infinities, minus zero, huge integers, surrogates and NUL come back from a migrated store."""
    value = {
        "nan": float("nan"),
        "inf": [float("inf"), float("-inf"), -0.0],
        "int": 2**70,
        "surrogate": "\ud83d",
        "nul": "\x00",
        "deep": [[[[]]]],
    }
    await fill(any_store, {"k": value})

    await migrated(any_store)

    (after,) = await new(any_store).get_many(["k"], collection="c")
    assert same(value, after)


@pytest.mark.parametrize(("collection", "key"), ODD_NAMES.values(), ids=ODD_NAMES)
@pytest.mark.parametrize("copies", [False, True], ids=["in place", "copied"])
async def test_odd_names(any_store: AnyStore, collection: str, key: str, copies: bool) -> None:
    """A record keeps its very names, whatever characters they have."""
    target = MemoryStore() if copies else any_store
    await old(any_store).put(key, {"v": 1}, collection=collection)

    report = await migrated(any_store, to=target if copies else None)

    assert {"scanned": 1, "changed": 1} == counts(report)
    assert {(collection, key)} == set(await entries_of(target))
    assert {"v": 1} == await new(target).get(key, collection=collection)


async def test_a_surrogate_in_a_name(store: MemoryStore) -> None:
    """A memory store holds names that UTF-8 cannot, and they survive as well."""
    await old(store).put("\ud800", {"v": 1}, collection="c")

    await migrated(store)

    assert {"v": 1} == await new(store).get("\ud800", collection="c")


@pytest.mark.parametrize("copies", [False, True], ids=["in place", "copied"])
async def test_times_stay_to_the_microsecond(any_store: AnyStore, tmp_path: Path, copies: bool) -> None:
    """Creation times and expiries are those of the old entries, and the expiry is sealed, rounded up."""
    target: AnyStore = any_store
    if copies:
        target = DiskStore(directory=tmp_path / "to") if isinstance(any_store, DiskStore) else MemoryStore()
    for number, ttl in enumerate([None, 0.9 * 86400, 123.456789, 1e9]):
        await old(any_store).put(str(number), {"v": number}, collection="c", ttl=ttl)
    before = await times_of(any_store)

    await migrated(any_store, to=target if copies else None)

    assert before == await times_of(target)
    vault = await Vault.open(target, secret=SECRET)
    for names, entry in (await entries_of(target)).items():
        _, sealed = vault.keyring.codecs[""].open(entry.value or {}, *names)
        assert (entry.expires_at is None) == (sealed is None)
        if entry.expires_at is not None and sealed is not None:
            later = (
                datetime.fromtimestamp(0, timezone.utc) + timedelta(milliseconds=sealed) - entry.expires_at
            )
            assert timedelta(0) <= later < timedelta(milliseconds=1)
    await vault.close()
    if copies and isinstance(target, DiskStore):
        target._cache.close()


async def test_the_columns_of_the_disk_store_stay(tmp_path: Path) -> None:
    """Diskcache's own expiry and rowids are untouched, so that its clean-up and order stay the same."""
    store = DiskStore(directory=tmp_path)
    with closing(store._cache):
        await old(store).put("a", {"v": 1}, collection="c", ttl=500.5)
        await old(store).put("b", {"v": 1}, collection="c")
        query = "SELECT rowid, key, expire_time, store_time, tag FROM Cache WHERE key LIKE 'c::%'"
        with closing(sqlite3.connect(tmp_path / "cache.db")) as con:
            before = con.execute(query).fetchall()

            await migrated(store)

            assert before == con.execute(query).fetchall()


def value_files(directory: Path) -> list[Path]:
    """Return the files that hold large values."""
    return list(directory.rglob("*.val"))


async def test_values_in_files_of_their_own(tmp_path: Path) -> None:
    """Values beyond 32 KiB lie in files, which are replaced and not left behind."""
    store = DiskStore(directory=tmp_path)
    with closing(store._cache) as cache:
        value = {"text": "x" * 100_000}
        await fill(store, {"large": value, "small": {"v": 1}})

        report = await migrated(store)

        assert {"scanned": 2, "changed": 2} == counts(report)
        assert value == await new(store).get("large", collection="c")
        assert 1 == len(value_files(tmp_path))
        assert [] == cache.check()


async def test_an_empty_store(any_store: AnyStore) -> None:
    """There is nothing to do but to create the vault."""
    report = await migrated(any_store)

    assert ({}, 0, {}, {}) == (counts(report), report.exit_code, report.formats, report.deks)
    await (await Vault.open(any_store, secret=SECRET)).close()


async def test_a_second_run_changes_nothing(any_store: AnyStore) -> None:
    """What is sealed is recognised by its header: not one byte is written again, the vault meta included."""
    await fill(any_store, {name: {"v": name} for name in "abc"})
    await fill(any_store, {"foreign": {"v": 1}}, key=OTHER_KEY)
    first = await migrated(any_store)
    before = dump(any_store)

    second = await migrated(any_store)

    assert {"scanned": 4, "changed": 3, "failed": 1} == counts(first)
    assert {"scanned": 4, "already": 3, "failed": 1} == counts(second)
    assert first.failures == second.failures
    assert before == dump(any_store)


async def test_several_pages(store: MemoryStore) -> None:
    """A store of many pages is migrated whole."""
    total = 3 * PAGE_SIZE + 5
    token = await stored_once(MemoryStore())
    for number in range(total):
        await store.put(f"{number}", token, collection="c")

    report = await migrated(store)

    assert {"scanned": total, "changed": total} == counts(report)
    assert {2} == await formats_of(store)
    assert ({"kvseal": total}, {1: total}) == (report.formats, report.deks)


async def stored_once(other: MemoryStore, key: bytes = KEY) -> dict[str, Any]:
    """Return what the old wrapper stores for one value."""
    await fill(other, {"k": {"v": 1}}, key=key)
    stored = await other.get("k", collection="c")
    assert stored is not None
    return stored


async def test_the_keys_of_a_multifernet(any_store: AnyStore) -> None:
    """Records of every key of a MultiFernet are opened, whichever key comes first."""
    await fill(any_store, {"older": {"v": 1}}, key=OTHER_KEY)
    both = FernetEncryptionWrapper(any_store, fernet=MultiFernet([Fernet(KEY), Fernet(OTHER_KEY)]))
    await both.put("newer", {"v": 2}, collection="c")

    report = await migrated(any_store, fernet(KEY, OTHER_KEY))

    assert {"scanned": 2, "changed": 2} == counts(report)
    assert [{"v": 1}, {"v": 2}] == await new(any_store).get_many(["older", "newer"], collection="c")


async def test_source_material_and_salt(store: MemoryStore) -> None:
    """The key that the upstream wrapper derives is derived alike, blanks and umlauts included."""
    wrapper = FernetEncryptionWrapper(store, source_material=" täglich ", salt="Salz ")
    await wrapper.put("k", {"v": 1}, collection="c")
    key = await asyncio.to_thread(UPSTREAM.derive, " täglich ".encode(), b"Salz ")

    report = await migrated(store, type(fernet())([key]))

    assert {"scanned": 1, "changed": 1} == counts(report)


async def test_a_wrong_key_is_found_before_anything_is_written(any_store: AnyStore) -> None:
    """With a key that opens nothing, not one byte of the store changes and no vault comes to be."""
    await fill(any_store, {name: {"v": name} for name in "abc"})
    before = dump(any_store)

    with pytest.raises(WrongLegacyKeyError, match="open none of 3 legacy"):
        await migrated(any_store, fernet(OTHER_KEY))

    assert before == dump(any_store)
    with pytest.raises(VaultNotFoundError):
        await Vault.open(any_store, secret=SECRET)


async def test_a_wrong_secret_is_found_before_anything_is_written(any_store: AnyStore) -> None:
    """A vault that is there already has to open before a record is touched."""
    await (await Vault.create(any_store, secret=Secret(b"another secret"), kdf=CHEAP)).close()
    await fill(any_store, {"a": {"v": 1}})
    before = dump(any_store)

    with pytest.raises(WrongSecretError):
        await migrated(any_store)

    assert before == dump(any_store)


async def test_damaged_records_stay_as_they_are(any_store: AnyStore) -> None:
    """Among good records the damaged ones are named, counted and left, byte for byte."""
    await fill(any_store, {name: {"v": name} for name in "abcd"})
    await damage(any_store, "b")
    await any_store.put("half", {"__encrypted_data__": "x"}, collection="c")
    before = await entries_of(any_store)

    report = await migrated(any_store)

    after = await entries_of(any_store)
    assert ({"scanned": 5, "changed": 3, "failed": 2}, 3) == (counts(report), report.exit_code)
    assert ["b", "half"] == failed(report)
    assert [before["c", k].stored for k in ("b", "half")] == [after["c", k].stored for k in ("b", "half")]
    assert {"TamperedRecordError", "this run does not handle its format"} == {
        failure.reason.partition(":")[0] for failure in report.failures
    }


async def test_a_damaged_sealed_record_is_found_by_the_verify_pass(any_store: AnyStore) -> None:
    """A header says that a record is done; that it opens is proven at the end, and counted once."""
    await fill(any_store, {name: {"v": name} for name in "ab"})
    await migrated(any_store)
    await fill(any_store, {"c": {"v": "c"}})
    await damage(any_store, "b")
    heard: list[Any] = []

    report = await migrated(any_store, listener=heard.append)

    assert ({"scanned": 3, "changed": 1, "already": 1, "failed": 1}, 3) == (counts(report), report.exit_code)
    assert ["b"] == failed(report)
    assert list(report.failures) == [event for event in heard if hasattr(event, "reason")]
    assert ({"kvseal": 3}, {1: 3}) == (report.formats, report.deks)


class TestPlaintext:
    """Records that nobody encrypted are never taken for granted."""

    async def test_refuse(self, any_store: AnyStore) -> None:
        """The default stops before the first write and names examples."""
        await fill(any_store, {"a": {"v": 1}})
        await any_store.put("open", {"v": 2}, collection="c")
        before = dump(any_store)

        with pytest.raises(PlaintextFoundError, match="1 records are not encrypted, for example c/open"):
            await migrated(any_store)

        assert before == dump(any_store)

    async def test_skip(self, any_store: AnyStore) -> None:
        """They stay as they are, and are counted as skipped."""
        await fill(any_store, {"a": {"v": 1}})
        await any_store.put("open", {"v": 2}, collection="c")

        report = await migrated(any_store, plaintext=PlaintextRule.SKIP)

        assert ({"scanned": 2, "changed": 1, "skipped": 1}, 0) == (counts(report), report.exit_code)
        assert {"v": 2} == await any_store.get("open", collection="c")
        assert {"kvseal": 1, "plaintext": 1} == report.formats

    async def test_seal(self, any_store: AnyStore) -> None:
        """They are sealed like the rest, with their times."""
        await any_store.put("open", {"v": 2}, collection="c", ttl=1000)
        before = await times_of(any_store)

        report = await migrated(any_store, plaintext=PlaintextRule.SEAL)

        assert {"scanned": 1, "changed": 1} == counts(report)
        assert {"v": 2} == await new(any_store).get("open", collection="c")
        assert before == await times_of(any_store)


async def test_pickled_rows(tmp_path: Path) -> None:
    """What diskcache would unpickle is named and left as it is."""
    store = DiskStore(directory=tmp_path)
    with closing(store._cache) as cache:
        await fill(store, {"a": {"v": 1}})
        cache.set(("c", "tuple"), "body")
        cache.set("c::pickled", {"v": 1})
        query = "SELECT * FROM Cache WHERE raw = 0 OR mode = 4 ORDER BY rowid"
        with closing(sqlite3.connect(tmp_path / "cache.db")) as con:
            before = con.execute(query).fetchall()

            report = await migrated(store)

            assert before == con.execute(query).fetchall()
        assert {"scanned": 3, "changed": 1, "failed": 2} == counts(report)
        assert {None, "pickled"} == {failure.key for failure in report.failures}


async def test_dry_run_writes_nothing(any_store: AnyStore) -> None:
    """A dry run says what would change, and leaves store and vault alone."""
    await fill(any_store, {name: {"v": name} for name in "abc"})
    await damage(any_store, "b")
    before = dump(any_store)

    done = await migrate(any_store, [fernet()], secret=SECRET, kdf=CHEAP, dry_run=True)

    assert {"scanned": 3, "changed": 2, "failed": 1} == counts(done.report)
    assert (None, 4, None) == (done.vault, done.report.check_exit_code, done.report.formats)
    assert before == dump(any_store)


async def test_a_backend_that_garbles_what_is_written(store: MemoryStore) -> None:
    """If what was written does not open, the verify pass says so and nothing counts as changed."""

    class Garbling(type(driver_for(store))):  # type: ignore[misc]
        async def replace_many(self, replacements: Any) -> Any:
            done = await super().replace_many(replacements)
            for replacement in replacements:
                # Not the checkpoint, which lies beside the vault meta.
                if replacement.entry.collection == "c":
                    await damage(store, replacement.entry.key)
            return done

    await fill(store, {"a": {"v": 1}, "b": {"v": 2}})

    report = await migrated(Garbling(store))

    assert ({"scanned": 2, "failed": 2}, 3) == (counts(report), report.exit_code)


KINDS = ("fernet", "foreign", "damaged", "half", "plaintext", "sealed", "torn", "undecodable", "future")


async def a_mix(kinds: list[str]) -> MemoryStore:
    """Return a store with a vault and one entry of each of *kinds*."""
    store = MemoryStore()
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await store.put("first", {"v": 0}, collection="c")
    await store.delete("first", collection="c")
    token = await stored_once(MemoryStore())
    planted: dict[str, Any] = {
        "fernet": token,
        "damaged": token,
        "foreign": await stored_once(MemoryStore(), OTHER_KEY),
        "half": {"__encryption_version__": 1},
        "future": {"__encrypted_data__": "AAAA", "__encryption_version__": 3},
        "plaintext": {"v": 1},
    }
    for number, kind in enumerate(kinds):
        name = f"{number}"
        if kind == "undecodable":
            plant(store, name, "no JSON")
        else:
            sealed = vault.keyring.codecs[""].seal({"v": number}, "c", name)
            await store.put(name, planted.get(kind, sealed), collection="c")
        if kind in {"damaged", "torn"}:
            await damage(store, name)
    return store


@dataclass(frozen=True)
class Due:
    """What must become of a store with one entry of each of *kinds* under *rule*."""

    kinds: list[str]
    rule: PlaintextRule

    def number(self, *kinds: str) -> int:
        """Return how many entries are of one of *kinds*."""
        return sum(kind in kinds for kind in self.kinds)

    @property
    def unopened(self) -> int:
        """How many records in the old format no key opens."""
        return self.number("foreign", "damaged")

    @property
    def opened(self) -> int:
        """How many entries prove that the key and the vault are the right ones."""
        return self.number("fernet", "sealed", "torn")

    @property
    def error(self) -> type[Exception] | None:
        """What stops the run before its first write, if anything does."""
        if self.unopened and not self.opened:
            return WrongLegacyKeyError
        if self.number("plaintext") and self.rule is PlaintextRule.REFUSE:
            return PlaintextFoundError
        return None

    @property
    def changed(self) -> int:
        """How many entries the first run seals."""
        return self.number("fernet") + self._plaintext(PlaintextRule.SEAL)

    @property
    def skipped(self) -> int:
        """How many entries each run leaves as the rule says."""
        return self._plaintext(PlaintextRule.SKIP)

    @property
    def failed(self) -> int:
        """How many entries each run names."""
        return self.unopened + self.number("torn", "half", "future", "undecodable")

    def _plaintext(self, rule: PlaintextRule) -> int:
        return self.number("plaintext") if self.rule is rule else 0


async def check_refused(store: MemoryStore, due: Due, error: type[Exception]) -> None:
    """Check that the run is refused and leaves every byte as it was."""
    before = dump(store)

    with pytest.raises(error):
        await migrated(store, plaintext=due.rule)

    assert before == dump(store)


async def check_first_run(store: MemoryStore, due: Due) -> Report:
    """Check that every entry is counted once, as what it must become."""
    report = await migrated(store, plaintext=due.rule)

    assert (due.changed, due.number("sealed"), due.skipped, due.failed) == (
        report.changed,
        report.already,
        report.skipped,
        report.failed,
    )
    assert adds_up(report)
    assert len(report.failures) == report.failed
    return report


async def check_second_run(store: MemoryStore, due: Due, first: Report) -> None:
    """Check that what was sealed is done already, that the same entries fail, and that no byte changes."""
    before = dump(store)

    second = await migrated(store, plaintext=due.rule)

    assert (0, due.changed + due.number("sealed")) == (second.changed, second.already)
    assert adds_up(second)
    assert first.failures == second.failures
    assert before == dump(store)


async def check_adds_up(due: Due) -> None:
    """Check the counters of two runs against what each entry must become."""
    store = await a_mix(due.kinds)
    if due.error is not None:
        await check_refused(store, due, due.error)
        return
    first = await check_first_run(store, due)
    await check_second_run(store, due, first)


@pytest.mark.exhaustive
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kinds=st.lists(st.sampled_from(KINDS), max_size=9), rule=st.sampled_from(PlaintextRule))
def test_every_report_adds_up(kinds: list[str], rule: PlaintextRule) -> None:
    """Whatever lies in a store, each entry is counted once, and a second run finds the same failures."""
    asyncio.run(check_adds_up(Due(kinds, rule)))


class TestCopies:
    """Into another store: the source is only read, and what the other store holds is never overwritten."""

    async def test_the_source_is_only_read(self, any_store: AnyStore) -> None:
        """The vault is created in the other store, and a second run finds all copies in place."""
        await fill(any_store, {name: {"v": name} for name in "abc"})
        before, target = dump(any_store), MemoryStore()

        first = await migrated(any_store, to=target)
        copies = dump(target)
        second = await migrated(any_store, to=target)

        assert before == dump(any_store)
        assert copies == dump(target)
        assert [{"scanned": 3, "changed": 3}, {"scanned": 3, "already": 3}] == [counts(first), counts(second)]

    async def test_a_dry_run_sees_what_is_copied_already(self, store: MemoryStore) -> None:
        """A check of a finished copy finds no work; of an unfinished one, the rest."""
        target = MemoryStore()
        await fill(store, {name: {"v": name} for name in "abc"})
        await migrated(store, to=target)
        await target.delete("b", collection="c")
        before = dump(target)

        report = await migrated(store, to=target, dry_run=True)

        assert {"scanned": 3, "changed": 1, "already": 2} == counts(report)
        assert before == dump(target)

    async def test_the_application_has_moved_on(self, store: MemoryStore) -> None:
        """What it has written to the other store since stays, and is no failure."""
        target = MemoryStore()
        await fill(store, {"a": {"v": 1}})
        await migrated(store, to=target)
        await new(target).put("a", {"v": 2}, collection="c")

        report = await migrated(store, to=target)

        assert {"scanned": 1, "already": 1} == counts(report)
        assert {"v": 2} == await new(target).get("a", collection="c")

    async def test_the_source_has_moved_on(self, store: MemoryStore) -> None:
        """A value that the old application wrote after the copy is not silently left behind."""
        target = MemoryStore()
        await fill(store, {"a": {"v": 1}})
        await migrated(store, to=target)
        await fill(store, {"a": {"v": 2}})

        report = await migrated(store, to=target)

        assert ({"scanned": 1, "failed": 1}, 3) == (counts(report), report.exit_code)
        assert ["the other store holds another value under this name, and it is not newer"] == [
            failure.reason for failure in report.failures
        ]

    @pytest.mark.parametrize("there", ["plaintext", "fernet", "damaged"])
    async def test_something_else_is_there(self, store: MemoryStore, there: str) -> None:
        """What the other store holds that is no copy is named once, kept, and counted once."""
        target = MemoryStore()
        await fill(store, {"a": {"v": 1}, "b": {"v": 2}})
        await (await Vault.create(target, secret=SECRET, kdf=CHEAP)).close()
        if there == "plaintext":
            await target.put("a", {"v": 1}, collection="c")
        if there == "fernet":
            await fill(target, {"a": {"v": 1}})
        if there == "damaged":
            await new(target).put("a", {"v": 1}, collection="c")
            await damage(target, "a")
        before = (await entries_of(target))["c", "a"].stored

        report = await migrated(store, to=target)

        assert ({"scanned": 2, "changed": 1, "failed": 1}, 3) == (counts(report), report.exit_code)
        assert ["a"] == failed(report)
        assert before == (await entries_of(target))["c", "a"].stored

    async def test_a_page_is_one_operation(self, store: MemoryStore, tmp_path: Path) -> None:
        """Copies of a page are put at once, and what the other store cannot hold fails alone."""
        target = DiskStore(directory=tmp_path / "other")
        await fill(store, {f"{n}": {"v": n} for n in range(20)})
        await fill(store, {"\ud800": {"v": 1}})
        operations: list[str] = []

        async def around(name: str, operation: Any) -> Any:
            operations.append(name)
            return await operation()

        # A program of its own leaves no part of the loop to others, so a page goes undivided.
        mine = owns_loop.set(True)
        report = await migrated(store, to=BatchingDriver(driver_for(target), around))
        owns_loop.reset(mine)

        assert {"scanned": 21, "changed": 20, "failed": 1} == counts(report)
        assert ["\ud800"] == failed(report)
        assert {"v": 7} == await new(target).get("7", collection="c")
        assert 1 == operations.count("put_many_if_absent")

    async def test_records_that_another_vault_sealed(self, store: MemoryStore) -> None:
        """They cannot be copied without that vault's secret, and are named."""
        vault = await Vault.create(store, secret=Secret(b"another secret"), kdf=CHEAP)
        await EnvelopeEncryptionWrapper(store, vault=vault).put("sealed", {"v": 1}, collection="c")
        await fill(store, {"a": {"v": 1}})

        report = await migrated(store, to=MemoryStore())

        assert {"scanned": 2, "changed": 1, "failed": 1} == counts(report)
        assert ["sealed"] == failed(report)

    async def test_damage_beside_the_copies(self, store: MemoryStore) -> None:
        """A damaged record of the other store's own is told without making copies count as failed."""
        target = MemoryStore()
        await (await Vault.create(target, secret=SECRET, kdf=CHEAP)).close()
        await new(target).put("its own", {"v": 1}, collection="c")
        await damage(target, "its own")
        await fill(store, {"a": {"v": 1}})

        report = await migrated(store, to=target)

        assert {"scanned": 2, "changed": 1, "failed": 1} == counts(report)
        assert ["its own"] == failed(report)


async def test_a_key_that_fits_only_later_records(
    any_store: AnyStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """Any number of records that the key does not open is no reason to refuse it, once one opens."""
    await old(any_store, OTHER_KEY).put_many(
        [f"lost-{n}" for n in range(SAMPLE + 1)], [{"n": 1}] * (SAMPLE + 1)
    )
    await old(any_store).put("mine", {"n": 2})

    migration = await migrate(any_store, [fernet()], secret=secret, kdf=cheap)

    assert (1, SAMPLE + 1) == (migration.report.changed, migration.report.failed)


async def test_one_value_that_the_store_cannot_hold(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """An entry that a driver refuses to write fails alone, wherever in the batch it is."""
    await old(store).put_many([f"k{n}" for n in range(9)], [{"n": n} for n in range(9)])
    real = driver_for(store)

    class Refusing(HookedDriver):
        async def replace_many(self, replacements: Any) -> Any:
            if any(one.entry.key == "k4" for one in replacements):
                raise UnsealableValueError("the store's JSON cannot hold the value")
            return await real.replace_many(replacements)

    driver = Refusing(real, lambda _, operation: operation())
    migration = await migrate(driver, [fernet()], secret=secret, kdf=cheap)

    assert (8, 1) == (migration.report.changed, migration.report.failed)
    assert ["k4"] == [failure.key for failure in migration.report.failures]


async def test_migration_for_a_context(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """What is migrated for a context is read, and verified, in that context alone."""
    await old(store).put("k", {"n": 1})
    await migrate(store, [fernet()], secret=secret, kdf=cheap, context="tenant")
    vault = await Vault.open(store, secret=secret)

    assert {"n": 1} == await wrapped(vault, context="tenant").get("k")
    assert 0 == (await verify(store, vault, context="tenant")).failed
    assert 1 == (await verify(store, vault)).failed
