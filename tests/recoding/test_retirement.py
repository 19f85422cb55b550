"""A DEK is retired when every entry says that nothing needs it, and not before."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from tests.backends import KINDS, UNSTABLE, Place, place
from tests.drivers.test_wrapper_orders import HIDING
from tests.fakes import HookedDriver, dump
from tests.recoding.worlds import damage, entries_of, fill, plant
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault, clock, verify
from kvseal.backup import backup, restore
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry, Page
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.drivers.generic import GenericDriver
from kvseal.errors import (
    Conflict,
    DEKNeededError,
    LeaseHeldError,
    UnknownDEKError,
    UnsupportedStackError,
    VaultError,
)
from kvseal.observe import counters
from kvseal.recoding import Failure, Retirement, open_recode, plan_reencryption, recode, retire
from kvseal.recoding.progress.lease import Lease
from kvseal.recoding.retirement import GRACE, KEPT, take_needs
from kvseal.vault.freshness import REFRESH_AFTER, Freshness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.recoding.worlds import AnyStore

SECRET = Secret(b"the secret of the vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
NONE = timedelta()


async def rotated(store: Any) -> Vault:
    """Return the vault of *store* with three records of DEK 1 and one of DEK 2."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    for name in "abc":
        await EnvelopeEncryptionWrapper(store, vault=vault).put(name, {"v": name}, collection="c")
    await vault.rotate_dek()
    await EnvelopeEncryptionWrapper(store, vault=vault).put("new", {"v": "new"}, collection="c")
    return vault


async def reencrypted(store: Any) -> Vault:
    """Return the vault of *store* with four records of DEK 2."""
    vault = await rotated(store)
    await recode(store, plan_reencryption(vault))
    return vault


def states(vault: Vault) -> list[str]:
    """Return the state of each DEK."""
    return [dek.state for dek in vault.status().deks]


async def test_retired(any_store: AnyStore) -> None:
    """What nothing needs is dropped: the number stays, no key, and every record reads."""
    vault = await reencrypted(any_store)

    done = await retire(any_store, vault, 1, grace=NONE)

    assert ("retired", True, 4, {2: 4}) == (done.state, done.changed, done.scanned, done.deks)
    assert (True, None) == (done.dropped, done.kept_until)
    other = await Vault.open(any_store, secret=SECRET)
    assert ["retired", "active"] == states(other)
    assert (None, 1) == (other.meta.deks[0].wrapped, other.meta.deks[0].number)
    assert [{"v": n} for n in ("a", "b", "c", "new")] == await EnvelopeEncryptionWrapper(
        any_store, vault=other
    ).get_many(["a", "b", "c", "new"], collection="c")
    await other.rotate_dek()
    assert ["retired", "readable", "active"] == states(other)


@pytest.fixture(params=KINDS)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Yield an empty store on every backend."""
    yield from place(request.param, request, tmp_path)


@pytest.mark.filterwarnings(UNSTABLE)
async def test_beside_a_running_process_on_every_backend(anywhere: Place) -> None:
    """From one DEK to the next and the old one gone, a process writes and reads on."""
    now = 0.0
    async with anywhere.opened() as store, anywhere.opened() as its_own:
        operator = await Vault.create(store, secret=SECRET, kdf=CHEAP)
        running = await Vault.open(its_own, secret=SECRET)
        running.freshness = Freshness(clock=lambda: now)
        kv = EnvelopeEncryptionWrapper(its_own, vault=running)
        await kv.put("first", {"v": 1}, collection="c")
        await operator.rotate_dek()
        await kv.put("late", {"v": 2}, collection="c", ttl=1000)
        with pytest.raises(DEKNeededError, match="2 records still use DEK 1"):
            await retire(store, operator, 1, grace=NONE)
        now += REFRESH_AFTER
        await kv.put("new", {"v": 3}, collection="c")
        await recode(store, plan_reencryption(operator))

        done = await retire(store, operator, 1, grace=NONE)

        assert (True, {2: 3}) == (done.changed, done.deks)
        expected = [{"v": 1}, {"v": 2}, {"v": 3}]
        assert expected == await kv.get_many(["first", "late", "new"], collection="c")
        fresh = await Vault.open(store, secret=SECRET)
        assert expected == await EnvelopeEncryptionWrapper(store, vault=fresh).get_many(
            ["first", "late", "new"], collection="c"
        )
        for vault in (operator, running, fresh):
            await vault.close()


async def test_again(any_store: AnyStore) -> None:
    """A DEK that is retired already is none to be looked for."""
    vault = await reencrypted(any_store)
    await retire(any_store, vault, 1, grace=NONE)
    before = dump(any_store)

    done = await retire(any_store, vault, 1)

    assert Retirement(1, "retired", False, True, None, scanned=0, deks={}, seconds=0.0) == done
    assert before == dump(any_store)


async def test_reads_that_lag(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store's own reads lag, the DEK goes only after they have caught up; a dry run waits for nothing."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await vault.rotate_dek()
    waited: list[tuple[float, str]] = []

    async def sleep(seconds: float) -> None:
        waited.append((seconds, states(vault)[0]))

    monkeypatch.setattr("kvseal.recoding.settling.sleep", sleep)
    driver = driver_for(store)
    driver.capabilities = replace(driver.capabilities, reads_lag=3.0)
    await retire(driver, vault, 1, grace=NONE, dry_run=True)
    assert [] == waited

    assert (await retire(driver, vault, 1, grace=NONE)).dropped
    assert [(3.0, "readable")] == waited
    await vault.close()


async def test_dry_run(any_store: AnyStore) -> None:
    """It proves the same and writes nothing."""
    vault = await reencrypted(any_store)
    before = dump(any_store)

    done = await retire(any_store, vault, 1, grace=NONE, dry_run=True)

    assert ("readable", False, 4) == (done.state, done.changed, done.scanned)
    assert before == dump(any_store)
    assert ["readable", "active"] == states(vault)


async def test_needed(any_store: AnyStore) -> None:
    """While records use it, it stays, and they are counted."""
    vault = await rotated(any_store)
    before = dump(any_store)

    with pytest.raises(DEKNeededError, match="3 records still use DEK 1") as raised:
        await retire(any_store, vault, 1, grace=NONE)

    assert "vaultctl reencrypt" in raised.value.hint
    assert before == dump(any_store)


async def test_a_record_that_does_not_open_is_counted(any_store: AnyStore) -> None:
    """Damaged, moved or of another context: by its header it needs the DEK."""
    vault = await rotated(any_store)
    await EnvelopeEncryptionWrapper(any_store, vault=vault, context="other").put(
        "d", {"v": 1}, collection="c"
    )
    await damage(any_store, "a")

    await recode(any_store, plan_reencryption(vault))

    with pytest.raises(DEKNeededError, match="1 record still uses DEK 1"):
        await retire(any_store, vault, 1, grace=NONE)


async def test_a_record_without_a_name_is_counted(store: MemoryStore) -> None:
    """What a store cannot name needs its DEK all the same."""
    vault = await rotated(store)
    (record, *_) = (await entries_of(store)).values()

    class Nameless(DelegatingDriver):
        async def scan(self, **_: Any) -> AsyncIterator[Page]:
            yield Page([Entry(None, None, record.value)], "")

    needs = await take_needs(Nameless(driver_for(store)))

    assert ({1: 1}, 0) == (needs.deks, needs.opaque)
    with pytest.raises(DEKNeededError, match="1 record still uses DEK 1"):
        await retire(Nameless(driver_for(store)), vault, 1, grace=NONE)


@pytest.mark.parametrize(
    "value",
    [
        {"__compressed_data__": "H4sI", "__compression_version__": 1},
        {"__encrypted_data__": "eA==", "__encryption_version__": 7},
        {"__encrypted_data__": "AQE=", "__encryption_version__": 2},
        {"__encrypted_data__": "eA=="},
    ],
    ids=["compressed", "encrypted by something else", "torn", "half"],
)
async def test_what_may_hide_a_record(store: MemoryStore, value: dict[str, Any]) -> None:
    """An entry whose inside cannot be seen is no proof, and is named."""
    vault = await reencrypted(store)
    await store.put("odd", value, collection="c")
    heard: list[Any] = []

    with pytest.raises(DEKNeededError, match=r"1 entry of .* such as c/odd"):
        await retire(store, vault, 1, grace=NONE, listener=heard.append)

    assert ["odd"] == [event.key for event in heard if isinstance(event, Failure)]
    assert ["readable", "active"] == states(vault)


async def test_legacy_and_unreadable_entries(store: MemoryStore) -> None:
    """A Fernet record may have one of kvseal's inside, and nobody knows what is in a torn entry."""
    vault = await reencrypted(store)
    await fill(store, {"old": {"v": 1}})
    plant(store, "torn", '{"value": {"v": 1')

    with pytest.raises(DEKNeededError, match="2 entries of"):
        await retire(store, vault, 1, grace=NONE)


async def test_plaintext_is_no_hindrance(store: MemoryStore) -> None:
    """Plain entries beside sealed ones need no DEK."""
    vault = await reencrypted(store)
    await store.put("index", {"v": 1}, collection="c")

    assert (await retire(store, vault, 1, grace=NONE)).changed


async def test_another_store(store: MemoryStore) -> None:
    """A store in which nothing is sealed is hardly the right one."""
    meta, other = MemoryStore(), MemoryStore()
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP, meta_store=meta)
    await vault.rotate_dek()
    await other.put("k", {"v": 1})

    with pytest.raises(DEKNeededError, match="none of them is sealed"):
        await retire(other, vault, 1, grace=NONE)
    assert (await retire(store, vault, 1, grace=NONE)).changed


@pytest.mark.parametrize("stack", HIDING.values(), ids=HIDING)
async def test_hidden_records(store: MemoryStore, stack: Callable[[Any], Any]) -> None:
    """A stack whose wrappers hide records is refused."""
    vault = await reencrypted(store)

    with pytest.raises(UnsupportedStackError):
        await retire(stack(store), vault, 1, grace=NONE)


async def test_a_store_that_is_not_seen_whole(store: MemoryStore) -> None:
    """Where a manifest says what there is, nothing proves that there is no more."""
    vault = await reencrypted(store)
    driver = DelegatingDriver(GenericDriver(store, [("c", "a")]))

    with pytest.raises(DEKNeededError, match="sees only the names in a manifest"):
        await retire(driver, vault, 1, grace=NONE)


async def test_numbers(store: MemoryStore) -> None:
    """The active DEK and one that never was are none to be retired."""
    vault = await reencrypted(store)

    with pytest.raises(VaultError, match="every new record is sealed under DEK 2"):
        await retire(store, vault, 2, grace=NONE)
    for number in (0, 3, -1):
        with pytest.raises(VaultError, match="there is no DEK"):
            await retire(store, vault, number, grace=NONE)
    with pytest.raises(VaultError, match="every new record is sealed under DEK 2"):
        await vault.drop_dek(2)


async def test_a_vault_that_was_opened_long_ago(store: MemoryStore) -> None:
    """What other processes have changed since is looked at first."""
    early = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await (await Vault.open(store, secret=SECRET)).rotate_dek()

    assert (await retire(store, early, 1, grace=NONE)).changed


async def test_grace(store: MemoryStore) -> None:
    """A process that has not looked yet may still seal under a DEK that was replaced a moment ago."""
    vault = await reencrypted(store)

    with pytest.raises(DEKNeededError, match="when DEK 1 was replaced") as raised:
        await retire(store, vault, 1)

    assert "run it again after" in raised.value.hint


async def test_a_clock_that_is_ahead(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has expired by this host's clock alone is read again tomorrow, so its DEK stays."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await wrapped(vault).put("k", {"v": 1}, ttl=12 * 3600)
    await vault.rotate_dek()
    tomorrow = clock.utc_now() + timedelta(days=1)
    with monkeypatch.context() as patch:
        patch.setattr("kvseal.clock.utc_now", lambda: tomorrow)
        with pytest.raises(DEKNeededError, match="1 entries that have expired by this host's clock"):
            await retire(store, vault, 1, grace=timedelta(0))

    assert {"v": 1} == await wrapped(vault).get("k")


async def test_grace_counts_from_the_next_dek(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three DEKs, the first was replaced when the second came, whatever came later."""
    now = 1_900_000_000
    monkeypatch.setattr("kvseal.clock.utc_seconds", lambda: datetime.fromtimestamp(now, timezone.utc))
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await vault.rotate_dek()
    now += 3599
    await vault.rotate_dek()

    with pytest.raises(DEKNeededError):
        await retire(store, vault, 1)
    now += 1
    assert (await retire(store, vault, 1)).changed
    with pytest.raises(DEKNeededError):
        await retire(store, vault, 2)


class Host:
    """A host whose clock is moved by hand."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=timezone.utc)
        patch.setattr("kvseal.clock.utc_seconds", lambda: self.now)

    async def with_a_late_record(self, store: MemoryStore) -> Vault:
        """Return a vault whose DEK 1 was retired, and then met in a record that no census has seen."""
        vault = await rotated(store)
        late = await driver_for(store).get("c", "a")
        assert late is not None
        await recode(store, plan_reencryption(vault))
        self.now += 2 * GRACE
        await retire(store, vault, 1)
        await store.delete("a", collection="c")
        assert await driver_for(store).put_if_absent(late)
        return vault


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return the clock of this host, to be moved."""
    return Host(monkeypatch)


async def test_a_retired_dek_is_kept(store: MemoryStore, host: Host) -> None:
    """Nothing is sealed under it, and run again within the week the command reads and changes nothing."""
    vault = await reencrypted(store)
    host.now += 2 * GRACE

    done = await retire(store, vault, 1)

    kept = ("retired", True, False, host.now + KEPT)
    assert kept == (done.state, done.changed, done.dropped, done.kept_until)
    assert (["retired", "active"], 2) == (states(vault), vault.keyring.active_dek)
    before = dump(store)
    host.now += KEPT - timedelta(seconds=1)
    for dry_run in (False, True):
        again = await retire(store, vault, 1, dry_run=dry_run)
        assert ("retired", False, False, 0) == (again.state, again.changed, again.dropped, again.scanned)
    assert before == dump(store)


async def test_after_a_week_it_is_dropped(store: MemoryStore, host: Host) -> None:
    """The same command counts once more and drops the key for ever; the number stays, and says when."""
    vault = await reencrypted(store)
    host.now += 2 * GRACE
    await retire(store, vault, 1)
    retired_at = host.now
    host.now += KEPT

    done = await retire(store, vault, 1)

    assert ("retired", True, True, None, 4) == (
        done.state,
        done.changed,
        done.dropped,
        done.kept_until,
        done.scanned,
    )
    dek = (await Vault.open(store, secret=SECRET)).meta.deks[0]
    assert (1, "retired", None, retired_at) == (dek.number, dek.state, dek.wrapped, dek.retired_at)


async def test_a_late_record_still_opens_loudly(
    store: MemoryStore, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """What a census has missed is read, and log, counter and health say that it needs a retired DEK."""
    vault = await host.with_a_late_record(store)
    assert "ok" == vault.health().state
    caplog.clear()

    values = await EnvelopeEncryptionWrapper(store, vault=vault).get_many(["a", "b"], collection="c")

    assert [{"v": "a"}, {"v": "b"}] == values
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"records of vault {vault.meta.vault_id.hex()} need DEK 1, which is retired" in line
    assert 1 == counters.of_retired_deks[vault.meta.vault_id, 1].number
    health = vault.health()
    assert ("retired dek needed", 1, True) == (health.state, health.retired_dek_opens, health.serves)
    assert {1: 1, 2: 3} == (await verify(store, vault)).deks


async def test_the_second_census(store: MemoryStore, host: Host) -> None:
    """A late record keeps the DEK until it is re-encrypted; then no reader misses the key."""
    vault = await host.with_a_late_record(store)
    host.now += KEPT
    with pytest.raises(DEKNeededError, match="1 record still uses DEK 1"):
        await retire(store, vault, 1)
    assert vault.meta.deks[0].wrapped is not None
    await recode(store, plan_reencryption(vault))

    assert (await retire(store, vault, 1)).dropped

    kv = EnvelopeEncryptionWrapper(store, vault=await Vault.open(store, secret=SECRET))
    assert {"v": "a"} == await kv.get("a", collection="c")
    assert "ok" == vault.health().state


async def test_a_kept_dek_is_dropped_on_the_word_of_the_operator(store: MemoryStore, host: Host) -> None:
    """After a leak a week is too long: a grace of zero drops a retired DEK too, if nothing needs it."""
    vault = await reencrypted(store)
    host.now += 2 * GRACE
    await retire(store, vault, 1)

    assert (await retire(store, vault, 1, grace=NONE)).dropped

    assert vault.meta.deks[0].wrapped is None


async def test_a_kept_dek_follows_a_new_root_key(store: MemoryStore, host: Host) -> None:
    """Whatever else changes, a retired DEK opens until it is dropped."""
    vault = await host.with_a_late_record(store)
    await vault.rotate_root()
    await vault.rotate_dek()

    fresh = await Vault.open(store, secret=SECRET)

    assert {"v": "a"} == await EnvelopeEncryptionWrapper(store, vault=fresh).get("a", collection="c")


async def test_a_restore_brings_back_nothing_of_a_retired_dek(
    store: MemoryStore, host: Host, tmp_path: Path
) -> None:
    """What would be lost a week later does not come back as restored."""
    vault = await rotated(store)
    await backup(store, tmp_path / "file")
    await recode(store, plan_reencryption(vault))
    host.now += 2 * GRACE
    await retire(store, vault, 1)
    await store.delete("a", collection="c")

    report = await restore(tmp_path / "file", store)

    assert (0, 3) == (report.restored, report.failed)
    assert await EnvelopeEncryptionWrapper(store, vault=vault).get("a", collection="c") is None


async def test_a_recode_is_under_way(store: MemoryStore) -> None:
    """Whoever holds a lease may be about to write."""
    vault = await reencrypted(store)
    lease = Lease(vault, "plan", "migrate", (0, 1))
    await lease.acquire()

    with pytest.raises(LeaseHeldError, match="migrate is being run"):
        await retire(store, vault, 1, grace=NONE)
    await lease.release()
    assert (await retire(store, vault, 1, grace=NONE)).changed


async def test_a_checkpoint_under_the_dek(store: MemoryStore) -> None:
    """A checkpoint that was sealed under a DEK which is gone is a hint less."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    lease = Lease(vault, "plan", "migrate", (0, 1))
    await lease.acquire()
    await lease.release()
    await EnvelopeEncryptionWrapper(store, vault=vault).put("a", {"v": "a"}, collection="c")
    await vault.rotate_dek()
    assert await open_recode(vault) is not None
    driver = driver_for(store)
    left = await driver.get("__vault_meta__", "__recode__")
    await recode(store, plan_reencryption(vault))
    assert left is not None
    await driver.put_if_absent(left)

    assert (await retire(store, vault, 1, grace=NONE)).changed

    assert await open_recode(vault) is None
    await recode(store, plan_reencryption(vault))
    assert {"v": "a"} == await EnvelopeEncryptionWrapper(store, vault=vault).get("a", collection="c")


async def test_somebody_changes_the_vault_meanwhile(store: MemoryStore) -> None:
    """The drop is a compare-and-swap: who loses it has changed nothing."""
    vault = await reencrypted(store)
    other = await Vault.open(store, secret=SECRET)

    async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        if name == "replace_many":
            await other.rotate_dek()
        return await operation()

    late = await Vault.open(HookedDriver(driver_for(store), around), secret=SECRET)
    with pytest.raises(Conflict):
        await retire(store, late, 1, grace=NONE)

    await vault.refresh()
    assert ["readable", "readable", "active"] == states(vault)
    assert (await retire(store, vault, 1, grace=NONE)).changed


async def test_what_is_under_a_retired_dek_is_gone(store: MemoryStore) -> None:
    """An old copy of a record, put back later, opens for nobody who opens the vault from now on."""
    vault = await rotated(store)
    old = await store.get("a", collection="c")
    await recode(store, plan_reencryption(vault))
    await retire(store, vault, 1, grace=NONE)
    await store.put("a", old or {}, collection="c")

    with pytest.raises(UnknownDEKError):
        await EnvelopeEncryptionWrapper(store, vault=await Vault.open(store, secret=SECRET)).get(
            "a", collection="c"
        )
