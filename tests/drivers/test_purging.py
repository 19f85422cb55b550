"""`purge` as an application calls it: on its own store, wrappers and all."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from key_value.aio.wrappers.routing import RoutingWrapper
from tests.fakes import Death, HookedDriver

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault, purge, recode
from kvseal.drivers import driver_for
from kvseal.errors import UnsupportedStackError, WrongSecretError
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.recoding import plan_reencryption, retire

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [f"k{n}" for n in range(20)]


def found_in(directory: Path, texts: list[str]) -> set[str]:
    """Return those of *texts* that are in a file below *directory*."""
    held = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    return {text for text in texts if any(text.encode() in content for content in held)}


async def what_is_sealed(store: Any) -> list[str]:
    """Return what nobody may find any more: a part of every sealed record, and the MAC of the vault meta."""
    meta = await store.get(META_KEY, collection=META_COLLECTION)
    records = await store.get_many(NAMES, collection="c")
    return [meta["mac"], *(record["__encrypted_data__"][40:100] for record in records)]


async def test_after_a_leak(tmp_path: Path, secret: Secret, cheap: Argon2idParams) -> None:
    """
    After the whole sequence no file has a record of before nor the vault meta that opened it.

    Every value is what it was, and the leaked secret is refused.
    """
    store = DiskStore(directory=tmp_path)
    vault = await Vault.create(store, secret=secret, kdf=cheap)
    kv = EnvelopeEncryptionWrapper(store, vault=vault)
    await kv.put_many(NAMES, [{"n": n} for n in range(20)], collection="c")
    before = await what_is_sealed(store)
    await vault.rotate(new_secret=Secret(b"another secret"))
    await vault.rotate_dek()
    await recode(store, plan_reencryption(vault))
    await retire(store, vault, 1, grace=timedelta())
    assert found_in(tmp_path, before)

    report = await purge(store)

    assert (set(), True, 0) == (found_in(tmp_path, before), report.complete, report.exit_code)
    assert [{"n": n} for n in range(20)] == await kv.get_many(NAMES, collection="c")
    with pytest.raises(WrongSecretError):
        await Vault.open(store, secret=secret)
    await vault.close()
    await store.close()


async def test_through_wrappers(tmp_path: Path, secret: Secret, cheap: Argon2idParams) -> None:
    """What is purged is the base store of whatever stack the application has, and its store stays open."""
    store = DiskStore(directory=tmp_path)
    stack = PrefixKeysWrapper(store, prefix="tenant")
    vault = await Vault.create(stack, secret=secret, kdf=cheap)

    report = await purge(EnvelopeEncryptionWrapper(stack, vault=vault))

    assert (f"disk:{tmp_path}", True) == (report.location, report.complete)
    await stack.put("k", {"n": 1})
    await vault.close()
    await store.close()


@pytest.mark.parametrize("stack", [ReadOnlyWrapper, lambda store: RoutingWrapper(lambda _: None, store)])
async def test_refused_stacks(stack: Any) -> None:
    """A stack that forbids to write, or leads to stores that are not looked at, is refused."""
    with pytest.raises(UnsupportedStackError):
        await purge(stack(MemoryStore()))


async def test_one_operation() -> None:
    """A purge is that of the driver and nothing besides, which a dry run tells it."""
    death = Death()
    driver = HookedDriver(driver_for(MemoryStore()), death)

    report = await purge(driver, dry_run=True)

    assert (["purge"], True, True) == (death.operations, report.dry_run, report.complete)
    assert {"type", "schema", "location", "done", "left", "complete", "seconds", "dry_run"} == set(
        report.as_dict()
    )
