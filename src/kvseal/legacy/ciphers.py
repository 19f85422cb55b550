"""
The ciphers that people use by hand: one class for each, with one key.

A cipher takes nonce, ciphertext and tag apart from each other; where they are stored is for a layout to
know.  `open` returns `None` where the key does not fit or the record is damaged.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as CbcCipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from kvseal.errors import MalformedRecordError, SecretError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

MAC_HASHES: Final = ("sha256", "sha384", "sha512")
AES_KEYS: Final = (16, 24, 32)

_BLOCK: Final = 16


class Cipher(Protocol):
    """One cipher under one key."""

    @property
    def nonce_size(self) -> int:
        """Bytes of a nonce that is drawn, or that stands in front of the ciphertext."""
        ...

    @property
    def tag_size(self) -> int:
        """Bytes of the tag; 0 where the ciphertext has it inside."""
        ...

    def open(self, nonce: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes | None:
        """Return the plaintext, `None` where a check fails; or raise `MalformedRecordError`."""
        ...

    def seal(self, nonce: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
        """Return ciphertext and tag."""
        ...


class _Aead:
    """AES-GCM or ChaCha20-Poly1305, as `cryptography` has them: the tag is behind the ciphertext."""

    __slots__ = ("_aead",)

    nonce_size: int = 12
    tag_size: int = 16

    def __init__(self, aead: AESGCM | ChaCha20Poly1305) -> None:
        self._aead = aead

    def open(self, nonce: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes | None:
        try:
            return self._aead.decrypt(nonce, ciphertext + tag, aad)
        except InvalidTag:
            return None
        except ValueError:
            msg = f"the record has a nonce of {len(nonce)} bytes, which its cipher does not take"
        raise MalformedRecordError(msg)

    def seal(self, nonce: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
        sealed = self._aead.encrypt(nonce, plaintext, aad)
        return sealed[: -self.tag_size], sealed[-self.tag_size :]


class AesGcm(_Aead):
    """AES-GCM with a key of 16, 24 or 32 bytes."""

    __slots__ = ()

    def __init__(self, key: bytes) -> None:
        super().__init__(AESGCM(sized(key, "AES-GCM", *AES_KEYS)))


class ChaCha20(_Aead):
    """ChaCha20-Poly1305 with a key of 32 bytes."""

    __slots__ = ()

    def __init__(self, key: bytes) -> None:
        super().__init__(ChaCha20Poly1305(sized(key, "ChaCha20-Poly1305", 32)))


class AesCbcHmac:
    """
    AES-CBC with PKCS #7 padding, and an HMAC over associated data, IV and ciphertext that is checked first.

    *length* is what else goes into the HMAC at its end: in JOSE, the length of the associated data.
    """

    __slots__ = ("_aes", "_hash", "_length", "_mac_key", "tag_size")

    nonce_size: int = 16

    def __init__(
        self,
        key: bytes,
        mac_key: bytes,
        *,
        mac_hash: str = "sha256",
        tag_size: int | None = None,
        length: Callable[[bytes], bytes] = lambda _: b"",
    ) -> None:
        self._aes = AES(sized(key, "AES-CBC", *AES_KEYS))
        self._mac_key = mac_key
        self._hash = mac_hash
        self._length = length
        self.tag_size = tag_size or hmac.new(b"", digestmod=mac_hash).digest_size

    @classmethod
    def of_one_key(cls, key: bytes, *, mac_hash: str = "sha256", mac_first: bool = True) -> AesCbcHmac:
        """Return the cipher whose key is two halves, that of the HMAC *mac_first* or last."""
        half = len(sized(key, "AES-CBC with HMAC", *(2 * size for size in AES_KEYS))) // 2
        first, second = key[:half], key[half:]
        return cls(second, first, mac_hash=mac_hash) if mac_first else cls(first, second, mac_hash=mac_hash)

    def open(self, nonce: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes | None:
        """Return the plaintext, or `None` where the HMAC does not match."""
        if len(nonce) != self.nonce_size or len(ciphertext) % _BLOCK or not ciphertext:
            msg = "the record is no IV of 16 bytes and whole blocks of ciphertext"
            raise MalformedRecordError(msg)
        if not hmac.compare_digest(self._mac(nonce, ciphertext, aad), tag):
            return None
        decryptor = CbcCipher(self._aes, CBC(nonce)).decryptor()
        padded = decryptor.update(ciphertext) + decryptor.finalize()
        # It is authentic, so its padding tells an attacker nothing.
        unpadder = PKCS7(8 * _BLOCK).unpadder()
        try:
            return unpadder.update(padded) + unpadder.finalize()
        except ValueError:
            return None

    def seal(self, nonce: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
        """Return ciphertext and HMAC."""
        padder = PKCS7(8 * _BLOCK).padder()
        encryptor = CbcCipher(self._aes, CBC(nonce)).encryptor()
        ciphertext = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
        return ciphertext, self._mac(nonce, ciphertext, aad)

    def _mac(self, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
        covered = aad + nonce + ciphertext + self._length(aad)
        return hmac.digest(self._mac_key, covered, self._hash)[: self.tag_size]


class SecretBox:
    """NaCl's secretbox (XSalsa20-Poly1305), whose tag is inside the ciphertext.  Needs PyNaCl."""

    __slots__ = ("_box", "_crypto_error")

    nonce_size: int = 24
    tag_size: int = 0

    def __init__(self, key: bytes) -> None:
        try:
            from nacl.exceptions import CryptoError  # noqa: PLC0415 - an extra
            from nacl.secret import SecretBox as Box  # noqa: PLC0415
        except ImportError:
            msg = "records of NaCl's SecretBox need PyNaCl, which is not installed"
            raise UsageError(msg, hint="pip install 'kvseal[nacl]'") from None
        self._box = Box(sized(key, "SecretBox", 32))
        self._crypto_error = CryptoError

    def open(self, nonce: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes | None:  # noqa: ARG002
        """Return the plaintext, or `None` where the tag does not match; there is no associated data."""
        if len(nonce) != self.nonce_size:
            msg = f"the record has a nonce of {len(nonce)} bytes, which its cipher does not take"
            raise MalformedRecordError(msg)
        try:
            return bytes(self._box.decrypt(ciphertext, nonce))
        except (self._crypto_error, ValueError):
            return None

    def seal(self, nonce: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:  # noqa: ARG002
        """Return the ciphertext, with its tag inside, and nothing."""
        return bytes(self._box.encrypt(plaintext, nonce).ciphertext), b""


def sized(key: bytes, cipher: str, *sizes: int) -> bytes:
    """Return *key*, or raise `SecretError` where *cipher* takes no key of its size."""
    if len(key) not in sizes:
        shown = " or ".join(map(str, sizes))
        msg = f"{cipher} takes a key of {shown} bytes, and this one has {len(key)}"
        raise SecretError(msg, hint="check the encoding in which the key is written")
    return key
