"""
How fast a restore to disk is by pages, beside one that puts each entry by itself, as every restore once did.

Both restore the same backup of sealed records of 1 KiB into a new DiskStore, in turns; a turn gives one ratio
of the CPU time of this process, and one of wall time, most of which the disk takes for its syncs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

from key_value.aio.stores.memory import MemoryStore

from benchmarks.peers import CHEAP
from benchmarks.ratio import Goal, Ratio
from benchmarks.shapes import flat
from kvseal import EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.backup import backup, restore
from kvseal.drivers import driver_from_url
from kvseal.drivers.delegate import DelegatingDriver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.drivers.base import Driver, Entry, Put

GOAL: Final = Goal("restore to disk, of the CPU time of single puts, times as fast", 5, 4)

_SIZE: Final = 1024


class _Single(DelegatingDriver):
    """A driver without batches of its own."""

    async def put_many_if_absent(self, entries: Sequence[Entry]) -> Sequence[Put]:
        """Put one after the other."""
        return [await self.put_if_absent(entry) for entry in entries]


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds of CPU and of wall time for all records, a pair of pairs for each turn: single, paged."""

    records: int
    turns: Sequence[tuple[tuple[float, float], tuple[float, float]]]

    @property
    def ratio(self) -> Ratio:
        """How many times as fast pages are, by CPU time."""
        return Ratio.of(single[0] / paged[0] for single, paged in self.turns)

    def failures(self, tolerance: float) -> list[str]:
        """Return in words that the ratio falls short of its guard, if it does."""
        return GOAL.shortfall(self.ratio, tolerance)

    def microseconds(self, way: int, clock: int) -> float:
        """Return the median time for one record: *way* 0 is single, *clock* 0 is CPU."""
        return median(turn[way][clock] for turn in self.turns) / self.records * 1e6

    def as_json(self) -> dict[str, Any]:
        """Return what the report is made from."""
        return {
            "records": self.records,
            "rounds": len(self.turns),
            "goal": GOAL.factor,
            "ratio": self.ratio.rounded(2),
            "microseconds": {
                f"{name} {clock}": round(self.microseconds(way, number), 1)
                for way, name in enumerate(("single", "paged"))
                for number, clock in enumerate(("cpu", "wall"))
            },
        }


async def measure(records: int, rounds: int) -> Result:
    """Let both ways restore *records* records, in turns."""
    with TemporaryDirectory(prefix="kvseal-") as folder:
        saved = Path(folder) / "saved"
        await _save(saved, records)
        turns = []
        for number in range(rounds):
            single = await _restored(saved, Path(folder) / f"single-{number}", records, single=True)
            turns.append((single, await _restored(saved, Path(folder) / f"paged-{number}", records)))
    return Result(records, turns)


async def _save(path: Path, records: int) -> None:
    store = MemoryStore(max_entries_per_collection=2 * records)
    vault = await Vault.create(store, secret=Secret(b"of a benchmark"), kdf=CHEAP, meta_store=MemoryStore())
    wrapper = EnvelopeEncryptionWrapper(store, vault=vault)
    await wrapper.put_many([f"user-{number:08}" for number in range(records)], [flat(_SIZE)] * records)
    await backup(store, path)
    await vault.close()


async def _restored(saved: Path, place: Path, records: int, *, single: bool = False) -> tuple[float, float]:
    """Return the seconds of CPU and of wall time."""
    opened: Driver = await driver_from_url(f"disk:{place}", create=True)
    cpu, wall = process_time(), perf_counter()
    report = await restore(saved, _Single(opened) if single else opened)
    seconds = process_time() - cpu, perf_counter() - wall
    await opened.close()
    assert report.restored == records, report
    return seconds
