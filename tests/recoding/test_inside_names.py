# ruff: noqa: ASYNC240 - tests may block
"""A store that loses names: every record that kvseal writes says its own, and each tool finds it by them."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import uuid
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio._utils.sanitization import AlwaysHashStrategy
from key_value.aio.stores.filetree import FileTreeStore
from key_value.aio.stores.memory import MemoryStore
from tests.drivers.filetree.trees import v1_store
from tests.recoding.worlds import KEY, adds_up, fernet, old

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Policy, Secret, Vault
from kvseal.backup import backup, restore
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry, Replacement
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.drivers.manifest import NamedDriver
from kvseal.envelope.record import Header
from kvseal.envelope.stored import from_stored, has_names_inside
from kvseal.errors import DEKNeededError, MovedRecordError, WrongSecretError
from kvseal.keys.meta import META_COLLECTION
from kvseal.recoding import migrate, plan_reencryption, plan_rollback, recode, retire, verify
from kvseal.records.by_name import get_record, list_records, put_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

SECRET, CHEAP = Secret(b"correct horse battery"), Argon2idParams(1, 8, 1)
NOW = timedelta(0)
URL = "https://app.example.com/oauth/client-metadata.json"
CLIENTS, TOKENS, JTIS, REFRESH = (
    "mcp-oauth-proxy-clients",
    "mcp-upstream-tokens",
    "mcp-jti-mappings",
    "mcp-refresh-tokens",
)
Names = tuple[str, str]


@pytest.fixture
def store(tmp_path: Path) -> FileTreeStore:
    """Return an empty file tree as FastMCP makes it."""
    return v1_store(tmp_path / "home")


@pytest.fixture
async def vault(store: FileTreeStore) -> AsyncIterator[Vault]:
    """Yield the vault of that store."""
    made = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    yield made
    await made.close()


@pytest.fixture
def kv(store: FileTreeStore, vault: Vault) -> EnvelopeEncryptionWrapper:
    """Return what FastMCP gets as its `client_storage`."""
    return EnvelopeEncryptionWrapper(store, vault=vault)


async def a_login(kv: Any, held: dict[Names, Any], client: str) -> None:
    """Leave what a login at FastMCP's proxy leaves, keys of every kind, and refresh once."""
    token, upstream = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    entries: list[tuple[str, str, Any, float | None]] = [
        (CLIENTS, client, {"client_id": client}, None),
        (TOKENS, upstream, {"upstream_token_id": upstream, "n": 1}, 3600.0),
        (JTIS, secrets.token_urlsafe(32), {"upstream_token_id": upstream}, 3600.0),
        (REFRESH, hashlib.sha256(token.encode()).hexdigest(), {"client_id": client}, None),
        (TOKENS, upstream, {"upstream_token_id": upstream, "n": 2}, 7200.0),
    ]
    for collection, key, value, ttl in entries:
        await kv.put(key, value, collection=collection, ttl=ttl)
        held[collection, key] = value
    spent = secrets.token_urlsafe(32)
    await kv.put(spent, {"code": spent}, collection=JTIS)
    await kv.delete(spent, collection=JTIS)


async def entries_of(store: Any) -> list[Entry]:
    """Return every entry but the vault meta and a checkpoint, as a scan finds it."""
    found = [entry async for page in driver_for(store).scan() for entry in page.entries]
    return [entry for entry in found if entry.collection != META_COLLECTION]


async def held_in(kv: Any, names: Any) -> dict[Names, Any]:
    """Return what the application reads under each of *names*."""
    return {(collection, key): await kv.get(key, collection=collection) for collection, key in names}


def bodies(directory: Path) -> list[dict[str, Any]]:
    """Return the bodies of all records in a file tree."""
    files = [path for path in directory.rglob("*.json") if META_COLLECTION not in str(path)]
    return [json.loads(path.read_text()) for path in files if not path.name.endswith("-info.json")]


async def put_without_names(
    vault: Vault, store: Any, names: Names, value: dict[str, Any], expires_at: int | None = None
) -> dict[str, Any]:
    """Store a record as a kvseal that knew of no names inside has sealed it, and return that."""
    stored = vault.codecs[""].seal(value, *names, expires_at=expires_at)
    assert not has_names_inside(stored)
    await store.put(names[1], stored, collection=names[0], ttl=9000)
    return stored


async def stored_of(store: Any, names: Names) -> dict[str, Any]:
    """Return the stored mapping of a record."""
    stored = await store.get(names[1], collection=names[0])
    assert stored is not None
    return dict(stored)


class TestTraffic:
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


async def test_a_failure_names_the_place(
    kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore
) -> None:
    """What fails is named by its file, and not by the names that the record hides from the file."""
    await kv.put(URL, {"a": 1}, collection="c")
    await vault.rotate_dek()

    report = await recode(NeverSwaps(driver_for(store)), plan_reencryption(vault))

    (failure,) = report.failures
    assert (None, None) == (failure.collection, failure.key)
    assert failure.reason.endswith("_json-aa320f3f.json)")


class TestMoved:
    """A record in another place than its names lead to: an attacker has copied its file."""

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


class TestEarlierRecords:
    """Records that a kvseal before names inside has sealed, in a store that loses names."""

    NAMES = ("c", URL)

    @pytest.mark.parametrize("expires_at", [None, 4_102_444_800_123])
    async def test_sealed_anew_when_read(
        self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore, expires_at: int | None
    ) -> None:
        """A read by name seals it anew with its names; the sealed expiry stays, the store's is not taken over."""
        before = await put_without_names(vault, store, self.NAMES, {"a": 1}, expires_at)
        (entry,) = await entries_of(store)

        value = await kv.get(URL, collection="c")

        assert {"a": 1} == value
        after = await stored_of(store, self.NAMES)
        headers = [Header.parse(from_stored(one)) for one in (before, after)]
        assert [False, True] == [header.names_inside for header in headers]
        assert [expires_at] * 2 == [header.expires_at for header in headers]
        (now,) = await entries_of(store)
        assert (entry.created_at, entry.expires_at) == (now.created_at, now.expires_at)
        assert {"resealed": 1} == dict(kv.resealed)
        assert 0 == (await verify(store, vault)).exit_code

    @pytest.mark.parametrize("how", ["get_many", "ttl", "ttl_many"])
    async def test_every_way_to_read(
        self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore, how: str
    ) -> None:
        """So does each of the other reads."""
        await put_without_names(vault, store, self.NAMES, {"a": 1})

        asked: Any = URL if how == "ttl" else [URL]
        found: Any = await getattr(kv, how)(asked, collection="c")

        assert {"a": 1} == {"get_many": lambda: found[0], "ttl": lambda: found[0]}.get(
            how, lambda: found[0][0]
        )()
        assert has_names_inside(await stored_of(store, self.NAMES))

    async def test_a_record_with_names_is_left(self, kv: EnvelopeEncryptionWrapper, store: Any) -> None:
        """Reading a record that has its names writes nothing."""
        await kv.put(URL, {"a": 1}, collection="c")
        before = await stored_of(store, self.NAMES)

        assert {"a": 1} == await kv.get(URL, collection="c")
        assert ({"a": 1}, None) == await kv.ttl(URL, collection="c")
        assert [{"a": 1}] == await kv.get_many([URL], collection="c")
        assert (before, {}) == (await stored_of(store, self.NAMES), dict(kv.resealed))

    async def test_never_under_hold(self, store: FileTreeStore) -> None:
        """While the policy holds an old format no read seals anything, names or not."""
        vault = await Vault.create(store, secret=SECRET, kdf=CHEAP, policy=Policy(read_plaintext=True))
        before = await put_without_names(vault, store, self.NAMES, {"a": 1})
        await vault.write_as("plaintext")
        kv = EnvelopeEncryptionWrapper(store, vault=vault)

        assert {"a": 1} == await kv.get(URL, collection="c")
        assert (before, {}) == (await stored_of(store, self.NAMES), dict(kv.resealed))
        await vault.close()

    async def test_another_writer_is_faster(
        self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore
    ) -> None:
        """What another process wrote between the read and the swap stays."""
        await put_without_names(vault, store, self.NAMES, {"a": 1})
        get, newer = store.get, vault.codecs[""].seal({"a": 2}, *self.NAMES)

        async def get_and_be_overtaken(key: str, *, collection: str | None = None) -> Any:
            found = await get(key, collection=collection)
            await store.put(key, newer, collection=collection)
            return found

        store.get = get_and_be_overtaken  # type: ignore[method-assign]

        assert {"a": 1} == await kv.get(URL, collection="c")
        assert newer == await get(URL, collection="c")
        assert {"changed": 1} == dict(kv.resealed)

    async def test_by_manifest(self, vault: Vault, store: FileTreeStore, tmp_path: Path) -> None:
        """With names from a manifest a re-encryption seals them anew, though their DEK is the active one."""
        await put_without_names(vault, store, self.NAMES, {"a": 1})
        without = await recode(store, plan_reencryption(vault))

        done = await recode(NamedDriver(driver_for(store), [self.NAMES]), plan_reencryption(vault))

        assert [(0, 1), (1, 0)] == [(one.changed, one.failed) for one in (without, done)]
        (body,) = bodies(tmp_path / "home")
        assert has_names_inside(body["value"])
        assert "key" not in body
        assert 0 == (await verify(store, vault)).exit_code

    async def test_a_read_removes_names_beside(
        self, kv: EnvelopeEncryptionWrapper, vault: Vault, store: FileTreeStore, tmp_path: Path
    ) -> None:
        """A record that is sealed anew when it is read has no names beside it any more, whatever it had."""
        stored = vault.codecs[""].seal({"a": 1}, *self.NAMES)
        await driver_for(store).put_if_absent(Entry(*self.NAMES, stored))

        await kv.get(URL, collection="c")

        (body,) = bodies(tmp_path / "home")
        assert has_names_inside(body["value"])
        assert not {"collection", "key"} & set(body)

    async def test_names_beside_are_removed(self, vault: Vault, store: FileTreeStore, tmp_path: Path) -> None:
        """The names that an earlier kvseal wrote beside a record serve once more, and are gone."""
        stored = vault.codecs[""].seal({"a": 1}, *self.NAMES)
        await driver_for(store).put_if_absent(Entry(*self.NAMES, stored))
        (body,) = bodies(tmp_path / "home")
        assert self.NAMES == (body["collection"], body["key"])

        done = await recode(store, plan_reencryption(vault))

        assert (1, 0) == (done.changed, done.failed)
        (body,) = bodies(tmp_path / "home")
        assert not {"collection", "key"} & set(body)
        assert 0 == (await verify(store, vault)).exit_code


class TestPolicy:
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


class TestRestore:
    """A backup without a secret, and a restore into a store of another kind with it."""

    @pytest.fixture
    async def file(self, kv: EnvelopeEncryptionWrapper, store: FileTreeStore, tmp_path: Path) -> Path:
        """Return a backup of three records, of which the store gives two names back in part alone."""
        for key in ("plain", "https://a/one", "https://a/two"):
            await kv.put(key, {"key": key}, collection="c-d")
        await backup(store, tmp_path / "backup")
        return tmp_path / "backup"

    async def test_another_kind_of_store(self, file: Path) -> None:
        """With the secret every record is put under its names, opens there, and is done when the restore runs again."""
        store = MemoryStore()

        without = await restore(file, store)
        report = await restore(file, store, secret=SECRET, names_inside=True)
        again = await restore(file, store, secret=SECRET, names_inside=True)

        assert (2, 2, 3) == (without.restored, without.failed, without.exit_code)
        assert (2, 2, 0) == (report.restored, report.already, report.exit_code)
        assert (4, 0) == (again.already, again.failed)
        async with AsyncExitStack() as stack:
            vault = await Vault.open(store, secret=SECRET)
            stack.push_async_callback(vault.close)
            kv = EnvelopeEncryptionWrapper(store, vault=vault)
            for key in ("plain", "https://a/one", "https://a/two"):
                assert {"key": key} == await kv.get(key, collection="c-d")
            assert 0 == (await verify(store, vault)).exit_code

    async def test_dry_run(self, file: Path) -> None:
        """A dry run says the same and writes nothing."""
        store = MemoryStore()

        report = await restore(file, store, secret=SECRET, names_inside=True, dry_run=True)

        assert (4, 0) == (report.restored, report.failed)
        assert [] == await entries_of(store)

    async def test_a_tree_of_another_rule(self, file: Path, tmp_path: Path) -> None:
        """A file tree that hashes its names takes them, too, and has none in clear beside a record."""
        store = FileTreeStore(
            data_directory=tmp_path / "other", key_sanitization_strategy=AlwaysHashStrategy()
        )
        report = await restore(file, store, secret=SECRET, names_inside=True, meta_store=MemoryStore())

        assert (4, 0) == (report.restored, report.failed)
        assert [] == [body for body in bodies(tmp_path / "other") if "key" in body]
        assert {"key"} == set(
            await EnvelopeEncryptionWrapper(
                store, vault=await Vault.open(v1_store(tmp_path / "home"), secret=SECRET)
            ).get("https://a/one", collection="c-d")
            or {}
        )

    async def test_the_same_kind_needs_no_secret(self, file: Path, tmp_path: Path) -> None:
        """Into a store of the same kind the files go by their places, without names beside them."""
        report = await restore(file, v1_store(tmp_path / "other"))

        assert (4, 0) == (report.restored, report.failed)
        assert [] == [body for body in bodies(tmp_path / "other") if "key" in body]

    async def test_overwritten(self, file: Path, tmp_path: Path) -> None:
        """What takes the place of an entry with names beside it has none."""
        store = v1_store(tmp_path / "other")
        await driver_for(store).put_if_absent(Entry("c-d", "https://a/one", {"plain": 1}))

        report = await restore(file, store, secret=SECRET, names_inside=True, overwrite=True)

        assert (3, 1) == (report.restored, report.overwritten)
        assert [] == [body for body in bodies(tmp_path / "other") if "key" in body]

    async def test_wrong_secret(self, file: Path) -> None:
        """A secret that opens no vault meta ends the restore before the first write."""
        store = MemoryStore()

        with pytest.raises(WrongSecretError):
            await restore(file, store, secret=Secret(b"wrong"), names_inside=True)
        assert [] == await entries_of(store)

    async def test_moved(self, kv: Any, store: FileTreeStore, tmp_path: Path) -> None:
        """A record that lay where its names do not lead is not restored by them."""
        for key in ("https://a/one", "https://a/two", "https://a/gone"):
            await kv.put(key, {"key": key}, collection="c")
        gone, two = (
            tmp_path / "home" / (driver_for(store).place("c", key)).path  # type: ignore[attr-defined]
            for key in ("https://a/gone", "https://a/two")
        )
        gone.replace(two)
        await backup(store, tmp_path / "backup")
        other = MemoryStore()

        report = await restore(tmp_path / "backup", other, secret=SECRET, names_inside=True)

        assert (2, 1) == (report.restored, report.failed)
        assert "another name" in report.failures[0].reason
        assert "gone" not in report.failures[0].reason
        assert {"https://a/one"} == {entry.key for entry in await entries_of(other)}

    async def test_claimed_twice(self, tmp_path: Path) -> None:
        """Where the rule of the store is not known, two entries that claim one name are both refused."""
        store = FileTreeStore(
            data_directory=tmp_path / "home", key_sanitization_strategy=AlwaysHashStrategy()
        )
        vault = await Vault.create(store, secret=SECRET, kdf=CHEAP, meta_store=v1_store(tmp_path / "meta"))
        kv = EnvelopeEncryptionWrapper(store, vault=vault)
        for key in ("one", "two", "three"):
            await kv.put(key, {"key": key}, collection="c")
        one, two = (
            tmp_path / "home" / (driver_for(store).place("c", key)).path  # type: ignore[attr-defined]
            for key in ("one", "two")
        )
        two.write_bytes(one.read_bytes())
        await backup(store, tmp_path / "backup", meta_store=vault.metastore.driver)
        other = MemoryStore()

        report = await restore(tmp_path / "backup", other, secret=SECRET, names_inside=True)

        assert (2, 2) == (report.restored, report.failed)
        assert 2 == sum("claims" in failure.reason for failure in report.failures)
        assert {"three"} == {entry.key for entry in await entries_of(other)}
        await vault.close()

    async def test_unreadable_record(self, file: Path) -> None:
        """A record of another context, whose names cannot be read, fails as it does without the secret."""
        report = await restore(file, MemoryStore(), secret=SECRET, names_inside=True, contexts=["other"])

        assert (2, 2) == (report.restored, report.failed)
        assert {True} == {"its name is not known" in failure.reason for failure in report.failures}


async def test_no_name_in_any_file(tmp_path: Path) -> None:
    """Nothing that kvseal writes into such a store has a name in clear that the store would not have."""
    mark = f"marked-{os.urandom(8).hex()}"
    store = v1_store(tmp_path / "home")
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    await kv.put(mark, {"a": 1}, collection="c")
    await put_without_names(vault, store, ("c", f"{mark}/2"), {"a": 2})
    await kv.get(f"{mark}/2", collection="c")
    await vault.rotate_dek()
    await recode(store, plan_reencryption(vault))
    await backup(store, tmp_path / "backup")

    found = [path for path in tmp_path.rglob("*") if path.is_file() and mark.encode() in path.read_bytes()]

    assert [] == found
    await vault.close()
