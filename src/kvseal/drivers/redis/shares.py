"""
A share of the key space of a Redis or Valkey server, as its own SCAN goes through it.

SCAN visits the buckets of its hash table in the order of their bit-reversed numbers, whatever the size of
the table, and so a cursor, its bits reversed, is a position in that order.  A scan can begin at any of them.
A share is all positions from one bound to the next: a scan of it begins with the bucket that has the lower
bound in it, and ends with the first cursor at or beyond the upper one.  So shares overlap by a bucket, or by
what one call returns beyond the bound; together they are the whole, also while the table grows or shrinks.

The order is drawn when the server starts, so a share names the run of the server for which it holds.
This is the order of Redis 4 to 8 and of Valkey.  In a cluster, and on servers that only speak the protocol, a
cursor means something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from kvseal.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_BITS: Final = 64
_END: Final = 1 << _BITS
_FINEST: Final = 1 << 32
"""Bounds are multiples of this: no table has more than 2^32 buckets, and a cursor stays a small number."""
_VERSIONS: Final = frozenset({"redis_version", "valkey_version", "gcc_version"})
"""What INFO has of Redis and Valkey; a server that only speaks their protocol has a version of its own."""


@dataclass(frozen=True, slots=True)
class KeyShare:
    """The positions from *lower* up to *upper*, in the order of the server's run *run*."""

    run: str
    lower: int
    upper: int

    @classmethod
    def all_of(cls, run: str, parts: int) -> list[KeyShare]:
        """Return *parts* shares of the same size."""
        bounds = [_FINEST * (_FINEST * number // parts) for number in range(parts + 1)]
        return [cls(run, lower, upper) for lower, upper in pairwise(bounds)]

    @classmethod
    def parse(cls, text: str) -> KeyShare | None:
        """Return what `str` wrote; `None` for anything else."""
        run, *numbers = text.split(":")
        try:
            lower, upper = (int(number, 16) for number in numbers)
        except ValueError:
            return None
        return cls(run, lower, upper) if 0 <= lower < upper <= _END else None

    def __str__(self) -> str:
        return f"{self.run}:{self.lower:x}:{self.upper:x}"

    @property
    def first(self) -> int:
        """The cursor at which a scan of it begins."""
        return _reversed(self.lower)

    def is_behind(self, cursor: int) -> bool:
        """Whether a scan that goes on at *cursor* is at its end."""
        return cursor == 0 or _reversed(cursor) >= self.upper

    def left(self, cursor: int) -> int:
        """Return how far it is from *cursor* to the end."""
        return self.upper - _reversed(cursor)

    def way(self, cursor: int, following: int) -> int:
        """Return how far it is from one cursor to the next one of a scan."""
        return max(1, (_reversed(following) or _END) - _reversed(cursor))


def _reversed(number: int) -> int:
    return int(f"{number:0{_BITS}b}"[::-1], 2)


def order_of(info: Callable[[str], Mapping[str, Any]]) -> str:
    """
    Return the run of the server, in which the order of its keys stays; "" if that is not known.

    *info* returns a section of INFO.
    """
    try:
        server, cluster = info("server"), info("cluster")
    except StoreError:
        return ""
    versions = {name for name in server if name.endswith("_version")}
    is_known = "redis_version" in versions <= _VERSIONS and not cluster.get("cluster_enabled")
    return str(server.get("run_id", "")) if is_known else ""
