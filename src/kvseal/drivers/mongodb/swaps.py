"""
Replacements as compare-and-swaps of MongoDB.

Of a batch MongoDB says how many documents it found unchanged.  If that is all of them, all is said; if not,
all are read back, and what holds the new value was swapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymongo import UpdateOne

from kvseal.drivers.mongodb.collections import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.drivers.mongodb.collections import Collections
    from kvseal.drivers.mongodb.documents import Place, Swap


def swap_all(collections: Collections, swaps: Sequence[Swap], seconds: float) -> Outcome:
    """
    Do *swaps*, and wait *seconds* until a majority has them.

    Of several swaps of one document the first is done: after it, the others find it changed.
    """
    done, confirmed = [False] * len(swaps), True
    for name, numbers in _by_collection(swaps).items():
        few = [swaps[number] for number in numbers]
        sent = collections.write(name, [UpdateOne(swap.unchanged, swap.update) for swap in few], seconds)
        confirmed = confirmed and sent.confirmed
        if sent.done == len(few):
            found = [True] * len(few)
        elif len(few) == 1:
            found = [False]
        else:
            documents = collections.of_ids(name, [swap.place.id for swap in few])
            found = [swap.is_done(documents.get(swap.place.id)) for swap in few]
        for number, is_done in zip(numbers, found, strict=True):
            done[number] = is_done
    return Outcome(done, confirmed)


def _by_collection(swaps: Sequence[Swap]) -> dict[str, list[int]]:
    """Return the numbers of the first swaps of each document."""
    numbers: dict[str, list[int]] = {}
    seen: set[Place] = set()
    for number, swap in enumerate(swaps):
        if swap.place not in seen:
            seen.add(swap.place)
            numbers.setdefault(swap.place.collection, []).append(number)
    return numbers
