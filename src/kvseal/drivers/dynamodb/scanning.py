"""
Scans of a table, whole or a part of it, read without the rest.

A whole scan goes in the server's order: by a hash of the collection, and within one by keys.  Newcomers ahead
of it in a collection could hold it up for ever, so where a collection takes more than one page, its highest
key is asked for, and what was put behind that is passed over.

The order of a part's bounds is that of names: first the collection, then the key.  Within a collection a
part is a range of keys, which the server finds.  To know collections a scan skips from one to the next, a
read for each; so where there are very many, parts are the server's own segments, which split by a hash of the
collection.  Both hold for ever, and each name is in one part.

To make the parts even, one pass reads all names, not consistently and so at half the price of a scan.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from kvseal.drivers.base import PAGE_SIZE
from kvseal.drivers.dynamodb.items import KEY_BYTES, entry_of, item_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from typing import TypeAlias

    from kvseal.drivers.base import Entry

    Names: TypeAlias = tuple[str, str]
    Read: TypeAlias = Callable[..., Awaitable[Mapping[str, Any]]]

LAST_KEY: Final = "\U0010ffff" * (KEY_BYTES // 4)
"""No key is behind this one."""
MOST_COLLECTIONS: Final = 1000
"""More are split by segments."""
_SAMPLES: Final = 4096
_NAMES: Final[dict[str, Any]] = {
    "ProjectionExpression": "#c, #k",
    "ExpressionAttributeNames": {"#c": "collection", "#k": "key"},
}


@dataclass(frozen=True, slots=True)
class Segment:
    """One of *total* parts by the hash of the collection."""

    number: int
    total: int

    @property
    def text(self) -> str:
        """Return it as the bounds of a part."""
        return json.dumps({"segment": self.number, "of": self.total})


@dataclass(frozen=True, slots=True)
class Range:
    """Names behind *lower* and up to *upper*; `None` is the end of all names."""

    lower: Names | None
    upper: Names | None

    @property
    def text(self) -> str:
        """Return it as the bounds of a part."""
        return json.dumps({"behind": self.lower, "up_to": self.upper})

    def may_have(self, collection: str) -> bool:
        """Whether a key of *collection* may be in it."""
        return (self.lower is None or collection >= self.lower[0]) and (
            self.upper is None or collection <= self.upper[0]
        )


def part_of(bounds: str) -> Segment | Range | None:
    """Return the part with these *bounds*; `None` if the text is not that of one."""
    try:
        said = json.loads(bounds)
        if set(said) == {"segment", "of"} and 0 <= said["segment"] < said["of"]:
            return Segment(said["segment"], said["of"])
        return Range(_names_in(said["behind"]), _names_in(said["up_to"]))
    except (ValueError, TypeError, KeyError):
        return None


def _names_in(said: Any) -> Names | None:
    if said is None:
        return None
    collection, key = said
    if type(collection) is not str or type(key) is not str:
        raise TypeError
    return collection, key


async def split(read: Read, parts: int) -> Sequence[str] | None:
    """Return the bounds of *parts* parts with about as many items each; `None` for less than a page each."""
    samples: list[Names] = []
    stride, count, collections, last = 1, 0, 0, ""
    async for names in _all_names(read):
        collections += names[0] != last
        last = names[0]
        if count % stride == 0:
            samples.append(names)
        count += 1
        if len(samples) == _SAMPLES:
            samples, stride = samples[::2], 2 * stride
    if count < parts * 2:
        return None
    if collections > MOST_COLLECTIONS:
        return [Segment(number, parts).text for number in range(parts)]
    samples.sort()
    between = [samples[len(samples) * number // parts - 1] for number in range(1, parts)]
    ends: list[Names | None] = [None, *between, None]
    return [Range(lower, upper).text for lower, upper in pairwise(ends)]


async def _all_names(read: Read) -> AsyncIterator[Names]:
    position: Mapping[str, Any] | None = None
    while True:
        given = {} if position is None else {"ExclusiveStartKey": position}
        body = await read("scan", **_NAMES, **given)
        for item in body.get("Items", ()):
            yield item["collection"]["S"], item["key"]["S"]
        position = body.get("LastEvaluatedKey")
        if position is None:
            return


async def table_pages(read: Read, after: Names | None, segment: Segment | None) -> AsyncIterator[list[Entry]]:
    """Yield the entries of the table or of one *segment*, behind *after*, in the server's order."""
    part = {} if segment is None else {"Segment": segment.number, "TotalSegments": segment.total}
    position, bound = after, None
    while True:
        given = {} if position is None else {"ExclusiveStartKey": item_key(*position)}
        body = await read("scan", Limit=PAGE_SIZE, ConsistentRead=True, **part, **given)
        found = [entry_of(item) for item in body.get("Items", ())]
        last = body.get("LastEvaluatedKey")
        page = [one for one in found if not _is_behind(one, bound)]
        if last is not None:
            position = last["collection"]["S"], last["key"]["S"]
            if len(page) < len(found) and _is_behind(found[-1], bound):
                # Nothing but newcomers follows in this collection.
                position = position[0], LAST_KEY
            if bound is None or bound[0] != position[0]:
                bound = position[0], await highest(read, position[0]) or ""
        if page:
            yield page
        if last is None:
            return


def _is_behind(entry: Entry, bound: Names | None) -> bool:
    """Whether *entry* was put behind the end of its collection after that was asked for."""
    return bound is not None and entry.locator.collection == bound[0] and entry.locator.key > bound[1]


async def entries_in(read: Read, part: Range, after: Names | None) -> AsyncIterator[list[Entry]]:
    """Yield the entries in *part* behind *after*, page by page, collection by collection."""
    start = after or part.lower
    for collection in sorted([name async for name in _collections(read) if part.may_have(name)]):
        if start is not None and collection < start[0]:
            continue
        lower = start[1] if start is not None and collection == start[0] else None
        upper = part.upper[1] if part.upper is not None and collection == part.upper[0] else None
        async for page in _pages(read, collection, lower, upper):
            yield page


async def _collections(read: Read) -> AsyncIterator[str]:
    position: Names | None = None
    while True:
        given = {} if position is None else {"ExclusiveStartKey": item_key(*position)}
        body = await read("scan", Limit=1, ConsistentRead=True, **_NAMES, **given)
        found = body.get("Items", ())
        if not found:
            return
        yield found[0]["collection"]["S"]
        position = found[0]["collection"]["S"], LAST_KEY


async def _pages(
    read: Read, collection: str, lower: str | None, upper: str | None
) -> AsyncIterator[list[Entry]]:
    """Yield the entries of *collection* behind *lower* and up to *upper*, or to what is the last key now."""
    if upper is None:
        upper = await highest(read, collection)
    if upper is None or (lower is not None and lower >= upper):
        return
    position = None if lower is None else item_key(collection, lower)
    while True:
        given = {} if position is None else {"ExclusiveStartKey": position}
        body = await read(
            "query",
            Limit=PAGE_SIZE,
            ConsistentRead=True,
            KeyConditionExpression="#c = :c AND #k <= :k",
            ExpressionAttributeNames=_NAMES["ExpressionAttributeNames"],
            ExpressionAttributeValues={":c": {"S": collection}, ":k": {"S": upper}},
            **given,
        )
        yield [entry_of(item) for item in body.get("Items", ())]
        position = body.get("LastEvaluatedKey")
        if position is None:
            return


async def highest(read: Read, collection: str) -> str | None:
    """Return the highest key of *collection* now; `None` where it has none."""
    body = await read(
        "query",
        Limit=1,
        ConsistentRead=True,
        ScanIndexForward=False,
        KeyConditionExpression="#c = :c",
        ExpressionAttributeValues={":c": {"S": collection}},
        **_NAMES,
    )
    found = body.get("Items", ())
    return found[0]["key"]["S"] if found else None
