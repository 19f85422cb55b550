"""
The sealed expiry: when a record ends, whatever the store's own clockwork says.

Times are Unix milliseconds of the wall clock, because they have to mean the same on every machine.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from key_value.aio.errors import InvalidTTLError

from kvseal import clock

if TYPE_CHECKING:
    from typing import SupportsFloat

LAST: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, with which the calendar of every store ends."""
_MILLISECONDS: Final = 1000
_MICROSECONDS_PER_MILLISECOND: Final = 1000


def expiry_of(ttl: SupportsFloat) -> int:
    """
    Return when a record ends that is put now for *ttl* seconds.

    Raises:
        InvalidTTLError: *ttl* is not a positive number, or reaches beyond the calendar.
    """
    try:
        seconds = float(ttl) if not isinstance(ttl, bool) else 0.0
    except (TypeError, ValueError):
        seconds = 0.0
    ends_at = clock.wall_ms() + max(1, round(seconds * _MILLISECONDS)) if isfinite(seconds) else 0
    if not (seconds > 0 and ends_at <= LAST):
        raise InvalidTTLError(ttl=ttl, extra_info={"type": type(ttl).__name__})
    return ends_at


def moment(milliseconds: int) -> datetime:
    """Return the time of an expiry that `expiry_of` has returned."""
    return datetime.fromtimestamp(0, timezone.utc) + timedelta(milliseconds=milliseconds)


def milliseconds(moment: datetime) -> int:
    """Return *moment* rounded up: a sealed expiry never ends before the backend's."""
    whole = int(moment.timestamp()) * _MILLISECONDS
    return whole + -(-moment.microsecond // _MICROSECONDS_PER_MILLISECOND)


def unexpired(
    value: dict[str, Any] | None, expires_at: int | None
) -> tuple[dict[str, Any] | None, int | None]:
    """Return value and expiry, or two `None` where it has passed."""
    return (value, expires_at) if expires_at is None or expires_at > clock.wall_ms() else (None, None)


def live(
    value: dict[str, Any] | None, expires_at: int | None, ttl: float | None
) -> tuple[dict[str, Any] | None, float | None]:
    """Return value and remaining seconds, or two `None` where the sealed expiry has passed."""
    if value is None or expires_at is None:
        return value, ttl if value is not None else None
    remaining = (expires_at - clock.wall_ms()) / _MILLISECONDS
    if remaining <= 0:
        return None, None
    return value, remaining if ttl is None else min(ttl, remaining)
