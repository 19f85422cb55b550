"""
The legacy window: the time in which a vault's policy allows reading legacy records and plaintext.

`Vault.read_legacy_with` opens the window and `Vault.end_legacy_reads` closes it, usually in another
process than the one that reads.  A reader therefore judges such a record only by a vault meta that
was read at most `MAX_AGE` seconds ago.  So a process that started before the legacy keys were
imported finds them, and a process that still holds them learns that they are gone.

Within these seconds a process may be behind: after the end it may still read and seal a legacy
record, and after the beginning it may still refuse one.  While the vault meta cannot be read, the
last one read stays valid.  Reading sealed records does not need a fresh vault meta.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from kvseal import clock
from kvseal.concurrency import SingleFlight, within
from kvseal.errors import (
    LegacyRecordError,
    PlaintextRecordError,
    StoreError,
    StoreUnreachableError,
    VaultError,
)
from kvseal.legacy import codecs_for
from kvseal.vault.freshness import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvseal.errors import RecordError
    from kvseal.keys.keyring import Keyring
    from kvseal.legacy import LegacyCodec
    from kvseal.vault.session import OpenVault

MAX_AGE: Final = 5.0
"""Seconds.  All readers of one wrapper together read the vault meta at most once in this time."""

_log = logging.getLogger("kvseal")


async def refresh_soon(vault: OpenVault) -> bool:
    """
    Read the vault meta again for a reader that waits for it, and return whether it changed.

    Raises:
        StoreUnreachableError: the store did not answer within `PATIENCE` seconds.
        VaultError, StoreError: as `OpenVault.refresh`.
    """
    try:
        return await within(PATIENCE, vault.refresh())
    except asyncio.TimeoutError as exc:
        msg = f"the vault meta in {vault.metastore.location}: no answer within {PATIENCE:g} s"
        raise StoreUnreachableError(msg, hint="check the store that holds the vault meta") from exc


class LegacyWindow:
    """Opens records that are not sealed, while the vault's policy allows it."""

    def __init__(self, *, clock: Callable[[], float] = clock.monotonic) -> None:
        self._clock = clock
        self._looked_at = float("-inf")
        self._looking: SingleFlight[None] = SingleFlight()
        self._codecs: WeakKeyDictionary[Keyring, tuple[LegacyCodec, ...]] = WeakKeyDictionary()

    async def open(self, error: RecordError, stored: Mapping[str, Any], vault: OpenVault) -> dict[str, Any]:
        """
        Return the value in *stored*; *error* says why it is not a sealed record.

        Raises:
            RecordError: the policy does not allow it, or no legacy key opens it.
        """
        if self._clock() - self._looked_at >= MAX_AGE:
            await self._looking.run(partial(self._look, vault))
        await vault.unlock()
        keyring = vault.keyring
        if isinstance(error, (LegacyRecordError, PlaintextRecordError)) and keyring.policy.read_legacy:
            # A legacy record may look like plaintext; it must never be returned as plaintext.
            codec = self._codec_of(stored, keyring)
            if codec is not None:
                return codec.open(stored)
            if isinstance(error, LegacyRecordError):
                msg = "the record has a legacy format for which the vault holds no key"
                raise LegacyRecordError(msg)
        if isinstance(error, PlaintextRecordError) and keyring.policy.read_plaintext:
            return dict(stored)
        raise error

    async def _look(self, vault: OpenVault) -> None:
        # The vault meta is as old as the moment at which reading it began.
        now = self._clock()
        try:
            await refresh_soon(vault)
        except (StoreError, VaultError) as exc:
            _log.warning("the vault meta cannot be read again: %s: %s", type(exc).__name__, exc)
        self._looked_at = now

    def _codec_of(self, stored: Mapping[str, Any], keyring: Keyring) -> LegacyCodec | None:
        codecs = self._codecs.get(keyring)
        if codecs is None:
            codecs = self._codecs[keyring] = codecs_for((key.kind, key.key) for key in keyring.legacy)
        return next((codec for codec in codecs if codec.recognises(stored)), None)
