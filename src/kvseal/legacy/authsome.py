"""
Records of authsome, a credential broker for agents: 0.3 to 0.7, which may be mixed in one store.

* flat (0.3, 0.4): `{"data": "<base64 nonce>.<base64 ciphertext‖tag>"}` under the master key itself.
* envelope (0.5 on): the two fields of py-key-value's encryption wrappers, version 1, base64 of
  nonce ‖ ciphertext ‖ tag under a DEK; see `authsome_keys`.

Both are AES-256-GCM with a nonce of 12 bytes and no associated data, so that records can be
exchanged with each other until they are sealed.  From 0.5 on authsome reads `{"data": <text>}`
through its wrapper; to that value both are opened.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pybase64 import b64decode

from kvseal import exact_json
from kvseal.envelope.stored import DATA_FIELD, LEGACY_VERSION, VERSION_FIELD
from kvseal.errors import MalformedRecordError, TamperedRecordError
from kvseal.legacy.fernet import FernetCodec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FLAT: Final = "authsome-flat"
ENVELOPE: Final = "authsome"
CONTROL: Final = "authsome-control"

NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16

_FIELD: Final = "data"
_TOKEN: Final = re.compile(r"[A-Za-z0-9+/]{16}\.[A-Za-z0-9+/=]*")
_VERSION: Final = "1"
_FERNET: Final = FernetCodec(())


class AuthsomeFlatCodec:
    """Opens flat records with the first of *keys* (32 bytes each) that fits."""

    __slots__ = ("_keys",)

    format: Final = FLAT

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = _Keys(keys)

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* has the one field with a nonce, a dot and base64, damaged or not."""
        return _TOKEN.fullmatch(_only_text(stored)) is not None

    def open(self, stored: Mapping[str, Any], *_: str | None) -> dict[str, Any]:
        """
        Return the value that authsome 0.5 and later would read: the text under `data`.

        Raises:
            MalformedRecordError: *stored* is no nonce and ciphertext in base64, or no text was encrypted.
            TamperedRecordError: no key opens it.
        """
        nonce, _, sealed = stored[_FIELD].partition(".")
        plaintext = self._keys.open(_bytes(nonce) + _bytes(sealed))
        try:
            return {_FIELD: plaintext.decode()}
        except UnicodeDecodeError:
            msg = "the authsome record opens, but what is in it is no text"
            raise MalformedRecordError(msg) from None

    def key_candidates(self, _: str | None, __: Mapping[str, Any]) -> Iterable[str]:
        """Return nothing: authsome's stores keep the names."""
        return ()


class AuthsomeCodec:
    """Opens envelope records with the first of *keys*, DEKs of 32 bytes each, that fits."""

    __slots__ = ("_keys",)

    format: Final = ENVELOPE

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = _Keys(keys)

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """
        Whether *stored* has the two fields, version 1 and text that is no Fernet token, damaged or not.

        A random nonce looks like the start of a token once in 2^48 records.
        """
        data, version = stored.get(DATA_FIELD), stored.get(VERSION_FIELD)
        return (
            type(version) is int
            and version == LEGACY_VERSION
            and type(data) is str
            and not _FERNET.recognises(stored)
        )

    def open(self, stored: Mapping[str, Any], *_: str | None) -> dict[str, Any]:
        """
        Return the value exactly as it was put.

        Raises:
            MalformedRecordError: *stored* is no base64 of a record, or the plaintext is no JSON object.
            TamperedRecordError: no key opens it.
        """
        plaintext = self._keys.open(_bytes(stored[DATA_FIELD]))
        try:
            value = exact_json.loads(plaintext)
        except ValueError:
            value = None
        if type(value) is not dict:
            msg = "the authsome record opens, but its content is not a JSON object"
            raise MalformedRecordError(msg)
        return value

    def key_candidates(self, _: str | None, __: Mapping[str, Any]) -> Iterable[str]:
        """Return nothing: authsome's stores keep the names."""
        return ()


class AuthsomeControlCodec:
    """
    Takes what authsome 0.3 and 0.4 never encrypted: `config/version`, and the list of keys at `__index__`.

    A migration leaves it where it is.  With the rule to seal plaintext, it is sealed too, so that
    authsome 0.5 and later, which does read `__index__`, finds it through the wrapper.
    """

    __slots__ = ()

    format: Final = CONTROL

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* has the one field with the version, or with a JSON array of text alone."""
        text = _only_text(stored)
        return text == _VERSION or (text.startswith("[") and _is_index(text))

    def open(self, stored: Mapping[str, Any], *_: str | None) -> dict[str, Any]:
        """Return the value as it is stored."""
        return dict(stored)

    def key_candidates(self, _: str | None, __: Mapping[str, Any]) -> Iterable[str]:
        """Return nothing: authsome's stores keep the names."""
        return ()


class _Keys:
    """AES-256-GCM under the first key that fits, with no associated data."""

    __slots__ = ("_ciphers",)

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = [AESGCM(key) for key in keys]

    def open(self, record: bytes) -> bytes:
        """Return the plaintext of nonce ‖ ciphertext ‖ tag, or raise `RecordError`."""
        if len(record) < NONCE_SIZE + TAG_SIZE:
            msg = "the authsome record is too short to have a nonce and a tag"
            raise MalformedRecordError(msg)
        nonce, sealed = record[:NONCE_SIZE], record[NONCE_SIZE:]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, sealed, None)
            except InvalidTag:
                continue
        msg = f"none of {len(self._ciphers)} authsome keys opens the record: it is damaged, or another key's"
        raise TamperedRecordError(msg)


def _only_text(stored: Mapping[str, Any]) -> str:
    """Return the text under `data` where that is the only field, else nothing."""
    text = stored.get(_FIELD)
    return text if type(text) is str and len(stored) == 1 else ""


def _is_index(text: str) -> bool:
    try:
        names = exact_json.loads(text)
    except ValueError:
        return False
    return type(names) is list and all(type(name) is str for name in names)


def _bytes(text: str) -> bytes:
    try:
        return b64decode(text, None, True)
    except (binascii.Error, ValueError):
        msg = "the authsome record is not base64"
        raise MalformedRecordError(msg) from None
