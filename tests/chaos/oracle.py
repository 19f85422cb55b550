"""
What has to be there at the end: every acknowledged write, or a later one of the same key by its writer.

What the store itself lost, in a failover, is told apart: there an older value may be read, or none, but what is
there has to open.  A loss that the vault's health had announced when the write was acknowledged is counted apart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.chaos.journal import COLLECTION, is_delete, value_of

if TYPE_CHECKING:
    from tests.chaos.journal import Record

    from kvseal import EnvelopeEncryptionWrapper

HEALTHY = frozenset({"ok", "rotation due"})


@dataclass
class Verdict:
    """What was found at the end of a round."""

    read: int = 0
    lost: list[str] = field(default_factory=list)
    """Acknowledged, and gone without a word."""
    announced: list[str] = field(default_factory=list)
    """Acknowledged, and gone, by a writer whose health said that its vault was not well."""
    by_store: Counter[str] = field(default_factory=Counter)
    """What the store itself lost, by what is read in its place."""


async def judge(kv: EnvelopeEncryptionWrapper, record: Record, excused: dict[str, int]) -> Verdict:
    """Read every key by *kv*, and compare; *excused* are keys with the last write that the store may have lost."""
    verdict = Verdict()
    for key, acked in sorted(record.acked.items()):
        try:
            value = await kv.get(key, collection=COLLECTION)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the value cannot be read
            _lose(verdict, record, f"{key}: write {acked} cannot be read: {type(exc).__name__}: {exc}")
            continue
        verdict.read += 1
        wrong = wrong_with(key, value, acked, record.tried[key])
        if wrong and excused.get(key, -1) >= acked and not is_foreign(key, value):
            verdict.by_store["missing" if value is None else "older"] += 1
        elif wrong:
            _lose(verdict, record, f"{key}: {wrong}")
    for key, acked, found in record.older:
        if key not in excused:
            _lose(verdict, record, f"{key}: its own writer read {found} after write {acked}")
    return verdict


def wrong_with(key: str, value: dict[str, Any] | None, acked: int, tried: int) -> str:
    """Return what is wrong where *value* is read after write *acked*, the last of *tried* being unknown; or nothing."""
    if value is None:
        may_be_gone = any(is_delete(n) for n in range(acked, tried + 1))
        return "" if may_be_gone else f"write {acked} is missing"
    if is_foreign(key, value):
        return "what is there was never written"
    if value["n"] < acked:
        return f"write {acked} is gone, and write {value['n']} is there again"
    return "" if value["n"] <= tried else f"write {value['n']} was never tried"


def is_foreign(key: str, value: dict[str, Any] | None) -> bool:
    """Whether no writer ever wrote *value*."""
    return value is not None and value != value_of(key, value.get("n", -1))


def _lose(verdict: Verdict, record: Record, what: str) -> None:
    health = record.health.get(what.partition(":")[0], "ok")
    (verdict.lost if health in HEALTHY else verdict.announced).append(f"{what} (health was {health})")
