"""
The master secret: what a person or machine holds, never stored in the vault.

A generated secret is 256 random bits as text in groups, with a checksum, so that
a typing error is found before any derivation.  Every other secret is taken as it is.
"""

from __future__ import annotations

import binascii
from base64 import b32decode, b32encode
from hashlib import sha256
from hmac import compare_digest
from os import urandom
from typing import TYPE_CHECKING, Final, NoReturn

from kvseal.errors import EmptySecretError, MistypedSecretError

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX: Final = "KVSEAL1"
GROUP_SIZE: Final = 5

_KEY_SIZE: Final = 32
_CHECKSUM_SIZE: Final = 4
_CHECKSUM_LABEL: Final = b"kvseal/master-secret/v1\x00"
_TEXT_SIZE: Final = 58
"""Base32 characters of key ‖ checksum."""


class Secret:
    """
    A master secret in memory.

    `reveal()` is the only way to its bytes.  It has no repr, cannot be pickled or copied,
    and compares in constant time.

    Raises:
        EmptySecretError: nothing but white space.
        MistypedSecretError: the form of a generated secret, but its checksum does not match.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if not isinstance(value, bytes):
            msg = f"a Secret takes bytes, not {type(value).__name__}"
            raise TypeError(msg)
        if not value.strip():
            msg = "the secret is empty"
            raise EmptySecretError(msg, hint="an unset variable or an empty file is not a secret")
        self._value = _canonical(value)

    def reveal(self) -> bytes:
        """Return the secret's bytes.  Whoever calls this answers for them."""
        return self._value

    def __repr__(self) -> str:
        return "<Secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # A hash of a secret would be comparable in variable time.

    def __reduce__(self) -> NoReturn:
        msg = "a Secret is not pickled or copied"
        raise TypeError(msg)


def generate(*, random: Callable[[int], bytes] = urandom) -> Secret:
    """Return 256 new random bits in the checksummed form: `KVSEAL1-` and groups of five characters."""
    return Secret(_text_of(random(_KEY_SIZE)).encode())


def _canonical(value: bytes) -> bytes:
    """Return a generated secret in its one spelling, and any other secret unchanged."""
    text = value.decode("ascii", "replace").upper()
    if not text.startswith(PREFIX + "-"):
        return value
    letters = "".join(text.removeprefix(PREFIX).replace("-", " ").split())
    try:
        # The last character carries unused bits, so only a round trip tells that nothing was mistyped.
        key = b32decode(letters + "=" * (-len(letters) % 8))[:_KEY_SIZE]
        canonical = _text_of(key)
    except (binascii.Error, ValueError):
        canonical = ""
    if len(letters) != _TEXT_SIZE or canonical.replace("-", "") != PREFIX + letters:
        msg = "the secret has the form of a generated one, but it was mistyped: its checksum does not match"
        raise MistypedSecretError(msg, hint="compare it with the original, group by group")
    return canonical.encode()


def _text_of(key: bytes) -> str:
    checksum = sha256(_CHECKSUM_LABEL + key).digest()[:_CHECKSUM_SIZE]
    letters = b32encode(key + checksum).decode().rstrip("=")
    groups = [letters[start : start + GROUP_SIZE] for start in range(0, len(letters), GROUP_SIZE)]
    return "-".join([PREFIX, *groups])
