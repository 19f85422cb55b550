"""
Fernet keys in every form in which applications keep them, and derived in every way that is common.

A reference holds one key or several.  Each key is decoded strictly, so that nothing that follows it is
dropped in silence: the rest might be the key of half the records.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pybase64 import b64decode

from kvseal.errors import EmptySecretError, KDFParametersError, SecretError
from kvseal.legacy.fernet import KEY_SIZE, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable

ENCODINGS: Final = ("raw", "hex", "base64")
"""How source material and salt are written in what a reference points at."""

KDF_FORMS: Final = "sha256, pbkdf2:HASH,ITERATIONS, hkdf, hkdf:INFO or scrypt:N,R,P"

_UPSTREAM_ITERATIONS: Final = 1_200_000
_SEPARATORS: Final = re.compile(rb"[,\s]+")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{%d}" % (2 * KEY_SIZE))
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_MAX_ITERATIONS: Final = 10**8
_MAX_SCRYPT_BYTES: Final = 4 * 2**30
_MAX_SCRYPT_P: Final = 64
_HASHES: Final[dict[str, Callable[[], hashes.HashAlgorithm]]] = {
    "sha1": hashes.SHA1,
    "sha224": hashes.SHA224,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


class KeyDerivation(Protocol):
    """One way from source material, and a salt where it takes one, to a Fernet key."""

    @property
    def needs_salt(self) -> bool:
        """Whether there has to be a salt."""
        ...

    @property
    def takes_salt(self) -> bool:
        """Whether there may be a salt."""
        ...

    def derive(self, material: bytes, salt: bytes | None) -> bytes:
        """Return the 32 bytes of the key.  Blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Sha256:
    """The SHA-256 hash of the material is the key."""

    needs_salt: ClassVar[bool] = False
    takes_salt: ClassVar[bool] = False

    def derive(self, material: bytes, _: bytes | None) -> bytes:
        """Return the hash."""
        return sha256(material).digest()


@dataclass(frozen=True, slots=True)
class Pbkdf2:
    """PBKDF2-HMAC; without arguments, as py-key-value's Fernet wrapper has it."""

    hash: str = "sha256"
    iterations: int = _UPSTREAM_ITERATIONS
    needs_salt: ClassVar[bool] = True
    takes_salt: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.hash not in _HASHES:
            msg = f"PBKDF2 is known with {', '.join(_HASHES)}"
            raise KDFParametersError(msg)
        if not 1 <= self.iterations <= _MAX_ITERATIONS:
            msg = f"PBKDF2 takes 1 to {_MAX_ITERATIONS:,} iterations"
            raise KDFParametersError(msg)

    def derive(self, material: bytes, salt: bytes | None) -> bytes:
        """Return the key."""
        return PBKDF2HMAC(_HASHES[self.hash](), KEY_SIZE, salt or b"", self.iterations).derive(material)


@dataclass(frozen=True, slots=True)
class Hkdf:
    """HKDF-SHA256; no salt is one of zeros, as RFC 5869 has it."""

    info: bytes = b""
    needs_salt: ClassVar[bool] = False
    takes_salt: ClassVar[bool] = True

    def derive(self, material: bytes, salt: bytes | None) -> bytes:
        """Return the key."""
        return HKDF(hashes.SHA256(), KEY_SIZE, salt, self.info).derive(material)


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """Scrypt (RFC 7914)."""

    n: int
    r: int
    p: int
    needs_salt: ClassVar[bool] = True
    takes_salt: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the parameters, before anything is allocated."""
        is_power = self.n > 1 and not self.n & (self.n - 1)
        if not is_power or self.r < 1 or not 1 <= self.p <= _MAX_SCRYPT_P:
            msg = f"scrypt takes a power of two for N, and at least 1 for R and P, P at most {_MAX_SCRYPT_P}"
            raise KDFParametersError(msg)
        if 128 * self.r * (self.n + self.p) > _MAX_SCRYPT_BYTES:
            msg = f"scrypt with N = {self.n} and R = {self.r} needs more than 4 GiB of memory"
            raise KDFParametersError(msg)

    def derive(self, material: bytes, salt: bytes | None) -> bytes:
        """Return the key."""
        return Scrypt(salt or b"", KEY_SIZE, self.n, self.r, self.p).derive(material)


UPSTREAM: Final = Pbkdf2()
"""How py-key-value's own wrapper derives a key from source material and salt."""


def parse_kdf(text: str) -> KeyDerivation:
    """
    Return the derivation that *text* names, in one of `KDF_FORMS`.

    Raises:
        KDFParametersError: it names none, or its parameters are out of bounds.
    """
    name, colon, rest = text.partition(":")
    parameters = rest.split(",")
    if name == "hkdf":
        return Hkdf(rest.encode("utf-8", "surrogateescape"))
    if name == "sha256" and not colon:
        return Sha256()
    if name == "pbkdf2" and [bool(_NUMBER.fullmatch(one)) for one in parameters[1:]] == [True]:
        return Pbkdf2(parameters[0].lower().replace("-", ""), int(parameters[1]))
    if name == "scrypt" and [bool(_NUMBER.fullmatch(one)) for one in parameters] == [True] * 3:
        n, r, p = map(int, parameters)
        return ScryptCost(n, r, p)
    msg = f"this is no key derivation that kvseal knows: {KDF_FORMS}"
    raise KDFParametersError(msg)


def parse_keys(content: bytes) -> list[bytes]:
    """
    Return the 32 bytes of each Fernet key in *content*, in order.

    It is one raw key of 32 bytes, with or without a line break behind it, or keys that commas or white
    space separate, each in URL-safe base64 (44 characters) or in hexadecimal (64).

    Raises:
        SecretError: something in it is no key; nothing of it is repeated.
    """
    for whole in forms_of(content):
        if len(whole) == KEY_SIZE:
            return [whole]
    parts = [part for part in _SEPARATORS.split(content) if part]
    if not parts:
        msg = "there is no Fernet key where the reference points"
        raise EmptySecretError(msg, hint="an unset variable or an empty file is not a key")
    return [_key(part, f"key {number} of {len(parts)}") for number, part in enumerate(parts, 1)]


def forms_of(content: bytes) -> tuple[bytes, ...]:
    """
    Return *content* without the line break at its end, and with it if there is one.

    An application that read a mounted file whole has taken the line break for a part of its secret.
    """
    return tuple(dict.fromkeys((content.rstrip(b"\r\n"), content)))


def derive_keys(
    kdf: KeyDerivation, material: bytes, salt: bytes | None, *, encodings: tuple[str, str] = ("raw", "raw")
) -> list[bytes]:
    """
    Return each key that *material* and *salt*, written in *encodings*, can stand for.  Blocks.

    Raises:
        SecretError: one of them is not written so; or the machine has not the memory for it.
    """
    materials = _decoded(material, encodings[0], "source material")
    salts = (None,) if salt is None else _decoded(salt, encodings[1], "salt")
    try:
        found = [kdf.derive(one, other) for one in materials for other in salts]
    except MemoryError:
        msg = "the key derivation needs more memory than this machine gives it"
        raise SecretError(msg, hint="run it where the old application ran") from None
    return list(dict.fromkeys(found))


def _key(text: bytes, what: str) -> bytes:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text.decode())
    try:
        return parse_key(text)
    except SecretError as exc:
        if what == "key 1 of 1":
            raise
        msg, hint = f"{what} is not a Fernet key: it must be 32 bytes in URL-safe base64, or in hex", exc.hint
    raise SecretError(msg, hint=hint)


def _decoded(content: bytes, encoding: str, what: str) -> tuple[bytes, ...]:
    """Return the forms of *content* as they are, or the one thing that it is written for."""
    return forms_of(content) if encoding == "raw" else (decoded_secret(content, encoding, what),)


def decoded_secret(content: bytes, encoding: str, what: str) -> bytes:
    """Return what *content* is hex or base64 of; raises `SecretError` about the *what*."""
    text = content.strip()
    try:
        if encoding == "hex":
            return bytes.fromhex(text.decode("ascii"))
        bare = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        return b64decode(bare + b"=" * (-len(bare) % 4), None, True)
    except (binascii.Error, ValueError):
        msg = f"the {what} is not {encoding}"
    raise SecretError(msg, hint="name the encoding in which it is written, or leave it out for raw bytes")
