"""
The checkpoint: the progress of a recode, in one entry beside the vault meta, sealed like a record.

A checkpoint is a hint.  With it a run skips the pages that an earlier run has finished, and it
carries the leases that keep two runs from doing the same work.  Only the header of a record decides
whether the record is done.  The vault seals the checkpoint, so a forged one is ignored.

    {"plan": hex, "command": "…", "started_at": ms, "prepared": false,
     "parts": [{"holder": {…} | null, "until": ms, "cursor": "…" | null, "done": false,
                "tally": {"scanned": n, …}}, …]}
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock, exact_json
from kvseal.drivers.base import Entry, Replacement
from kvseal.errors import RecordError, UnknownDEKError
from kvseal.expiry import LAST
from kvseal.keys.meta import META_COLLECTION
from kvseal.recoding.progress.lease_holder import LeaseHolder
from kvseal.recoding.report import Tally

if TYPE_CHECKING:
    from kvseal.drivers.base import Driver
    from kvseal.vault.vault import Vault

KEY: Final = "__recode__"
CONTEXT: Final = "kvseal/recode"
MAX_PARTS: Final = 1024
LONGEST: Final = 5 * 60 * 1000
"""The latest end of a lease, in milliseconds from now; it includes a small difference between clocks."""


@dataclass(frozen=True, slots=True)
class Part:
    """One partition: its holder, the end of the lease (Unix milliseconds), and its progress."""

    holder: LeaseHolder | None = None
    until: int = 0
    cursor: str | None = None
    done: bool = False
    tally: Tally = field(default_factory=Tally)

    def is_free(self, now: int) -> bool:
        """Whether no run works on it."""
        # A lease that ends later than a lease can was written with a wrong clock.
        return self.holder is None or not now < self.until <= now + LONGEST or self.holder.is_gone()

    def as_json(self) -> dict[str, Any]:
        """Return the part as the checkpoint stores it."""
        return {
            "holder": None if self.holder is None else self.holder.as_json(),
            "until": self.until,
            "cursor": self.cursor,
            "done": self.done,
            "tally": self.tally.as_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Part:
        """Read what `as_json` wrote."""
        holder = None if value["holder"] is None else LeaseHolder.from_json(value["holder"])
        tally = Tally.from_json(value["tally"])
        return cls(holder, _milliseconds(value["until"]), value["cursor"], bool(value["done"]), tally)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An unfinished recode; *plan* identifies what it does, and to which store."""

    plan: str
    command: str
    started_at: int
    parts: tuple[Part, ...]
    prepared: bool = False
    """Whether the steps before the first write, such as a backup, are done."""

    @property
    def is_done(self) -> bool:
        """Whether every part is finished."""
        return all(part.done for part in self.parts)

    def holders(self, now: int) -> tuple[LeaseHolder, ...]:
        """Return the holders of its current leases."""
        return tuple(p.holder for p in self.parts if p.holder is not None and not p.is_free(now))

    def with_part(self, index: int, part: Part) -> Checkpoint:
        """Return a copy with *part* at *index*."""
        return replace(self, parts=(*self.parts[:index], part, *self.parts[index + 1 :]))

    def as_json(self) -> dict[str, Any]:
        """Return the value to seal."""
        return {
            "plan": self.plan,
            "command": self.command,
            "started_at": self.started_at,
            "prepared": self.prepared,
            "parts": [part.as_json() for part in self.parts],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Checkpoint:
        """Read what `as_json` wrote; raises `KeyError` or `TypeError` for anything else."""
        parts = tuple(Part.from_json(part) for part in value["parts"])
        started_at, prepared = _milliseconds(value["started_at"]), value.get("prepared") is True
        return cls(value["plan"], value["command"], started_at, parts, prepared)


def _milliseconds(value: object) -> int:
    """Return *value* if it is a time that a clock can show; raises `TypeError` otherwise."""
    if type(value) is not int or not 0 <= value <= LAST:
        msg = "not a time"
        raise TypeError(msg)
    return value


def plan_id(*facts: str | None) -> str:
    """Return the id of a plan: a run with the same *facts* resumes where an earlier one stopped."""
    return sha256(exact_json.dumps({"facts": list(facts)})[0]).hexdigest()[:32]


class CheckpointStore:
    """The one checkpoint of a vault, beside its meta."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._driver: Driver = vault.metastore.driver

    async def load(self) -> tuple[Entry | None, Checkpoint | None]:
        """Return the stored entry, and the checkpoint in it, or `None` if it does not open."""
        entry = await self._driver.get(META_COLLECTION, KEY)
        if entry is None or entry.value is None:
            return entry, None
        try:
            value = await self._open(entry)
            return entry, Checkpoint.from_json(value)
        except (RecordError, KeyError, TypeError, ValueError):
            return entry, None

    async def swap(self, entry: Entry | None, checkpoint: Checkpoint) -> bool:
        """Store *checkpoint* if the store still holds *entry*."""
        sealed = self._vault.codecs[CONTEXT].seal_json(checkpoint.as_json(), META_COLLECTION, KEY)
        if entry is None:
            now = clock.utc_now()
            return await self._driver.put_if_absent(Entry(META_COLLECTION, KEY, sealed, created_at=now))
        (done,) = await self._driver.replace_many([Replacement(entry, sealed)])
        return done

    async def drop(self, entry: Entry) -> bool:
        """Delete *entry* if the store still holds it."""
        return await self._driver.delete_if_unchanged(entry)

    async def _open(self, entry: Entry) -> dict[str, Any]:
        stored = entry.value or {}
        try:
            return self._vault.codecs[CONTEXT].open(stored, META_COLLECTION, KEY)[0]
        except UnknownDEKError:
            await self._vault.refresh()
            return self._vault.codecs[CONTEXT].open(stored, META_COLLECTION, KEY)[0]


async def open_recode(vault: Vault) -> Checkpoint | None:
    """Return the unfinished recode of *vault*, or `None`."""
    return (await CheckpointStore(vault).load())[1]
