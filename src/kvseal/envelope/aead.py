"""
XAES-256-GCM: AES-256-GCM with a 192-bit nonce, as published by C2SP.

The first 12 nonce bytes derive an AES-256-GCM key, the last 12 are the nonce
under that key.  Random nonces are safe for more records than a vault will ever
hold, so no writer keeps a counter, and a forked or restored process repeats no
nonce.

https://c2sp.org/XAES-256-GCM
"""

from __future__ import annotations

from typing import Final, NoReturn

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

KEY_SIZE: Final = 32
NONCE_SIZE: Final = 24
DERIVATION_SIZE: Final = 12
"""Leading nonce bytes that choose the AES-GCM key."""
TAG_SIZE: Final = 16

_BLOCK: Final = 16


class XAES256GCM:
    """One 32-byte key.  Raises `ValueError` for any other length."""

    __slots__ = ("_block_cipher", "_mask")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            msg = f"an XAES-256-GCM key has {KEY_SIZE} bytes, not {len(key)}"
            raise ValueError(msg)
        self._block_cipher = Cipher(AES(key), ECB())  # noqa: S305 - single blocks of CMAC, as C2SP defines it
        self._mask = _double(self._encrypt_block(bytes(_BLOCK)))

    def derive(self, nonce_start: bytes) -> AESGCM:
        """Return the AES-256-GCM key for nonces that start with these 12 bytes."""
        if len(nonce_start) != DERIVATION_SIZE:
            msg = f"a derived key takes {DERIVATION_SIZE} nonce bytes, not {len(nonce_start)}"
            raise ValueError(msg)
        halves = (b"\x00\x01X\x00" + nonce_start, b"\x00\x02X\x00" + nonce_start)
        return AESGCM(b"".join(self._encrypt_block(_xor(half, self._mask)) for half in halves))

    def seal(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Return ciphertext ‖ tag.  *nonce* is 24 random bytes, drawn only for this call."""
        _check_nonce(nonce)
        return self.derive(nonce[:DERIVATION_SIZE]).encrypt(nonce[DERIVATION_SIZE:], plaintext, aad)

    def open(self, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
        """Return the plaintext, or raise `cryptography.exceptions.InvalidTag`."""
        _check_nonce(nonce)
        return self.derive(nonce[:DERIVATION_SIZE]).decrypt(nonce[DERIVATION_SIZE:], ciphertext, aad)

    def __reduce__(self) -> NoReturn:
        msg = "an XAES256GCM holds a key and is not pickled or copied"
        raise TypeError(msg)

    def _encrypt_block(self, block: bytes) -> bytes:
        return self._block_cipher.encryptor().update(block)


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_SIZE:
        msg = f"an XAES-256-GCM nonce has {NONCE_SIZE} bytes, not {len(nonce)}"
        raise ValueError(msg)


def _double(block: bytes) -> bytes:
    """Multiply by x in GF(2^128), as CMAC does for its first subkey (NIST SP 800-38B, section 6.1)."""
    number = int.from_bytes(block, "big")
    carry = number >> 127
    return ((number << 1 & (1 << 128) - 1) ^ 0x87 * carry).to_bytes(_BLOCK, "big")


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
