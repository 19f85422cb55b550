"""
What time it is, by two clocks: that of the store, which all its processes share, and this host's.

Either may be wrong.  What is stamped into a vault meta goes by the store's clock; to drop something by the
time takes both.  Where the two are apart, whatever a tool would conclude from its own clock may be false: it
says so, and does nothing.

A backend without a clock of its own has this host's, and then there is nothing to compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from kvseal import clock
from kvseal.drivers import abilities
from kvseal.errors import ClocksApartError

if TYPE_CHECKING:
    from kvseal.drivers.base import Driver

TOLERANCE: Final = timedelta(seconds=5)
"""How far apart the two may be; the time that the question took is not counted."""

_SECOND: Final = timedelta(seconds=1)
_LEAST: Final = timedelta()


@dataclass(frozen=True, slots=True)
class Clocks:
    """One look at both clocks, in the whole seconds that a vault meta keeps."""

    location: str
    own: datetime
    store: datetime
    """What the store's clock had certainly reached."""
    stamp: datetime
    """What it cannot have passed yet: what is stamped with this did not happen later."""
    apart: timedelta = _LEAST
    """How far this host's clock is certainly ahead of the store's; below zero it is behind."""

    @property
    def reached(self) -> datetime:
        """What both clocks have reached: by this, what has ended may be dropped."""
        return min(self.own, self.store)

    def check(self, what: str) -> None:
        """Raise `ClocksApartError` if the two are too far apart for *what*, which depends on this host's."""
        if abs(self.apart) > TOLERANCE:
            seconds = f"{abs(self.apart).total_seconds():,.0f} s"
            way = "ahead of" if self.apart > _LEAST else "behind"
            msg = f"{what} depends on this host's clock, which is {seconds} {way} that of {self.location}"
            raise ClocksApartError(msg, hint="set the wrong one of the two clocks; nothing was changed")


async def read_clocks(driver: Driver) -> Clocks:
    """
    Ask the backend of *driver* what time it is, and this host.

    The answer was given at some moment since the question left.  That is measured with a clock that counts
    while this host sleeps, and nothing is taken for certain that the answer does not prove.
    """
    asked = clock.awake_or_asleep()
    found = await abilities.store_time(driver) if driver.capabilities.keeps_time else None
    if found is None:
        own = clock.utc_seconds()
        return Clocks(driver.location, own, own, own)
    own = clock.utc_now()
    latest = found.at + timedelta(seconds=found.step + clock.awake_or_asleep() - asked)
    apart = max(own - latest, _LEAST) + min(own - found.at, _LEAST)
    return Clocks(driver.location, _floor(own), _floor(found.at), _floor(latest + _SECOND), apart)


async def check_clocks(driver: Driver, what: str) -> None:
    """Raise `ClocksApartError` if this host's clock is not that of the backend, on which *what* depends."""
    (await read_clocks(driver)).check(what)


def _floor(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
