"""The policy in the vault meta: one spelling, bounds, and absent where nobody set it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.fakes import MetaClock, put_raw_meta, raw_meta

from kvseal import Argon2idParams, Policy, Secret, Vault
from kvseal.errors import TamperedMetaError, VaultLockedError, VaultMetaError
from kvseal.keys.policy import LONGEST_DEK_AGE, MOST_DEK_RECORDS

if TYPE_CHECKING:
    from key_value.aio.stores.memory import MemoryStore

STRICT = {"read_legacy": False, "read_plaintext": False, "binding": "collection+key"}
DAY = 86_400


def test_limits_that_nobody_set_are_not_there() -> None:
    """A meta that was written before there were limits keeps its very bytes."""
    assert STRICT == Policy().as_json()
    assert Policy() == Policy.from_json(STRICT)


def test_limits_come_back() -> None:
    """What was set is what is read."""
    policy = Policy(max_dek_age=90 * DAY, max_dek_records=10)

    assert {**STRICT, "max_dek_age": 90 * DAY, "max_dek_records": 10} == policy.as_json()
    assert policy == Policy.from_json(policy.as_json())


@pytest.mark.parametrize("name", ["max_dek_age", "max_dek_records"])
@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", MOST_DEK_RECORDS + 1, [1]])
def test_what_is_no_limit(name: str, value: Any) -> None:
    """A limit is a whole number within its bounds, whoever writes it."""
    with pytest.raises((TypeError, ValueError)):
        Policy(**{name: value})
    with pytest.raises((TypeError, ValueError)):
        Policy.from_json({**STRICT, name: value})


def test_the_greatest_limits() -> None:
    """The bounds themselves are within."""
    policy = Policy(max_dek_age=LONGEST_DEK_AGE, max_dek_records=MOST_DEK_RECORDS)

    assert policy == Policy.from_json(policy.as_json())
    with pytest.raises(ValueError, match="max_dek_age is between"):
        Policy(max_dek_age=LONGEST_DEK_AGE + 1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"max_dek_age": None}, VaultMetaError),
        ({"max_dek_age": "90d"}, VaultMetaError),
        ({"max_dek_records": 5.0}, VaultMetaError),
        ({"max_dek_bytes": 5}, VaultMetaError),
        ({"max_dek_age": 91 * DAY}, TamperedMetaError),
        ({"max_dek_records": 5}, TamperedMetaError),
    ],
    ids=["null", "text", "a fraction", "unknown", "another age", "added"],
)
async def test_a_policy_that_somebody_edited(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams, change: dict[str, Any], error: type[Exception]
) -> None:
    """Limits have one spelling, and only a holder of the root key sets them."""
    policy = Policy(max_dek_age=90 * DAY)
    await Vault.create(store, secret=secret, kdf=cheap, policy=policy)
    meta = await raw_meta(store)
    await put_raw_meta(store, {**meta, "policy": {**meta["policy"], **change}})

    with pytest.raises(VaultMetaError) as caught:
        await Vault.open(store, secret=secret)

    assert error is type(caught.value)


async def test_set_policy(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """What is named is set or removed, what is not stays, and every process reads it."""
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    before = await raw_meta(store)

    await vault.set_policy(max_dek_age=timedelta(days=90), max_dek_records=10)
    await vault.set_policy(max_dek_records=20)

    assert {**STRICT, "max_dek_age": 90 * DAY, "max_dek_records": 20} == vault.status().policy
    assert vault.status().policy == (await Vault.open(store, secret=secret)).status().policy
    await vault.set_policy(max_dek_age=None, max_dek_records=None)
    assert before["policy"] == (await raw_meta(store))["policy"]
    assert 4 == vault.status().revision


async def test_set_policy_keeps_what_a_migration_reads(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams
) -> None:
    """The limits are not the only policy, and the rest is not theirs to change."""
    vault = await Vault.create(store, secret=secret, kdf=cheap, policy=Policy(read_plaintext=True))

    await vault.set_policy(max_dek_records=20)

    assert {**STRICT, "read_plaintext": True, "max_dek_records": 20} == vault.status().policy


async def test_what_cannot_be_set(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """A limit that would not be read again is refused, and nothing is written."""
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    before = await raw_meta(store)

    for age in (timedelta(0), timedelta(seconds=1.5), timedelta(days=36_501)):
        with pytest.raises(ValueError, match="max_dek_age"):
            await vault.set_policy(max_dek_age=age)
    with pytest.raises(ValueError, match="max_dek_records"):
        await vault.set_policy(max_dek_records=0)
    await vault.lock()
    with pytest.raises(VaultLockedError):
        await vault.set_policy(max_dek_records=1)

    assert before == await raw_meta(store)


async def test_due_by_age(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy asks once the DEK is older than its limit, a caller's own limit wins, and a new DEK is young."""
    clock = MetaClock(monkeypatch)
    vault = await Vault.create(store, secret=secret, kdf=cheap, policy=Policy(max_dek_age=90 * DAY))

    clock.advance(days=90)
    assert vault.status().due() is None
    assert "DEK 1 has been active since" in (vault.status().due(max_age=89 * DAY) or "")
    clock.advance(seconds=1)
    assert "DEK 1 has been active since" in (vault.status().due() or "")
    assert vault.status().due(max_age=91 * DAY) is None
    assert ("rotation due", "ok") == (
        vault.health().state,
        vault.health(max_dek_age=timedelta(days=91)).state,
    )

    await vault.rotate_dek()

    assert vault.status().due() is None
    assert "ok" == vault.health().state


async def test_due_without_a_policy(
    store: MemoryStore, secret: Secret, cheap: Argon2idParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vault whose policy says nothing asks after a year."""
    clock = MetaClock(monkeypatch)
    vault = await Vault.create(store, secret=secret, kdf=cheap)

    clock.advance(days=365)
    assert vault.status().due() is None
    clock.advance(seconds=1)
    assert vault.status().due() is not None


async def test_due_by_count(store: MemoryStore, secret: Secret, cheap: Argon2idParams) -> None:
    """More records than the limit are too many, and a count that nobody made is not judged."""
    vault = await Vault.create(store, secret=secret, kdf=cheap, policy=Policy(max_dek_records=1000))

    assert vault.status().due() is None
    assert vault.status().due(records=1000) is None
    assert "DEK 1 seals 1,001 records, and its limit is 1,000" == vault.status().due(records=1001)
