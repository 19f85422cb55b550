"""
A plan: everything that happens in one run, as data: to be printed, made smaller, and kept.

A seed belongs to one version of the generator, see `drawing`, so what is kept of a loss is its plan.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = 3600.0
HOURS = 8
OPS = ("ops1", "ops2")
OLD_APP = "old1"
IDLE_APP = "idle1"
"""Writes seldom: what it believes of the vault is as old as it may be."""


@dataclass(frozen=True)
class Event:
    """At *at* seconds, *who* does *what*: an application, an operator's host, or the world."""

    at: float
    who: str
    what: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """One run: whose clocks are wrong, what the wire is like, and what happens when."""

    seed: int
    skews: dict[str, float]
    drifts: dict[str, float]
    weather: dict[str, float]
    legacy: bool
    """Begins as a store of Fernet records, with an application that still writes them."""
    foreign: bool
    """One entry is of a program that nobody knows."""
    race: bool
    """There is no vault yet: the applications make it."""
    doubled: bool
    """Values are sealed twice: a wrapper over a wrapped store."""
    events: tuple[Event, ...]

    def as_json(self) -> str:
        events = [json.dumps(asdict(event), sort_keys=True) for event in self.events]
        rest = {name: value for name, value in asdict(self).items() if name != "events"}
        head = json.dumps(rest, sort_keys=True)[1:-1]
        return f'{{{head}, "events": [\n  ' + ",\n  ".join(events) + "\n]}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        fields = json.loads(text)
        return cls(**{**fields, "events": tuple(Event(**event) for event in fields["events"])})


def smaller(plan: Plan, still: Callable[[Plan], bool], *, tries: int = 400) -> tuple[Plan, int]:
    """Leave out what *still* shows it without: events in halves, then one by one, then wrong clocks."""
    used, chunk = 0, max(1, len(plan.events) // 2)
    while used < tries:
        start, changed = 0, False
        while start < len(plan.events) and used < tries:
            less = replace(plan, events=plan.events[:start] + plan.events[start + chunk :])
            used += 1
            if still(less):
                plan, changed = less, True
            else:
                start += chunk
        if chunk == 1 and not changed:
            break
        chunk = max(1, chunk // 2)
    for calmer in _calmer(plan):
        used += 1
        less = replace(plan, **calmer)
        if still(less):
            plan = less
    return _calm_clocks(plan, still, used)


def _calmer(plan: Plan) -> list[dict[str, Any]]:
    return [
        {"weather": {}},
        {"drifts": {}},
        {"race": False},
        {"doubled": False},
        {"legacy": False, "foreign": False},
        {"foreign": False},
    ]


def _calm_clocks(plan: Plan, still: Callable[[Plan], bool], used: int) -> tuple[Plan, int]:
    for host in plan.skews:
        used += 1
        calm = replace(plan, skews={name: skew for name, skew in plan.skews.items() if name != host})
        plan = calm if still(calm) else plan
    return plan, used
