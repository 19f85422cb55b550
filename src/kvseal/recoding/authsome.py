"""
What a migration from authsome needs: codecs that open its records, and the keys that the new vault adopts.

kvseal tries all key material before it writes anything: it finds here a secret that does not open the
key record, and flat records that none of the given keys opens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvseal.concurrency import in_thread
from kvseal.drivers.reach import driver_of
from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING
from kvseal.envelope.stored import is_sealed
from kvseal.errors import RecordError, SecretError, VaultMetaError, WrongLegacyKeyError
from kvseal.keys.keyring import LegacyKey
from kvseal.keys.meta import META_COLLECTION, META_KEY, is_vault_meta
from kvseal.legacy import AUTHSOME, AUTHSOME_FLAT, AuthsomeCodec, AuthsomeControlCodec, AuthsomeFlatCodec
from kvseal.legacy.authsome_keys import AuthsomeKeyRecord
from kvseal.vault.creation import Adoption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver, Entry
    from kvseal.legacy import LegacyCodec
    from kvseal.legacy.authsome_keys import AuthsomeMasterKey

_OLD_KEY: Final = "name the key of authsome 0.4, too: its master.key, or keyring:authsome/master_key"


@dataclass(frozen=True, slots=True)
class Takeover:
    """
    The arguments for `migrate`: `legacy`, `leaves` and, for a vault in the same store, `adopts`.

    `adopts` is `None` if there is nothing to adopt, or if a kvseal vault has adopted the keys already
    and holds them itself.
    """

    legacy: tuple[LegacyCodec, ...]
    adopts: Adoption | None
    leaves: tuple[LegacyCodec, ...] = (AuthsomeControlCodec(),)


async def take_over_authsome(
    store: AsyncKeyValue | Driver,
    masters: Sequence[AuthsomeMasterKey],
    *,
    memory_ceiling: int = DEFAULT_MEMORY_CEILING,
) -> Takeover:
    """
    Return what opens the records of authsome in *store*; *masters* are tried in order.  Writes nothing.

    An upgraded home can need two: 0.4 preferred the keyring to the key file, 0.5 does not.

    Raises:
        WrongLegacyKeyError: none of *masters* opens the key record, or none opens a flat record.
        ForeignVaultError: the key record is not authsome's, or is malformed.
        KDFParametersError: it needs more memory than *memory_ceiling* KiB.
        VaultMetaError: the key record cannot be read, or is missing although records need it.
        SecretError: no master was given.
    """
    if not masters:
        msg = "no master key of authsome was named"
        raise SecretError(msg, hint="give --authsome-key-file PATH or --authsome-secret REF")
    driver = driver_of(store)
    try:
        entry = await driver.get(META_COLLECTION, META_KEY)
        record = _foreign(entry, driver.location)
        keys = [] if record is None else [await _dek(record, masters, memory_ceiling)]
        look = _Look(masters)
        async for page in driver.scan():
            await in_thread(look.at_all, page.entries)
        look.judge(has_keys=entry is not None)
    finally:
        if driver is not store:
            await driver.close()
    flat = look.proven
    codecs = (AuthsomeCodec([key.key for key in keys]), AuthsomeFlatCodec(flat))
    keys += [LegacyKey(AUTHSOME_FLAT, key) for key in flat]
    adoptable = keys and (entry is None or record is not None)
    return Takeover(codecs, Adoption(record, tuple(keys)) if adoptable else None)


def _foreign(entry: Entry | None, location: str) -> Mapping[str, Any] | None:
    """Return another program's entry at the place of the vault meta, or `None`."""
    if entry is None:
        return None
    if entry.value is None:
        msg = f"{META_COLLECTION}/{META_KEY} in {location} cannot be read: {entry.problem}"
        raise VaultMetaError(msg, hint="restore it from a backup")
    return None if is_vault_meta(entry.value) else entry.value


async def _dek(
    record: Mapping[str, Any], masters: Sequence[AuthsomeMasterKey], memory_ceiling: int
) -> LegacyKey:
    parsed = AuthsomeKeyRecord.from_value(record)
    refusals: list[WrongLegacyKeyError] = []
    for secret in dict.fromkeys(master.secret for master in masters):
        try:
            dek = await in_thread(parsed.unwrap, secret, memory_ceiling=memory_ceiling)
        except WrongLegacyKeyError as exc:
            refusals.append(exc)
        else:
            return LegacyKey(AUTHSOME, dek)
    raise refusals[0]


class _Look:
    """Finds which keys open flat records, and whether there is a key for every record."""

    def __init__(self, masters: Sequence[AuthsomeMasterKey]) -> None:
        keys = dict.fromkeys(master.flat for master in masters if master.flat is not None)
        self._candidates = {key: AuthsomeFlatCodec([key]) for key in keys}
        self._proven: set[bytes] = set()
        self._envelope = AuthsomeCodec(())
        self._any = AuthsomeFlatCodec(())
        self._flat = self._enveloped = self._sealed = 0

    @property
    def proven(self) -> list[bytes]:
        """The keys that have opened a flat record, in order; the vault needs to hold no others."""
        return [key for key in self._candidates if key in self._proven]

    def at_all(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.value is not None and entry.collection != META_COLLECTION:
                self._at(entry.value)

    def _at(self, stored: Mapping[str, Any]) -> None:
        if is_sealed(stored):
            self._sealed += 1
        elif self._envelope.recognises(stored):
            self._enveloped += 1
        elif self._any.recognises(stored):
            self._flat += 1
            self._proven.update(key for key, codec in self._candidates.items() if _opens(codec, stored))

    def judge(self, *, has_keys: bool) -> None:
        if self._enveloped and not has_keys:
            msg = f"{self._enveloped} records are from authsome 0.5 or later, but their key record is missing"
            raise VaultMetaError(
                msg, hint=f"restore {META_COLLECTION}/{META_KEY} from a backup; nothing was written"
            )
        # If other records are finished, the flat ones that are left may all be damaged.
        if not self._flat or self._proven or self._sealed:
            return
        if not self._candidates:
            msg = f"{self._flat} records are from authsome 0.3 or 0.4, and no given key is for them"
            raise WrongLegacyKeyError(msg, hint=_OLD_KEY)
        msg = f"the given key opens none of {self._flat} records from authsome 0.3 and 0.4"
        raise WrongLegacyKeyError(msg, hint=_OLD_KEY)


def _opens(codec: AuthsomeFlatCodec, stored: Mapping[str, Any]) -> bool:
    try:
        codec.open(stored)
    except RecordError:
        return False
    return True
