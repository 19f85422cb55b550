"""
What was seen of vault metas: by this process, and through a pin file by those before it.

An older meta is as genuine as the newest one, and so is another one of the same revision that a second
operator has made: memory alone refuses them.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvseal.concurrency import after_fork, in_thread
from kvseal.errors import ForkedMetaError, PinNotWrittenError, RolledBackMetaError
from kvseal.vault.seen.pin import Pin, Pinned

if TYPE_CHECKING:
    import os

    from kvseal.keys.meta import VaultMeta

_log = logging.getLogger("kvseal")
_newest: Final[dict[bytes, Pinned]] = {}
"""By vault id: what a pin would remember."""
_lock = threading.Lock()


def accept(meta: VaultMeta) -> None:
    """
    Remember that this process has seen *meta*, whose MAC was verified.

    Raises:
        ForkedMetaError: it has seen another one of this revision.
    """
    with _lock:
        known = _newest.get(meta.vault_id)
        if known is None or known.revision < meta.revision:
            _newest[meta.vault_id] = Pinned.of(meta)
        elif known.revision == meta.revision and known != Pinned.of(meta):
            raise _forked(meta)


def is_newest(meta: VaultMeta) -> bool:
    """Whether *meta* is the newest that this process has seen of its vault."""
    return _newest.get(meta.vault_id) == Pinned.of(meta)


def _forked(meta: VaultMeta) -> ForkedMetaError:
    msg = f"the vault meta is another one of revision {meta.revision} than this process has seen"
    return ForkedMetaError(
        msg,
        hint="a change was lost, such as in a failover, and another made in its place: stop the writers, and "
        "look at docs/operations.md, A vault meta that is not ours",
    )


@dataclass(frozen=True, slots=True)
class Before:
    """What had been seen before a backend was asked: what others see meanwhile makes no rollback."""

    newest: dict[bytes, Pinned]
    pin: Pin | None
    pinned: Pinned | None

    def check(self, meta: VaultMeta, location: str) -> None:
        """
        Raise unless *meta*, which is in *location*, may come after it.

        Raises:
            RolledBackMetaError: it is older.
            ForkedMetaError: it is of another vault than the pin.
        """
        if self.pin is not None and self.pinned is not None:
            self.pin.check(meta, self.pinned)
        known = self.newest.get(meta.vault_id)
        if known is not None and meta.revision < known.revision:
            msg = f"the vault meta in {location} is revision {meta.revision}, but {known.revision} was seen"
            raise RolledBackMetaError(
                msg, hint="find out who put an older copy back, then restore the newest"
            )


class NewestSeen:
    """What is known of the vault of one store; with *pin*, a file, across restarts."""

    __slots__ = ("_pin",)

    def __init__(self, pin: str | os.PathLike[str] | None) -> None:
        self._pin = None if pin is None else Pin(pin)

    async def before(self) -> Before:
        """Return what has been seen up to now; raises `PinFileError`."""
        pinned = None if self._pin is None else await in_thread(self._pin.load)
        return Before(_newest.copy(), self._pin, pinned)

    async def is_newest(self, meta: VaultMeta) -> bool:
        """Whether neither this process nor the pin knows a newer one than *meta*; raises `PinFileError`."""
        before = await self.before()
        return is_newest(meta) and (before.pinned is None or before.pinned == Pinned.of(meta))

    async def before_creation(self) -> Before:
        """Return what `before` does, or raise `PinNotWrittenError` where a new vault could not be pinned."""
        if self._pin is not None:
            await in_thread(self._pin.check_writable)
        return await self.before()

    async def remember(self, meta: VaultMeta, *, must_last: bool = False) -> None:
        """
        Accept nothing older than *meta*, whose MAC was verified, from now on, and pin it if there is a pin.

        A pin that cannot be written is logged, and tried again with the next meta that is read, for this
        process does remember; it is an error where it *must_last*.

        Raises:
            ForkedMetaError: the pin file knows another meta of this revision.
            PinFileError: it cannot be read, or not be written where it *must_last*.
        """
        try:
            if self._pin is not None:
                await in_thread(self._pin.accept, meta)
        except PinNotWrittenError as exc:
            if must_last:
                raise
            _log.warning("%s: after a restart, an older vault meta would be believed", exc)
        accept(meta)


def _forget_lock() -> None:
    """In a forked child, another thread of the parent may have held it."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


after_fork(_forget_lock)
