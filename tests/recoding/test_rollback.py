"""The way back: every sealed record becomes one of the old wrapper."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from key_value.aio.stores.memory import MemoryStore
from tests.recoding.worlds import KEY, adds_up, damage, failed, fernet, fill, formats_of, old, times_of
from tests.strategies import json_objects, same

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.errors import UnsealableValueError
from kvseal.recoding import migrate, plan_rollback, recode

SECRET = Secret(b"the secret of the new vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)


async def rolled_back(store: Any, **options: Any) -> Any:
    """Roll the vault in *store* back."""
    vault = await Vault.open(store, secret=SECRET)
    try:
        return await recode(store, plan_rollback(vault, fernet(), **options))
    finally:
        await vault.close()


async def test_there_and_back(store: MemoryStore) -> None:
    """After a migration and its rollback the old application finds everything as it was, times included."""
    await fill(store, {"ö::/": {"v": None}})
    await old(store).put("a", {"v": 1}, collection="c", ttl=1000)
    await fill(store, {"large": {"v": "x" * 70_000}})
    times = await times_of(store)
    await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP)

    report = await rolled_back(store)

    assert adds_up(report)
    assert (3, 3, 0) == (report.scanned, report.changed, report.failed)
    assert {"fernet": 3} == report.formats
    assert {1} == await formats_of(store)
    assert times == await times_of(store)
    assert [{"v": 1}, {"v": None}] == await old(store).get_many(["a", "ö::/"], collection="c")
    assert (3, 0) == ((again := await rolled_back(store)).already, again.changed)


async def test_what_does_not_open_stays_sealed(store: MemoryStore) -> None:
    """A damaged record is left as it is and named, and the rest is done."""
    await fill(store, {"a": {"v": 1}, "b": {"v": 2}})
    await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP)
    await damage(store, "a")
    before = await store.get("a", collection="c")

    report = await rolled_back(store)

    assert (["a"], 1) == (failed(report), report.changed)
    assert before == await store.get("a", collection="c")
    assert {"v": 2} == await old(store).get("b", collection="c")


async def test_a_dry_run(store: MemoryStore) -> None:
    """It says what would be changed and writes nothing."""
    await fill(store, {"a": {"v": 1}})
    await migrate(store, [fernet()], secret=SECRET, kdf=CHEAP)

    report = await rolled_back(store, dry_run=True)

    assert (1, True) == (report.changed, report.dry_run)
    assert {2} == await formats_of(store)


@given(value=json_objects)
@pytest.mark.exhaustive
def test_the_codec_and_the_wrapper_agree(value: dict[str, Any]) -> None:
    """What the codec writes, the real wrapper reads as it was; what it cannot write so, it refuses."""
    try:
        stored = fernet().seal(value)
    except UnsealableValueError:
        assert re.search("[\\ud800-\\udbff][\\udc00-\\udfff]", texts_of(value))
        return

    assert same(value, fernet().open(stored))
    assert same(value, old(MemoryStore())._decrypt_value(stored))


def texts_of(value: Any) -> str:
    """Return every text in *value*, one after the other."""
    if isinstance(value, dict):
        return "|".join(texts_of(part) for item in value.items() for part in item)
    return "|".join(map(texts_of, value)) if isinstance(value, list) else str(value)


async def test_the_real_wrapper_reads_it(store: MemoryStore) -> None:
    """Every kind of value comes back through py-key-value's own wrapper."""
    value = {"text": "ключ 🔑", "n": 2**70, "f": 1.5, "list": [None, True, {"x": []}]}
    await store.put("k", fernet().seal(value), collection="c")

    assert value == await old(store, KEY).get("k", collection="c")


@pytest.mark.parametrize("context", ["", "tenant"])
async def test_contexts(store: MemoryStore, context: str) -> None:
    """Records of a context are opened with it."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await EnvelopeEncryptionWrapper(store, vault=vault, context=context).put("k", {"v": 1}, collection="c")

    report = await recode(store, plan_rollback(vault, fernet(), context=context))

    assert (1, 0) == (report.changed, report.failed)
