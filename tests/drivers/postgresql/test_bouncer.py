"""PgBouncer in transaction mode: each transaction may be given to another server process."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest
from key_value.aio.stores.postgresql import PostgreSQLStore
from tests.backends import UNSTABLE
from tests.servers import free_port, required

from kvseal.drivers import driver_for, driver_from_url
from kvseal.drivers.abilities import purge
from kvseal.drivers.base import Driver, Entry, Replacement
from kvseal.errors import UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.filterwarnings(UNSTABLE), pytest.mark.servers, pytest.mark.processes]

COUNT = 30


@pytest.fixture
def bouncer_url(postgresql_url: str, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of an empty database behind a bouncer with three server processes."""
    server = urlsplit(postgresql_url)
    with bouncing(tmp_path, server.port or 0, server.path.removeprefix("/")) as port:
        yield postgresql_url.replace(f":{server.port}/", f":{port}/")


@contextmanager
def bouncing(directory: Path, server: int, database: str) -> Iterator[int]:
    """Run PgBouncer and yield its port."""
    port, settings = free_port(), directory / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{database} = host=127.0.0.1 port={server} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 3\n"
    )
    as_user = {"user": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    with settings.open() as stdin:
        process = subprocess.Popen(
            [required("pgbouncer"), "/dev/stdin"], stdin=stdin, stderr=subprocess.PIPE, text=True, **as_user
        )
    assert process.stderr is not None
    try:
        assert any("process up" in line for line in process.stderr), "pgbouncer does not start"
        yield port
    finally:
        process.kill()
        process.communicate()


async def use(driver: Driver, name: str) -> list[str]:
    """Put, replace, scan and delete entries of one collection; return the values that were there in between."""
    for number in range(COUNT):
        assert await driver.put_if_absent(Entry(name, f"{number:02}", {"v": number}))
        entry = await driver.get(name, f"{number:02}")
        assert entry is not None
        assert [True] == await driver.replace_many([Replacement(entry, {"v": [name, number]})])
    found = [e async for page in driver.scan() for e in page.entries if e.collection == name]
    assert [True] * COUNT == [await driver.delete_if_unchanged(entry) for entry in found]
    return [str((entry.value or {})["v"]) for entry in found]


async def test_by_url(bouncer_url: str) -> None:
    """Drivers that work at once through one bouncer get the answers to their own statements."""
    drivers = [await driver_from_url(f"{bouncer_url}?pgbouncer=true", create=True) for _ in range(6)]

    found = await asyncio.gather(*(use(driver, f"c{number}") for number, driver in enumerate(drivers)))

    assert [[str([f"c{n}", v]) for v in range(COUNT)] for n in range(6)] == found
    for driver in drivers:
        await driver.close()


async def test_over_a_pool_that_prepares_nothing(bouncer_url: str) -> None:
    """A store over a pool that was made for a bouncer needs nothing else."""
    async with asyncpg.create_pool(bouncer_url, statement_cache_size=0, min_size=0, max_size=4) as pool:
        store = PostgreSQLStore(pool=pool)
        await store.setup()
        driver = driver_for(store)

        found = await asyncio.gather(*(use(driver, f"c{number}") for number in range(4)))

        assert [[str([f"c{n}", v]) for v in range(COUNT)] for n in range(4)] == found


async def test_without_the_option(bouncer_url: str) -> None:
    """What another client has prepared is never taken for ours in silence: the error names the option."""

    async def use_all() -> None:
        drivers = [await driver_from_url(bouncer_url, create=True) for _ in range(6)]
        await asyncio.gather(*(use(driver, f"c{number}") for number, driver in enumerate(drivers)))

    with pytest.raises(UnsupportedStoreError) as caught:
        await use_all()

    assert "?pgbouncer=true" in caught.value.hint


async def test_purge_needs_the_server_itself(bouncer_url: str) -> None:
    """What needs one server process for several statements is refused."""
    driver = await driver_from_url(f"{bouncer_url}?pgbouncer=true", create=True)

    with pytest.raises(UnsupportedStoreError, match="bouncer"):
        await purge(driver)
    await driver.close()


@pytest.mark.parametrize("option", ["pgbouncer=1", "pgbouncer=", "pgbouncer=true&pgbouncer=true"])
async def test_what_is_no_option(option: str) -> None:
    """The option has two values."""
    with pytest.raises(UnsupportedStoreError):
        await driver_from_url(f"postgresql://127.0.0.1:1/db?{option}")
