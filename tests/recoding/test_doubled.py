"""Values that are records themselves, of a second wrapper above the first, are named and never counted as done."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.crash.beginnings import LEGACY
from tests.recoding.worlds import failed, old

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault, recode, verify
from kvseal.errors import DEKNeededError
from kvseal.observe.events import Failure
from kvseal.recoding import import_keys, migrate, plan_reencryption, retire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from key_value.aio.stores.memory import MemoryStore

SECRET = Secret(b"the secret of the vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
NONE = timedelta()
VALUE = {"v": 1}


async def vault_of(store: MemoryStore) -> Vault:
    """Create the vault of *store*."""
    return await Vault.create(store, secret=SECRET, kdf=CHEAP)


def twice(store: Any, vault: Vault, *, inner: Vault | None = None, context: str = "") -> Any:
    """Return a wrapper with *inner* over one with *vault*, as an application has that adds kvseal again."""
    below = EnvelopeEncryptionWrapper(store, vault=vault, context=context)
    return EnvelopeEncryptionWrapper(below, vault=inner or vault, context=context)


async def refused(store: MemoryStore, vault: Vault, number: int = 1, contexts: Sequence[str] = ("",)) -> str:
    """Return why DEK *number* is not retired."""
    with pytest.raises(DEKNeededError) as raised:
        await retire(store, vault, number, grace=NONE, contexts=contexts)
    return str(raised.value.message)


async def test_verify_names_it(store: MemoryStore) -> None:
    """A record in a record is a failure of a verify pass, by its name and its reason."""
    vault = await vault_of(store)
    await EnvelopeEncryptionWrapper(store, vault=vault).put("once", VALUE)
    await twice(store, vault).put("twice", VALUE)

    report = await verify(store, vault)

    assert (2, 1, ["twice"], 3) == (report.scanned, report.failed, failed(report), report.exit_code)
    assert "SealedTwiceError: its value is a sealed record itself" in report.failures[0].reason


async def test_reencrypt_leaves_it(store: MemoryStore) -> None:
    """The outer record is not sealed anew, which would hide what DEK the inner one needs."""
    vault = await vault_of(store)
    await EnvelopeEncryptionWrapper(store, vault=vault).put("once", VALUE)
    await twice(store, vault).put("twice", VALUE)
    await vault.rotate_dek()

    report = await recode(store, plan_reencryption(vault))

    assert (1, ["twice"], {1: 1, 2: 1}) == (report.changed, failed(report), report.deks)
    assert VALUE == await twice(store, vault).get("twice")
    assert "1 record still uses DEK 1" == await refused(store, vault)


async def test_what_is_current_outside_is_not_finished(store: MemoryStore) -> None:
    """A record under the newest DEK is opened all the same, and one inside it under an old DEK is found."""
    vault = await vault_of(store)
    late = await Vault.open(store, secret=SECRET)
    await vault.rotate_dek()
    await twice(store, vault, inner=late).put("twice", VALUE)

    report = await recode(store, plan_reencryption(vault))

    assert (0, ["twice"], {2: 1}) == (report.changed, failed(report), report.deks)
    heard: list[Any] = []
    with pytest.raises(
        DEKNeededError, match=r"1 record is sealed twice, .* such as default_collection/twice"
    ):
        await retire(store, vault, 1, grace=NONE, listener=heard.append)
    assert ["twice"] == [event.key for event in heard if isinstance(event, Failure)]
    assert VALUE == await twice(store, vault).get("twice")


async def test_another_context(store: MemoryStore) -> None:
    """Records of a wrapper with a context are looked into if it is named; otherwise it is said how many were not."""
    vault = await vault_of(store)
    await vault.rotate_dek()
    await twice(store, vault, context="tenant").put("twice", VALUE)

    assert "1 record is sealed twice" in await refused(store, vault, contexts=["", "tenant"])

    done = await retire(store, vault, 1, grace=NONE)
    assert (True, 1, 1) == (done.changed, done.unopened, done.as_dict()["unopened"])


async def test_a_record_in_an_old_record(store: MemoryStore) -> None:
    """A migration does not seal a second time what another encryption has encrypted above kvseal's record."""
    vault = await vault_of(store)
    await EnvelopeEncryptionWrapper(old(store), vault=vault).put("twice", VALUE)
    await old(store).put("old", VALUE)
    await import_keys(store, [LEGACY], secret=SECRET)

    done = await migrate(store, secret=SECRET, finalize=True)

    assert done.report is not None
    assert (1, ["twice"], False) == (done.report.changed, failed(done.report), done.finalized)
    assert VALUE == await EnvelopeEncryptionWrapper(old(store), vault=vault).get("twice")


async def test_another_encryption_inside_is_a_value(store: MemoryStore) -> None:
    """What another wrapper has encrypted above kvseal is a value like any other."""
    vault = await vault_of(store)
    await old(EnvelopeEncryptionWrapper(store, vault=vault)).put("k", VALUE)
    await vault.rotate_dek()

    report = await recode(store, plan_reencryption(vault))

    assert (1, 0) == (report.changed, report.failed)
    assert (await retire(store, vault, 1, grace=NONE)).changed
