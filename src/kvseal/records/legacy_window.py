"""
What a vault's policy lets in beside sealed records: legacy ones, and plaintext.

`Vault.read_legacy_with` opens that window and `Vault.end_legacy_reads` closes it, most often in
another process than the one that reads.  So no such record is judged by a vault meta that was
read more than `MAX_AGE` seconds ago: a process that was started before the legacy keys were
imported finds them, and one that still holds them finds that they are gone.

What a process may do that is behind by at most these seconds: after the end, read a legacy record
once more and seal it; after the beginning, refuse one that it had already refused.  While the
vault meta cannot be read, the last one that could be read goes on to count.  Sealed records are
read without a look at the vault meta, as ever.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from kvseal import clock
from kvseal.concurrency import SingleFlight
from kvseal.errors import LegacyRecordError, PlaintextRecordError, StoreError, VaultError
from kvseal.legacy import codecs_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvseal.errors import RecordError
    from kvseal.keys.keyring import Keyring
    from kvseal.legacy import LegacyCodec
    from kvseal.vault.session import OpenVault

MAX_AGE: Final = 5.0
"""Seconds.  All readers of one wrapper together read the vault meta at most once in so many."""

_log = logging.getLogger("kvseal")


class LegacyWindow:
    """Opens what is not sealed while the vault's policy allows it."""

    def __init__(self, *, clock: Callable[[], float] = clock.monotonic) -> None:
        self._clock = clock
        self._looked_at = float("-inf")
        self._looking: SingleFlight[None] = SingleFlight()
        self._codecs: WeakKeyDictionary[Keyring, tuple[LegacyCodec, ...]] = WeakKeyDictionary()

    async def open(self, error: RecordError, stored: Mapping[str, Any], vault: OpenVault) -> dict[str, Any]:
        """
        Return the value in *stored*, of which *error* says how it is not sealed.

        Raises:
            RecordError: policy does not allow it, or no legacy key opens it.
        """
        if self._clock() - self._looked_at >= MAX_AGE:
            await self._looking.run(partial(self._look, vault))
        keyring = vault.keyring
        if isinstance(error, (LegacyRecordError, PlaintextRecordError)) and keyring.policy.read_legacy:
            # A legacy format may look like plaintext, and is never to be returned as such.
            codec = self._codec_of(stored, keyring)
            if codec is not None:
                return codec.open(stored)
            if isinstance(error, LegacyRecordError):
                msg = "the record is of a legacy format for which the vault holds no key"
                raise LegacyRecordError(msg)
        if isinstance(error, PlaintextRecordError) and keyring.policy.read_plaintext:
            return dict(stored)
        raise error

    async def _look(self, vault: OpenVault) -> None:
        # What the vault meta says, it says at the earliest of the moment at which it was asked for.
        now = self._clock()
        try:
            await vault.refresh()
        except (StoreError, VaultError) as exc:
            _log.warning("the vault meta cannot be read again: %s: %s", type(exc).__name__, exc)
        self._looked_at = now

    def _codec_of(self, stored: Mapping[str, Any], keyring: Keyring) -> LegacyCodec | None:
        codecs = self._codecs.get(keyring)
        if codecs is None:
            codecs = self._codecs[keyring] = codecs_for((key.kind, key.key) for key in keyring.legacy)
        return next((codec for codec in codecs if codec.recognises(stored)), None)
