"""
The S3 driver on a second server, moto: a model of S3's own rules, where SeaweedFS keeps objects as files.

It keeps object keys as they are, lists them in the order of bytes, and answers a condition on a missing
object with 404.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from moto.server import ThreadedMotoServer
from tests.backends import UNSTABLE
from tests.drivers.entries import SMALL, entry, fetched, scanned
from tests.drivers.s3.contract import S3Contract
from tests.drivers.s3.server import KEYS, S3Server

from kvseal.drivers import base
from kvseal.drivers.base import Replacement
from kvseal.drivers.s3 import bucket as buckets
from kvseal.drivers.s3 import driver as drivers
from kvseal.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from key_value.aio.stores.s3 import S3Store

    from kvseal.drivers.s3.driver import S3Driver

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """Yield a server in a thread of this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield S3Server(f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    server.stop()


@pytest.fixture
def s3_server(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Return moto in place of the other server."""
    for name, text in KEYS.items():
        monkeypatch.setenv(name.upper(), text)
    return moto


@pytest.mark.long
class TestWhole(S3Contract):
    """Every promise of a driver, with small pages."""

    many = 30
    unsupported_names = frozenset({("plain", "line\nbreak\ttab")})  # Its routes know no line breaks.


async def test_names_that_are_urls(store: S3Store, driver: S3Driver) -> None:
    """A URL as a key keeps its two slashes, is ambiguous in a scan, and has its names once they are known."""
    url = "https://host/a/../b"
    await store.put(url, SMALL, collection="clients")
    (found,) = await scanned(driver)
    assert (None, None, f"clients/{url}") == (found.collection, found.key, found.path)
    assert driver.proves(found, url)

    await base.replace(driver, await fetched(driver, url, "clients"), {"n": 2})

    assert [("clients", url)] == [(one.collection, one.key) for one in await scanned(driver)]
    assert {"n": 2} == await store.get(url, collection="clients")


async def test_conditions(store: S3Store, driver: S3Driver) -> None:
    """What has changed or gone is neither replaced nor deleted, and a put finds what is there."""
    for key in ("changed", "gone", "same"):
        await driver.put_if_absent(entry(key))
    stale = [await fetched(driver, key) for key in ("changed", "gone", "same")]
    await store.put("changed", {"live": 1}, collection="coll")
    await store.delete("gone", collection="coll")

    done = await driver.replace_many([Replacement(one, SMALL) for one in stale])

    assert [False, False, True] == list(done)
    assert [False] * 3 == [await driver.delete_if_unchanged(one) for one in stale]
    assert [False, True] == [await driver.put_if_absent(entry(key)) for key in ("changed", "gone")]
    assert {"live": 1} == await store.get("changed", collection="coll")


async def test_scan(store: S3Store, driver: S3Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan by the order of bytes is complete, and so is each that resumes it, while others write behind it."""
    monkeypatch.setattr(drivers, "PAGE_SIZE", 4)
    monkeypatch.setattr(buckets, "AT_ONCE", 6)
    keys = [f"{prefix}{n}" for n in range(5) for prefix in ("a", "a-", "b/")]
    for key in keys:
        await store.put(key, SMALL, collection="coll")
    pages = []
    async for page in driver.scan():
        pages.append(page)
        for n in range(7):
            await store.put(f"new-{len(pages)}-{n}", SMALL, collection="coll")
        assert len(pages) < 20

    seen = [found.locator.key for page in pages for found in page.entries]
    assert sorted(f"coll/{key}" for key in keys) == sorted(seen)
    rest = [found.locator.key for found in await scanned(driver, after=pages[1].cursor)]
    done = sum(len(page.entries) for page in pages[:2])
    assert {*seen[done:]} <= {*rest}
    assert not {*seen[:done]} & {*rest}


async def test_a_key_that_the_server_does_not_take(driver: S3Driver) -> None:
    """A server that answers a put with "not found" is an error of that entry, and not one lost race after another."""
    with pytest.raises(StoreError, match="refused put_object"):
        await driver.put_if_absent(entry("line\nbreak"))
