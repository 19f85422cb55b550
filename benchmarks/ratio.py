"""A ratio of many rounds, what it has to be, and how often it is measured before it fails."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

ATTEMPTS: Final = 3
"""A comparison that fails is repeated: a neighbour's load passes, a regression stays."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of one ratio over all rounds, and where its middle half lies."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Iterable[float]) -> Ratio:
        """Summarise the ratios of all rounds."""
        low, middle, high = quantiles(ratios, n=4)
        return cls(median=middle, low=low, high=high)

    def rounded(self, digits: int = 3) -> dict[str, float]:
        """Return what is written into the results."""
        return {part: round(number, digits) for part, number in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Goal:
    """
    What the ratio *name* has to reach; with *at_most*, what it must not exceed.

    A goal that is out of reach for now keeps its *factor*, and has a *guard* beside it: what was
    reached, below which no change may fall.
    """

    name: str
    factor: float
    guard: float | None = None
    at_most: bool = False

    @property
    def bound(self) -> float:
        """What is held: the guard where there is one, else the goal itself."""
        return self.factor if self.guard is None else self.guard

    @property
    def text(self) -> str:
        """The goal and its guard, for people."""
        sign = "<=" if self.at_most else ">="
        guard = "" if self.guard is None else f", guarded at {self.guard:g}"
        return f"{sign} {self.factor:g}{guard}"

    def is_met(self, ratio: float, tolerance: float) -> bool:
        """Whether *ratio* is within *tolerance* of the bound."""
        if self.at_most:
            return ratio <= self.bound * (1 + tolerance)
        return ratio >= self.bound * (1 - tolerance)

    def shortfall(self, ratio: Ratio, tolerance: float) -> list[str]:
        """Return nothing where the bound is kept, else what to tell people: ratio, goal and spread."""
        if self.is_met(ratio.median, tolerance):
            return []
        spread = f"middle half {ratio.low:.2f} to {ratio.high:.2f}"
        return [f"{self.name}: {ratio.median:.2f}, {spread}; goal {self.text}, tolerance {tolerance:.0%}"]


def judge(measure: Callable[[], T], failures_of: Callable[[T], list[str]]) -> tuple[T, list[str]]:
    """Measure until nothing fails or no attempt is left; return the last figures and what still fails."""
    figures = measure()
    for _ in range(ATTEMPTS - 1):
        if not failures_of(figures):
            break
        figures = measure()
    return figures, failures_of(figures)
