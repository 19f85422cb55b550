"""
Reading of stored values that are not simply a record of a known DEK.

`EnvelopeEncryptionWrapper.get` opens the common record by itself.  This module handles the rest:
another process has rotated the DEK, the policy allows an old format, or a record cannot be opened.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from kvseal import expiry
from kvseal.concurrency import SingleFlight, slices_between_turns
from kvseal.envelope.stored import has_names_inside
from kvseal.errors import (
    LegacyRecordError,
    PlaintextRecordError,
    RecordError,
    RefutedKeyringError,
    StaleKeyringError,
    UnknownDEKError,
    UnknownExtensionError,
    UnreadableRecordsError,
    VaultLockedError,
)
from kvseal.keys.keyring import locked
from kvseal.observe.counters import failed
from kvseal.records.legacy_window import LegacyWindow, refresh_soon
from kvseal.records.resealing import TAKEN_OVER, OldRecord
from kvseal.vault.idle import UNLOCKINGS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from kvseal.envelope.codec import RecordCodec
    from kvseal.keys.keyring import CodecKey
    from kvseal.records.resealing import Resealer
    from kvseal.vault.session import OpenVault

    Stored = Mapping[str, Any] | None
    Again = Callable[[], Awaitable[Stored]]
    """Reads the entry from the store once more."""

_log = logging.getLogger("kvseal")

Names = tuple[str, str]
Value = tuple["dict[str, Any] | None", "int | None"]
"""The value that was put, and its expiry."""


class Reader:
    """
    Opens stored values with the codec of *codec_key*; *vault* returns the open vault.

    If *raises* is false, a record that cannot be opened reads as missing, and `unreadable` counts it.
    """

    def __init__(
        self,
        vault: Callable[[], Awaitable[OpenVault]],
        codec_key: CodecKey,
        resealer: Resealer,
        *,
        raises: bool,
    ) -> None:
        self._vault = vault
        self._codec_key = codec_key
        self._resealer = resealer
        self._raises = raises
        self._refreshing: SingleFlight[bool] = SingleFlight()
        self._legacy_window = LegacyWindow()
        self.unreadable: Counter[str] = Counter()

    async def codec(self) -> RecordCodec:
        """Return the codec; first unlocks a locked vault, if it was opened with `when_locked="unlock"`."""
        for _ in range(UNLOCKINGS):
            vault = await self._unlocked()
            with suppress(VaultLockedError):
                return vault.codecs[self._codec_key]
        raise locked()

    async def read(self, stored: Mapping[str, Any] | None, names: Names, again: Again) -> Value:
        """
        Return the value in *stored* unless it has expired, or raise its `RecordError` with its names.

        An old record is read *again* before it is refused: it may have been sealed since it was read, and
        old reads have ended meanwhile because nothing old was left.
        """
        old: list[OldRecord] = []
        opened = await self._open(stored, names, old, again)
        await self._reseal(old)
        return expiry.unexpired(*opened)

    async def read_many(
        self,
        stored: Sequence[Mapping[str, Any] | None],
        names: Sequence[Names],
        again: Callable[[int], Awaitable[Stored]],
    ) -> list[Value]:
        """
        Return what `read` does for each; *again* reads the one of a number.

        Raises:
            UnreadableRecordsError: after all were tried.
        """
        opened: list[Value] = [(None, None)] * len(names)
        uncommon: list[int] = []
        old: list[OldRecord] = []
        errors: list[RecordError] = []
        opening = (await self.codec()).opening
        async for part in slices_between_turns(len(names)):
            few = zip(stored[part], names[part], strict=True)
            for index, (one, (base, name)) in enumerate(few, part.start):
                if one is not None:
                    try:
                        opened[index] = opening[base](one, name)
                    except RecordError:
                        uncommon.append(index)
        for index in uncommon:
            try:
                opened[index] = await self._open(stored[index], names[index], old, partial(again, index))
            except RecordError as exc:
                errors.append(exc)
        await self._reseal(old)
        if errors:
            raise UnreadableRecordsError(errors, len(names))
        return opened

    async def _unlocked(self) -> OpenVault:
        vault = await self._vault()
        await vault.unlock()
        return vault

    async def _open(
        self,
        stored: Mapping[str, Any] | None,
        names: Names,
        old: list[OldRecord],
        again: Again | None,
    ) -> Value:
        """Open a sealed record, or else call `_open_uncommon`."""
        codec = await self.codec()  # A locked vault raises even if the record is missing.
        if stored is None:
            return None, None
        try:
            return _sealed(codec, stored, names, old)
        except RecordError as exc:
            return await self._open_uncommon(exc, stored, names, old, again)

    async def _open_uncommon(
        self,
        error: RecordError,
        stored: Mapping[str, Any],
        names: Names,
        old: list[OldRecord],
        again: Again | None,
    ) -> Value:
        """
        Open a record under a DEK of another process, or one that the policy allows; else raise.

        A record that is to be sealed anew is added to *old*.
        """
        vault = await self._unlocked()
        try:
            if isinstance(error, UnknownDEKError):
                # Tried even if this refresh changed nothing: that of another reader may have, just before.
                await self._refreshing.run(partial(refresh_soon, vault))
                return _sealed(await self.codec(), stored, names, old)
            if isinstance(error, LegacyRecordError | PlaintextRecordError):
                value = await self._legacy_window.open(error, stored, vault)
                old.append(OldRecord(*names, stored, value, TAKEN_OVER))
                return value, None
        except RecordError as exc:
            error = exc
        if again is not None and isinstance(error, LegacyRecordError | PlaintextRecordError):
            fresh = await again()
            if fresh != stored:
                return await self._open(fresh, names, old, None)
        failed("open", error)
        if self._raises:
            raise error.at(*names)
        self.unreadable[type(error).__name__] += 1
        _log.warning("a record reads as missing: %s: %s", type(error).__name__, error.at(*names))
        return None, None

    async def _reseal(self, old: Sequence[OldRecord]) -> None:
        if old:
            vault = await self._vault()
            if vault.holds:
                return
            # A vault that is locked, or whose meta was not read, is another one or forbids it, seals nothing.
            with suppress(VaultLockedError, StaleKeyringError, RefutedKeyringError, UnknownExtensionError):
                vault.freshness.check()
                await self._resealer.reseal(old, vault.codecs[self._codec_key])


def _sealed(codec: RecordCodec, stored: Mapping[str, Any], names: Names, old: list[OldRecord]) -> Value:
    """Open a sealed record; one that has to carry its names here, and does not, is added to *old*."""
    value, expires_at = codec.open(stored, *names)
    if codec.loses_names and not has_names_inside(stored):
        old.append(OldRecord(*names, stored, value, expires_at))
    return value, expires_at
