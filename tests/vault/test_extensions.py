"""A vault that a later kvseal writes too: what it adds is kept, and what is critical ends sealing and changes here."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.fakes import put_raw_meta, raw_meta
from tests.recoding.worlds import KEY, old
from tests.vectors.verify_records import canonical, check_mac
from tests.wrapping import wrapped

from kvseal import Argon2idParams, Secret, Vault
from kvseal.errors import RolledBackMetaError, UnknownExtensionError, VaultError
from kvseal.keys import changes, extensions
from kvseal.keys.extensions import Extensions
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy.fernet import parse_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from key_value.aio.stores.memory import MemoryStore

SECRET, OTHER = Secret(b"the secret of the vault"), Secret(b"another secret")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
OPTIONAL = {"ext": {"lamp": {"colour": "größe 🔑", "n": [0, -(2**53 - 1), True, None]}, "z": 7}}
CRITICAL = {"ext": {**OPTIONAL["ext"], "tenants": {"since": "0.9.1"}}, "crit": ["tenants"]}

CHANGES: dict[str, Callable[[Vault], Awaitable[Any]]] = {
    "rotate": lambda vault: vault.rotate(new_secret=OTHER, kdf=CHEAP),
    "rotate --root": lambda vault: vault.rotate_root(),
    "rotate --dek": lambda vault: vault.rotate_dek(),
    "slot add": lambda vault: vault.slots.add(OTHER, label="second", kdf=CHEAP),
    "policy": lambda vault: vault.set_policy(max_dek_age=timedelta(days=90)),
    "hold a key": lambda vault: vault.read_legacy_with([LegacyKey("fernet", b"a" * 32)]),
    "end legacy reads": lambda vault: vault.end_legacy_reads(),
}


async def by_a_later_release(vault: Vault, parts: dict[str, Any]) -> None:
    """Change the stored vault meta as a later kvseal does that adds *parts* to it."""
    changed = replace(vault.meta, revision=vault.meta.revision + 1, extensions=Extensions.from_json(parts))
    store: Any = vault.metastore.store
    await put_raw_meta(store, changed.authenticated(vault.way_in().root).as_value())


@pytest.fixture
async def vault(store: MemoryStore) -> Vault:
    """Return an open vault with one record."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await wrapped(vault).put("before", {"n": 0})
    return vault


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_each_change_keeps_what_it_does_not_know(
    store: MemoryStore, vault: Vault, change: Callable[[Vault], Awaitable[Any]]
) -> None:
    """An optional part of a later release is there after each change, value for value, and under the MAC."""
    await by_a_later_release(vault, OPTIONAL)
    opened = await Vault.open(store, secret=SECRET)

    await change(opened)

    kept = await raw_meta(store)
    assert canonical(OPTIONAL["ext"]) == canonical(kept["ext"])
    check_mac(kept, opened.way_in().root.reveal())


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_no_change_under_a_critical_part(
    store: MemoryStore, vault: Vault, change: Callable[[Vault], Awaitable[Any]]
) -> None:
    """Each change of a vault with a critical part of a later release is refused, and names that release."""
    await by_a_later_release(vault, CRITICAL)
    opened, before = await Vault.open(store, secret=SECRET), await raw_meta(store)

    with pytest.raises(UnknownExtensionError) as caught:
        await change(opened)

    assert "the vault meta has what only kvseal 0.9.1 or newer knows: tenants" in caught.value.message
    assert "upgrade kvseal to 0.9.1" in caught.value.hint
    assert before == await raw_meta(store)


async def test_records_are_read_and_none_is_sealed(store: MemoryStore, vault: Vault) -> None:
    """Under a critical part a new process reads as before and seals nothing, and its health says why."""
    await by_a_later_release(vault, CRITICAL)
    kv = wrapped(await Vault.open(store, secret=SECRET))

    for write in (partial(kv.put, "after", {"n": 1}), partial(kv.put_many, ["after"], [{"n": 1}])):
        with pytest.raises(UnknownExtensionError):
            await write()

    assert {"n": 0} == await kv.get("before")
    assert await store.get("after") is None
    health = (await kv.vault()).health()
    assert ("upgrade needed", False) == (health.state, health.serves)


async def test_a_running_process_learns_of_it(vault: Vault) -> None:
    """A process that runs while a later release adds a critical part stops sealing, and goes on once it is gone."""
    await by_a_later_release(vault, CRITICAL)
    await vault.refresh()
    with pytest.raises(UnknownExtensionError):
        await wrapped(vault).put("between", {"n": 1})

    await vault.drop_extension("tenants")

    await wrapped(vault).put("after", {"n": 2})
    assert [{"n": 0}, None, {"n": 2}] == await wrapped(vault).get_many(["before", "between", "after"])
    assert OPTIONAL == {"ext": (await raw_meta(vault.metastore.store))["ext"]}
    assert "ok" == vault.health().state


async def test_a_critical_part_counts_as_seen(store: MemoryStore, vault: Vault) -> None:
    """A genuine meta that this release must not change is remembered: an older one is refused after it."""
    older = await raw_meta(store)
    await by_a_later_release(vault, CRITICAL)
    await vault.refresh()
    await put_raw_meta(store, older)

    with pytest.raises(RolledBackMetaError):
        await vault.refresh()
    # Nor does this process put back by itself what it must not write.
    assert older == await raw_meta(store)
    with pytest.raises(UnknownExtensionError):
        await vault.put_back()


async def test_no_lower_revision_is_put_over_it(store: MemoryStore, vault: Vault) -> None:
    """`put_back` writes nothing over a meta whose critical part it does not know, genuine as it is."""
    await by_a_later_release(vault, CRITICAL)
    before = await raw_meta(store)

    with pytest.raises(UnknownExtensionError):
        await vault.put_back()
    assert before == await raw_meta(store)


async def test_no_read_seals_under_it(store: MemoryStore, vault: Vault) -> None:
    """A legacy record is read under a critical part, and stays as it is in the store."""
    await vault.read_legacy_with([LegacyKey("fernet", parse_key(KEY))])
    await old(store).put("old", {"v": 1})
    before = await store.get("old")
    await by_a_later_release(vault, CRITICAL)

    assert {"v": 1} == await wrapped(await Vault.open(store, secret=SECRET)).get("old")
    assert before == await store.get("old")


async def test_a_part_that_this_release_knows(
    store: MemoryStore, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A critical part that a release knows hinders nothing in it."""
    monkeypatch.setattr(extensions, "KNOWN", frozenset({"tenants"}))
    await by_a_later_release(vault, CRITICAL)
    opened = await Vault.open(store, secret=SECRET)

    await wrapped(opened).put("after", {"n": 1})
    await opened.rotate_dek()

    assert CRITICAL["crit"] == (await raw_meta(store))["crit"]


async def test_no_such_part(vault: Vault) -> None:
    """An operator who names a part that is not there is shown where its names are, and nothing is written."""
    with pytest.raises(VaultError, match="the vault meta has no extension 'tenant'") as caught:
        await vault.drop_extension("tenant")
    assert "vaultctl status" in caught.value.hint


def test_the_largest_meta(vault: Vault) -> None:
    """A change that would make the vault meta larger than every reader accepts is refused before it is written."""
    root = vault.way_in().root
    keys = [LegacyKey("fernet", number.to_bytes(32, "big")) for number in range(4_500)]
    stamps = {"now": vault.meta.updated_at, "at": vault.meta.updated_at}

    with pytest.raises(VaultError, match="1,048,576 are the most"):
        changes.with_legacy_keys(vault.meta, root, keys=keys, plaintext=False, **stamps)


def test_newest_release_is_named(vault: Vault) -> None:
    """Of several critical parts the one with the newest release says which one is needed: 0.10 follows 0.9."""
    parts = {"a": {"since": "0.9"}, "b": {"since": "0.10"}, "c": {"since": "0.2.7"}}
    refusal = Extensions.from_json({"ext": parts, "crit": ["a", "b", "c"]}).refusal()

    assert refusal is not None
    assert "only kvseal 0.10 or newer knows: a, b, c" in refusal.message
