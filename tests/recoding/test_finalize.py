"""Without downtime: keys are imported, records re-sealed, and old reads end when nothing needs them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.fakes import HookedDriver
from tests.recoding.worlds import KEY, OTHER_KEY, damage, fernet, fill, formats_of, old

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault, clock
from kvseal.drivers import driver_for
from kvseal.errors import (
    LegacyRecordError,
    PlaintextFoundError,
    PlaintextRecordError,
    RecodeError,
    VaultNotFoundError,
    WrongLegacyKeyError,
)
from kvseal.keys.keyring import LegacyKey
from kvseal.keys.stamps import time_of
from kvseal.legacy import FERNET
from kvseal.legacy.fernet import parse_key
from kvseal.recoding import Migration, PlaintextRule, import_keys, migrate, prepare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from key_value.aio.stores.memory import MemoryStore

SECRET = Secret(b"the secret of the new vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
VALUES: dict[str, dict[str, Any]] = {"a": {"v": 1}, "b": {"v": 2}}


def key(text: bytes = KEY) -> LegacyKey:
    """Return the old key as the vault holds it."""
    return LegacyKey(FERNET, parse_key(text))


def new(store: Any) -> EnvelopeEncryptionWrapper:
    """Return the new application's view."""
    return EnvelopeEncryptionWrapper(store, secret=SECRET, create=False)


async def imported(store: Any, **options: Any) -> Migration:
    """Import the old key."""
    return await import_keys(store, [key()], secret=SECRET, kdf=CHEAP, **options)


async def finalized(store: Any, **options: Any) -> Migration:
    """Migrate with what the vault holds, and finalize."""
    return await migrate(store, secret=SECRET, finalize=True, **options)


async def test_a_clock_that_is_ahead(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old records that have expired by this host's clock alone keep the old keys: they are read again."""
    await old(store).put("k", {"v": 1}, collection="c", ttl=12 * 3600)
    await imported(store)
    tomorrow = clock.utc_now() + timedelta(days=1)
    with monkeypatch.context() as patch:
        patch.setattr("kvseal.clock.utc_now", lambda: tomorrow)
        done = await finalized(store)

    assert done.report is not None
    assert (False, {"fernet": 1}) == (done.finalized, done.report.expired)
    assert {"v": 1} == await new(store).get("k", collection="c")


async def test_three_steps(store: MemoryStore) -> None:
    """Import changes no record, the new application reads all, finalizing seals the rest and ends old reads."""
    await fill(store, VALUES)

    done = await imported(store)

    assert done.report is None
    assert done.vault is not None
    assert [FERNET] == [held.kind for held in done.vault.legacy]
    # The vault meta is of no version.
    assert {1} == await formats_of(store)
    app = new(store)
    assert list(VALUES.values()) == await app.get_many(list(VALUES), collection="c")
    await app.put("c", {"v": 3}, collection="c")
    await old(store).put("late", {"v": 4}, collection="c")

    end = await finalized(store)

    assert end.finalized
    assert end.vault is not None
    assert [True] == [held.ended_at is not None for held in end.vault.legacy]
    assert not end.vault.policy["read_legacy"]
    assert {2} == await formats_of(store)
    assert [{"v": 3}, {"v": 4}] == await new(store).get_many(["c", "late"], collection="c")
    await old(store).put("later", {"v": 5}, collection="c")
    with pytest.raises(LegacyRecordError):
        await new(store).get("later", collection="c")


async def test_reads_that_lag(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store's own reads lag, old reads end only after they have caught up with the last write."""
    await fill(store, VALUES)
    await imported(store)
    waited: list[tuple[float, bool]] = []

    async def sleep(seconds: float) -> None:
        vault = await Vault.open(store, secret=SECRET)
        waited.append((seconds, vault.keyring.policy.read_legacy))
        assert {2} == await formats_of(store)
        await vault.close()

    monkeypatch.setattr("kvseal.recoding.settling.sleep", sleep)
    driver = driver_for(store)
    driver.capabilities = replace(driver.capabilities, reads_lag=3.0)

    assert (await finalized(driver)).finalized
    assert [(3.0, True)] == waited


async def test_again(store: MemoryStore) -> None:
    """Importing twice holds the key once; finalizing twice is no error and changes nothing more."""
    await fill(store, VALUES)
    await imported(store)
    done = await imported(store)
    assert done.vault is not None
    assert 1 == len(done.vault.legacy)
    first = await finalized(store)

    second = await migrate(store, [fernet()], secret=SECRET, finalize=True)

    assert second.finalized
    assert first.vault is not None
    assert second.vault is not None
    # The revision is among what is equal; only when its slot was opened is another time.
    assert replace(first.vault, slots=()) == replace(second.vault, slots=())


async def test_the_key_is_dropped_later(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that begins a grace after old reads ended, and finds nothing old, drops the key; none before does."""
    await fill(store, VALUES)
    await imported(store)
    first = await finalized(store)
    assert first.vault is not None
    (ended_at,) = [time_of(held.ended_at or "") for held in first.vault.legacy]

    left = []
    for seconds in (3599, 3600):
        now = ended_at + timedelta(seconds=seconds)
        monkeypatch.setattr(clock, "utc_seconds", lambda now=now: now)
        done = await finalized(store)
        assert done.vault is not None
        left.append((done.finalized, len(done.vault.legacy)))

    assert [(True, 1), (True, 0)] == left


async def test_the_key_is_dropped_at_once(store: MemoryStore) -> None:
    """By the word of an operator that no process writes the old format, reads end and the key goes in one run."""
    await fill(store, VALUES)
    await imported(store)

    done = await finalized(store, grace=timedelta())

    assert done.vault is not None
    assert (True, ()) == (done.finalized, done.vault.legacy)


async def test_an_old_record_that_appears_late(store: MemoryStore) -> None:
    """What an old process wrote after reads had ended is not lost: the vault still has the key, and says so."""
    await fill(store, VALUES)
    await imported(store)
    await finalized(store)
    await old(store).put("late", {"v": 4}, collection="c")
    with pytest.raises(LegacyRecordError):
        await new(store).get("late", collection="c")

    with pytest.raises(RecodeError, match="the vault still keeps the keys") as caught:
        await finalized(store)
    assert "--import-keys" in caught.value.hint
    again = await import_keys(store, [], secret=SECRET)

    assert again.vault is not None
    assert ([None], True) == (
        [held.ended_at for held in again.vault.legacy],
        again.vault.policy["read_legacy"],
    )
    assert {"v": 4} == await new(store).get("late", collection="c")
    assert (await finalized(store)).finalized


async def test_a_record_that_no_key_opens(store: MemoryStore) -> None:
    """While one record may need the old key, it is kept, and the report says so."""
    await fill(store, {**VALUES, "damaged": {"v": 3}})
    await damage(store, "damaged")
    await imported(store)

    done = await finalized(store)

    assert not done.finalized
    assert done.report is not None
    assert 1 == done.report.failed
    assert done.vault is not None
    assert 1 == len(done.vault.legacy)


async def test_old_records_that_come_all_the_time(store: MemoryStore) -> None:
    """An old application that goes on writing keeps the migration from being finalized."""
    await fill(store, VALUES)
    await imported(store)
    written = 0

    async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal written
        result = await do()
        if name == "scan":
            written += 1
            await old(store).put(f"late-{written}", {"v": 1}, collection="c")
        return result

    done = await finalized(HookedDriver(driver_for(store), around))

    assert not done.finalized
    assert done.report is not None
    assert 0 == done.report.failed
    assert (await finalized(store)).finalized


async def test_stragglers(store: MemoryStore) -> None:
    """What an old application wrote behind the scan's back is found by the verify pass and done, too."""
    await fill(store, VALUES)
    await imported(store)
    came = False

    async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal came
        result = await do()
        if name == "replace_many" and not came:
            came = True
            await old(store).put("a", {"v": "late"}, collection="c")
        return result

    done = await finalized(HookedDriver(driver_for(store), around))

    assert done.finalized
    assert {"v": "late"} == await new(store).get("a", collection="c")
    assert done.report is not None
    assert done.report.scanned == (
        done.report.changed + done.report.already + done.report.skipped + done.report.failed
    )


async def test_keys_that_do_not_fit(store: MemoryStore) -> None:
    """A wrong key is refused before anything is written, and so is none at all."""
    await fill(store, VALUES)

    with pytest.raises(WrongLegacyKeyError):
        await import_keys(store, [key(OTHER_KEY)], secret=SECRET, kdf=CHEAP)
    with pytest.raises(RecodeError, match="no key for old records"):
        await migrate(store, secret=SECRET, kdf=CHEAP)
    with pytest.raises(VaultNotFoundError):
        await Vault.open(store, secret=SECRET)


async def test_plaintext(store: MemoryStore) -> None:
    """Plaintext is refused, or read by the wrappers from the import to the end."""
    await fill(store, VALUES)
    await store.put("open", {"v": 1}, collection="c")
    with pytest.raises(PlaintextFoundError):
        await imported(store)

    await imported(store, plaintext=PlaintextRule.SEAL)
    await store.put("open", {"v": 1}, collection="c")
    assert {"v": 1} == await new(store).get("open", collection="c")
    done = await finalized(store, plaintext=PlaintextRule.SEAL)

    assert done.finalized
    await store.put("open", {"v": 2}, collection="c")
    with pytest.raises(PlaintextRecordError):
        await new(store).get("open", collection="c")


async def test_dry_runs(store: MemoryStore) -> None:
    """Neither step writes when it is only tried."""
    await fill(store, VALUES)
    assert (await imported(store, dry_run=True)).vault is None
    await imported(store)

    done = await finalized(store, dry_run=True)

    assert not done.finalized
    assert done.vault is not None
    assert 1 == len(done.vault.legacy)
    assert {1} == await formats_of(store)


async def test_what_comes_before_the_first_write(store: MemoryStore) -> None:
    """It is awaited once: after the survey, before the vault, and not where there is nothing to do."""
    seen: list[bool] = []
    await fill(store, VALUES)

    async def before(_: Any) -> None:
        seen.append(await store.get("__dek__", collection="__vault_meta__") is None)

    with pytest.raises(WrongLegacyKeyError):
        await migrate(store, [fernet(OTHER_KEY)], secret=SECRET, kdf=CHEAP, before_writes=before)
    await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP, dry_run=True, before_writes=before)
    assert [] == seen
    await prepare(store, [fernet()], secret=SECRET, kdf=CHEAP, before_writes=before)
    assert [True] == seen
    assert {1} == await formats_of(store)
    await migrate(store, [fernet()], secret=SECRET, before_writes=before)
    await migrate(store, [fernet()], secret=SECRET, before_writes=before)

    assert [True, False] == seen
