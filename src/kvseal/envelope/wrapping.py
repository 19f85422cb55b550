"""
Wrapping: every stored key is wrapped with XAES-256-GCM, with a commitment to the wrapping key.

AES-GCM alone does not commit to its key: an attacker can make a ciphertext that opens under two
keys.  So every wrap has a commitment, an HKDF output that is compared before anything is opened.
The comparison also distinguishes a wrong key from damaged bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hmac import compare_digest
from os import urandom as _os_urandom
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag

from kvseal.envelope.aead import KEY_SIZE, NONCE_SIZE, TAG_SIZE, XAES256GCM
from kvseal.envelope.kdf import hkdf

if TYPE_CHECKING:
    from collections.abc import Callable

COMMITMENT_SIZE: Final = 32
WRAPPED_SIZE: Final = KEY_SIZE + TAG_SIZE


class WrongKeyError(Exception):
    """The commitment belongs to another wrapping key."""


class DamagedWrapError(Exception):
    """The wrapping key is right, but the wrapped bytes or the data they are bound to were changed."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """One 32-byte key at rest: commitment (32), nonce (24), ciphertext ‖ tag (48)."""

    commitment: bytes
    nonce: bytes
    ciphertext: bytes = field(repr=False)

    def __post_init__(self) -> None:
        sizes = (len(self.commitment), len(self.nonce), len(self.ciphertext))
        if sizes != (COMMITMENT_SIZE, NONCE_SIZE, WRAPPED_SIZE):
            msg = f"a wrapped key has {COMMITMENT_SIZE}, {NONCE_SIZE} and {WRAPPED_SIZE} bytes, not {sizes}"
            raise ValueError(msg)


def wrap_key(
    key: bytes, *, under: bytes, purpose: bytes, aad: bytes, urandom: Callable[[int], bytes] = _os_urandom
) -> WrappedKey:
    """
    Wrap the 32-byte *key*.

    *under* is 32 uniformly random or Argon2id-derived bytes; wrapping key and commitment
    are two HKDF outputs of it, for *purpose*.  The wrap is bound to *aad*.
    """
    if len(key) != KEY_SIZE:
        msg = f"a key to wrap has {KEY_SIZE} bytes, not {len(key)}"
        raise ValueError(msg)
    nonce = urandom(NONCE_SIZE)
    wrapping_key, commitment = _derive(under, purpose)
    return WrappedKey(commitment, nonce, XAES256GCM(wrapping_key).seal(nonce, key, aad))


def unwrap_key(wrapped: WrappedKey, *, under: bytes, purpose: bytes, aad: bytes) -> bytes:
    """
    Return the 32-byte key.

    Raises:
        WrongKeyError: the key was wrapped with another *under* or *purpose*.
        DamagedWrapError: nonce, ciphertext or *aad* were changed.
    """
    wrapping_key, commitment = _derive(under, purpose)
    if not compare_digest(commitment, wrapped.commitment):
        raise WrongKeyError
    try:
        return XAES256GCM(wrapping_key).open(wrapped.nonce, wrapped.ciphertext, aad)
    except InvalidTag as exc:
        raise DamagedWrapError from exc


def _derive(under: bytes, purpose: bytes) -> tuple[bytes, bytes]:
    material = hkdf(under, purpose, KEY_SIZE + COMMITMENT_SIZE)
    return material[:KEY_SIZE], material[KEY_SIZE:]
