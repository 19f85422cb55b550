"""
A scan of one collection, in the order of `_id`, from a position on.  Every call blocks.

It ends at the highest `_id` that there was after its first page.  What is written meanwhile keeps its `_id`,
and newcomers get higher ones.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from kvseal.drivers.mongodb.documents import entry_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bson.raw_bson import RawBSONDocument

    from kvseal.drivers.base import Entry
    from kvseal.drivers.mongodb.collections import Collections, Found
    from kvseal.drivers.mongodb.names import Names

DOUBLES: Final = "several documents have this key, and the store reads and writes any one of them"


class CollectionScan:
    """The entries of the collection *name* behind *after*, those of one *partition*."""

    def __init__(
        self,
        collections: Collections,
        name: str,
        names: Names,
        after: bytes | None,
        partition: tuple[int, int],
    ) -> None:
        self._collections = collections
        self._name = name
        self._names = names
        self._after = after
        self._last: bytes | None = None
        self._partition = partition
        self._doubles: frozenset[str] | None = None
        self._has_ended = False

    def next(self) -> tuple[list[Entry], bytes] | None:
        """Return the next entries, perhaps none, and the `_id` behind which it goes on; `None` at the end."""
        if self._has_ended:
            return None
        is_first = self._after is None
        if not is_first and self._last is None:
            self._last = self._collections.last_id(self._name)
        found = self._collections.page(self._name, self._after, self._last, self._partition)
        self._has_ended, self._after = found.is_end, found.last or self._after
        if self._after is None:
            return None
        if found.documents and self._doubles is None:
            self._doubles = self._found_doubles(found, is_whole=is_first and found.is_end)
        return self._entries(found.documents), self._after

    def _found_doubles(self, found: Found, *, is_whole: bool) -> frozenset[str]:
        """Return the keys with several documents, from *found* alone if it *is_whole*."""
        if is_whole and self._partition[1] == 1:
            keys = Counter(document["key"] for document in found.documents)
            return frozenset(key for key, number in keys.items() if number > 1)
        return self._collections.doubles(self._name)

    def _entries(self, documents: Sequence[RawBSONDocument]) -> list[Entry]:
        doubles = self._doubles or frozenset()
        return [
            entry_of(self._name, one, self._names, DOUBLES if one["key"] in doubles else "")
            for one in documents
        ]
