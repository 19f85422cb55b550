"""
Compare-and-swap on DynamoDB: 25 at a time by PartiQL, or one by one.

`BatchExecuteStatement` decides each of its statements by itself: one that finds another item, or that is
throttled, does not hold up the others.  It takes no key twice, so a second change of an entry goes
into a later call.  PartiQL needs a permission of its own (`dynamodb:PartiQLUpdate`); without it, or on a
server that has no PartiQL, each change is an `UpdateItem`.

botocore repeats a request whose answer was lost, and what was done then is found changed: by this very call.
So after a repetition the item is looked at: it comes back with a failed condition, or is read.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kvseal.concurrency import in_thread
from kvseal.drivers.aws import FORBIDDEN, THROTTLED, refusal
from kvseal.drivers.base import KEEP
from kvseal.drivers.dynamodb.items import new_body, ttl_of
from kvseal.errors import EntryTooLargeError, StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping, Sequence
    from datetime import datetime

    from kvseal.drivers.aws import Answer, AwsClient
    from kvseal.drivers.base import Replacement
    from kvseal.drivers.dynamodb.items import Place

STATEMENTS: Final = 25
"""What one `BatchExecuteStatement` takes."""
_BATCH_BYTES: Final = 4 * 2**20
_AT_ONCE: Final = 5
"""Requests under way of one `replace_many`."""
_TRIES: Final = 10
"""Of a statement that is throttled."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
CONDITION_FAILED: Final = frozenset({"ConditionalCheckFailed", "ConditionalCheckFailedException"})
_INVALID: Final = frozenset({"ValidationError", "ValidationException"})
_NO_PARTIQL: Final = FORBIDDEN | {"UnknownOperationException"}
_UNDECIDED: Final = "InternalServerError"


class NoPartiQLError(Exception):
    """This process may not use PartiQL, or the server has none."""


@dataclass(frozen=True, slots=True)
class Swap:
    """One change: *new* for *old*, with the attribute `ttl` kept, set, or removed."""

    place: Place
    old: str = field(repr=False)
    new: str = field(repr=False)
    sets_ttl: str | None = None
    removes_ttl: bool = False

    @classmethod
    def of(cls, replacement: Replacement) -> Swap:
        """Return the change that *replacement* asks for; raises `EntryTooLargeError` if it would not fit."""
        entry, expires_at = replacement.entry, replacement.expires_at
        new = new_body(replacement)
        changes = expires_at is not KEEP
        return cls(
            entry.locator,
            entry.stored.decode("utf-8", "surrogatepass"),
            new,
            sets_ttl=_ttl(expires_at) if changes and expires_at is not None else None,
            removes_ttl=expires_at is None and entry.locator.ttl is not None,
        )

    @property
    def size(self) -> int:
        """How much of a request it is."""
        return len(self.old) + len(self.new)

    def statement(self, table: str) -> dict[str, Any]:
        """Return it in PartiQL."""
        change = ' SET "ttl"=?' if self.sets_ttl is not None else ' REMOVE "ttl"' * self.removes_ttl
        same = '"ttl" IS MISSING' if self.place.ttl is None else '"ttl"=?'
        where = f'"collection"=? AND "key"=? AND "value"=? AND {same}'
        # The name of the table is checked, and all else is a parameter.
        text = f'UPDATE "{table}" SET "value"=?{change} WHERE {where}'  # noqa: S608
        parameters = [
            {"S": self.new},
            *([] if self.sets_ttl is None else [{"N": self.sets_ttl}]),
            *self.place.item_key.values(),
            {"S": self.old},
            *([] if self.place.ttl is None else [self.place.ttl]),
        ]
        return {
            "Statement": text,
            "Parameters": parameters,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def update(self) -> dict[str, Any]:
        """Return the arguments of `UpdateItem`."""
        condition, names, values = condition_of(self.place, self.old)
        expression = "SET #v = :n"
        values[":n"] = {"S": self.new}
        if self.sets_ttl is not None:
            expression += ", #t = :x"
            values[":x"] = {"N": self.sets_ttl}
        elif self.removes_ttl:
            expression += " REMOVE #t"
        return {
            "Key": self.place.item_key,
            "UpdateExpression": expression,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def was_done(self, held: Mapping[str, Any] | None) -> bool:
        """Whether *held*, the item that is there, is what this writes."""
        return held is not None and held.get("value", {}).get("S") == self.new


def _ttl(expires_at: Any) -> str:
    moment: datetime = expires_at
    return ttl_of(moment)


def condition_of(place: Place, stored: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Return the condition that an item is still what was read, with its names and values."""
    names, values = {"#v": "value", "#t": "ttl"}, {":o": {"S": stored}}
    if place.ttl is None:
        return "#v = :o AND attribute_not_exists(#t)", names, values
    return "#v = :o AND #t = :t", names, {**values, ":t": place.ttl}


class Swapper:
    """Does changes on the table *table*, in batches for as long as the server lets it."""

    def __init__(self, client: AwsClient, table: str, location: str) -> None:
        self._client = client
        self._table = table
        self._location = location
        self._has_partiql = True

    async def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        """Do *swaps*, and say for each whether it was done."""
        done = [False] * len(swaps)
        for numbers in _without_repeats(swaps):
            few = [swaps[number] for number in numbers]
            for number, one in zip(numbers, await self._distinct(few), strict=True):
                done[number] = one
        return done

    async def _distinct(self, swaps: Sequence[Swap]) -> list[bool]:
        if len(swaps) > 1 and self._has_partiql:
            try:
                return await _gathered([self._batch(batch) for batch in _batches(swaps)])
            except NoPartiQLError:
                self._has_partiql = False
        return await _gathered([self._single(swap) for swap in swaps])

    async def _single(self, swap: Swap) -> list[bool]:
        expects = CONDITION_FAILED | _INVALID
        answer = await in_thread(
            self._client.ask, "update_item", expects=expects, TableName=self._table, **swap.update()
        )
        if answer.code in _INVALID:
            raise self._invalid(answer.body, "update_item")
        return [not answer.code or (answer.was_repeated and swap.was_done(answer.body.get("Item")))]

    async def _batch(self, swaps: Sequence[Swap]) -> list[bool]:
        """Do *swaps* in one call, and those that are throttled in further ones."""
        done, left, doubted = [False] * len(swaps), list(range(len(swaps))), set[int]()
        for attempt in range(_TRIES):
            answer = await in_thread(self._ask, [swaps[number] for number in left])
            again = []
            for number, response in zip(left, answer.body["Responses"], strict=True):
                repeated = answer.was_repeated or number in doubted
                code = response.get("Error", {}).get("Code", "")
                if code in THROTTLED or code == _UNDECIDED:
                    again.append(number)
                    doubted |= {number} if code == _UNDECIDED else set()
                else:
                    done[number] = await self._outcome(swaps[number], response, repeated=repeated)
            if not again:
                return done
            left = again
            await asyncio.sleep(random.random() * min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))  # noqa: S311 - spreads requests
        msg = f"{self._location}: {len(left)} changes were throttled {_TRIES} times"
        raise StoreUnreachableError(msg, hint="raise the table's capacity, or run again with --rate")

    def _ask(self, swaps: Sequence[Swap]) -> Answer:
        statements = [swap.statement(self._table) for swap in swaps]
        answer = self._client.ask("batch_execute_statement", expects=_NO_PARTIQL, Statements=statements)
        if answer.code:
            raise NoPartiQLError
        return answer

    async def _outcome(self, swap: Swap, response: Mapping[str, Any], *, repeated: bool) -> bool:
        error = response.get("Error")
        if error is None:
            return True
        if error["Code"] in CONDITION_FAILED:
            return repeated and swap.was_done(error.get("Item") or await self._held(swap))
        if error["Code"] in _NO_PARTIQL:
            raise NoPartiQLError
        raise self._invalid(response, "batch_execute_statement")

    async def _held(self, swap: Swap) -> Mapping[str, Any] | None:
        """Return the item that is there: DynamoDB Local does not return it with a failed statement."""
        names: dict[str, Any] = {"TableName": self._table, "Key": swap.place.item_key, "ConsistentRead": True}
        item: Mapping[str, Any] | None = (await in_thread(self._client.ask, "get_item", **names)).body.get(
            "Item"
        )
        return item

    def _invalid(self, response: Mapping[str, Any], operation: str) -> Exception:
        """Return what it means that the server cannot do a change."""
        if "size" in str(response.get("Error", {}).get("Message", "")).lower():
            msg = f"{self._location}: the item would be larger than DynamoDB can hold"
            return EntryTooLargeError(msg, hint="it has attributes that the store does not know")
        return refusal(response, operation, self._location)


async def _gathered(work: Sequence[Awaitable[list[bool]]]) -> list[bool]:
    """Return the results in order, a few at a time; an error is raised once nothing is under way."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(awaitable: Awaitable[list[bool]]) -> list[bool]:
        async with slots:
            return await awaitable

    results = await asyncio.gather(*map(one, work), return_exceptions=True)
    done: list[bool] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done += result
    return done


def _batches(swaps: Sequence[Swap]) -> Iterator[Sequence[Swap]]:
    """Yield *swaps* in calls of a size that the service takes."""
    batch: list[Swap] = []
    size = 0
    for swap in swaps:
        if batch and (len(batch) == STATEMENTS or size + swap.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(swap)
        size += swap.size
    if batch:
        yield batch


def _without_repeats(swaps: Sequence[Swap]) -> list[list[int]]:
    """Return the numbers of *swaps* in rounds in which no item comes twice."""
    rounds: list[list[int]] = []
    seen: dict[tuple[str, str], int] = {}
    for number, swap in enumerate(swaps):
        names = (swap.place.collection, swap.place.key)
        turn = seen[names] = seen.get(names, -1) + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(number)
    return rounds
