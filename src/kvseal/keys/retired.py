"""
Records of a retired DEK: nothing should be sealed under it any more, so each one that is opened is heard of.

A DEK is retired when a census has found nothing that needs it.  A record that needs it all the same came
later, or from elsewhere: from a backup, a cache, another store, or a writer that slept through every grace.
It still opens, until the DEK is dropped.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

from kvseal import clock
from kvseal.observe.counters import Count, of_retired_deks

if TYPE_CHECKING:
    from kvseal.keys.meta import VaultMeta

_SILENCE: Final = 60.0
"""Seconds between two lines of the log about one DEK."""

_log = logging.getLogger("kvseal")


class LoudCount(Count):
    """Counts for *count* what a retired DEK opens, counts it once more by itself, and logs it."""

    __slots__ = ("_count", "_dek", "_logged_at", "_loud", "_vault_id")

    def __init__(self, count: Count, vault_id: bytes, dek: int) -> None:
        self._count = count
        self._loud = of_retired_deks[vault_id, dek]
        self._vault_id = vault_id
        self._dek = dek
        self._logged_at = -math.inf

    @property
    def number(self) -> int:
        """How many records this DEK has opened, retired or not."""
        return self._count.number

    @number.setter
    def number(self, number: int) -> None:
        self._loud.number += number - self._count.number
        self._count.number = number
        if clock.monotonic() >= self._logged_at + _SILENCE:
            self._logged_at = clock.monotonic()
            _log.warning(
                "records of vault %s need DEK %d, which is retired, and would be lost with it:"
                " vaultctl reencrypt, and find out where they come from",
                self._vault_id.hex(),
                self._dek,
            )


def opened_with_retired(meta: VaultMeta) -> int:
    """Return how many records this process has opened with DEKs of *meta* that are retired, and kept."""
    return sum(
        of_retired_deks[meta.vault_id, dek.number].number
        for dek in meta.deks
        if dek.state == "retired" and dek.wrapped is not None
    )
