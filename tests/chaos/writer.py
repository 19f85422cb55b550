"""
An application: `python -m tests.chaos.writer JOB`.  It writes through a wrapper of its own until it is told to stop.

It may be killed, stopped and started again at any moment; its journal says where it was.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.backends import Place
from tests.chaos import planted
from tests.chaos.journal import COLLECTION, Journal, Record, is_delete, value_of

from kvseal import EnvelopeEncryptionWrapper

REFRESH_AFTER = 1.0
_OUT_OF_REACH = 0.1
"""Seconds that an application waits before it tries again what failed."""
_LOOKS = 5
_TTL = 3600.0
_READS = 0.3


@dataclass(frozen=True)
class Job:
    """What one application does: the keys are its own."""

    place: dict[str, str]
    secret: str
    journal: str
    keys: list[str]
    ttl: bool = False
    """Whether a third of the values expire, in an hour."""
    plant: str = ""
    seed: int = 0
    pause: float = 0.002

    def as_json(self) -> str:
        """Return the argument of the program."""
        return json.dumps(asdict(self))


@dataclass
class Writer:
    """The running application."""

    job: Job
    journal: Journal
    counts: dict[str, int]
    rng: random.Random
    acked: dict[str, int] = field(default_factory=dict)
    is_told_to_stop: bool = False

    async def run(self) -> None:
        """Write until told to stop, whatever fails."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        while not self.is_told_to_stop:
            try:
                async with Place(**self.job.place).opened() as store:
                    await self._use(store)
            except Exception as exc:  # noqa: BLE001 - an application that goes on; what failed is in the journal
                self.journal.note("error", type(exc).__name__)
                await asyncio.sleep(_OUT_OF_REACH)

    def _stop(self) -> None:
        self.is_told_to_stop = True

    async def _use(self, store: Any) -> None:
        kv = EnvelopeEncryptionWrapper(
            store, secret=self.job.secret, create=False, refresh_after=REFRESH_AFTER
        )
        while not self.is_told_to_stop:
            key = self.rng.choice(self.job.keys)
            # A read of what others re-sealed makes even a stale keyring learn of the next DEK.
            if self.rng.random() < _READS and key in self.acked and not self.job.plant:
                await self._check(kv, key)
            await self._write(kv, key)
            await asyncio.sleep(self.job.pause)

    async def _write(self, kv: EnvelopeEncryptionWrapper, key: str) -> None:
        n = self.counts[key] = self.counts.get(key, 0) + 1
        self.journal.note("try", key, n)
        try:
            if is_delete(n):
                await kv.delete(key, collection=COLLECTION)
            else:
                ttl = _TTL if self.job.ttl and n % 3 == 0 else None
                await kv.put(key, value_of(key, n), collection=COLLECTION, ttl=ttl)
        except Exception as exc:  # noqa: BLE001 - it is not acknowledged, which is all that counts
            self.journal.note("error", type(exc).__name__)
            await asyncio.sleep(_OUT_OF_REACH)
            return
        self.acked[key] = n
        self.journal.acknowledged(key, n, kv.health().state)

    async def _check(self, kv: EnvelopeEncryptionWrapper, key: str) -> None:
        """Read what this process has written; a store may show nothing for a moment while it replaces a value."""
        found: Any = None
        for _ in range(_LOOKS):
            try:
                value = await kv.get(key, collection=COLLECTION)
            except Exception as exc:  # noqa: BLE001 - whether it can be read is asked at the end, too
                self.journal.note("error", type(exc).__name__)
                return
            found = None if value is None else value["n"]
            if (
                found == self.acked[key]
                or self.counts[key] != self.acked[key]
                or (found is None and is_delete(self.acked[key]))
            ):
                return
            await asyncio.sleep(_OUT_OF_REACH)
        self.journal.note("older", key, self.acked[key], found)


class _Warnings(logging.Handler):
    """Writes what kvseal warns of into the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.note("warn", record.getMessage()[:70])


def main(job: Job) -> None:
    """Be the application of *job*."""
    warnings.simplefilter("ignore")
    path = Path(job.journal)
    journal = Journal(path)
    logging.getLogger("kvseal").addHandler(_Warnings(journal))
    with planted.writer(job.plant):
        asyncio.run(Writer(job, journal, Record.of([path]).tried, random.Random(job.seed)).run())


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
