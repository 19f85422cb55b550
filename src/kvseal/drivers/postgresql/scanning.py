"""A scan of one table by its primary key, from one pair of names to another, that ends beside any writers."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from kvseal.drivers.base import Page
from kvseal.drivers.postgresql.pools import LONGEST
from kvseal.drivers.postgresql.rows import entry_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from kvseal.drivers.postgresql.table import Table

_PAGES_BEFORE_BOUND: Final = 32
"""Pages that a scan reads before it looks at the whole table for the latest creation time."""


async def pages(
    query: Callable[..., Awaitable[Sequence[Any]]],
    table: Table,
    position: tuple[str, ...],
    end: tuple[str, ...],
    partition: tuple[int, int],
    *,
    expired: bool,
) -> AsyncIterator[Page]:
    """Yield the entries behind the names *position*, if any, and up to *end*, each page by one statement."""
    newest: datetime | None = None
    for number in count():
        if number == _PAGES_BEFORE_BOUND:
            newest = (await query(table.newest, seconds=LONGEST))[0]["newest"]
        rows = await query(
            table.page(is_first=not position, expired=expired),
            *(*end, newest, *partition, *position),
            seconds=LONGEST,
        )
        if not rows:
            return
        position = (rows[-1]["collection"], rows[-1]["key"])
        yield Page([entry_of(row) for row in rows], json.dumps(position))
