"""
What MongoDB keeps of overwritten values, and what can be done about it.

WiredTiger writes a changed document to another block, and gives the old one back to the file with the next
checkpoint.  `compact` moves blocks to the front and cuts the file; what is free in the rest stays as it is
until it is needed.  So there is no command after which the files certainly hold nothing of before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pymongo

from kvseal.drivers.base import Purged
from kvseal.drivers.mongodb.connection import translated
from kvseal.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.drivers.mongodb.connection import Connection

_LONGEST: Final = 7 * 86400.0
_FREE: Final = (
    "blocks that stay free in the files of the collections: move to a new database (vaultctl backup, vaultctl"
    " restore) and drop the old one, or let each member sync anew"
)
_LEFT: Final = (
    "the oplog until it has gone round, the journal until the next checkpoints, secondaries (compact each,"
    " one after the other), backups, dumps and snapshots, and the blocks of deleted files"
)


def purge_collections(connection: Connection, names: Sequence[str], *, dry_run: bool) -> Purged:
    """Compact the collections *names*; what the server refuses is left, with its reason."""
    done, left = [], [_FREE, _LEFT]
    for name in names:
        try:
            if not dry_run:
                _compact(connection, name)
        except StoreError as exc:
            left.insert(0, f"compact of {name}: {exc.message}")
        else:
            done.append(f"compact of {name}")
    return Purged(tuple(done), tuple(left), complete=False)


def _compact(connection: Connection, name: str) -> None:
    with translated(connection.location), pymongo.timeout(_LONGEST):
        connection.database().command({"compact": name, "force": True})
