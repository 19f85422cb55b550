"""Hold, flip, fall back: old and new releases side by side, and every process follows without a restart."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.fakes import put_raw_meta, raw_meta
from tests.recoding.worlds import KEY, OTHER_KEY, fernet, formats_of, old
from tests.strategies import json_objects, same

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault, clock
from kvseal.errors import (
    HoldNotPermittedError,
    RefutedKeyringError,
    StoreUnreachableError,
    UnsealableValueError,
    VaultHeldError,
    VaultNotFoundError,
)
from kvseal.keys.keyring import LegacyKey
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.legacy.fernet import parse_key
from kvseal.recoding import PlaintextRule, import_keys, migrate, plan_rollback, recode
from kvseal.recoding.settling import SETTLED_AFTER, settles_at
from kvseal.vault.freshness import WINDOW_AFTER
from kvseal.vault.seen import newest

if TYPE_CHECKING:
    from key_value.aio.stores.memory import MemoryStore

SECRET = Secret(b"the secret of the vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
OLD_KEYS = [LegacyKey("fernet", parse_key(KEY)), LegacyKey("fernet", parse_key(OTHER_KEY))]


@dataclass
class Instance:
    """A process of the new release, with a clock of its own, configured to hold."""

    kv: EnvelopeEncryptionWrapper
    now: float = 1000.0

    @classmethod
    async def on(cls, store: Any, hold: Any = "fernet") -> Instance:
        """Start it; the vault is opened at once."""
        instance = cls(EnvelopeEncryptionWrapper(store, secret=SECRET, hold=hold))
        freshness = (await instance.kv.vault()).freshness
        freshness.clock = lambda: instance.now
        freshness.confirm(instance.now)
        return instance

    async def put_soon(self, key: str, value: dict[str, Any]) -> None:
        """Write within the seconds that a change takes to reach every process."""
        self.now += WINDOW_AFTER
        await self.kv.put(key, value)


@pytest.fixture
async def operator(store: MemoryStore) -> Vault:
    """Return the operator's view of a store of the old release, whose vault holds."""
    await old(store).put("old", {"v": "old"})
    await import_keys(store, OLD_KEYS, hold=True, secret=SECRET, kdf=CHEAP)
    return await Vault.open(store, secret=SECRET)


async def test_hold_flip_and_fall_back(store: MemoryStore, operator: Vault) -> None:
    """Both releases read everything under hold; all seal within seconds of the flip, and hold again after it."""
    first, second = await Instance.on(store), await Instance.on(store)
    await first.kv.put("a", {"v": 1})
    await first.kv.put_many(["b", "c"], [{"v": 2}, {"v": 3}], ttl=60)
    assert [{"v": 1}, {"v": 2}, {"v": 3}, {"v": "old"}] == await old(store).get_many(["a", "b", "c", "old"])
    assert {"v": "old"} == await second.kv.get("old")
    assert {1} == await formats_of(store)

    await operator.write_as("sealed")
    await first.put_soon("a", {"v": 4})
    await second.put_soon("d", {"v": 5})
    assert {1, 2} == await formats_of(store)
    assert [{"v": 4}, {"v": 2}, {"v": 5}] == await second.kv.get_many(["a", "b", "d"])

    await operator.write_as("fernet")
    await first.put_soon("e", {"v": 6})
    await second.put_soon("f", {"v": 7})
    assert [{"v": 6}, {"v": 7}] == await old(store).get_many(["e", "f"])
    report = await recode(store, plan_rollback(operator, fernet()))
    assert 0 == report.failed
    assert {1} == await formats_of(store)
    assert [{"v": 4}, {"v": 2}, {"v": 5}] == await old(store).get_many(["a", "b", "d"])


async def test_no_read_seals_under_hold(store: MemoryStore, operator: Vault) -> None:
    """A read of an old record leaves it as it is, and seals it once the vault was flipped."""
    instance, before = await Instance.on(store), await store.get("old")
    assert {"v": "old"} == await instance.kv.get("old")
    assert before == await store.get("old")

    await operator.write_as("sealed")
    await instance.put_soon("a", {"v": 1})
    assert {"v": "old"} == await instance.kv.get("old")
    assert {2} == await formats_of(store)


async def test_the_process_permits(store: MemoryStore, operator: Vault) -> None:
    """A process that was not configured for it writes nothing under hold, and says how it would; it reads."""
    sealing, plaintext = await Instance.on(store, None), await Instance.on(store, "plaintext")

    for kv in (sealing.kv, plaintext.kv):
        for write in (kv.put("a", {"v": 1}), kv.put_many(["a"], [{"v": 1}])):
            with pytest.raises(HoldNotPermittedError, match="holds fernet records") as caught:
                await write
            assert "hold='fernet'" in caught.value.hint
        assert {"v": "old"} == await kv.get("old")
    assert await store.get("a") is None
    assert operator.meta.policy.holds


async def test_an_older_meta_makes_no_process_write_plaintext(store: MemoryStore, operator: Vault) -> None:
    """A meta from the time when plaintext was held, put back by an attacker, makes no process write plaintext."""
    await operator.read_legacy_with((), plaintext=True, write="plaintext")
    older = await raw_meta(store)
    instance = await Instance.on(store, "plaintext")
    await instance.kv.put("a", {"v": 1})
    await operator.write_as("sealed")
    await instance.put_soon("b", {"v": 2})
    await put_raw_meta(store, older)

    await instance.put_soon("c", {"v": 3})
    assert {"__encrypted_data__", "__encryption_version__"} == set(await store.get("c") or {})
    await put_raw_meta(store, older)
    # A process that has seen nothing yet believes the older meta, and its configuration decides.
    newest._newest.clear()
    newest._newest.clear()
    fresh = EnvelopeEncryptionWrapper(store, vault=await Vault.open(store, secret=SECRET))
    with pytest.raises(HoldNotPermittedError):
        await fresh.put("d", {"v": 4})


async def test_it_waits_for_the_order(store: MemoryStore) -> None:
    """A process that is to hold neither creates a vault nor seals anything before the vault was told to hold."""
    with pytest.raises(VaultNotFoundError):
        await EnvelopeEncryptionWrapper(store, secret=SECRET, hold="fernet").put("a", {"v": 1})

    await Vault.create(store, secret=SECRET, kdf=CHEAP)
    with pytest.raises(VaultHeldError, match="the vault was not told to"):
        await (await Instance.on(store)).kv.put("a", {"v": 1})
    assert await store.get("a") is None


async def test_keys_and_hold_come_in_one_change(store: MemoryStore) -> None:
    """Between the import of the keys and the hold there is no vault meta by which a process would seal."""
    await old(store).put("old", {"v": "old"})
    await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await import_keys(store, OLD_KEYS, hold=True, secret=SECRET)

    meta = await raw_meta(store)
    assert (2, "legacy") == (meta["revision"], meta["policy"]["write"]["as"])
    assert meta["legacy"][0]["id"] == meta["policy"]["write"]["key"]


async def test_writes_stand_under_freshness(store: MemoryStore, operator: Vault) -> None:
    """A process whose vault meta is gone writes nothing in the old format either."""
    instance = await Instance.on(store)
    assert await store.delete(META_KEY, collection=META_COLLECTION)

    with pytest.raises(RefutedKeyringError):
        await instance.put_soon("a", {"v": 1})
    assert await store.get("a") is None
    assert operator.meta.policy.holds


async def test_nothing_seals_old_records_under_hold(store: MemoryStore, operator: Vault) -> None:
    """A migration under hold is refused before it seals, and so is the end of legacy reads; a dry run is not."""
    before = await store.get("old")

    with pytest.raises(VaultHeldError, match="holds new values in the old format"):
        await migrate(store, (fernet(),), secret=SECRET)
    with pytest.raises(VaultHeldError):
        await operator.end_legacy_reads()

    assert before == await store.get("old")
    assert 1 == (await migrate(store, (fernet(),), secret=SECRET, dry_run=True)).report.changed  # type: ignore[union-attr] - a report


async def test_only_what_a_process_can_write_is_held(store: MemoryStore) -> None:
    """A format that no process writes is not ordered, for all of them would stop; and no vault is made for it."""
    await store.put("old", {"v": "old"})
    key = LegacyKey("authsome", b"a" * 32)

    with pytest.raises(VaultHeldError, match="no process writes authsome records") as caught:
        await import_keys(store, [key], hold=True, secret=SECRET, kdf=CHEAP, plaintext=PlaintextRule.SEAL)
    assert "hold fernet or plaintext" in caught.value.hint
    assert await store.get(META_KEY, collection=META_COLLECTION) is None

    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await vault.read_legacy_with([key])
    with pytest.raises(VaultHeldError, match="no process writes authsome records"):
        await vault.write_as("authsome")
    assert not vault.meta.policy.holds


async def test_a_silent_store_is_not_asked_more_often(
    store: MemoryStore, operator: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under hold, too, a store that does not answer is asked again only after a quarter of `refresh_after`."""
    instance = await Instance.on(store)
    vault, asked = await instance.kv.vault(), []

    async def silent() -> bool:
        asked.append(instance.now)
        msg = "no answer"
        raise StoreUnreachableError(msg)

    monkeypatch.setattr(vault, "refresh", silent)
    for _ in range(4):
        await instance.put_soon("a", {"v": 1})

    assert [1005.0, 1020.0] == asked
    assert operator.meta.policy.holds


async def test_plaintext_is_held(store: MemoryStore) -> None:
    """A store that was never encrypted goes on being plaintext until the flip, and both releases read it."""
    await store.put("old", {"v": "old"})
    await import_keys(store, (), hold=True, secret=SECRET, kdf=CHEAP, plaintext=PlaintextRule.SEAL)
    instance = await Instance.on(store, "plaintext")

    await instance.kv.put("a", {"v": 1})

    assert [{"v": 1}, {"v": "old"}] == await store.get_many(["a", "old"])
    assert [{"v": 1}, {"v": "old"}] == await instance.kv.get_many(["a", "old"])
    await (await Vault.open(store, secret=SECRET)).write_as("sealed")
    await instance.put_soon("a", {"v": 2})
    assert [{"v": 2}, {"v": "old"}] == await instance.kv.get_many(["a", "old"])


async def test_what_looks_encrypted_is_refused(store: MemoryStore) -> None:
    """Plaintext that a reader would take for an encrypted record is not written."""
    await store.put("old", {"v": "old"})
    await import_keys(store, (), hold=True, secret=SECRET, kdf=CHEAP, plaintext=PlaintextRule.SEAL)
    kv = (await Instance.on(store, "plaintext")).kv

    for field in ("__encrypted_data__", "__encryption_version__"):
        with pytest.raises(UnsealableValueError, match="would be read as one"):
            await kv.put("a", {field: 1})
    assert await store.get("a") is None


async def test_what_a_flip_would_refuse_is_counted(
    store: MemoryStore, operator: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    """A value that the old release takes and sealing would refuse is written as before, counted and logged once."""
    kv = (await Instance.on(store)).kv
    with caplog.at_level(logging.WARNING, "kvseal"):
        await kv.put_many(["a", "b", "c"], [{"t": (1, 2)}, {"s": {1: 2}}, {"v": 1}])

    assert [{"t": [1, 2]}, {"s": {"1": 2}}, {"v": 1}] == await old(store).get_many(["a", "b", "c"])
    assert {"held": 3, "unsealable": 2} == kv.held
    assert 1 == sum("could not be sealed" in message for message in caplog.messages)
    with pytest.raises(UnsealableValueError):
        await kv.put("d", {"v": {1, 2}})
    assert operator.meta.policy.holds


def test_freshness_is_short(store: MemoryStore) -> None:
    """With hold= a process may not go on for longer without a look than a flip counts on."""
    with pytest.raises(ValueError, match="at most 300 seconds"):
        EnvelopeEncryptionWrapper(store, secret=SECRET, hold="fernet", refresh_after=301)
    with pytest.raises(ValueError, match="hold is 'fernet', 'plaintext' or None"):
        EnvelopeEncryptionWrapper(store, secret=SECRET, hold="flat")  # type: ignore[arg-type] - on purpose


@given(value=json_objects)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.exhaustive
async def test_the_old_release_reads_what_is_held(store: MemoryStore, operator: Vault, value: Any) -> None:
    """Whatever could be sealed comes back from the old release as it is, or is refused and not written."""
    instance = await Instance.on(store)
    try:
        await instance.kv.put("a", value)
    except UnsealableValueError:
        return

    assert same(value, await old(store).get("a"))
    assert same(value, await instance.kv.get("a"))


async def test_nothing_is_finalized_right_after_the_flip(store: MemoryStore, operator: Vault) -> None:
    """While a process may not know of the flip yet, finalizing is refused before anything is read, and says when."""
    await operator.write_as("sealed")

    with pytest.raises(VaultHeldError, match="may write the old format until 20") as caught:
        await migrate(store, (fernet(),), secret=SECRET, finalize=True)
    assert "--grace 0" in caught.value.hint
    assert {1} == await formats_of(store)

    assert (await migrate(store, (fernet(),), secret=SECRET, finalize=True, grace=timedelta())).finalized
    assert {2} == await formats_of(store)


async def test_both_clocks_end_the_grace(
    store: MemoryStore, operator: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grace ends by the time that the store's clock and this host's have both reached."""
    await operator.write_as("sealed")
    flipped = operator.meta.policy.write
    assert flipped is not None
    monkeypatch.setattr(clock, "utc_seconds", lambda: flipped.since + SETTLED_AFTER - timedelta(seconds=1))
    assert flipped.since + SETTLED_AFTER == await settles_at(operator)

    monkeypatch.setattr(clock, "utc_seconds", lambda: flipped.since + SETTLED_AFTER)
    assert await settles_at(operator) is None
