"""
The root key: 32 random bytes, one per vault, that wrap the DEKs and authenticate the vault meta.

It derives a separate key for each purpose.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hmac import compare_digest
from os import urandom
from typing import TYPE_CHECKING, Final, NoReturn

from kvseal.envelope.aead import KEY_SIZE
from kvseal.envelope.kdf import hkdf
from kvseal.envelope.wrapping import DamagedWrapError, WrappedKey, WrongKeyError, unwrap_key, wrap_key
from kvseal.errors import TamperedMetaError

if TYPE_CHECKING:
    from collections.abc import Callable

_DEK_PURPOSE: Final = b"kvseal/dek/v1"
_LEGACY_PURPOSE: Final = b"kvseal/legacy-key/v1"
_MAC_PURPOSE: Final = b"kvseal/meta-mac/v1"
_IDENTITY_PURPOSE: Final = b"kvseal/root-id/v1"
_HANDOVER_PURPOSE: Final = b"kvseal/root-handover/v1"
_HANDOVER_SIZE: Final = 32


class RootKey:
    """
    The root key of one vault in memory.  Its repr shows no key, and it cannot be pickled.

    Raises:
        ValueError: *key* is not 32 bytes.
    """

    __slots__ = ("__weakref__", "_key", "_vault_id")

    def __init__(self, key: bytes, vault_id: bytes) -> None:
        if len(key) != KEY_SIZE:
            msg = f"a root key has {KEY_SIZE} bytes, not {len(key)}"
            raise ValueError(msg)
        self._key = key
        self._vault_id = vault_id

    @classmethod
    def generate(cls, vault_id: bytes, *, random: Callable[[int], bytes] = urandom) -> RootKey:
        """Return a new random root key for this vault."""
        return cls(random(KEY_SIZE), vault_id)

    @property
    def vault_id(self) -> bytes:
        """The 16 bytes that name the vault."""
        return self._vault_id

    def reveal(self) -> bytes:
        """Return the 32 bytes, for a keyslot to wrap."""
        return self._key

    def wrap_dek(self, dek: bytes, number: int) -> WrappedKey:
        """Wrap a DEK, bound to this vault and to its number."""
        return wrap_key(dek, under=self._key, purpose=_DEK_PURPOSE, aad=self._dek_aad(number))

    def unwrap_dek(self, wrapped: WrappedKey, number: int) -> bytes:
        """Return the DEK, or raise `TamperedMetaError`."""
        return self._unwrap(wrapped, _DEK_PURPOSE, self._dek_aad(number), f"DEK {number}")

    def wrap_legacy(self, key: bytes, kind: str, identifier: str) -> WrappedKey:
        """Wrap a 32-byte legacy key, bound to this vault, its kind and its id."""
        return wrap_key(key, under=self._key, purpose=_LEGACY_PURPOSE, aad=self._legacy_aad(kind, identifier))

    def unwrap_legacy(self, wrapped: WrappedKey, kind: str, identifier: str) -> bytes:
        """Return the legacy key, or raise `TamperedMetaError`."""
        return self._unwrap(
            wrapped, _LEGACY_PURPOSE, self._legacy_aad(kind, identifier), f"legacy key {identifier}"
        )

    def mac(self, message: bytes) -> bytes:
        """Return the 32-byte HMAC-SHA256 that authenticates a vault meta."""
        return hmac.digest(hkdf(self._key, _MAC_PURPOSE), message, "sha256")

    @property
    def identity(self) -> bytes:
        """Return 32 bytes that identify this root key and reveal nothing about it."""
        return hkdf(self._key, _IDENTITY_PURPOSE)

    def vouch(self, successor: bytes) -> bytes:
        """Return the 32-byte HMAC-SHA256 of this root key over *successor*, the identity of the next one."""
        return hmac.digest(hkdf(self._key, _HANDOVER_PURPOSE), self._vault_id + successor, "sha256")

    def __repr__(self) -> str:
        return f"<RootKey of vault {self._vault_id.hex()}>"

    def __reduce__(self) -> NoReturn:
        msg = "a RootKey is not pickled or copied"
        raise TypeError(msg)

    def _unwrap(self, wrapped: WrappedKey, purpose: bytes, aad: bytes, name: str) -> bytes:
        try:
            return unwrap_key(wrapped, under=self._key, purpose=purpose, aad=aad)
        except (WrongKeyError, DamagedWrapError):
            msg = f"{name} in the vault meta does not open under this vault's root key"
            raise TamperedMetaError(msg, hint="restore the vault meta from a backup") from None

    def _dek_aad(self, number: int) -> bytes:
        return self._vault_id + number.to_bytes(4, "big")

    def _legacy_aad(self, kind: str, identifier: str) -> bytes:
        return self._vault_id + b"\x00".join((kind.encode(), identifier.encode()))


@dataclass(frozen=True, slots=True)
class Handover:
    """The identity of a new root key, and the MAC of the previous root key over it: 32 bytes each."""

    successor: bytes
    mac: bytes

    def __post_init__(self) -> None:
        sizes = (len(self.successor), len(self.mac))
        if sizes != (_HANDOVER_SIZE, _HANDOVER_SIZE):
            msg = f"a handover has {_HANDOVER_SIZE} and {_HANDOVER_SIZE} bytes, not {sizes}"
            raise ValueError(msg)

    @classmethod
    def between(cls, root: RootKey, successor: RootKey) -> Handover:
        """Return the handover from *root* to *successor*."""
        return cls(successor.identity, root.vouch(successor.identity))

    def is_by(self, root: RootKey) -> bool:
        """Whether *root* made this handover; the check derives nothing from a secret."""
        return compare_digest(self.mac, root.vouch(self.successor))

    def is_to(self, root: RootKey) -> bool:
        """Whether this handover names *root* as the new root key."""
        return compare_digest(self.successor, root.identity)
