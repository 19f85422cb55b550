"""Tables of a PostgreSQLStore, and what is in their rows."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from key_value.aio.stores.postgresql import PostgreSQLStore
from tests.drivers.entries import VALUES

if TYPE_CHECKING:
    from tests.drivers.postgresql.server import Server


HOLDABLE = [
    pytest.param({"ключ": "värde \u2028 🔑"}, id="unicode") if value.id == "unicode" else value
    for value in VALUES
]


PASSWORD = "correct-horse-9d1f"


TYPED = [
    {"n": 1},
    {"n": 1.0},
    {"n": 2**63},
    {"n": 2**70 + 1},
    {"n": 1.5},
    {"n": 1e-7},
    {"n": "1"},
    {"n": True},
]


async def pool_with_codec(server: Server) -> asyncpg.Pool:
    """Return an application's pool that turns JSON columns into Python objects and back."""

    async def set_codec(con: asyncpg.Connection) -> None:
        await con.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    return await asyncpg.create_pool(server.url(), min_size=1, max_size=8, init=set_codec)


class BulkStore(PostgreSQLStore):
    """The store, except that `put_many` is quick: the rows that it would write, sent at once."""

    async def _put_managed_entries(
        self, *, collection: str, keys: Any, managed_entries: Any, **_: Any
    ) -> None:
        rows = [
            (collection, key, managed.value_as_json, managed.ttl, managed.created_at, managed.expires_at)
            for key, managed in zip(keys, managed_entries, strict=True)
        ]
        await self._initialized_pool.executemany(
            "INSERT INTO kv_store (collection, key, value, ttl, created_at, expires_at)"
            " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (collection, key) DO UPDATE"
            " SET value = EXCLUDED.value, ttl = EXCLUDED.ttl, expires_at = EXCLUDED.expires_at",
            rows,
        )


async def insert(sql: asyncpg.Connection, value: str, key: str = "key", **times: str) -> None:
    """Insert a row as it is, past every check; times are SQL."""
    names, texts = "".join(f", {name}" for name in times), "".join(f", {text}" for text in times.values())
    await sql.execute(
        f"INSERT INTO kv_store (collection, key, value{names}) VALUES ('coll', $1, $2::text::jsonb{texts})",
        key,
        value,
    )


async def row(sql: asyncpg.Connection, key: str = "key") -> dict[str, Any]:
    """Return a row as PostgreSQL has it."""
    return dict(await sql.fetchrow("SELECT *, value::text AS value FROM kv_store WHERE key = $1", key))


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a script in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
