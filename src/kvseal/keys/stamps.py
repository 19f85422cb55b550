"""The times in a vault meta: RFC 3339, UTC, whole seconds, in one spelling."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Final

_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


def time_text(moment: datetime) -> str:
    """Return an RFC 3339 UTC time in whole seconds."""
    return moment.astimezone(timezone.utc).strftime(_TIME)


def time_of(text: str) -> datetime:
    """Return the time that `time_text` wrote; raises `ValueError` or `TypeError` for anything else."""
    if type(text) is not str:
        msg = "not text"
        raise TypeError(msg)
    return datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc)
