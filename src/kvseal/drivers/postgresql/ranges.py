"""Ranges of names, in the order of the primary key: how a table is split, as text for a checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    NameRange: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
    """The names behind which it begins and those with which it ends; empty where it is open."""


def ranges(edges: Sequence[Sequence[str]]) -> list[str]:
    """Return the ranges between *edges*, each a collection and a key; the first and the last are open."""
    pairs = zip([None, *edges], [*edges, None], strict=True)
    return [json.dumps(pair) for pair in pairs]


def range_of(bounds: str) -> NameRange | None:
    """Return the range that `ranges` wrote; `None` for anything else."""
    try:
        lower, upper = json.loads(bounds)
        pair = tuple(lower or ()), tuple(upper or ())
    except (ValueError, TypeError):
        return None
    is_range = all(len(names) in {0, 2} and all(isinstance(n, str) for n in names) for names in pair)
    return pair if is_range else None
