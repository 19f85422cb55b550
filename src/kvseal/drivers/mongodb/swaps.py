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
    """Do *swaps*, each once and in order where two are of one document, and wait *seconds* for a majority."""
    done, confirmed = [False] * len(swaps), True
    for numbers in _rounds(swaps):
        few = [swaps[number] for number in numbers]
        name = few[0].place.collection
        operations = [UpdateOne(swap.unchanged, swap.update) for swap in few]
        sent = collections.write(name, operations, seconds)
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


def _rounds(swaps: Sequence[Swap]) -> list[list[int]]:
    """Return the numbers of *swaps* in batches: each of one collection, and without a document twice."""
    rounds: dict[tuple[int, str], list[int]] = {}
    seen: dict[Place, int] = {}
    for number, swap in enumerate(swaps):
        turn = seen[swap.place] = seen.get(swap.place, -1) + 1
        rounds.setdefault((turn, swap.place.collection), []).append(number)
    return [rounds[one] for one in sorted(rounds)]
