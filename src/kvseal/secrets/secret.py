"""
The master secret: what a person or machine holds, never stored in the vault.

A generated secret, or a recovery key, is 256 random bits as text in groups, with a checksum, so
that a typing error is found before any derivation.  Every other secret is taken as it is.
"""

from __future__ import annotations

import re
from base64 import b32decode, b32encode
from hashlib import sha256
from hmac import compare_digest
from os import urandom
from typing import TYPE_CHECKING, Final, NoReturn

from kvseal.errors import EmptySecretError, MistypedSecretError
from kvseal.secrets import recovery_key
from kvseal.secrets.mistakes import wrapped_texts

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX: Final = "KVSEAL1"
GROUP_SIZE: Final = 5

_KEY_SIZE: Final = 32
_CHECKSUM_SIZE: Final = 4
_CHECKSUM_LABEL: Final = b"kvseal/master-secret/v1\x00"
_TEXT_SIZE: Final = 58
"""Base32 characters of key ‖ checksum."""
_SLIP: Final = 2
"""Characters too many or too few that a generated secret may have and still be recognised."""

_WHOLE: Final = (
    re.compile(rf"{PREFIX}(?:[-\s]{{0,4}}[A-Z2-7]){{{_TEXT_SIZE}}}"),
    re.compile(rf"{recovery_key.PREFIX}(?:[-\s]{{0,4}}[0-9A-Z]){{{recovery_key.TEXT_SIZE}}}"),
)
"""A generated secret or recovery key that may stand in the middle of other text."""

_OTHER_TEXT: Final = re.compile(r"[^-\sA-Z0-9]")


class Secret:
    """
    A master secret in memory.

    `reveal()` is the only way to its bytes.  It has no repr, cannot be pickled or copied,
    and compares in constant time.

    Raises:
        EmptySecretError: nothing but white space.
        MistypedSecretError: the form of a generated secret or recovery key, but a checksum does not match,
            or there is other text around it.
    """

    __slots__ = ("_generated", "_value")

    def __init__(self, value: bytes) -> None:
        if not isinstance(value, bytes):
            msg = f"a Secret takes bytes, not {type(value).__name__}"
            raise TypeError(msg)
        if not value.strip():
            msg = "the secret is empty"
            raise EmptySecretError(msg, hint="an unset variable or an empty file is not a secret")
        generated = _spelled(value)
        self._generated = generated is not None
        self._value = value if generated is None else generated

    @property
    def is_generated(self) -> bool:
        """Whether it is 256 random bits, as the checksum of its form shows."""
        return self._generated

    def reveal(self) -> bytes:
        """Return the secret's bytes.  The caller is responsible for them."""
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


def generate_recovery_key(*, random: Callable[[int], bytes] = urandom) -> Secret:
    """Return 256 new random bits as a person can type them: `KVSEALR1-` and groups that each have a check."""
    return Secret(recovery_key.text_of(random(_KEY_SIZE)).encode())


def _spelled(value: bytes) -> bytes | None:
    """Return the one spelling of a generated secret; raise where it is mistyped, or not alone in *value*."""
    try:
        spelled = _canonical(value)
    except MistypedSecretError:
        _refuse_surrounded(value)
        raise
    if spelled is None:
        _refuse_surrounded(value)
    return spelled


def _canonical(value: bytes) -> bytes | None:
    """Return a generated secret or recovery key in its one spelling, and `None` for any other secret."""
    text = value.decode("ascii", "replace").upper()
    recovered = recovery_key.canonical(text)
    if recovered is not None:
        return recovered.encode()
    letters = "".join(text.replace("-", " ").split())
    canonical = _checked(letters[-_TEXT_SIZE:])
    if canonical and canonical.replace("-", "") == letters:
        return canonical.encode()
    named = letters.startswith(PREFIX) and abs(len(letters) - len(PREFIX) - _TEXT_SIZE) <= _SLIP
    # A checksum that matches behind another prefix means that the prefix was mistyped.
    if canonical or named or text.startswith(PREFIX + "-"):
        msg = "the secret has the form of a generated one, but it was mistyped: its checksum does not match"
        raise MistypedSecretError(msg, hint="compare it with the original, group by group")
    return None


def _refuse_surrounded(value: bytes) -> None:
    """Raise where *value* is other text around a generated secret, which alone would be taken for one."""
    for what, inner in wrapped_texts(value):
        if _canonical(inner.encode()) is not None:
            raise _surrounded(what)
    text = value.decode("ascii", "replace").upper()
    # More letters alone are a typing error, which the form itself locates.  No match has other text inside.
    if _OTHER_TEXT.search(text) is None:
        return
    for match in (match for whole in _WHOLE for match in whole.finditer(text)):
        if _is_generated(match[0]):
            raise _surrounded("inside other text")


def _is_generated(text: str) -> bool:
    try:
        return _canonical(text.encode()) is not None
    except MistypedSecretError:
        return False


def _surrounded(what: str) -> MistypedSecretError:
    msg = f"the secret is a generated one {what}, and not the generated one alone"
    return MistypedSecretError(msg, hint=f"store it by itself, from {PREFIX} on, as plain text")


def _checked(letters: str) -> str:
    """Return the generated secret with these base32 characters, or nothing where the checksum is wrong."""
    try:
        key = b32decode(letters + "=" * (-len(letters) % 8))[:_KEY_SIZE]
    except ValueError:
        return ""
    # The last character carries unused bits, so only a round trip shows that nothing was mistyped.
    canonical = _text_of(key)
    return canonical if canonical.replace("-", "") == PREFIX + letters else ""


def _text_of(key: bytes) -> str:
    checksum = sha256(_CHECKSUM_LABEL + key).digest()[:_CHECKSUM_SIZE]
    letters = b32encode(key + checksum).decode().rstrip("=")
    groups = [letters[start : start + GROUP_SIZE] for start in range(0, len(letters), GROUP_SIZE)]
    return "-".join([PREFIX, *groups])
