"""What a recode takes of a backend that is paid by what is read and written; a dry run finds out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvseal.drivers.abilities import Charges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.drivers.base import Driver, Entry, Replacement


@dataclass(frozen=True, slots=True)
class Units:
    """The units of one scan, how many scans there are, and the units of all writes."""

    scan: int
    scans: int
    write: int

    @property
    def scanning(self) -> int:
        """The units of all scans."""
        return self.scan * self.scans

    def as_dict(self) -> dict[str, int]:
        """Return what a summary has of it."""
        return {"read": self.scanning, "scans": self.scans, "write": self.write}


class Meter:
    """Adds up what a run over *driver* would take, if its backend is paid by the request."""

    def __init__(self, driver: Driver) -> None:
        self._charges = driver if isinstance(driver, Charges) else None
        self._scan = self._write = 0

    def scanned(self, entries: Sequence[Entry]) -> None:
        """Add a page that was read."""
        if self._charges is not None:
            self._scan += self._charges.units_of_scan(entries)

    def would_write(self, replacements: Sequence[Replacement]) -> None:
        """Add *replacements*; raises `UnsealableValueError` if the store cannot hold one."""
        if self._charges is not None:
            self._write += self._charges.units_of_writes(replacements)

    def units(self, scans: int) -> Units | None:
        """Return the sum for a run that reads all entries so many times; `None` where there is no charge."""
        return None if self._charges is None else Units(self._scan, scans, self._write)
