"""
The SQL of one `PostgreSQLStore` table: `(collection, key, value JSONB, ttl, created_at, expires_at)`.

Whether a row is live is decided by the server's clock, one clock for all who race for a name.
Nothing ever removes expired rows, so every statement passes them over.

A row is unchanged if its times are the same and its value is, compared as text.  As JSONB the values
1 and 1.0 would be equal; their texts differ, and PostgreSQL renders equal values to equal texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kvseal.drivers.base import PAGE_BYTES, PAGE_SIZE

_SAMPLED_FOR_EACH: Final = 256
"""Blocks whose names a split looks at for each part."""
_LIVE: Final = "(held.expires_at IS NULL OR held.expires_at > now())"
# What Python's datetime can hold; PostgreSQL goes from 4713 BC to the year 294276, and to infinity.
_FIRST: Final = "'0001-01-01 00:00:00+00'::timestamptz"
_LAST: Final = "'9999-12-31 23:59:59.999999+00'::timestamptz"
_TIMES: Final = ", ".join(
    f"CASE WHEN {name} BETWEEN {_FIRST} AND {_LAST} THEN {name} END AS {name}"
    for name in ("created_at", "expires_at")
)
_HAS_ODD_TIME: Final = " OR ".join(
    f"{name} NOT BETWEEN {_FIRST} AND {_LAST}" for name in ("created_at", "expires_at")
)
_ROW: Final = f"{_TIMES}, coalesce({_HAS_ODD_TIME}, false) AS has_odd_time"
# PostgreSQL's own hash partitions rely on this function, so that its results never change.
_IS_IN_PART: Final = (
    "(hashtextextended(held.key, hashtextextended(held.collection, 0)) & 2147483647) % {parts} = {part}"
)


@dataclass(frozen=True, slots=True)
class Table:
    """The statements for the table *name*, which PostgreSQLStore has found to be a plain identifier."""

    # Nothing but that identifier and the constants above ever becomes part of a statement.
    # ruff: noqa: S608

    name: str

    @property
    def exists(self) -> str:
        """$1 is the name: found as any other statement would find it, along the search path."""
        return "SELECT to_regclass($1) IS NOT NULL AS found"

    @property
    def get(self) -> str:
        """$1, $2 are the names."""
        return f"""
            SELECT collection, key, value::text AS value, {_ROW}
            FROM {self.name} AS held WHERE collection = $1 AND key = $2 AND {_LIVE}"""

    @property
    def count(self) -> str:
        """How many rows are live."""
        return f"SELECT count(*) AS count FROM {self.name} AS held WHERE {_LIVE}"

    @property
    def last(self) -> str:
        """The highest names there are."""
        return f"SELECT collection, key FROM {self.name} ORDER BY collection DESC, key DESC LIMIT 1"

    @property
    def sampled_tiles(self) -> str:
        """$1 is a number of parts: the lowest names of all parts but one, by a sample of whole blocks."""
        return f"""
            WITH sampled AS (
                SELECT collection, key, ntile($1::int) OVER (ORDER BY collection, key) AS part
                FROM {self.name} TABLESAMPLE SYSTEM ((
                    SELECT least(100, 100.0 * {_SAMPLED_FOR_EACH} * $1::int
                                      * current_setting('block_size')::int
                                      / greatest(1, pg_relation_size(to_regclass('{self.name}'))))
                ))
            )
            SELECT DISTINCT ON (part) collection, key FROM sampled WHERE part > 1
            ORDER BY part, collection, key"""

    @property
    def newest(self) -> str:
        """The latest creation time of any row."""
        return f"""
            SELECT greatest(max(created_at) FILTER (WHERE created_at <= {_LAST}), {_FIRST}) AS newest
            FROM {self.name}"""

    def page(self, *, is_first: bool, expired: bool = False) -> str:
        """
        Return the statement for one page, by the primary key.

        $1, $2 are the highest names, $3 the latest creation time or NULL, $4, $5 the partition, and
        unless it *is_first* $6, $7 the names behind which it goes on.  How large a value is stored is
        known without reading it, so a first cut keeps the server from reading what the second, by the
        text, would leave out.  With *expired*, rows are in it that have expired.
        """
        live = "true" if expired else _LIVE
        behind = "" if is_first else "AND (collection, key) > ($6::text, $7::text)"
        return f"""
            WITH near AS MATERIALIZED (
                SELECT collection, key, value, created_at, expires_at,
                       sum(pg_column_size(value)) OVER so_far - pg_column_size(value) AS bytes
                FROM {self.name} AS held
                WHERE (collection, key) <= ($1::text, $2::text) {behind} AND {live}
                  AND ($3::timestamptz IS NULL OR created_at IS NULL
                       OR created_at <= $3 OR created_at > {_LAST})
                  AND {_IS_IN_PART.format(part="$4::bigint", parts="$5::bigint")}
                WINDOW so_far AS (ORDER BY collection, key ROWS UNBOUNDED PRECEDING)
                ORDER BY collection, key LIMIT {PAGE_SIZE}
            ), texts AS MATERIALIZED (
                SELECT collection, key, value::text AS value, created_at, expires_at
                FROM near WHERE bytes < {PAGE_BYTES}
            ), sized AS (
                SELECT *, sum(octet_length(value)) OVER so_far - octet_length(value) AS bytes FROM texts
                WINDOW so_far AS (ORDER BY collection, key ROWS UNBOUNDED PRECEDING)
            )
            SELECT collection, key, value, {_ROW} FROM sized WHERE bytes < {PAGE_BYTES}
            ORDER BY collection, key"""

    @property
    def put(self) -> str:
        """$1, $2 are the names, then value, ttl, created_at and expires_at; an expired row is overwritten."""
        return f"""
            INSERT INTO {self.name} AS held (collection, key, value, ttl, created_at, expires_at)
            VALUES ($1, $2, $3::text::jsonb, $4, $5, $6)
            ON CONFLICT (collection, key) DO UPDATE SET value = EXCLUDED.value, ttl = EXCLUDED.ttl,
                created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
            WHERE held.expires_at <= now()
            RETURNING true AS done"""

    @property
    def put_many(self) -> str:
        """$1 says the numbers of the rows, $2 to $7 what `put` takes; no name twice, and in their order."""
        return f"""
            WITH new AS (
                SELECT * FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::float8[],
                                     $6::timestamptz[], $7::timestamptz[])
                    AS new(number, collection, key, value, ttl, created_at, expires_at)
            ), stored AS (
                INSERT INTO {self.name} AS held (collection, key, value, ttl, created_at, expires_at)
                SELECT collection, key, value::jsonb, ttl, created_at, expires_at FROM new ORDER BY number
                ON CONFLICT (collection, key) DO UPDATE SET value = EXCLUDED.value, ttl = EXCLUDED.ttl,
                    created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
                WHERE held.expires_at <= now()
                RETURNING held.collection, held.key
            )
            SELECT new.number AS number FROM new JOIN stored
                ON new.collection = stored.collection AND new.key = stored.key"""

    @property
    def replace(self) -> str:
        """
        $1 to $6 say per row: a number, the names, and what was read; $7 to $10: value, keep, ttl, expiry.

        The values are compared by IS NOT DISTINCT FROM because `=` could become the key of a hash
        join, for which every value of the table would be rendered.
        """
        return f"""
            UPDATE {self.name} AS held
            SET value = new.value::jsonb,
                ttl = CASE WHEN new.keep THEN held.ttl ELSE new.ttl END,
                expires_at = CASE WHEN new.keep THEN held.expires_at ELSE new.expires_at END
            FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                        $7::text[], $8::bool[], $9::float8[], $10::timestamptz[])
                AS new(number, collection, key, stored, old_created_at, old_expires_at,
                       value, keep, ttl, expires_at)
            WHERE held.collection = new.collection AND held.key = new.key
              AND held.value::text IS NOT DISTINCT FROM new.stored
              AND held.created_at IS NOT DISTINCT FROM new.old_created_at
              AND held.expires_at IS NOT DISTINCT FROM new.old_expires_at AND {_LIVE}
            RETURNING new.number AS number"""

    @property
    def delete(self) -> str:
        """$1, $2 are the names, $3 to $5 what was read."""
        return f"""
            DELETE FROM {self.name} AS held
            WHERE collection = $1 AND key = $2 AND value::text = $3 AND {_LIVE}
              AND created_at IS NOT DISTINCT FROM $4::timestamptz
              AND expires_at IS NOT DISTINCT FROM $5::timestamptz
            RETURNING true AS done"""
