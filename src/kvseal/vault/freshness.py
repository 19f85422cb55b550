"""
How long ago the vault meta was read, and what a keyring may still do by that.

A process whose reads never meet a newer DEK would seal with the old one for ever.  So
a writer looks at the clock before it seals, and every `refresh_after` seconds at the vault
meta.  While that is out of reach the keys stay in use, but not without end: a DEK may be
retired in the meantime, and what is sealed under it then is lost.  After
`LIMIT * refresh_after` seconds nothing is sealed any more until the meta has been read;
`kvseal.recoding.retirement` waits for longer than that.

No answer earns that patience.  An answer that is not ours does not: where the vault meta is missing,
older, or another one, nothing is sealed from that moment on, until the store has it again.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock as clocks
from kvseal.concurrency import SingleFlight, within
from kvseal.errors import RefutedKeyringError, StaleKeyringError, VaultLockedError
from kvseal.observe.counters import failed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kvseal.errors import KvsealError, UnknownExtensionError, VaultError
    from kvseal.keys.meta import VaultMeta

REFRESH_AFTER: Final = 60.0
"""Seconds."""
LIMIT: Final = 10
WINDOW_AFTER: Final = 5.0
"""Seconds after which the vault meta is due while old formats are read or written."""
PATIENCE: Final = 5.0
"""Seconds that a writer waits for the vault meta before it goes on with the keys it has."""
_WITNESS_AFTER: Final = 1.0
"""Seconds after which a writer looks at the wall clock too."""
_ATTEMPTS: Final = 4
"""In each `refresh_after` seconds, while the vault meta is out of reach."""

_log = logging.getLogger("kvseal")


class Freshness:
    """
    The age of one keyring, counted from the moment before its vault meta was read.

    `due` is the one thing that `put` compares with `clock()`; all else happens once a second at most.

    Raises:
        ValueError: *refresh_after* is not a positive number of seconds.
    """

    __slots__ = (
        "_barred_by",
        "_due_after",
        "_ends_at",
        "_holds",
        "_refreshing",
        "_refuted_by",
        "_retry_at",
        "_since",
        "_since_by_wall",
        "clock",
        "due",
        "is_unanswered",
        "refresh_after",
    )

    def __init__(
        self, refresh_after: float = REFRESH_AFTER, clock: Callable[[], float] = clocks.awake_or_asleep
    ) -> None:
        if not (0 < refresh_after < math.inf):
            msg = f"refresh_after is a positive number of seconds, not {refresh_after}"
            raise ValueError(msg)
        self.refresh_after = refresh_after
        self.clock = clock
        self._refreshing: SingleFlight[None] = SingleFlight()
        self._barred_by: UnknownExtensionError | None = None
        self._holds = False
        self._due_after = refresh_after
        self.confirm(clock())

    def confirm(self, since: float) -> None:
        """Note that the vault meta, as it was at *since* or later, is what the keyring was made from."""
        self._since = since
        self._since_by_wall = clocks.wall()
        self._refuted_by: VaultError | None = None
        self.is_unanswered = False
        """Whether the last attempt to read the vault meta again got no answer."""
        self._retry_at = since + self._due_after
        self.due = -math.inf if self._looks_always else min(since + _WITNESS_AFTER, self._retry_at)
        self._ends_at = since + LIMIT * self.refresh_after

    def refute(self, error: VaultError) -> None:
        """Note by *error* that the store has another vault meta than ours, or none: nothing is sealed now."""
        self._refuted_by = error
        self._retry_at = self.clock() + self.refresh_after / _ATTEMPTS
        self.due = -math.inf

    def go_by(self, meta: VaultMeta, *, holds: bool) -> None:
        """
        Go by *meta* from now on; where it *holds*, each writer asks what to write.

        While it has old formats, it is due every `WINDOW_AFTER` seconds, so that a change of what is read
        and written reaches every process within seconds.  Where it asks for a later kvseal, nothing is
        sealed.
        """
        error = meta.extensions.refusal()
        if error is not None and not self.is_barred:
            _log.error("%s", error.message)
        self._barred_by = error
        self._holds = holds
        in_window = meta.policy.has_window or holds
        self._due_after = min(self.refresh_after, WINDOW_AFTER) if in_window else self.refresh_after
        self._retry_at = min(self._retry_at, self._since + self._due_after)
        if self._looks_always:
            self.due = -math.inf

    @property
    def _looks_always(self) -> bool:
        """Whether each writer has to ask, and none goes on by the time alone."""
        return self.is_barred or self._holds

    @property
    def is_barred(self) -> bool:
        """Whether the newest vault meta has a critical part that this release does not know."""
        return self._barred_by is not None

    @property
    def is_refuted(self) -> bool:
        """Whether the store's last answer was not the vault meta that this process goes by."""
        return self._refuted_by is not None

    @property
    def age(self) -> float:
        """How many seconds ago the vault meta was read."""
        return self.clock() - self._since

    @property
    def is_stale(self) -> bool:
        """
        Whether nothing is sealed any more because the vault meta is out of reach.

        A vault meta that no writer has tried to read since is not out of reach: the next writer reads it.
        """
        return self.is_unanswered and self.clock() >= self._ends_at

    async def renew(self, refresh: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """
        Await *refresh* if it is due, once for all who ask; a failure is logged, and tried again later.

        Raises:
            VaultLockedError: there is nothing to refresh.
        """
        now = self.clock()
        if now >= self._retry_at or self._overslept(now) >= self.refresh_after:
            await self._refreshing.run(partial(self._attempt, refresh))
        elif self._refuted_by is None and not self._looks_always:
            self.due = min(now + _WITNESS_AFTER, self._retry_at, self._ends_at)

    def check(self) -> None:
        """
        Raise where nothing may be sealed any more.

        Raises:
            RefutedKeyringError: the store holds another vault meta than ours, or none.
            UnknownExtensionError: the vault meta asks for a later kvseal.
            StaleKeyringError: for `LIMIT * refresh_after` seconds the vault meta could not be read.
        """
        if self._refuted_by is not None:
            error: KvsealError = RefutedKeyringError(
                f"nothing is sealed, because of the vault meta in the store: {self._refuted_by.message}",
                hint="this process still holds the newest vault meta: vault.put_back() writes it again",
            )
            failed("seal", error)
            raise error from self._refuted_by
        if self._barred_by is not None:
            failed("seal", self._barred_by)
            raise self._barred_by
        now = self.clock()
        if now + self._overslept(now) >= self._ends_at:
            seconds = LIMIT * self.refresh_after
            msg = f"the vault meta could not be read for {seconds:g} s, so nothing is sealed"
            error = StaleKeyringError(
                msg, hint="the DEK may have been retired since; see the log for what keeps the meta away"
            )
            failed("seal", error)
            raise error

    def _overslept(self, now: float) -> float:
        """
        Return how many seconds the wall clock counts more than ours since the vault meta was read.

        A virtual machine that was paused may find that its own clocks stood still, all but this one.
        """
        return max(0.0, (clocks.wall() - self._since_by_wall) - (now - self._since))

    async def _attempt(self, refresh: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        try:
            await within(PATIENCE, refresh())
        except VaultLockedError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever a backend's library raises, the keys are still here
            if self.is_refuted:
                return
            self.is_unanswered = True
            self._retry_at = self.clock() + self.refresh_after / _ATTEMPTS
            self.due = -math.inf if self._looks_always else min(self._retry_at, self._ends_at)
            _log.warning("the vault meta could not be read again: %s: %s", type(exc).__name__, exc)
