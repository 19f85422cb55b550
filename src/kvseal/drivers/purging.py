"""Purge: let a backend drop what it keeps of values that were overwritten or deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kvseal import clock
from kvseal.drivers import abilities
from kvseal.drivers.reach import recodable_driver
from kvseal.errors import ExitCode

if TYPE_CHECKING:
    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """
    What became of overwritten values in the store at `location`; with `dry_run`, what would.

    `done` is what the backend did, and `left` what only its operator can see to.  Where the store is
    `complete`, none of its own files holds what was overwritten before.  `halts` says what a purge
    keeps waiting.
    """

    SCHEMA: ClassVar[int] = 1

    location: str
    done: tuple[str, ...]
    left: tuple[str, ...]
    complete: bool
    halts: str
    seconds: float
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        """0, or 4 where files of the store itself still hold, or may hold, what was overwritten."""
        return 0 if self.complete or self.dry_run else ExitCode.WORK_PENDING

    def as_dict(self) -> dict[str, Any]:
        """Return the line that `--json` prints."""
        return {
            "type": "purged",
            "schema": self.SCHEMA,
            "location": self.location,
            "done": list(self.done),
            "left": list(self.left),
            "complete": self.complete,
            "seconds": round(self.seconds, 3),
            **({"dry_run": True} if self.dry_run else {}),
        }


async def purge(store: AsyncKeyValue | Driver, *, dry_run: bool = False) -> PurgeReport:
    """
    Let the backend of *store* do what it must so that overwritten values are gone from its files.

    Re-sealed records are one kind of these, and the vault meta of before a rotation is another.  No entry
    is changed, nothing that others write meanwhile is lost, and no secret is needed.  What the backend
    cannot do is in the report; it is never passed over.

    Raises:
        UnsupportedStackError: a wrapper leads to other stores as well, or forbids to write.
        UnsupportedStoreError: kvseal has no driver for the store.
        StoreError: the backend failed, or does not let us; run it again.
    """
    started = clock.monotonic()
    driver = recodable_driver(store, writes=not dry_run)
    try:
        purged = await abilities.purge(driver, dry_run=dry_run)
        return PurgeReport(
            driver.location,
            purged.done,
            purged.left,
            purged.complete,
            purged.halts,
            clock.monotonic() - started,
            dry_run,
        )
    finally:
        if driver is not store:
            await driver.close()
