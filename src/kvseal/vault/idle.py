"""
The idle timeout: keys that no caller has used for a while are forgotten.

A caller that asks for a codec sets the time anew, or finds that it is over.  A timer in each event loop
that the vault is used in checks whether a caller has asked since.  The timer holds neither the vault nor
the loop, so either may end before it does.  There is no thread.  Where no loop runs, the keys are
forgotten when a caller next asks for them, and not before.

Without an idle timeout none of this is there, and a codec is a dict hit away.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from kvseal import clock
from kvseal.keys.keyring import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvseal.envelope.codec import RecordCodec
    from kvseal.keys.keyring import CodecKey


UNLOCKINGS: Final = 3
"""Attempts of one operation to find a vault unlocked that is locked again and again meanwhile."""


class IdleWatch:
    """
    Calls *forget*, a method that it does not keep alive, *seconds* after the last `use`.

    Safe to share between event loops and threads: at worst a use that comes at the very end is refused.
    """

    __slots__ = ("__weakref__", "_ends_at", "_forget", "_latest", "_loops", "_seconds")

    def __init__(self, seconds: float, forget: Callable[[], None]) -> None:
        self._seconds = seconds
        self._forget = weakref.WeakMethod(forget)
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._latest: Callable[[], asyncio.AbstractEventLoop | None] = _nothing
        self.start()

    def start(self) -> None:
        """Count from now, for keys that have just been unlocked."""
        self._ends_at = clock.monotonic() + self._seconds
        self._attend()

    @property
    def is_over(self) -> bool:
        """Whether the keys have been idle for too long."""
        return clock.monotonic() >= self._ends_at

    def use(self) -> None:
        """
        Note that the keys are in use.

        Raises:
            VaultLockedError: they have been idle for too long, and are forgotten.
        """
        now = clock.monotonic()
        if now >= self._ends_at:
            self._end()
            raise locked()
        self._ends_at = now + self._seconds
        loop = asyncio._get_running_loop()  # noqa: SLF001 - unlike the public one, does not raise where there is none
        if loop is not self._latest():
            self._attend()

    def _end(self) -> None:
        forget = self._forget()
        if forget is not None:
            forget()

    def _attend(self) -> None:
        """Set a timer in the running event loop, unless it has one."""
        loop = asyncio._get_running_loop()  # noqa: SLF001
        if loop is None:
            return
        self._latest = weakref.ref(loop)
        if loop not in self._loops:
            self._loops.add(loop)
            loop.call_later(self._seconds, _look, weakref.ref(self))

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._ends_at - clock.monotonic()
        if left > 0:
            loop.call_later(left, _look, weakref.ref(self))
            return
        self._loops.discard(loop)
        self._latest = _nothing
        self._end()


class WatchedCodecs(Mapping["CodecKey", "RecordCodec"]):
    """The codecs of a keyring, each use of which *watch* notes."""

    __slots__ = ("_codecs", "_watch")

    def __init__(self, codecs: Mapping[CodecKey, RecordCodec], watch: IdleWatch) -> None:
        self._codecs = codecs
        self._watch = watch

    def __getitem__(self, key: CodecKey) -> RecordCodec:
        self._watch.use()
        return self._codecs[key]

    def __iter__(self) -> Iterator[CodecKey]:
        return iter(self._codecs)

    def __len__(self) -> int:
        return len(self._codecs)


def _look(watch: weakref.ref[IdleWatch]) -> None:
    there = watch()
    if there is not None:
        there._look()  # noqa: SLF001 - a method of it would be held by the event loop


def _nothing() -> None:
    return None
