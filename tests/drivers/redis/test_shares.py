"""Shares of a server's key space: together the whole, each for about its part of the calls, void after a restart."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.drivers.entries import numbers

from kvseal.drivers import abilities, driver_from_url
from kvseal.drivers.redis.driver import RespDriver
from kvseal.drivers.redis.server import SCAN_COUNT, RespServer
from kvseal.drivers.redis.shares import KeyShare, order_of
from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis
    from tests.servers import RedisServer

    from kvseal.drivers.base import Entry

pytest_plugins = ["tests.drivers.redis.server"]

BODY = b'{"value": {"n": %d}}'
MANY = 30_000


def put(raw: redis.Redis, count: int, name: str = "old", *, number: int | None = None) -> None:
    """Put *count* entries by one command."""
    raw.mset({f"coll::{name}-{n}": BODY % (n if number is None else number) for n in range(count)})


async def within(driver: RespDriver, bounds: str, **options: Any) -> list[Entry]:
    """Return the entries within *bounds*."""
    return [entry async for page in driver.scan_within(bounds, **options) for entry in page.entries]


async def split(driver: RespDriver, parts: int) -> Sequence[str]:
    """Return the bounds of *parts* parts, which there are."""
    bounds = await abilities.split(driver, parts)
    assert bounds is not None
    assert parts == len(bounds)
    return bounds


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the cursors of every SCAN from now on."""
    cursors: list[int] = []
    scan = RespServer.scan

    def counting(self: RespServer, cursor: int, count: int = SCAN_COUNT) -> Any:
        cursors.append(cursor)
        return scan(self, cursor, count)

    monkeypatch.setattr(RespServer, "scan", counting)
    return cursors


async def test_they_are_the_whole(driver: RespDriver, raw: redis.Redis, calls: list[int]) -> None:
    """Eight parts have every entry, overlap by less than a fiftieth, and take as many calls as one scan and a tenth."""
    put(raw, MANY)
    whole = [entry async for page in driver.scan() for entry in page.entries]
    of_one = len(calls)
    calls.clear()

    parts = [await within(driver, bounds) for bounds in await split(driver, 8)]

    assert numbers(whole).keys() == numbers([entry for part in parts for entry in part]).keys()
    assert sum(map(len, parts)) <= MANY * 1.02
    assert len(calls) <= of_one * 1.1 + 8
    assert max(map(len, parts)) <= MANY / 8 * 1.2


async def test_a_number_that_is_no_power_of_two(driver: RespDriver, raw: redis.Redis) -> None:
    """Three parts, too, are the whole and about as large as each other."""
    put(raw, MANY)

    parts = [await within(driver, bounds) for bounds in await split(driver, 3)]

    assert set(range(MANY)) == numbers([entry for part in parts for entry in part]).keys()
    assert max(map(len, parts)) <= MANY / 3 * 1.2


async def test_while_the_table_grows_and_shrinks(driver: RespDriver, raw: redis.Redis) -> None:
    """Every entry that stays is in a part, although the server makes its table larger and smaller meanwhile."""
    put(raw, MANY)
    seen: set[int] = set()
    for number, bounds in enumerate(await split(driver, 8)):
        pages = 0
        async for page in driver.scan_within(bounds):
            seen |= numbers(list(page.entries)).keys()
            pages += 1
            if pages == 2 and number < 4:
                put(raw, MANY, f"new-{number}", number=-1)
            elif pages == 2:
                raw.delete(*(f"coll::new-{number - 4}-{n}" for n in range(MANY)))

    assert set(range(MANY)) <= seen


async def test_it_resumes(driver: RespDriver, raw: redis.Redis) -> None:
    """A scan of a part goes on behind any of its pages, and behind the last one there is nothing."""
    put(raw, MANY)
    bounds = (await split(driver, 4))[2]
    pages = [page async for page in driver.scan_within(bounds)]
    whole = numbers([entry for page in pages for entry in page.entries]).keys()

    for done in (1, len(pages) // 2, len(pages)):
        rest = await within(driver, bounds, after=pages[done - 1].cursor)
        seen = [entry for page in pages[:done] for entry in page.entries]
        assert whole <= numbers(seen + rest).keys()
    assert [] == await within(driver, bounds, after=pages[-1].cursor)


async def test_few_keys_are_not_split(driver: RespDriver, raw: redis.Redis) -> None:
    """Where a scan takes a few calls, every part takes them all and has exactly its own entries."""
    put(raw, 1_000)
    assert await abilities.split(driver, 4) is None


async def test_a_restart_makes_them_void(own_redis: RedisServer) -> None:
    """After a restart keys have another order: no bounds and no cursor of before are gone on with."""
    driver = await driver_from_url(own_redis.url)
    assert isinstance(driver, RespDriver)
    with own_redis.client() as raw:
        put(raw, MANY)
    bounds = await split(driver, 4)
    pages = driver.scan_within(bounds[0])
    cursor = (await anext(pages)).cursor
    assert await driver.is_split_so(bounds[0])

    own_redis.restart()
    with own_redis.client() as raw:
        put(raw, MANY)

    with suppress(StoreUnreachableError):  # The connection of before is gone.
        await driver.count()
    assert not await driver.is_split_so(bounds[0])
    for scan in (pages, driver.scan_within(bounds[0]), driver.scan_within(bounds[0], after=cursor)):
        with pytest.raises(StoreUnreachableError, match="was restarted since it was split"):
            [page async for page in scan]
    await driver.close()


@pytest.mark.parametrize(
    "bounds", ["", "r", "r:0", "r:0:0", "r:2:1", "r:0:1ffffffffffffffff", "r:x:y", "r:1:2:3"]
)
async def test_bounds_that_no_driver_made(driver: RespDriver, bounds: str) -> None:
    """A text that is no share holds nowhere, and nothing is scanned by it."""
    assert not await driver.is_split_so(bounds)
    with pytest.raises(StoreUnreachableError):
        await within(driver, bounds)


@given(st.integers(1, 1024))
def test_bounds_leave_nothing_out(parts: int) -> None:
    """Shares follow each other without a gap, from the very beginning to the very end."""
    shares = KeyShare.all_of("run", parts)

    assert shares == [KeyShare.parse(str(share)) for share in shares]
    assert (0, 2**64) == (shares[0].lower, shares[-1].upper)
    assert all(one.upper == following.lower for one, following in pairwise(shares))
    assert 0 == shares[0].first


@given(st.text() | st.from_regex(r"[0-9a-f]*:[0-9a-fx_ -]*:[0-9a-f]*"))
def test_any_text_is_a_share_or_none(text: str) -> None:
    """Whatever stands in a checkpoint for bounds, it is a share of some of the order, or none."""
    share = KeyShare.parse(text)

    assert share is None or 0 <= share.lower < share.upper <= 2**64


@pytest.mark.parametrize(
    ("server", "cluster", "run"),
    [
        ({"redis_version": "7.0.15", "gcc_version": "12", "run_id": "r"}, {"cluster_enabled": 0}, "r"),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1", "run_id": "r"}, {}, "r"),
        ({"redis_version": "7.0.15", "run_id": "r"}, {"cluster_enabled": 1}, ""),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1", "run_id": "r"}, {}, ""),
        ({"redis_version": "7.4.0", "rlec_version": "7.8", "run_id": "r"}, {}, ""),
        ({"run_id": "r"}, {}, ""),
        ({"redis_version": "7.0.15"}, {}, ""),
    ],
    ids=str,
)
def test_servers_whose_order_is_known(server: dict[str, Any], cluster: dict[str, Any], run: str) -> None:
    """A cluster, and a server that only speaks the protocol, is not split: a cursor means something else there."""
    assert run == order_of({"server": server, "cluster": cluster}.__getitem__)
