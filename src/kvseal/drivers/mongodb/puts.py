"""
New documents, each under an `_id` that is made of its key: of any number of drivers one inserts it.

A store object makes its own `_id`s, so it and a driver can insert two documents of one key at the same
moment.  Therefore the driver looks again when it has inserted, and takes its document away if there is
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pymongo import InsertOne, UpdateOne

from kvseal.drivers.base import has_expired
from kvseal.drivers.mongodb.collections import Outcome
from kvseal.drivers.mongodb.documents import content_of, expiry_of, unchanged
from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bson.raw_bson import RawBSONDocument

    from kvseal.drivers.mongodb.collections import Collections

_ATTEMPTS: Final = 10


class New(NamedTuple):
    """A document that is to be put, and the MongoDB collection for it."""

    collection: str
    document: RawBSONDocument

    @property
    def key(self) -> str:
        """Its key."""
        key: str = self.document["key"]
        return key


def put_all(collections: Collections, puts: Sequence[New], seconds: float) -> Outcome:
    """Put each of *puts* whose key has no live document, and wait *seconds* for a majority."""
    done, confirmed = [False] * len(puts), True
    for numbers in _groups(puts):
        few = [puts[number] for number in numbers]
        outcome = _put_group(collections, few, seconds)
        confirmed = confirmed and outcome.confirmed
        for number, is_done in zip(numbers, outcome.done, strict=True):
            done[number] = is_done
    return Outcome(done, confirmed)


def _groups(puts: Sequence[New]) -> list[list[int]]:
    """Return the numbers of *puts*, those of one collection together, and of one key only the first."""
    groups: dict[str, list[int]] = {}
    seen: set[tuple[str, str]] = set()
    for number, new in enumerate(puts):
        if (new.collection, new.key) not in seen:
            seen.add((new.collection, new.key))
            groups.setdefault(new.collection, []).append(number)
    return list(groups.values())


def _put_group(collections: Collections, puts: Sequence[New], seconds: float) -> Outcome:
    """Put *puts*, which are of one collection and of different keys."""
    name = puts[0].collection
    held = {document.get("key") for document in collections.of_keys(name, [new.key for new in puts])}
    absent = [number for number, new in enumerate(puts) if new.key not in held]
    done = [False] * len(puts)
    confirmed = True
    if absent:
        inserted = _insert(collections, [puts[number] for number in absent], seconds)
        confirmed = inserted.confirmed
        for number, is_done in zip(absent, inserted.done, strict=True):
            done[number] = is_done
    for number, new in enumerate(puts):
        if new.key in held:
            done[number], is_confirmed = _put_beside(collections, new, seconds)
            confirmed = confirmed and is_confirmed
    return Outcome(done, confirmed)


def _insert(collections: Collections, puts: Sequence[New], seconds: float) -> Outcome:
    """Insert *puts*, unless their `_id` is taken, and take back what the store has put at the same time."""
    name = puts[0].collection
    sent = collections.write(name, [InsertOne(new.document) for new in puts], seconds)
    done = [number not in sent.present for number in range(len(puts))]
    ours = {new.key: number for number, new in enumerate(puts) if done[number]}
    for key in collections.doubles(name, list(ours)) if ours else ():
        document = puts[ours[key]].document
        done[ours[key]] = not collections.delete(name, unchanged(document))
    return Outcome(done, sent.confirmed)


def _put_beside(collections: Collections, new: New, seconds: float) -> tuple[bool, bool]:
    """Put *new* if what is there has expired or is gone; return whether that is done and confirmed."""
    for _ in range(_ATTEMPTS):
        held = collections.of_key(new.collection, new.key)
        if not held:
            outcome = _insert(collections, [new], seconds)
            return outcome.done[0], outcome.confirmed
        if len(held) > 1 or not has_expired(expiry_of(held[0])):
            return False, True
        update = UpdateOne(unchanged(held[0]), content_of(new.document))
        sent = collections.write(new.collection, [update], seconds)
        if sent.done:
            return True, sent.confirmed
    msg = f"{collections.location}: other writers were faster {_ATTEMPTS} times"
    raise StoreUnreachableError(msg, hint="try again with fewer writers")
