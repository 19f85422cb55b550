"""
The driver of `DynamoDBStore`, beside any number of applications that use its table.

Its client is its own and works in kvseal's threads, so it may be used from any event loop.  It reads
consistently.  The store's own `get` does not, and may return what a write has replaced for a moment
(`Capabilities.reads_lag`).

* A part of a scan by `partition` reads the whole table and leaves out what is not its own; `split` makes
  parts that do not: see `kvseal.drivers.dynamodb.scanning`.
* `store_time` is the `Date` of an answer, to a second.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock
from kvseal.concurrency import in_thread
from kvseal.drivers.aws import FEW_ATTEMPTS, FORBIDDEN, AwsClient, Reach, shown, split_url
from kvseal.drivers.base import (
    Capabilities,
    Count,
    Page,
    is_in,
    refuse_problem,
    refuse_problems,
    void_bounds,
)
from kvseal.drivers.dynamodb import items
from kvseal.drivers.dynamodb.items import checked_names, entry_of, is_live, item_key, new_item
from kvseal.drivers.dynamodb.purge import purge_table
from kvseal.drivers.dynamodb.scanning import Segment, entries_in, part_of, split, table_pages
from kvseal.drivers.dynamodb.swaps import CONDITION_FAILED, Swap, Swapper, condition_of
from kvseal.drivers.dynamodb.table import (
    NOT_FOUND,
    check_table,
    checked_name,
    described,
    make_table,
    not_found,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from key_value.aio.stores.dynamodb import DynamoDBStore

    from kvseal.drivers.aws import Answer
    from kvseal.drivers.base import Entry, Purged, Replacement, StoreTime
    from kvseal.drivers.urls import StoreUrl

_KEEPS_SESSION: Final = version("py-key-value-aio").startswith("0.4.")
"""Until 0.5 a store was made of a session of aioboto3; since then of settings."""
READS_LAG: Final = 5.0
"""Seconds after which an eventually consistent read has what was written: usually well within one."""
_LIVE: Final = "attribute_not_exists(#t) OR #t > :now"


class DynamoDBDriver:
    """
    The items of the table *table*.

    With *auto_create* a table that does not exist is empty, and made by the first put, with *table_config*.
    """

    capabilities = Capabilities(atomic_replace=True, evicts=False, keeps_time=True, reads_lag=READS_LAG)

    def __init__(
        self,
        reach: Reach,
        table: str,
        *,
        auto_create: bool = False,
        table_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.location = shown("dynamodb", table, reach)
        self._table = checked_name(table)
        self._auto_create = auto_create
        self._table_config = table_config or {}
        self._client = AwsClient("dynamodb", reach, self.location)
        self._swapper = Swapper(self._client, self._table, self.location)

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries in the server's order, each page by one request; the cursor is names."""
        async for page in table_pages(self._read, _position(after), None):
            entries = [one for one in page if _is_of(one, partition) and (expired or is_live(one))]
            if entries:
                yield Page(entries, json.dumps(_place(page[-1])))

    async def split(self, parts: int) -> Sequence[str] | None:
        """Return ranges of names, or segments, with about as many items; this reads all names once."""
        return await split(self._read, parts)

    async def is_split_so(self, bounds: str) -> bool:
        """Whether *bounds* are those of a part; these hold for ever."""
        return part_of(bounds) is not None

    async def scan_within(
        self, bounds: str, *, after: str | None = None, expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries of one part, and read nothing of the others."""
        part, position = part_of(bounds), _position(after)
        if part is None:
            raise void_bounds(self.location)
        if isinstance(part, Segment):
            pages = table_pages(self._read, position, part)
        else:
            pages = entries_in(self._read, part, position)
        async for page in pages:
            entries = page if expired else [one for one in page if is_live(one)]
            if entries:
                yield Page(entries, json.dumps(_place(page[-1])))

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry as it is stored, with a `problem` where it cannot be read."""
        names = item_key(*checked_names(collection, key))
        item = (await self._read("get_item", Key=names, ConsistentRead=True)).get("Item")
        entry = None if item is None else entry_of(item)
        return entry if entry is not None and is_live(entry) else None

    async def put_if_absent(self, entry: Entry) -> bool:
        """Put the item, or overwrite an expired one; the table is made where the store would make it."""
        item = new_item(entry)
        condition = {
            "ConditionExpression": "attribute_not_exists(#k) OR #t <= :now",
            "ExpressionAttributeNames": {"#k": "key", "#t": "ttl"},
            "ExpressionAttributeValues": {":now": _now()},
        }
        while True:
            answer = await self._put(item, condition)
            held = answer.body.get("Item")
            if not answer.code or held is None:
                return not answer.code
            if answer.was_repeated and held == item:
                return True
            there = entry_of(held)
            if is_live(there):
                return False
            # It has expired by its body alone, which no condition can ask.
            text, names, values = condition_of(there.locator, there.stored.decode("utf-8", "surrogatepass"))
            condition = {
                "ConditionExpression": text,
                "ExpressionAttributeNames": names,
                "ExpressionAttributeValues": values,
            }

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Replace in batches, in which each is decided by itself; none is written if one does not fit."""
        refuse_problems(replacements)
        swaps = [Swap.of(replacement) for replacement in replacements]
        done = [False] * len(swaps)
        alive = [number for number, swap in enumerate(swaps) if not swap.place.is_dead]
        results = await self._swapper.swap([swaps[number] for number in alive])
        for number, one in zip(alive, results, strict=True):
            done[number] = one
        return done

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete the item if it is unchanged."""
        refuse_problem(entry)
        if entry.locator.is_dead:
            return False
        text, names, values = condition_of(entry.locator, entry.stored.decode("utf-8", "surrogatepass"))
        answer = await self._ask(
            "delete_item",
            expects=CONDITION_FAILED,
            Key=entry.locator.item_key,
            ConditionExpression=text,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
        # An attempt whose answer was lost has deleted it, and the next one found nothing.
        return not answer.code or (answer.was_repeated and answer.body.get("Item") is None)

    async def count(self) -> Count:
        """Count the live items, which reads the whole table."""
        total, position = 0, None
        while True:
            body = await self._read(
                "scan",
                Select="COUNT",
                ConsistentRead=True,
                FilterExpression=_LIVE,
                ExpressionAttributeNames={"#t": "ttl"},
                ExpressionAttributeValues={":now": _now()},
                **_behind("ExclusiveStartKey", position),
            )
            total += body.get("Count", 0)
            if "LastEvaluatedKey" not in body:
                return Count(total, exact=True)
            position = _names(body["LastEvaluatedKey"])

    async def store_time(self) -> StoreTime | None:
        """Return when an answer was given; a refusal has a time, too."""
        return (await in_thread(described, self._client, self._table, expects=FORBIDDEN)).time

    async def purge(self, *, dry_run: bool = False) -> Purged:  # noqa: ARG002 - nothing is changed anyway
        """Say which copies of overwritten values there are; the table itself keeps none."""
        return await in_thread(
            purge_table, self._client, self._table, self.location, auto_create=self._auto_create
        )

    def units_of_scan(self, entries: Sequence[Entry]) -> int:
        """Return the read units of a scan's page."""
        return items.units_of_scan(entries)

    def units_of_writes(self, replacements: Sequence[Replacement]) -> int:
        """Return the write units that *replacements* would take; one that loses takes as many."""
        return items.units_of_writes(replacements)

    async def close(self) -> None:
        """Close the driver's own connections; the store's stay open."""
        await in_thread(self._client.close)

    async def expect_table(self) -> None:
        """Raise `StoreError` unless the store's table is there; without a service, soon."""
        probe = AwsClient("dynamodb", self._client.reach, self.location, attempts=FEW_ATTEMPTS)
        try:
            await in_thread(check_table, probe, self._table, self.location)
        finally:
            await in_thread(probe.close)

    async def create_table(self) -> None:
        """Make the table as the store does, unless it is there."""
        await in_thread(make_table, self._client, self._table, self.location, self._table_config)

    async def _put(self, item: Mapping[str, Any], condition: Mapping[str, Any]) -> Answer:
        given = {"Item": item, **condition, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        answer = await self._ask("put_item", expects={*CONDITION_FAILED, NOT_FOUND}, **given)
        if answer.code == NOT_FOUND:
            if not self._auto_create:
                raise not_found(self.location, self._table)
            await self.create_table()
            answer = await self._ask("put_item", expects=CONDITION_FAILED, **given)
        return answer

    async def _read(self, operation: str, **given: Any) -> Mapping[str, Any]:
        """Return the answer; nothing if there is no table and the store has yet to make it."""
        answer = await self._ask(operation, expects={NOT_FOUND}, **given)
        if not answer.code:
            return answer.body
        if self._auto_create:
            return {}
        raise not_found(self.location, self._table)

    async def _ask(self, operation: str, **given: Any) -> Answer:
        return await in_thread(self._client.ask, operation, TableName=self._table, **given)


def for_store(store: DynamoDBStore) -> DynamoDBDriver:
    """
    Return the driver of a store, whether or not it is set up.

    Raises:
        UnsupportedStoreError: it was given a client that does not say where it connects.
    """
    return DynamoDBDriver(
        _reach_of(store),
        store._table_name,  # noqa: SLF001
        auto_create=store._auto_create,  # noqa: SLF001
        table_config=store._table_config,  # noqa: SLF001
    )


def _reach_of(store: Any) -> Reach:
    if store._client_provided_by_user:  # noqa: SLF001
        return Reach.of_client(store._client)  # noqa: SLF001
    if _KEEPS_SESSION:
        return Reach.of_session(store._session, store._endpoint_url)  # noqa: SLF001
    return Reach.of_settings(store._client_settings)  # noqa: SLF001


async def from_url(url: StoreUrl, *, create: bool) -> DynamoDBDriver:
    """
    Return the driver of the table that `//TABLE?region=…&endpoint=…` names.

    It exists, or with *create* is made now.  Region and endpoint may be left to the SDK's own chain, which
    has the credentials too.

    Raises:
        UnsupportedStoreError: that is not the URL of a table, or the table is something else's.
        StoreNotFoundError: without *create*, there is no such table.
        StoreUnreachableError: there is no service, or it does not let this process in.
    """
    table, reach, _ = split_url("dynamodb", url.location)
    driver = DynamoDBDriver(reach, table)
    try:
        if create:
            await driver.create_table()
        await driver.expect_table()
    except BaseException:
        await driver.close()
        raise
    return driver


def _now() -> dict[str, str]:
    return {"N": str(int(clock.wall()))}


def _position(after: str | None) -> tuple[str, str] | None:
    return None if after is None else tuple(json.loads(after))


def _behind(argument: str, position: tuple[str, str] | None) -> dict[str, Any]:
    return {} if position is None else {argument: item_key(*position)}


def _names(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["collection"]["S"], item["key"]["S"]


def _place(entry: Entry) -> tuple[str, str]:
    return entry.locator.collection, entry.locator.key


def _is_of(entry: Entry, partition: tuple[int, int]) -> bool:
    return is_in(partition, "\0".join(_place(entry)).encode())
