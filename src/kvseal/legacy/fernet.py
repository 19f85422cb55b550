"""
Records of py-key-value's `FernetEncryptionWrapper`, every release that has one (0.2.7 on).

`{"__encrypted_data__": <base64 of the token>, "__encryption_version__": 1}`, where the
token is Fernet over the value's JSON text.  `fernet_keys` says what may be given as a key.

https://github.com/fernet/spec
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode
from typing import TYPE_CHECKING, Any, Final

from pybase64 import b64decode, b64encode_as_string

from kvseal.envelope.stored import DATA_FIELD, LEGACY_VERSION, VERSION_FIELD
from kvseal.errors import MalformedRecordError, SecretError, TamperedRecordError
from kvseal.legacy.base import json_text, json_value
from kvseal.legacy.fernet_token import FernetKey, decoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KIND: Final = "fernet"
KEY_SIZE: Final = 32
_KEY: Final = re.compile(rb"[A-Za-z0-9_+/-]{43}=")
_STORED_START: Final = "Z0FBQUFB"
"""How every stored token begins: version byte 0x80 and a 64-bit time, in base64 twice."""


class FernetCodec:
    """Opens Fernet records with the first of *keys* (32 bytes each) that fits."""

    __slots__ = ("_keys",)

    format: Final = KIND

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = [FernetKey(key) for key in keys]

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* has the two fields, version 1 and a Fernet token, damaged or not."""
        data, version = stored.get(DATA_FIELD), stored.get(VERSION_FIELD)
        return (
            type(version) is int
            and version == LEGACY_VERSION
            and type(data) is str
            and data.startswith(_STORED_START)
        )

    def open(self, stored: Mapping[str, Any], *_: str | None) -> dict[str, Any]:
        """
        Return the value exactly as it was put.

        Raises:
            MalformedRecordError: *stored* is not base64 of a token, or the plaintext is no JSON object.
            TamperedRecordError: no key opens the token.
        """
        try:
            token = b64decode(stored[DATA_FIELD], None, True)
        except (binascii.Error, ValueError):
            msg = "the Fernet record is not base64"
            raise MalformedRecordError(msg) from None
        return json_value(self._decrypt(token), "Fernet")

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:  # noqa: ARG002
        """Return nothing: what applications keep in their values is not known."""
        return ()

    def seal(self, value: Mapping[str, Any], *_: str | None) -> dict[str, Any]:
        """
        Return the record that the upstream wrapper would write, under the first key.

        Raises:
            UnsealableValueError: that wrapper would read something else than *value*.
        """
        token = self._keys[0].encrypt(json_text(dict(value)))
        return {DATA_FIELD: b64encode_as_string(token), VERSION_FIELD: LEGACY_VERSION}

    def _decrypt(self, token: bytes) -> bytes:
        data = decoded(token)
        for key in self._keys:
            plaintext = key.open_decoded(data)
            if plaintext is not None:
                return plaintext
        for key in self._keys:
            plaintext = key.decrypt(token)
            if plaintext is not None:
                return plaintext
        msg = f"none of {len(self._keys)} Fernet keys opens the record: it is damaged, or another key's"
        raise TamperedRecordError(msg)


def parse_key(text: bytes) -> bytes:
    """
    Return the 32 bytes of a Fernet key in its usual URL-safe base64 form.

    Raises:
        SecretError: *text* is no Fernet key; it is not repeated.
    """
    # Strictly: the lenient decoder stops at the padding, and drops what follows it in silence.
    if not _KEY.fullmatch(text.strip()):
        msg = "this is not a Fernet key: it must be 32 bytes in URL-safe base64, 44 characters"
        raise SecretError(
            msg, hint="for a passphrase, use --source-material, and --fernet-kdf for how it became a key"
        )
    return urlsafe_b64decode(text.strip())
