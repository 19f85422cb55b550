"""The store decides: what a process does when the vault meta is gone, older or another one, and how it comes back."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import put_raw_meta, raw_meta
from tests.recoding.worlds import KEY, fernet, fill, old

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault, verify
from kvseal.drivers import driver_for
from kvseal.errors import (
    ForkedMetaError,
    RefutedKeyringError,
    StoreUnreachableError,
    TamperedMetaError,
    VaultMetaLostError,
    VaultNotFoundError,
)
from kvseal.keys.keyring import LegacyKey
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.legacy import FERNET
from kvseal.legacy.fernet import parse_key
from kvseal.recoding import migrate, plan_reencryption, recode, retire
from kvseal.vault import freshness
from kvseal.vault.freshness import REFRESH_AFTER
from kvseal.vault.seen import newest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kvseal.drivers.base import Replacement

SECRET = Secret(b"the secret of the vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)


@dataclass
class Application:
    """A process with an open vault and a clock of its own, which has a memory of its own for what it has seen."""

    store: MemoryStore
    vault: Vault
    now: float = 1000.0

    @classmethod
    async def on(cls, store: MemoryStore) -> Application:
        """Open the vault in *store*, whose meta is looked at again after `REFRESH_AFTER` on this clock."""
        application = cls(store, await Vault.open(store, secret=SECRET))
        application.vault.freshness.clock = lambda: application.now
        application.vault.freshness.confirm(application.now)
        return application

    @property
    def kv(self) -> EnvelopeEncryptionWrapper:
        """The store as this application uses it."""
        return EnvelopeEncryptionWrapper(self.store, vault=self.vault)

    async def put_later(self, key: str, value: dict[str, Any]) -> None:
        """Write once the vault meta is due to be looked at."""
        self.now += REFRESH_AFTER
        await self.kv.put(key, value)


@pytest.fixture
async def application(store: MemoryStore) -> Application:
    """Return a process that has the vault open, and has written a record."""
    await Vault.create(store, secret=SECRET, kdf=CHEAP)
    application = await Application.on(store)
    await application.kv.put("before", {"n": 0})
    return application


async def delete_meta(store: MemoryStore) -> None:
    """Let the store lose the vault meta."""
    assert await store.delete(META_KEY, collection=META_COLLECTION)


async def opens_anew(store: MemoryStore, *keys: str) -> list[Any]:
    """Return what a new process reads, which has seen nothing yet."""
    newest._newest.clear()
    return await EnvelopeEncryptionWrapper(store, secret=SECRET, create=False).get_many(list(keys))


async def test_a_lost_meta_ends_writing_at_once(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the vault meta is gone, the next look ends sealing, and health, log and error say so; reads go on."""
    await delete_meta(application.store)

    with caplog.at_level(logging.ERROR, "kvseal"), pytest.raises(RefutedKeyringError) as caught:
        await application.put_later("after", {"n": 1})

    assert isinstance(caught.value.__cause__, VaultNotFoundError)
    assert "put_back()" in caught.value.hint
    assert ["nothing is sealed any more: there is no vault in memory:"] == caplog.messages
    assert ("meta refuted", False) == (application.vault.health().state, application.vault.health().serves)
    assert {"n": 0} == await application.kv.get("before")
    assert await application.store.get("after") is None


async def test_put_back_on_request(application: Application) -> None:
    """The process that holds the newest meta writes it again, as a new revision, and goes on sealing."""
    before = application.vault.meta.revision
    await delete_meta(application.store)
    with pytest.raises(RefutedKeyringError):
        await application.put_later("after", {"n": 1})

    status = await application.vault.put_back()

    assert before < status.revision
    await application.kv.put("after", {"n": 2})
    assert "ok" == application.vault.health().state
    assert [{"n": 0}, {"n": 2}] == await opens_anew(application.store, "before", "after")


async def test_a_failover_that_loses_a_rotation(application: Application) -> None:
    """An older meta of the same root key is replaced by the newest that a process holds: no DEK is lost."""
    older = await raw_meta(application.store)
    await application.vault.rotate_dek()
    await application.kv.put("under DEK 2", {"n": 2})
    await put_raw_meta(application.store, older)

    await application.put_later("after", {"n": 3})

    assert 2 == application.vault.keyring.active_dek
    assert [{"n": 2}, {"n": 3}] == await opens_anew(application.store, "under DEK 2", "after")


async def test_it_is_put_back_once_in_a_while(application: Application) -> None:
    """A store that goes back again and again is not fought with: once per `refresh_after`."""
    older = await raw_meta(application.store)
    await application.vault.rotate_dek()
    await put_raw_meta(application.store, older)
    await application.vault.refresh()
    await put_raw_meta(application.store, older)

    with pytest.raises(newest.RolledBackMetaError):
        await application.vault.refresh()

    application.now += REFRESH_AFTER
    await application.vault.refresh()
    assert 2 == (await raw_meta(application.store))["revision"]


@pytest.mark.parametrize("harm", ["lost again", "no answer", "too slow"])
async def test_nothing_is_sealed_where_putting_back_fails(
    application: Application, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that went back once more, refuses the write or hangs has still lost the newest meta."""
    older = await raw_meta(application.store)
    await application.vault.rotate_dek()
    await put_raw_meta(application.store, older)
    driver = application.vault.metastore.driver
    replace_many = driver.replace_many

    async def replaced(replacements: Sequence[Replacement]) -> Sequence[bool]:
        if harm == "too slow":
            await asyncio.Event().wait()
        if harm == "no answer":
            msg = "no answer"
            raise StoreUnreachableError(msg)
        done = await replace_many(replacements)
        await put_raw_meta(application.store, older)
        return done

    monkeypatch.setattr(driver, "replace_many", replaced)
    monkeypatch.setattr(freshness, "PATIENCE", 0.05)

    with pytest.raises(RefutedKeyringError):
        await application.put_later("after", {"n": 1})

    assert await application.store.get("after") is None


@pytest.mark.parametrize("goes_back", [False, True], ids=["a change", "putting back"])
async def test_a_forgery_over_what_was_just_written(
    application: Application, goes_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A meta of a later revision is no proof that ours was stored: where its MAC is wrong, nothing succeeds."""
    older = await raw_meta(application.store)
    if goes_back:
        await application.vault.rotate_dek()
        await put_raw_meta(application.store, older)
    driver = application.vault.metastore.driver
    replace_many = driver.replace_many

    async def replaced(replacements: Sequence[Replacement]) -> Sequence[bool]:
        done = await replace_many(replacements)
        stored = await raw_meta(application.store)
        await put_raw_meta(application.store, {**stored, "revision": stored["revision"] + 1})
        return done

    monkeypatch.setattr(driver, "replace_many", replaced)

    with pytest.raises(TamperedMetaError):
        await (application.vault.refresh() if goes_back else application.vault.rotate_dek())

    with pytest.raises(RefutedKeyringError):
        await application.kv.put("after", {"n": 1})


async def test_a_retired_key_is_not_lost_by_putting_back(application: Application) -> None:
    """An older meta with a DEK that the newest has dropped stays: putting back would lose that key."""
    await application.vault.rotate_dek()
    older = await raw_meta(application.store)
    await application.vault.drop_dek(1)
    await put_raw_meta(application.store, older)

    with pytest.raises(RefutedKeyringError):
        await application.put_later("after", {"n": 1})

    assert older == await raw_meta(application.store)


async def forked(application: Application, *, rotations: int) -> dict[str, Any]:
    """Lose a rotation of *application*, and let another operator rotate instead; return the record it sealed."""
    older = await raw_meta(application.store)
    await application.vault.rotate_dek()
    await application.kv.put("under the lost DEK 2", {"n": 2})
    await put_raw_meta(application.store, older)
    mine = newest._newest.copy()
    newest._newest.clear()
    operator = await Vault.open(application.store, secret=SECRET)
    for _ in range(rotations):
        await operator.rotate_dek()
    newest._newest.clear()
    newest._newest.update(mine)
    return await raw_meta(application.store)


@pytest.mark.parametrize("rotations", [1, 2])
async def test_another_meta_does_not_take_the_only_copy_of_a_dek(
    application: Application, rotations: int
) -> None:
    """A second meta of the same revision, or one after it, has another DEK 2: ours stays, and nothing is sealed."""
    stored = await forked(application, rotations=rotations)

    with pytest.raises(RefutedKeyringError) as caught:
        await application.put_later("after", {"n": 3})

    assert isinstance(caught.value.__cause__, ForkedMetaError)
    assert {"n": 2} == await application.kv.get("under the lost DEK 2")
    assert stored == await raw_meta(application.store)


@pytest.mark.parametrize("rotations", [1, 2])
async def test_two_deks_of_one_number(application: Application, rotations: int) -> None:
    """Put back on request, the meta holds both: each process goes on, and every record opens for a new one."""
    stored = await forked(application, rotations=rotations)
    mine = newest._newest.copy()
    newest._newest.clear()
    other = await Vault.open(MemoryStore(), secret=SECRET, meta_store=application.store)
    theirs = EnvelopeEncryptionWrapper(application.store, vault=other)
    await theirs.put("under their DEK", {"n": 3})
    newest._newest.clear()
    newest._newest.update(mine)

    status = await application.vault.put_back()

    assert status.revision > max(stored["revision"], 2)
    assert (rotations + 1, ["kvseal-dek"]) == (status.active_dek, [key.kind for key in status.legacy])
    assert {"n": 2} == await application.kv.get("under the lost DEK 2")
    assert {"n": 3} == await application.kv.get("under their DEK")
    await application.put_later("after", {"n": 4})
    assert await other.refresh()
    for reader in (theirs, EnvelopeEncryptionWrapper(application.store, secret=SECRET, create=False)):
        assert [{"n": 2}, {"n": 3}, {"n": 4}] == await reader.get_many(
            ["under the lost DEK 2", "under their DEK", "after"]
        )
    assert 0 == (await verify(application.store, application.vault)).failed


async def test_a_second_dek_goes_with_the_first(application: Application) -> None:
    """It outlives the old keys of a migration and a new root key, and is dropped with the DEK of its number."""
    await forked(application, rotations=1)
    vault = application.vault
    await vault.put_back()
    await vault.read_legacy_with([LegacyKey(FERNET, parse_key(KEY))])
    ended = await vault.end_legacy_reads()
    await vault.drop_legacy_keys({held.id for held in ended.legacy})
    await vault.rotate_root()
    fresh = EnvelopeEncryptionWrapper(application.store, secret=SECRET, create=False)
    assert {"n": 2} == await fresh.get("under the lost DEK 2")
    await vault.rotate_dek()

    report = await recode(application.store, plan_reencryption(vault))
    assert (0, {3}) == (report.failed, set(report.deks or {}))
    await retire(application.store, vault, 2, grace=timedelta())

    assert () == vault.meta.legacy
    assert {"n": 2} == await application.kv.get("under the lost DEK 2")


async def test_put_back_over_another_root_key(application: Application) -> None:
    """A meta under a root key that this process does not hold cannot be joined with ours."""
    stored = await raw_meta(application.store)
    mac = b64encode(bytes(32)).decode()
    await put_raw_meta(application.store, {**stored, "revision": 9, "mac": mac})

    with pytest.raises(ForkedMetaError, match="of another root key, or forged"):
        await application.vault.put_back()


async def test_another_vault_in_its_place(application: Application) -> None:
    """A vault that a second application has created over an emptied database is not ours, and is left alone."""
    await delete_meta(application.store)
    await application.store.delete("before")
    other = await Vault.create(application.store, secret=Secret(b"another"), kdf=CHEAP)

    with pytest.raises(RefutedKeyringError):
        await application.put_later("after", {"n": 1})
    with pytest.raises(ForkedMetaError, match="another vault"):
        await application.vault.put_back()

    assert other.meta.vault_id.hex() == (await raw_meta(application.store))["vault_id"]


RUNS: dict[str, Callable[[Application], Awaitable[object]]] = {
    "recode": lambda app: recode(app.store, plan_reencryption(app.vault)),
    "verify": lambda app: verify(app.store, app.vault),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("harm", ["gone", "older"])
async def test_no_success_that_the_store_cannot_prove(
    application: Application, run: Callable[[Application], Awaitable[object]], harm: str
) -> None:
    """A run over a store that has lost the vault meta raises instead of reporting what only its memory can read."""
    await application.vault.rotate_dek()
    older = await raw_meta(application.store)
    await application.vault.rotate_dek()
    await application.kv.put("before", {"n": 3})
    if harm == "gone":
        await delete_meta(application.store)
    else:
        await application.vault.drop_dek(1)
        await put_raw_meta(application.store, older)

    with pytest.raises(VaultMetaLostError):
        await run(application)


async def test_a_migration_whose_vault_is_deleted_meanwhile(store: MemoryStore) -> None:
    """It raises and drops no old key, so the records that were re-sealed can be got back with the vault meta."""
    await fill(store, {str(n): {"n": n} for n in range(3)})
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    driver, held = driver_for(store), []

    async def lose(_: object) -> None:
        held.append(await raw_meta(store))
        await delete_meta(store)

    with pytest.raises(VaultMetaLostError, match="no vault meta that the store holds"):
        await migrate(
            driver,
            [fernet()],
            secret=SECRET,
            before_writes=lose,
            finalize=True,
            command="migrate-from-fernet",
        )

    await put_raw_meta(store, held[0])
    newest._newest.clear()
    kv = EnvelopeEncryptionWrapper(store, secret=SECRET, create=False)
    assert [{"n": n} for n in range(3)] == await kv.get_many(["0", "1", "2"], collection="c")
    await vault.close()


async def test_reads_re_seal_nothing_after_the_meta_has_gone(store: MemoryStore) -> None:
    """A read of an old record returns its value, and leaves it to the old application, whose key still opens it."""
    await old(store).put("k", {"v": 1})
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await vault.read_legacy_with([LegacyKey(FERNET, parse_key(KEY))])
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    await delete_meta(store)

    assert {"v": 1} == await kv.get("k")

    assert {"v": 1} == await old(store).get("k")
    assert {} == kv.resealed
