"""
The checkpoint: the progress of a recode, in entries beside the vault meta, each sealed like a record.

A checkpoint is a hint.  With it a run skips the pages that an earlier attempt has finished, and it
carries the leases that keep two processes from doing the same work.  Only the header of a record decides
whether the record is done.  The vault seals the checkpoint, so a forged one is ignored.

The head says what is done and in how many parts, and changes seldom.  Each part has an entry of its own,
which its holder alone writes: renewing a lease costs one small write, however many parts there are.

    __recode__      {"run": hex, "plan": hex, "command": "…", "started_at": ms, "count": n,
                     "prepared": false, "splits": ["…", …] | null, "surveyed": n | null, "done": false}
    __recode__0007  {"run": hex, "holder": {…} | null, "until": ms, "cursor": "…" | null, "done": false,
                     "marks": [hex, …], "tally": {"scanned": n, …}}

A part counts only if it names the run of the head.  What was left by the one entry for all parts that
kvseal wrote before its first release is no head, and is ignored like any other entry that is none.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kvseal import clock, exact_json
from kvseal.drivers.base import Entry, Replacement
from kvseal.errors import RecordError, UnknownDEKError
from kvseal.keys.meta import META_COLLECTION
from kvseal.recoding.progress.part import Part, milliseconds, text
from kvseal.recoding.report import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvseal.drivers.base import Driver
    from kvseal.recoding.progress.lease_holder import LeaseHolder
    from kvseal.vault.vault import Vault

T = TypeVar("T")

KEY: Final = "__recode__"
CONTEXT: Final = "kvseal/recode"
MAX_PARTS: Final = 1024
_RUN_SIZE: Final = 16
_LOOKS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Head:
    """What a run does, and in how many parts; *plan* identifies what it does, and to which store."""

    run: str
    """Drawn for each run, so that what another run has left is never taken for this one's."""
    plan: str
    command: str
    started_at: int
    count: int
    prepared: bool = False
    """Whether the steps before the first write, such as a backup, are done."""
    splits: tuple[str, ...] | None = None
    """What bounds the scan of each part; without, each reads all names and takes its own."""
    surveyed: int | None = None
    """How many entries the survey of this run has counted; `None` where none was made for all parts."""
    done: bool = False
    """Whether every part is done, so that the run is over."""

    @classmethod
    def new(
        cls,
        plan: str,
        command: str,
        count: int,
        *,
        started_at: int,
        prepared: bool,
        surveyed: int | None = None,
    ) -> Head:
        """Return the head of a run that begins, of a store that is not split."""
        run = os.urandom(_RUN_SIZE).hex()
        return cls(run, plan, command, started_at, count, prepared, surveyed=surveyed)

    def anew(self, *, started_at: int, splits: Sequence[str] | None) -> Head:
        """Return the head of another run that does the same."""
        run, bounds = os.urandom(_RUN_SIZE).hex(), None if splits is None else tuple(splits)
        return replace(self, run=run, started_at=started_at, splits=bounds, done=False)

    def goes_on_with(self, plan: str, count: int) -> bool:
        """Whether a run of *plan* in *count* parts is this one, rather than a new one."""
        return (self.plan, self.count, self.done) == (plan, count, False)

    def as_json(self) -> dict[str, Any]:
        """Return the value to seal."""
        return {
            "run": self.run,
            "plan": self.plan,
            "command": self.command,
            "started_at": self.started_at,
            "count": self.count,
            "prepared": self.prepared,
            "splits": None if self.splits is None else list(self.splits),
            "surveyed": self.surveyed,
            "done": self.done,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Head:
        """Read what `as_json` wrote; raises `KeyError` or `TypeError` for anything else."""
        count, surveyed = value["count"], value["surveyed"]
        if surveyed is not None and (type(surveyed) is not int or surveyed < 0):
            msg = "not a number of entries"
            raise TypeError(msg)
        if type(count) is not int or not 1 <= count <= MAX_PARTS:
            msg = "not a number of parts"
            raise TypeError(msg)
        splits = None if value["splits"] is None else tuple(map(text, value["splits"]))
        if splits is not None and len(splits) != count:
            msg = "not the bounds of each part"
            raise TypeError(msg)
        return cls(
            text(value["run"]),
            text(value["plan"]),
            text(value["command"]),
            milliseconds(value["started_at"]),
            count,
            value["prepared"] is True,
            splits,
            surveyed,
            value["done"] is True,
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An unfinished recode: its head, and its parts in order."""

    head: Head
    parts: tuple[Part, ...]

    @property
    def command(self) -> str:
        """The command that began it."""
        return self.head.command

    @property
    def started_at(self) -> int:
        """When it began, in Unix milliseconds."""
        return self.head.started_at

    @property
    def tally(self) -> Tally:
        """What all attempts at all parts have counted so far."""
        total = Tally()
        for part in self.parts:
            total.add(part.tally)
        return total

    def holders(self, now: int) -> tuple[LeaseHolder, ...]:
        """Return the holders of its current leases."""
        return tuple(p.holder for p in self.parts if p.holder is not None and not p.is_free(now))


def plan_id(*facts: str | None) -> str:
    """Return the id of a plan: a run with the same *facts* resumes where an earlier one stopped."""
    return sha256(exact_json.dumps({"facts": list(facts)})[0]).hexdigest()[:32]


def part_key(index: int) -> str:
    """Return the key of the entry of a part."""
    return f"{KEY}{index:04}"


class CheckpointStore:
    """The one checkpoint of a vault, beside its meta."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._driver: Driver = vault.metastore.driver

    async def head(self) -> tuple[Entry | None, Head | None]:
        """Return the stored entry, and the head in it, or `None` if there is none."""
        return await self._load(KEY, Head.from_json)

    async def part(self, run: str, index: int) -> tuple[Entry | None, Part | None]:
        """Return the stored entry, and the part in it, or `None` if there is none of *run*."""
        entry, part = await self._load(part_key(index), Part.from_json)
        return entry, part if part is not None and part.run == run else None

    async def parts(self, head: Head) -> tuple[Part, ...]:
        """Return every part of a run, those too that no process has begun."""
        parts: list[Part] = []
        for start in range(0, head.count, _LOOKS_AT_ONCE):
            few = range(start, min(start + _LOOKS_AT_ONCE, head.count))
            found = await asyncio.gather(*(self.part(head.run, index) for index in few))
            parts += (part or Part(head.run) for _, part in found)
        return tuple(parts)

    async def put_head(self, entry: Entry | None, head: Head) -> bool:
        """Store *head* if the store still holds *entry*."""
        return await self._swap(entry, KEY, head.as_json())

    async def put_part(self, entry: Entry | None, index: int, part: Part) -> bool:
        """Store *part* if the store still holds *entry*."""
        return await self._swap(entry, part_key(index), part.as_json())

    async def end(self, run: str) -> None:
        """Note that *run* is over, and delete its parts and its head; another run's stay."""
        entry, head = await self.head()
        if entry is None or head is None or head.run != run:
            return
        # First, so that no process takes parts that are gone for parts that were never begun.
        if not head.done and not await self.put_head(entry, replace(head, done=True)):
            return
        for index in range(head.count):
            entry, part = await self.part(run, index)
            if entry is not None and part is not None:
                await self._driver.delete_if_unchanged(entry)
        entry, head = await self.head()
        if entry is not None and head is not None and head.run == run:
            await self._driver.delete_if_unchanged(entry)

    async def _load(self, key: str, read: Callable[[dict[str, Any]], T]) -> tuple[Entry | None, T | None]:
        entry = await self._driver.get(META_COLLECTION, key)
        if entry is None or entry.value is None:
            return entry, None
        try:
            return entry, read(await self._open(entry, key))
        except (RecordError, KeyError, TypeError, ValueError):
            return entry, None

    async def _swap(self, entry: Entry | None, key: str, value: dict[str, Any]) -> bool:
        sealed = self._vault.codecs[CONTEXT].seal_json(value, META_COLLECTION, key)
        if entry is None:
            now = clock.utc_now()
            return await self._driver.put_if_absent(Entry(META_COLLECTION, key, sealed, created_at=now))
        (done,) = await self._driver.replace_many([Replacement(entry, sealed)])
        return done

    async def _open(self, entry: Entry, key: str) -> dict[str, Any]:
        stored = entry.value or {}
        try:
            return self._vault.codecs[CONTEXT].open(stored, META_COLLECTION, key)[0]
        except UnknownDEKError:
            await self._vault.refresh()
            return self._vault.codecs[CONTEXT].open(stored, META_COLLECTION, key)[0]


async def open_recode(vault: Vault) -> Checkpoint | None:
    """Return the unfinished recode of *vault*, or `None`."""
    store = CheckpointStore(vault)
    _, head = await store.head()
    return None if head is None or head.done else Checkpoint(head, await store.parts(head))
