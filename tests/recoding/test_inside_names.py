# ruff: noqa: ASYNC240 - tests may block
"""A store that loses names: every record says its own, and each tool finds it by them."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio._utils.sanitization import AlwaysHashStrategy
from key_value.aio.stores.filetree import FileTreeStore
from key_value.aio.stores.memory import MemoryStore
from tests.drivers.filetree.trees import v1_store
from tests.losing import (
    CHEAP,
    CLIENTS,
    NOW,
    SECRET,
    URL,
    Names,
    OverLosingStore,
    a_login,
    bodies,
    entries_of,
    held_in,
    stored_of,
)
from tests.recoding.worlds import KEY, adds_up, fernet, old

from kvseal import EnvelopeEncryptionWrapper, Policy, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry, Replacement
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.drivers.manifest import NamedDriver
from kvseal.envelope.stored import has_names_inside
from kvseal.errors import DEKNeededError, MovedRecordError
from kvseal.recoding import migrate, plan_reencryption, plan_rollback, recode, retire, verify
from kvseal.records.by_name import get_record, list_records, put_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class TestTraffic(OverLosingStore):
    """Days of FastMCP's ordinary traffic, and then the leak runbook, without a manifest."""

    async def test_leak_runbook(
        self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore, tmp_path: Path
    ) -> None:
        """Rotate, re-encrypt, retire and verify reach each record, while the application goes on by its names."""
        held: dict[Names, Any] = {}
        for client in (str(uuid.uuid4()), str(uuid.uuid4()), URL):
            await a_login(kv, held, client)

        await vault.rotate(new_secret=Secret(b"another battery"))
        await vault.rotate_dek()
        await a_login(kv, held, str(uuid.uuid4()))
        recoded = await recode(store, plan_reencryption(vault))
        retired = await retire(store, vault, 1, grace=NOW)
        verified = await verify(store, vault)

        assert any(entry.key is None for entry in await entries_of(store))
        assert (len(held), 0) == (recoded.scanned, recoded.failed)
        assert 12 == recoded.changed
        assert (True, 0) == (retired.dropped, retired.unopened)
        assert (0, {2: len(held)}) == (verified.exit_code, verified.deks)
        assert held == await held_in(kv, held)
        assert [] == [body for body in bodies(tmp_path / "home") if {"collection", "key"} & set(body)]

    async def test_list(self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore) -> None:
        """With the keys of the vault a list has all names; without, those that the store gives back."""
        held: dict[Names, Any] = {}
        await a_login(kv, held, URL)
        driver = driver_for(store)

        named = [entry async for entry in list_records(driver, codecs=[vault.codecs[""]])]
        of_clients = [entry.key async for entry in list_records(driver, CLIENTS, codecs=[vault.codecs[""]])]
        unopened = [entry.key async for entry in list_records(driver)]

        assert set(held) == {(entry.collection, entry.key) for entry in named}
        assert [""] * len(held) == [entry.problem for entry in named]
        assert [URL] == of_clients
        assert None in unopened

    async def test_records_of_other_contexts(self, vault: Vault, store: FileTreeStore) -> None:
        """A record says its names to the codec of its context alone."""
        kv = EnvelopeEncryptionWrapper(store, vault=vault, context="tenant")
        await kv.put(URL, {"a": 1}, collection="c")
        driver = driver_for(store)

        def listed(*contexts: str) -> Any:
            return list_records(driver, codecs=[vault.codecs[context] for context in contexts])

        assert [None] == [entry.key async for entry in listed("")]
        assert [URL] == [entry.key async for entry in listed("", "tenant")]
        assert [1, 0] == [(await verify(store, vault, context=one)).failed for one in ("", "tenant")]

    async def test_hashed_names_of_both_kinds(self, tmp_path: Path) -> None:
        """Where not even the collection shows, in the file's name or beside it, a record is found by what it says."""
        store = FileTreeStore(
            data_directory=tmp_path / "home",
            key_sanitization_strategy=AlwaysHashStrategy(),
            collection_sanitization_strategy=AlwaysHashStrategy(),
        )
        vault = await Vault.create(store, secret=SECRET, kdf=CHEAP, meta_store=v1_store(tmp_path / "meta"))
        kv = EnvelopeEncryptionWrapper(store, vault=vault)
        await kv.put("key", {"a": 1}, collection="coll")
        for info in (tmp_path / "home").glob("*-info.json"):
            info.unlink()
        await vault.rotate_dek()

        (seen,) = await entries_of(store)
        recoded = await recode(store, plan_reencryption(vault))

        assert (None, None) == (seen.collection, seen.key)
        assert (1, 0, {2: 1}) == (recoded.changed, recoded.failed, recoded.deks)
        assert {"a": 1} == await kv.get("key", collection="coll")
        await vault.close()

    async def test_migration_writes_them(self, store: FileTreeStore, tmp_path: Path) -> None:
        """A migration from Fernet seals records with their names inside, and leaves none beside them."""
        await old(store).put("https://a/b", {"a": 1}, collection="c-d")
        named = NamedDriver(driver_for(store), [("c-d", "https://a/b")])

        done = await migrate(named, [fernet()], secret=SECRET, kdf=CHEAP)

        assert done.report is not None
        assert (1, 0) == (done.report.changed, done.report.exit_code)
        (body,) = bodies(tmp_path / "home")
        assert {"value", "version", "created_at"} == set(body)
        assert has_names_inside(body["value"])
        vault = await Vault.open(store, secret=SECRET)
        assert 0 == (await verify(store, vault)).exit_code
        await vault.close()

    async def test_dry_run_without_a_vault(self, store: FileTreeStore) -> None:
        """A dry run seals for this store as the real run would."""
        await old(store).put("https://a/b", {"a": 1}, collection="c")
        named = NamedDriver(driver_for(store), [("c", "https://a/b")])

        done = await migrate(named, [fernet()], secret=SECRET, kdf=CHEAP, dry_run=True)

        assert done.report is not None
        assert (1, 0) == (done.report.changed, done.report.failed)

    async def test_copy_into_a_store_that_loses_names(self, store: FileTreeStore, tmp_path: Path) -> None:
        """Copies carry their names where the store of the copies loses them, and not by what the first store does."""
        source = MemoryStore()
        vault = await Vault.create(source, secret=SECRET, kdf=CHEAP)
        await EnvelopeEncryptionWrapper(source, vault=vault).put(URL, {"a": 1}, collection="c")
        plan = plan_reencryption(vault)

        there = await recode(source, plan, to=store)
        again = await recode(source, plan, to=store)
        back = await recode(store, plan, to=MemoryStore())

        assert [(1, 0, 0), (0, 1, 0), (1, 0, 0)] == [
            (done.changed, done.already, done.failed) for done in (there, again, back)
        ]
        assert has_names_inside(await stored_of(store, ("c", URL)))
        assert not has_names_inside(await stored_of(source, ("c", URL)))
        assert [] == [body for body in bodies(tmp_path / "home") if {"collection", "key"} & set(body)]
        await vault.close()

    async def test_a_record_there_that_does_not_open(self, store: FileTreeStore, tmp_path: Path) -> None:
        """A damaged record under the name of a copy fails once, also where no scan knows its name."""
        source = MemoryStore()
        vault = await Vault.create(source, secret=SECRET, kdf=CHEAP)
        await EnvelopeEncryptionWrapper(source, vault=vault).put(URL, {"a": 1}, collection="c")
        await recode(source, plan_reencryption(vault), to=store)
        (path,) = (path for path in (tmp_path / "home" / "c").iterdir())
        body = json.loads(path.read_text())
        text = body["value"]["__encrypted_data__"]
        body["value"]["__encrypted_data__"] = text[:100] + ("A" if text[100] != "A" else "B") + text[101:]
        path.write_text(json.dumps(body))

        report = await recode(source, plan_reencryption(vault), to=store)

        assert (1, 1, 0) == (report.scanned, report.failed, report.already)
        assert adds_up(report)
        await vault.close()

    async def test_rollback(self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore) -> None:
        """The way back to Fernet finds the names of every record, too."""
        held: dict[Names, Any] = {}
        await a_login(kv, held, URL)

        done = await recode(store, plan_rollback(vault, fernet()))

        assert (len(held), 0) == (done.changed, done.failed)
        assert held == await held_in(old(store, KEY), held)

    async def test_by_name(self, vault: Vault, store: FileTreeStore, tmp_path: Path) -> None:
        """What an operator puts by name carries its names, new or in place of another, and has none beside it."""
        driver = driver_for(store)
        codec = EnvelopeEncryptionWrapper(store, vault=vault)._codec_key
        await driver.put_if_absent(Entry("c", URL, {"plain": 1}))

        for n in range(2):
            await put_record(driver, vault.codecs[codec], "c", f"{URL}{n}", {"n": n})
        await put_record(driver, vault.codecs[codec], "c", URL, {"n": 2})

        assert [True] * 3 == [has_names_inside(body["value"]) for body in bodies(tmp_path / "home")]
        assert [] == [body for body in bodies(tmp_path / "home") if "key" in body]
        assert {"n": 2} == await get_record(driver, vault.codecs[""], "c", URL)


class NeverSwaps(DelegatingDriver):
    """A driver to whose entries other processes are always faster."""

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Swap nothing."""
        return [False] * len(replacements)


class TestMoved(OverLosingStore):
    """A record in another place than its names lead to: an attacker has copied its file."""

    async def test_a_failure_names_the_place(
        self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore
    ) -> None:
        """What fails is named by its file, and not by the names that the record hides from the file."""
        await kv.put(URL, {"a": 1}, collection="c")
        await vault.rotate_dek()

        report = await recode(NeverSwaps(driver_for(store)), plan_reencryption(vault))

        (failure,) = report.failures
        assert (None, None) == (failure.collection, failure.key)
        assert failure.reason.endswith("_json-aa320f3f.json)")

    @pytest.fixture
    async def moved(
        self, kv: EnvelopeEncryptionWrapper, store: FileTreeStore, vault: Vault, tmp_path: Path
    ) -> Path:
        """Return the file of `c/https://a/two`, in which the record of another key lies."""
        await kv.put("https://a/one", {"n": 1}, collection="c")
        await kv.put("https://a/two", {"n": 2}, collection="c")
        one, two = (
            (driver_for(store).place("c", key) or store).path  # type: ignore[attr-defined]
            for key in ("https://a/one", "https://a/two")
        )
        target = tmp_path / "home" / two
        target.write_bytes((tmp_path / "home" / one).read_bytes())
        await vault.rotate_dek()
        return target

    async def test_get(self, kv: EnvelopeEncryptionWrapper, moved: Path) -> None:
        """The application gets an error of its own, which does not repeat the name in the record."""
        assert moved.exists()
        with pytest.raises(MovedRecordError) as caught:
            await kv.get("https://a/two", collection="c")
        assert "one" not in f"{caught.value}{caught.value.hint}"
        assert {"n": 1} == await kv.get("https://a/one", collection="c")

    async def test_verify(self, vault: Vault, store: FileTreeStore, moved: Path) -> None:
        """It is a failure that names the place and no name, and counts with its DEK."""
        report = await verify(store, vault)

        assert (2, 1, 3, {1: 2}) == (report.scanned, report.failed, report.exit_code, report.deks)
        (failure,) = report.failures
        assert failure.reason.startswith("MovedRecordError: ")
        assert f"({moved.parent.name}/{moved.name})" in failure.reason
        assert ("c", None) == (failure.collection, failure.key)
        assert "https" not in failure.reason.partition("(")[0]

    async def test_reencrypt_and_retire(self, vault: Vault, store: FileTreeStore, moved: Path) -> None:
        """It stays as it is, byte for byte, and its DEK with it."""
        before = moved.read_bytes()

        report = await recode(store, plan_reencryption(vault))

        assert adds_up(report)
        assert (1, 1, {1: 1, 2: 1}) == (report.changed, report.failed, report.deks)
        assert before == moved.read_bytes()
        with pytest.raises(DEKNeededError, match="1 record still uses DEK 1"):
            await retire(store, vault, 1, grace=NOW)

    async def test_list(self, vault: Vault, store: FileTreeStore, moved: Path) -> None:
        """It is listed by the name that its place shows, here none, and says what is wrong."""
        listed = [entry async for entry in list_records(driver_for(store), codecs=[vault.codecs[""]])]

        assert moved.exists()
        assert {("https://a/one", False), (None, True)} == {(e.key, bool(e.problem)) for e in listed}

    async def test_a_name_beside_it_helps_nothing(
        self, vault: Vault, store: FileTreeStore, moved: Path
    ) -> None:
        """An attacker who writes the right names of the place beside it has gained nothing."""
        body = json.loads(moved.read_text())
        moved.write_text(json.dumps({**body, "collection": "c", "key": "https://a/two"}))

        report = await verify(store, vault)

        assert [("https://a/two", "MovedRecordError")] == [
            (failure.key, failure.reason.partition(":")[0]) for failure in report.failures
        ]

    async def test_in_another_collection(self, vault: Vault, kv: Any, store: Any, tmp_path: Path) -> None:
        """The same file name in the folder of another collection is another place."""
        await kv.put("https://a/one", {"n": 1}, collection="c")
        await kv.put("k", {}, collection="d")
        place = driver_for(store).place("c", "https://a/one")  # type: ignore[attr-defined]
        (tmp_path / "home" / "d" / place.file).write_bytes((tmp_path / "home" / place.path).read_bytes())

        report = await verify(store, vault)

        assert [("d", None)] == [(failure.collection, failure.key) for failure in report.failures]


class TestPolicy(OverLosingStore):
    """The policy may ask for names inside on every store."""

    async def test_everywhere(self) -> None:
        """From the change on every write carries its names, and a re-encryption does the others."""
        store = MemoryStore()
        vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
        kv = EnvelopeEncryptionWrapper(store, vault=vault)
        await kv.put("before", {"n": 1}, collection="c")

        status = await vault.set_policy(names_inside=True)
        await kv.put("after", {"n": 2}, collection="c")
        seen = {entry.key: has_names_inside(entry.value or {}) for entry in await entries_of(store)}
        done = await recode(store, plan_reencryption(vault))

        assert status.policy["names_inside"] is True
        assert {"before": False, "after": True} == seen
        assert (1, 1, 0) == (done.changed, done.already, done.failed)
        assert {("c", "before"): {"n": 1}, ("c", "after"): {"n": 2}} == await held_in(
            kv, [("c", "before"), ("c", "after")]
        )
        assert {} == dict(kv.resealed)
        assert 0 == (await verify(store, vault)).exit_code
        await vault.close()

    async def test_and_back(self) -> None:
        """Without it new records have none, and those that carry their names are left as they are."""
        store = MemoryStore()
        vault = await Vault.create(store, secret=SECRET, kdf=CHEAP, policy=Policy(names_inside=True))
        kv = EnvelopeEncryptionWrapper(store, vault=vault)
        await kv.put("before", {"n": 1})

        status = await vault.set_policy(names_inside=False)
        await kv.put("after", {"n": 2})

        assert "names_inside" not in status.policy
        assert {"before": True, "after": False} == {
            entry.key: has_names_inside(entry.value or {}) for entry in await entries_of(store)
        }
        assert 2 == (await recode(store, plan_reencryption(vault))).already
        await vault.close()
