"""
JWE in its compact form (RFC 7516): five parts of base64url with dots between, in one field.

Key management is direct (`dir`) or AES key wrap (`A128KW`, `A192KW`, `A256KW`), content encryption AES-GCM
or AES-CBC with HMAC.  The header says which, and a key is only used as the algorithm that it names takes it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from kvseal import exact_json
from kvseal.errors import MalformedRecordError, SecretError, TamperedRecordError
from kvseal.legacy.base import json_text, json_value
from kvseal.legacy.by_hand import decode, encode
from kvseal.legacy.ciphers import AesCbcHmac, AesGcm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kvseal.legacy.ciphers import Cipher

KIND: Final = "jwe"
FIELD: Final = "jwe"

_PARTS: Final = 5
_DIRECT: Final = "dir"
_WRAPS: Final = {"A128KW": 16, "A192KW": 24, "A256KW": 32}
_KNOWN: Final = frozenset({"alg", "enc", "typ", "cty", "kid"})


def _length(aad: bytes) -> bytes:
    return (8 * len(aad)).to_bytes(8, "big")


def _cbc(size: int, mac_hash: str) -> Callable[[bytes], Cipher]:
    def made(key: bytes) -> Cipher:
        mac_key, cipher_key = key[:size], key[size:]
        return AesCbcHmac(cipher_key, mac_key, mac_hash=mac_hash, tag_size=size, length=_length)

    return made


_CONTENT: Final[dict[str, tuple[int, Callable[[bytes], Cipher]]]] = {
    "A128GCM": (16, AesGcm),
    "A192GCM": (24, AesGcm),
    "A256GCM": (32, AesGcm),
    "A128CBC-HS256": (32, _cbc(16, "sha256")),
    "A192CBC-HS384": (48, _cbc(24, "sha384")),
    "A256CBC-HS512": (64, _cbc(32, "sha512")),
}
"""Content encryption: the size of its key, and its cipher."""

MANAGEMENT: Final = (_DIRECT, *_WRAPS)
CONTENT: Final = tuple(_CONTENT)


class JweCodec:
    """Opens compact tokens in the field *name* with the first of *keys* that fits; seals with the first."""

    __slots__ = ("_content", "_field", "_keys", "_management")

    format: Final = KIND

    def __init__(
        self, keys: Sequence[bytes], name: str = FIELD, *, alg: str = _DIRECT, enc: str = ""
    ) -> None:
        self._keys = tuple(keys)
        self._field = name
        self._management = alg
        self._content = enc or next(
            (known for known, (size, _) in _CONTENT.items() if keys and size == len(keys[0])), "A256GCM"
        )
        if alg != _DIRECT and alg not in _WRAPS:
            msg = f"JWE is known with {', '.join((_DIRECT, *_WRAPS))}"
            raise SecretError(msg)
        if self._content not in _CONTENT:
            msg = f"JWE is known with {', '.join(_CONTENT)}"
            raise SecretError(msg)

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether the field has a text of five parts, the first of which begins like a JSON object."""
        text = stored.get(self._field)
        return type(text) is str and text.count(".") == _PARTS - 1 and text.startswith("eyJ")

    def open(self, stored: Mapping[str, Any], *_: str | None) -> dict[str, Any]:
        """
        Return the value in the token.

        Raises:
            MalformedRecordError: it is no such token, or is encrypted in a way that is not known.
            TamperedRecordError: no key opens it.
        """
        protected, *rest = stored[self._field].split(".")
        alg, enc = _header(protected)
        wrapped, nonce, ciphertext, tag = (decode(part, "base64url") for part in rest)
        for own in self._keys:
            content_key = _content_key(own, alg, enc, wrapped)
            if content_key is None:
                continue
            cipher = _CONTENT[enc][1](content_key)
            plaintext = None
            if len(tag) == cipher.tag_size:
                plaintext = cipher.open(nonce, ciphertext, tag, protected.encode())
            if plaintext is not None:
                return json_value(plaintext, KIND)
        msg = f"none of {len(self._keys)} keys opens the JWE record: it is damaged, or another key's"
        raise TamperedRecordError(msg)

    def key_candidates(self, _: str | None, __: Mapping[str, Any]) -> Iterable[str]:
        """Return nothing: what applications keep in their values is not known."""
        return ()

    def seal(self, value: Mapping[str, Any], *_: str | None) -> dict[str, Any]:
        """Return the token of now, under the first key."""
        size, made = _CONTENT[self._content]
        content_key, wrapped = self._keys[0], b""
        if self._management != _DIRECT:
            content_key = os.urandom(size)
            wrapped = aes_key_wrap(self._keys[0], content_key)
        header = exact_json.dumps({"alg": self._management, "enc": self._content})[0]
        protected = _url(header)
        cipher = made(content_key)
        nonce = os.urandom(cipher.nonce_size)
        ciphertext, tag = cipher.seal(nonce, json_text(dict(value)), protected.encode())
        return {self._field: ".".join((protected, *map(_url, (wrapped, nonce, ciphertext, tag))))}


def _header(protected: str) -> tuple[str, str]:
    """Return key management and content encryption, or raise `MalformedRecordError`."""
    try:
        header = exact_json.loads(decode(protected, "base64url"))
    except ValueError:
        header = None
    if type(header) is not dict:
        msg = "the JWE record has no header that is a JSON object"
        raise MalformedRecordError(msg)
    alg, enc = header.get("alg"), header.get("enc")
    # An unknown name, such as `zip` or `crit`, may change what the plaintext means.
    if set(header) - _KNOWN or alg not in (_DIRECT, *_WRAPS) or enc not in _CONTENT:
        msg = "the JWE record is encrypted in a way that kvseal does not know"
        raise MalformedRecordError(msg)
    return alg, enc


def _content_key(own: bytes, alg: str, enc: str, wrapped: bytes) -> bytes | None:
    """Return the key of the content, `None` where *own* does not fit."""
    size = _CONTENT[enc][0]
    if alg == _DIRECT:
        return own if len(own) == size and not wrapped else None
    if len(own) != _WRAPS[alg]:
        return None
    try:
        content_key = aes_key_unwrap(own, wrapped)
    except (InvalidUnwrap, ValueError):
        return None
    return content_key if len(content_key) == size else None


def _url(data: bytes) -> str:
    return encode(data, "base64url").rstrip("=")
