"""Decide what to do with one entry, from its bytes and the plan alone, without I/O and in any thread."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any

from kvseal import clock, expiry
from kvseal.drivers.base import KEEP, failure_of
from kvseal.envelope.stored import is_sealed
from kvseal.errors import RecordError, UnknownDEKError, UnsealableValueError
from kvseal.observe.events import Failure
from kvseal.recoding.formats import UNDECODABLE, located, opened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kvseal.drivers.base import Entry, _Keep
    from kvseal.recoding.formats import Source
    from kvseal.recoding.plan import Plan
    from kvseal.vault.inside_names import Leads


class Leave(Enum):
    """The reason why an entry is not changed."""

    ALREADY = "already"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Change:
    """Write *value* in place of *entry*."""

    entry: Entry
    value: Mapping[str, Any] = field(repr=False)
    expires_at: datetime | _Keep | None = KEEP


Decision = Change | Leave | Failure


def classify(entry: Entry, sources: Sequence[Source]) -> Source | None:
    """
    Return the first source that recognises *entry*, or `None` if it is unreadable or unknown.

    A sealed record says what it is, wherever it is; anything else needs a collection.
    """
    if entry.value is None or (entry.collection is None and not is_sealed(entry.value)):
        return None
    for source in sources:
        if source.recognises(entry.value):
            return source
    return None


def format_of(source: Source | None) -> str:
    """Return the name of the format under which a classified entry is counted."""
    return UNDECODABLE if source is None else source.format


def decide(entry: Entry, plan: Plan, leads: Leads) -> Decision:
    """Decide for an entry that is recoded in place."""
    source = classify(entry, plan.known)
    return Leave.ALREADY if _is_done(entry, source, plan) else _recoded(entry, source, plan, leads)


def decide_copy(entry: Entry, plan: Plan, leads: Leads) -> Decision:
    """Decide for an entry that is copied to another store; sealed entries are copied too."""
    return _recoded(entry, classify(entry, plan.known), plan, leads)


def is_done(entry: Entry, plan: Plan) -> bool:
    """Whether *entry* is done, judged by its header; the verify pass finds out whether it opens."""
    return _is_done(entry, classify(entry, plan.known), plan)


def is_pending(entry: Entry, plan: Plan) -> bool:
    """Whether *plan* has not recoded *entry*, or could not."""
    source = classify(entry, plan.known)
    return source in plan.sources and not _is_done(entry, source, plan)


def _is_done(entry: Entry, source: Source | None, plan: Plan) -> bool:
    if source is not plan.target:
        return False
    # A migration does not change records of older DEKs; a re-encryption does.
    return plan.target not in plan.sources or plan.target.is_current(entry.value or {})


def _recoded(entry: Entry, source: Source | None, plan: Plan, leads: Leads) -> Decision:
    if source is None:
        return failure_of(entry, entry.problem or "this run does not handle its format")
    if source in plan.leaves:
        return Leave.SKIPPED
    try:
        found = located(source, entry, leads)
        value, expires_at = opened(source, found)
        named = _named(found, source, value, leads)
        if not plan.target.keeps_expiry and expires_at is not None:
            return _bare(named, value, expires_at, plan)
        return Change(named, plan.target.seal(value, named, expires_at))
    except (RecordError, UnsealableValueError) as exc:
        failure = failure_of(entry, f"{type(exc).__name__}: {exc.message}")
        return replace(failure, unknown_dek=isinstance(exc, UnknownDEKError))


def _bare(entry: Entry, value: Mapping[str, Any], expires_at: int, plan: Plan) -> Decision:
    """Move a sealed expiry to the backend; a record that has expired by it stays expired."""
    if expires_at <= clock.wall_ms():
        return Leave.SKIPPED
    sealed = plan.target.seal(value, entry, expires_at)
    if entry.expires_at is not None and expiry.milliseconds(entry.expires_at) <= expires_at:
        return Change(entry, sealed)
    return Change(entry, sealed, datetime.fromtimestamp(expires_at / 1000, timezone.utc))


def _named(entry: Entry, source: Source, value: Mapping[str, Any], leads: Leads) -> Entry:
    """Return *entry* with its key; if the store does not keep keys, with the key that its value proves."""
    if entry.key is not None or entry.collection is None:
        return entry
    for key in source.key_candidates(entry.collection, value):
        if leads(entry, entry.collection, key):
            return replace(entry, key=key)
    msg = "the store does not keep its key, and nothing in its value proves one"
    raise RecordError(msg)
