"""
What stored values open to, when it is not simply a record of a known DEK.

`EnvelopeEncryptionWrapper.get` opens the usual record by itself; here is what may follow: another
process has rotated the DEK, policy lets an old format in, a record cannot be opened at all.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kvseal import expiry
from kvseal.concurrency import SingleFlight, slices_between_turns
from kvseal.errors import (
    LegacyRecordError,
    PlaintextRecordError,
    RecordError,
    RefutedKeyringError,
    StaleKeyringError,
    UnknownDEKError,
    UnreadableRecordsError,
    VaultLockedError,
)
from kvseal.observe.counters import failed
from kvseal.records.legacy_window import LegacyWindow
from kvseal.records.resealing import OldRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from kvseal.envelope.codec import RecordCodec
    from kvseal.records.resealing import Resealer
    from kvseal.vault.session import OpenVault

_log = logging.getLogger("kvseal")

Names = tuple[str, str]
Value = tuple["dict[str, Any] | None", "int | None"]
"""What was put, and when it expires."""


class Reader:
    """
    Opens for the wrappers of one *context* what lies below them; *vault* returns the open vault.

    Unless it *raises*, what cannot be opened reads as missing, and is counted in `unreadable`.
    """

    def __init__(
        self, vault: Callable[[], Awaitable[OpenVault]], context: str, resealer: Resealer, *, raises: bool
    ) -> None:
        self._vault = vault
        self._context = context
        self._resealer = resealer
        self._raises = raises
        self._refreshing: SingleFlight[bool] = SingleFlight()
        self._legacy_window = LegacyWindow()
        self.unreadable: Counter[str] = Counter()

    async def codec(self) -> RecordCodec:
        """Return what seals and opens; a vault that is to unlock again does so first."""
        return (await self._unlocked()).codecs[self._context]

    async def read(self, stored: Mapping[str, Any] | None, names: Names) -> Value:
        """Return what *stored* opens to, or raise its `RecordError` with its names."""
        old: list[OldRecord] = []
        opened = await self._open(stored, names, old)
        await self._reseal(old)
        return opened

    async def read_many(
        self, stored: Sequence[Mapping[str, Any] | None], names: Sequence[Names]
    ) -> list[Value]:
        """Return what each opens to; raises `UnreadableRecordsError` after all were tried."""
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
                opened[index] = await self._open(stored[index], names[index], old)
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

    async def _open(self, stored: Mapping[str, Any] | None, names: Names, old: list[OldRecord]) -> Value:
        """Open what is sealed, or else what `_open_uncommon` does."""
        codec = await self.codec()  # A locked vault does not even say that something is missing.
        if stored is None:
            return None, None
        try:
            return codec.open(stored, *names)
        except RecordError as exc:
            return await self._open_uncommon(exc, stored, names, old)

    async def _open_uncommon(
        self, error: RecordError, stored: Mapping[str, Any], names: Names, old: list[OldRecord]
    ) -> Value:
        """
        Open what another process sealed since the vault was opened, or what policy lets in; else raise.

        What policy has let in joins *old*.
        """
        vault = await self._unlocked()
        try:
            if isinstance(error, UnknownDEKError):
                # Whether or not this refresh found anything: another reader's may have, a moment ago.
                await self._refreshing.run(vault.refresh)
                return expiry.unexpired(*vault.codecs[self._context].open(stored, *names))
            if isinstance(error, LegacyRecordError | PlaintextRecordError):
                value = await self._legacy_window.open(error, stored, vault)
                old.append(OldRecord(*names, stored, value))
                return value, None
        except RecordError as exc:
            error = exc
        failed("open", error)
        if self._raises:
            raise error.at(*names)
        self.unreadable[type(error).__name__] += 1
        _log.warning("a record reads as missing: %s: %s", type(error).__name__, error.at(*names))
        return None, None

    async def _reseal(self, old: Sequence[OldRecord]) -> None:
        if old:
            vault = await self._vault()
            # Locked meanwhile, or for too long without our vault meta, it seals nothing more.
            with suppress(VaultLockedError, StaleKeyringError, RefutedKeyringError):
                vault.freshness.check()
                await self._resealer.reseal(old, vault.codecs[self._context])
