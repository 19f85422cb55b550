"""
The SQL of one `DuckDBStore` table: `(collection, key, value JSON, created_at, expires_at, version)`.

DuckDB keeps the text of a JSON value as it was written, so a row is unchanged if its times are the
same and so is the text.  Times go in and out as microseconds since 1970, because what the client
library makes of a TIMESTAMPTZ depends on the connection's time zone and on what Python can hold.

Whether a row is live is decided by this process's clock, as the store does: in a transaction
DuckDB's own `now()` stands still.  Nothing ever removes expired rows, so every statement passes
them over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kvseal.drivers.base import PAGE_BYTES, PAGE_SIZE

_ROWS: Final = (
    '{"collection": "VARCHAR", "key": "VARCHAR", "stored": "VARCHAR", "created_at": "BIGINT",'
    ' "expires_at": "BIGINT", "value": "VARCHAR", "expiry": "BIGINT"}'
)
_PUTS: Final = (
    '{"collection": "VARCHAR", "key": "VARCHAR", "value": "VARCHAR", "created_at": "BIGINT",'
    ' "expires_at": "BIGINT"}'
)
_LIVE: Final = "(held.expires_at IS NULL OR held.expires_at > make_timestamptz($now::BIGINT))"
_ROW: Final = """
    held.collection, held.key, held.value::VARCHAR,
    epoch_us(held.created_at), epoch_us(held.expires_at),
    coalesce(NOT isfinite(held.created_at), false) OR coalesce(NOT isfinite(held.expires_at), false)"""
_UNCHANGED: Final = f"""
    held.collection = {{read}}collection AND held.key = {{read}}key AND held.value::VARCHAR = {{read}}stored
    AND epoch_us(held.created_at) IS NOT DISTINCT FROM {{read}}created_at
    AND epoch_us(held.expires_at) IS NOT DISTINCT FROM {{read}}expires_at AND {_LIVE}"""
# MD5 is the same in every release; what hash() returns is not promised to be.
_IS_IN_PART: Final = (
    "md5_number_lower(held.collection || chr(0) || held.key) % $parts::UBIGINT = $part::UBIGINT"
)


@dataclass(frozen=True, slots=True)
class Table:
    """The statements for the table *name*, which DuckDBStore has found to be a plain identifier."""

    # Nothing but that identifier and the constants above ever becomes part of a statement.
    # ruff: noqa: S608

    name: str

    @property
    def probe(self) -> str:
        """Nothing, from every column that the store has."""
        return f"SELECT collection, key, value, created_at, expires_at, version FROM {self.name} LIMIT 0"

    @property
    def get(self) -> str:
        """$collection and $key are the names."""
        return f"""
            SELECT {_ROW} FROM {self.name} AS held
            WHERE collection = $collection AND key = $key AND {_LIVE}"""

    @property
    def count(self) -> str:
        """How many rows are live."""
        return f"SELECT count(*) FROM {self.name} AS held WHERE {_LIVE}"

    def list_names(self, *, is_first: bool, expired: bool) -> str:
        """
        List the names that are there now, in order and cut into pages, for this connection alone.

        DuckDB keeps the list, on the disk if it is long.  $part and $parts are the partition; unless
        it *is_first*, $collection and $key are the names behind which it begins.  Names of rows that have
        expired are left out, unless *expired*.
        """
        behind = "" if is_first else "AND (held.collection, held.key) > ($collection, $key)"
        return f"""
            CREATE OR REPLACE TEMP TABLE kvseal_names AS
            WITH named AS (
                SELECT held.collection, held.key, strlen(held.value::VARCHAR) AS bytes
                FROM {self.name} AS held WHERE {_live(expired=expired)} {behind} AND {_IS_IN_PART}
            ), placed AS (
                SELECT collection, key, row_number() OVER so_far - 1 AS number,
                       sum(bytes) OVER so_far - bytes AS bytes
                FROM named WINDOW so_far AS (ORDER BY collection, key ROWS UNBOUNDED PRECEDING)
            )
            SELECT collection, key,
                   dense_rank() OVER (ORDER BY number // {PAGE_SIZE}, bytes // {PAGE_BYTES}) AS page
            FROM placed"""

    @property
    def pages(self) -> str:
        """How many pages the list of names has."""
        return "SELECT coalesce(max(page), 0) FROM kvseal_names"

    def page(self, *, expired: bool) -> str:
        """Return the rows of $page in the list of names, as they are by now."""
        return f"""
            SELECT {_ROW} FROM {self.name} AS held
            JOIN kvseal_names AS listed ON held.collection = listed.collection AND held.key = listed.key
            WHERE listed.page = $page AND {_live(expired=expired)} ORDER BY held.collection, held.key"""

    @property
    def bury(self) -> str:
        """Delete the row of $collection and $key if it has expired."""
        return f"""
            DELETE FROM {self.name} AS held
            WHERE held.collection = $collection AND held.key = $key AND NOT {_LIVE}"""

    @property
    def put(self) -> str:
        """Insert a row, unless there is one."""
        return f"""
            INSERT INTO {self.name} (collection, key, value, created_at, expires_at, version)
            VALUES ($collection, $key, $value, make_timestamptz($created_at::BIGINT),
                    make_timestamptz($expires_at::BIGINT), 1)
            ON CONFLICT DO NOTHING RETURNING key"""

    @property
    def bury_many(self) -> str:
        """Delete those of the rows in $rows that have expired."""
        return f"""
            DELETE FROM {self.name} AS held USING ({_new(_PUTS)}) AS new
            WHERE held.collection = new.collection AND held.key = new.key AND NOT {_LIVE}"""

    @property
    def put_many(self) -> str:
        """Insert the rows in $rows, no name twice, unless there are such."""
        return f"""
            INSERT INTO {self.name} (collection, key, value, created_at, expires_at, version)
            SELECT collection, key, value::JSON, make_timestamptz(created_at), make_timestamptz(expires_at), 1
            FROM ({_new(_PUTS)}) AS new ON CONFLICT DO NOTHING RETURNING collection, key"""

    def replace(self, *, keeps_expiry: bool) -> str:
        """
        Replace the values of many rows, no name twice; $rows is a JSON array of them.

        An expiry that is kept is not assigned: the column has an index, and an assignment of what
        was there would remove and insert the row.
        """
        expiry = "" if keeps_expiry else ", expires_at = make_timestamptz(new.expiry)"
        return f"""
            UPDATE {self.name} AS held SET value = new.value::JSON{expiry}
            FROM ({_new(_ROWS)}) AS new
            WHERE {_UNCHANGED.format(read="new.")} RETURNING held.collection, held.key"""

    @property
    def delete(self) -> str:
        """Delete the row that was read, if it is unchanged."""
        return f"DELETE FROM {self.name} AS held WHERE {_UNCHANGED.format(read='$')} RETURNING key"


def _new(columns: str) -> str:
    """Return the rows of the JSON array $rows, which DuckDB takes far faster than lists of as many values."""
    return f"SELECT unnest(from_json($rows::JSON, '[{columns}]'), recursive := true)"


def _live(*, expired: bool) -> str:
    return "true" if expired else _LIVE
