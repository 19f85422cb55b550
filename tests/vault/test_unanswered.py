"""A store of the vault meta that accepts and never answers: no caller waits for it without end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from key_value.aio.stores.memory import MemoryStore
from tests.backends import UNSTABLE
from tests.keys.made import CHEAP, SECRET
from tests.silent_proxy import SilentProxy, silent_proxy

from kvseal import EnvelopeEncryptionWrapper, Vault
from kvseal.cli.app import run
from kvseal.drivers import driver_from_url
from kvseal.drivers.postgresql.driver import PostgreSQLDriver
from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kvseal.drivers.base import Driver

pytestmark = [pytest.mark.filterwarnings(UNSTABLE), pytest.mark.servers]

AT_MOST = 60
"""Seconds of a watchdog, far more than any bound and far less than no bound."""


@pytest.fixture(autouse=True)
def _short_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvseal.vault.freshness.PATIENCE", 0.3)
    monkeypatch.setattr("kvseal.records.legacy_window.PATIENCE", 0.3)
    monkeypatch.setattr("kvseal.drivers.postgresql.pools._CONNECTING_SECONDS", 0.3)
    monkeypatch.setattr("kvseal.drivers.postgresql.pools._CLOSING_SECONDS", 0.3)


@pytest.fixture
async def proxy(postgresql_url: str) -> AsyncIterator[SilentProxy]:
    """Yield a proxy in front of the server."""
    async with silent_proxy(urlsplit(postgresql_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
async def metas(postgresql_url: str, proxy: SilentProxy) -> AsyncIterator[Driver]:
    """Yield the driver of an empty database, through the proxy."""
    driver = await driver_from_url(through(proxy, postgresql_url), create=True)
    yield driver
    await driver.close()


def through(proxy: SilentProxy, url: str) -> str:
    """Return *url* with the proxy's port."""
    return url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/")


async def vault_in(metas: Driver) -> Vault:
    """Return a new vault that seals for long without its meta."""
    return await Vault.create(MemoryStore(), secret=SECRET, kdf=CHEAP, meta_store=metas, refresh_after=600)


async def test_put_goes_on_with_the_keys_it_has(metas: Driver, proxy: SilentProxy) -> None:
    """A write waits for its patience and no longer, and the health says that the meta did not answer."""
    vault = await vault_in(metas)
    kv = EnvelopeEncryptionWrapper(MemoryStore(), vault=vault)
    vault.freshness.due = vault.freshness._retry_at = 0.0  # As if ten minutes had passed.
    proxy.silent = True

    await asyncio.wait_for(kv.put("k", {"v": 1}), AT_MOST)

    assert ("meta unanswered", True) == (kv.health().state, kv.health().serves)
    assert {"v": 1} == await kv.get("k")


async def test_an_answer_ends_it(metas: Driver, proxy: SilentProxy) -> None:
    """Once the server answers again, the same process reads the meta on new connections."""
    vault = await vault_in(metas)
    proxy.silent = True
    for _ in range(6):  # More than the pool has connections.
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(vault.refresh(), 0.05)
    proxy.silent = False

    await asyncio.wait_for(vault.refresh(), AT_MOST)

    assert "ok" == vault.health().state


async def test_a_legacy_read_goes_on_with_the_policy_it_has(metas: Driver, proxy: SilentProxy) -> None:
    """A record in an old format is read although its vault's policy cannot be looked up again."""
    vault = await vault_in(metas)
    await vault.read_legacy_with([], plaintext=True)
    store = MemoryStore()
    await store.put("k", {"v": 1})
    proxy.silent = True

    read = await asyncio.wait_for(EnvelopeEncryptionWrapper(store, vault=vault).get("k"), AT_MOST)

    assert {"v": 1} == read


async def test_a_read_that_needs_the_meta_says_so(metas: Driver, proxy: SilentProxy) -> None:
    """A record of a DEK that this process has yet to learn is an error of the store, and not of the record."""
    vault, store = await vault_in(metas), MemoryStore()
    other = await Vault.open(store, secret=SECRET, meta_store=metas)
    await other.rotate_dek()
    await EnvelopeEncryptionWrapper(store, vault=other).put("k", {"v": 1})
    proxy.silent = True

    with pytest.raises(StoreUnreachableError, match=r"the vault meta in postgresql:.*: no answer within"):
        await asyncio.wait_for(EnvelopeEncryptionWrapper(store, vault=vault).get("k"), AT_MOST)


@pytest.mark.parametrize("connects", [False, True], ids=["at once", "once connected"])
async def test_vaultctl_says_what_does_not_answer(
    metas: Driver,
    proxy: SilentProxy,
    postgresql_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    connects: bool,
) -> None:
    """`vaultctl status` ends, with a message that names the store and what it waited for."""
    await vault_in(metas)
    monkeypatch.setitem(PostgreSQLDriver._query.__kwdefaults__, "seconds", 0.3)
    proxy.silent_after_login = connects
    proxy.silent = not connects

    status = await asyncio.wait_for(
        asyncio.to_thread(run, ["status", "--store", through(proxy, postgresql_url)]), AT_MOST
    )

    error = capsys.readouterr().err
    assert 0 != status
    assert f"127.0.0.1:{proxy.port}" in error
    assert "no answer in time" in error
