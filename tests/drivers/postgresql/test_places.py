"""URLs, stores and tables, and passwords that no message shows."""

from __future__ import annotations

import asyncio
import traceback
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import asyncpg
import pytest
from key_value.aio.stores.postgresql import PostgreSQLStore
from tests.drivers.entries import SMALL, entry, fetched, scanned
from tests.drivers.postgresql.tables import PASSWORD
from tests.silent_proxy import SilentProxy

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for, driver_from_url
from kvseal.drivers.base import Entry
from kvseal.errors import (
    KvsealError,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsupportedStoreError,
)

if TYPE_CHECKING:
    from tests.drivers.postgresql.server import Server

    from kvseal.drivers.postgresql.driver import PostgreSQLDriver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")


class TestPlaces:
    """Where the store is, and where none is."""

    async def test_table_in_the_url(self, server: Server, sql: asyncpg.Connection) -> None:
        """The URL names the table; creating makes it as the store does, and then it opens without."""
        await sql.execute("DROP TABLE IF EXISTS other_table")
        url = server.url(query="?table=other_table").replace("postgresql:", "postgres:")
        with pytest.raises(StoreNotFoundError, match="no table other_table"):
            await driver_from_url(url)

        made = await driver_from_url(url, create=True)
        opened = await driver_from_url(url)
        assert await made.put_if_absent(entry())
        assert {"n": 0} == (await fetched(opened)).value
        await made.close()
        await opened.close()
        columns = (
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = $1"
        )
        theirs = PostgreSQLStore(url=server.url())
        await theirs.setup()
        await theirs.close()
        assert await sql.fetch(columns, "kv_store") == await sql.fetch(columns, "other_table")
        assert server.url(query="?table=other_table") == made.location

    async def test_reading_makes_nothing(self, server: Server, sql: asyncpg.Connection) -> None:
        """A store object without its table reads as empty, and only a put makes the table."""
        store = PostgreSQLStore(url=server.url())
        driver = driver_for(store)

        seen = (await driver.get("coll", "key"), await scanned(driver), (await driver.count()).entries)

        assert (None, [], 0) == seen
        assert not await sql.fetchval("SELECT to_regclass('kv_store') IS NOT NULL")
        assert await driver.put_if_absent(entry())
        assert {"n": 0} == (await fetched(driver)).value
        await driver.close()

    async def test_store_that_makes_no_table(self, server: Server, sql: asyncpg.Connection) -> None:
        """Where the store would not make its table, neither does the driver, and it says what to do."""
        driver = driver_for(PostgreSQLStore(url=server.url(), auto_create=False))

        with pytest.raises(StoreNotFoundError, match="no table kv_store") as caught:
            await driver.put_if_absent(entry())
        with pytest.raises(StoreNotFoundError):
            await driver.get("coll", "key")

        assert "?table=" in caught.value.hint
        assert not await sql.fetchval("SELECT to_regclass('kv_store') IS NOT NULL")
        await driver.close()

    @pytest.mark.parametrize("create", [False, True])
    async def test_no_database(self, server: Server, create: bool) -> None:
        """A database that does not exist is not found, and never created."""
        with pytest.raises(StoreNotFoundError, match="nowhere"):
            await driver_from_url(server.url(database="nowhere"), create=create)
        driver = driver_for(PostgreSQLStore(url=server.url(database="nowhere")))
        with pytest.raises(StoreNotFoundError) as caught:
            await driver.put_if_absent(entry())

        assert "never creates" in caught.value.hint
        await driver.close()

    async def test_table_of_something_else(self, sql: asyncpg.Connection, server: Server) -> None:
        """A table that is not PostgreSQLStore's is left alone, in words."""
        await sql.execute("CREATE TABLE kv_store (id int)")
        driver = await driver_from_url(server.url())

        with pytest.raises(UnsupportedStoreError) as caught:
            await driver.put_if_absent(entry())

        assert "PostgreSQLStore" in caught.value.hint
        await driver.close()

    async def test_no_permission(
        self, sql: asyncpg.Connection, store: PostgreSQLStore, server: Server
    ) -> None:
        """A user who may read but not write is told what to grant."""
        await sql.execute(
            "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN; GRANT SELECT ON kv_store TO reader"
        )
        driver = await driver_from_url(server.url("reader"))

        with pytest.raises(StoreUnreachableError, match="permission denied") as caught:
            await driver.put_if_absent(entry())

        assert "grant" in caught.value.hint
        assert await driver.get("coll", "key") is None
        await driver.close()
        await sql.execute("DROP OWNED BY reader; DROP ROLE reader")

    async def test_read_only(self, store: PostgreSQLStore, server: Server) -> None:
        """A server that takes no writes, such as a standby, says so."""
        driver = await driver_from_url(server.url(query="?default_transaction_read_only=on"))

        with pytest.raises(StoreUnreachableError, match="read-only"):
            await driver.put_if_absent(entry())
        await driver.close()

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql:database",
            "postgresql:",
            "postgresql://{at}?table=",
            "postgresql://{at}?table=a&table=b",
            "postgresql://{at}?table=kv_store;drop",
            "postgresql://{at}?table=1a",
        ],
    )
    async def test_no_url_of_a_table(self, server: Server, url: str) -> None:
        """What cannot name a table is refused before anything connects."""
        with pytest.raises(UnsupportedStoreError) as caught:
            await driver_from_url(url.format(at=f"127.0.0.1:{server.port}/postgres"))

        assert "postgresql://USER@HOST" in caught.value.hint

    async def test_subclass_with_its_own_connections(self, server: Server, store: PostgreSQLStore) -> None:
        """A store that connects in a way of its own is followed, not its unused parameters."""

        class Elsewhere(PostgreSQLStore):
            async def _create_pool(self) -> asyncpg.Pool:
                return await asyncpg.create_pool(server.url(), min_size=0)

        driver = driver_for(Elsewhere(host="192.0.2.1"))
        await store.put("key", SMALL, collection="coll")

        assert SMALL == (await fetched(driver)).value
        assert "Elsewhere" in driver.location
        await driver.close()

    @pytest.mark.usefixtures("sql")
    async def test_vault_in_an_empty_database(self, server: Server) -> None:
        """A vault is created in an empty database, and its records go through the application's store."""
        store = PostgreSQLStore(url=server.url())
        cheap = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
        vault = await Vault.create(store, secret=Secret(b"a long enough secret"), kdf=cheap)
        kv = EnvelopeEncryptionWrapper(key_value=store, secret=Secret(b"a long enough secret"))

        await kv.put("key", {"n": "\0"}, collection="coll")

        assert {"n": "\0"} == await kv.get("key", collection="coll")
        assert {"__encrypted_data__", "__encryption_version__"} == set(
            await store.get("key", collection="coll") or {}
        )
        await vault.close()
        await store.close()


class TestPasswords:
    """Nothing that is shown has a password in it."""

    @pytest.fixture(autouse=True)
    async def _guarded(self, sql: asyncpg.Connection) -> None:
        await sql.execute(
            f"DROP ROLE IF EXISTS guarded; CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{PASSWORD}'"
        )

    @staticmethod
    async def shown(url: str) -> str:
        """Return all that an error about *url* shows."""
        with pytest.raises(KvsealError) as caught:
            await driver_from_url(url)
        return repr(caught.value) + caught.value.hint + "".join(traceback.format_exception(caught.value))

    @pytest.mark.usefixtures("store")
    async def test_location(self, server: Server) -> None:
        """Drivers connect with the password, and neither their location nor their repr has it."""
        url = server.url(f"guarded:{PASSWORD}")
        parameters = {"host": "127.0.0.1", "port": server.port, "user": "guarded", "password": PASSWORD}
        found = [
            await driver_from_url(url),
            await driver_from_url(server.url("guarded", query=f"?password={PASSWORD}")),
            driver_for(PostgreSQLStore(url=url)),
            driver_for(PostgreSQLStore(**parameters)),
        ]
        for driver in found:
            assert 0 == (await driver.count()).entries
            await driver.close()

        assert {server.url("guarded", query="?table=kv_store")} == {driver.location for driver in found}
        assert PASSWORD not in "".join(map(repr, found))

    @pytest.mark.parametrize(
        ("user", "query"),
        [
            (f"guarded:not-{PASSWORD}", ""),
            ("guarded", f"?password=not-{PASSWORD}"),
            (f"guarded:a/{PASSWORD}", ""),
            (f"guarded:a?{PASSWORD}", ""),
            (f"guarded:{PASSWORD}?b", ""),
            (f"guarded:a#{PASSWORD}", ""),
            (f"guarded:[{PASSWORD}", ""),
            (f"guarded:@:{PASSWORD}@", "?table=a-b"),
            (f"guarded:{PASSWORD}", "?sslmode=nonsense"),
        ],
    )
    async def test_errors(self, server: Server, user: str, query: str) -> None:
        """An error shows no password, be it wrong, odd, or quoted by asyncpg."""
        shown = await self.shown(server.url(user, query=query))

        assert PASSWORD not in shown
        assert "guarded" in shown

    async def test_wrong_password(self, server: Server) -> None:
        """A password that the server refuses is an unreachable store, with its location."""
        shown = await self.shown(server.url("guarded:wrong"))

        assert "StoreUnreachableError" in shown
        assert server.url("guarded") in shown
        assert "pg_hba.conf" in shown

    async def test_value_in_an_error(self, sql: asyncpg.Connection, driver: PostgreSQLDriver) -> None:
        """What the server says of a value that it refuses does not show the value."""
        await sql.execute(f"ALTER TABLE kv_store ADD CHECK (value->>'n' <> '{PASSWORD}')")

        with pytest.raises(StoreError) as caught:
            await driver.put_if_absent(entry(value={"n": PASSWORD}))

        assert PASSWORD not in "".join(traceback.format_exception(caught.value))


async def test_socket_by_url(server: Server, store: PostgreSQLStore) -> None:
    """`?host=DIRECTORY` leads to the server behind a socket file, as libpq has it."""
    proxy = SilentProxy(server.port)
    # Short, because the name of a socket has an end at some hundred bytes.
    with TemporaryDirectory(dir="/tmp") as directory:
        listening = await asyncio.start_unix_server(proxy.serve, f"{directory}/.s.PGSQL.5432")
        driver = await driver_from_url(f"postgresql://postgres@/postgres?host={directory}")

        assert await driver.put_if_absent(Entry("coll", "key", {"v": 1}))
        assert {"v": 1} == await store.get("key", collection="coll")
        await driver.close()
        listening.close()
        proxy.end()
