"""
authsome's keys: the operator's, in two readings, and the key record in the store from 0.5 on.

`{"version": 1, "kdf": {"alg", "salt", "memory_cost", "time_cost", "parallelism"},
"wrapped_dek": {"alg", "nonce", "ciphertext"}}`: Argon2id of the master secret, then AES-256-GCM
with no associated data around a DEK of 32 bytes.

0.3 and 0.4 take the key out of the JSON document in `master.key`; 0.5 and later take the same file
as a whole for a passphrase.  So one file may be both, and each reading is kept.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pybase64 import b64decode

from kvseal import exact_json
from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING, SALT_SIZE, Argon2idParams, argon2id
from kvseal.errors import (
    EmptySecretError,
    ForeignVaultError,
    KDFParametersError,
    SecretError,
    WrongLegacyKeyError,
)
from kvseal.legacy.authsome import NONCE_SIZE, TAG_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_SIZE: Final = 32

_VERSION: Final = 1
_KDF: Final = "argon2id"
_CIPHER: Final = "AES-256-GCM"


@dataclass(frozen=True, slots=True, repr=False)
class AuthsomeMasterKey:
    """What authsome was given: the key of flat records, if it is one, and the secret of the key record."""

    secret: bytes
    flat: bytes | None

    def __reduce__(self) -> NoReturn:
        msg = "an AuthsomeMasterKey is not pickled or copied"
        raise TypeError(msg)


def read_master_key_file(content: bytes) -> AuthsomeMasterKey:
    """
    Return both readings of a `master.key`, by any version.

    Raises:
        SecretError: it is empty, or no text.
    """
    # As Python's text mode reads it, which is how authsome does.
    text = _text(content.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    try:
        document = exact_json.loads(text)
    except ValueError:
        document = None
    key = document.get("key") if type(document) is dict else text
    return AuthsomeMasterKey(text.encode(), _key(key))


def read_master_secret(content: bytes) -> AuthsomeMasterKey:
    """
    Return both readings of an AUTHSOME_MASTER_KEY or of a keyring entry: base64 of a key, and any text.

    Raises:
        SecretError: it is empty, or no text.
    """
    text = _text(content)
    return AuthsomeMasterKey(text.encode(), _key(text))


@dataclass(frozen=True, slots=True)
class AuthsomeKeyRecord:
    """The key record of authsome 0.5 and later, checked but not authenticated: only `unwrap` proves it."""

    params: Argon2idParams
    salt: bytes
    nonce: bytes
    ciphertext: bytes = field(repr=False)

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> AuthsomeKeyRecord:
        """
        Read a stored key record.  Nothing is derived or decrypted.

        Raises:
            ForeignVaultError: it is none, or none of this version.
            KDFParametersError: its parameters are out of bounds.
        """
        try:
            record = _parse(value)
        except KDFParametersError:
            raise
        except (KeyError, TypeError, ValueError, binascii.Error):
            record = None
        # `==` alone would take a version of 1.0 or true for 1.
        if record is None or record.as_value() != value or type(value["version"]) is not int:
            msg = "the entry at the place of the vault meta is not a key record of authsome that kvseal reads"
            raise ForeignVaultError(msg, hint="use another store, or restore authsome's record")
        return record

    def unwrap(self, secret: bytes, *, memory_ceiling: int = DEFAULT_MEMORY_CEILING) -> bytes:
        """
        Return the DEK.  Blocks for as long as the record's parameters cost.

        Raises:
            WrongLegacyKeyError: *secret* is another one, or the record is damaged.
            KDFParametersError: it asks for more than *memory_ceiling* KiB, before anything is allocated.
        """
        kek = argon2id(secret, self.salt, self.params, memory_ceiling=memory_ceiling)
        try:
            return AESGCM(kek).decrypt(self.nonce, self.ciphertext, None)
        except InvalidTag:
            msg = (
                "this secret does not open authsome's key record: it is another one, or the record is damaged"
            )
            raise WrongLegacyKeyError(
                msg, hint="authsome prefers AUTHSOME_MASTER_KEY to its key file, and that to the keyring"
            ) from None

    def as_value(self) -> dict[str, Any]:
        """Return the mapping that authsome stores."""
        return {
            "version": _VERSION,
            "kdf": {
                "alg": _KDF,
                "salt": b64encode(self.salt).decode(),
                "memory_cost": self.params.memory_cost,
                "time_cost": self.params.time_cost,
                "parallelism": self.params.parallelism,
            },
            "wrapped_dek": {
                "alg": _CIPHER,
                "nonce": b64encode(self.nonce).decode(),
                "ciphertext": b64encode(self.ciphertext).decode(),
            },
        }


def _parse(value: Mapping[str, Any]) -> AuthsomeKeyRecord | None:
    kdf, wrapped = value["kdf"], value["wrapped_dek"]
    salt, nonce, sealed = _bytes(kdf["salt"]), _bytes(wrapped["nonce"]), _bytes(wrapped["ciphertext"])
    if (len(salt), len(nonce), len(sealed)) != (SALT_SIZE, NONCE_SIZE, KEY_SIZE + TAG_SIZE):
        return None
    params = Argon2idParams(kdf["time_cost"], kdf["memory_cost"], kdf["parallelism"])
    return AuthsomeKeyRecord(params, salt, nonce, sealed)


def _key(text: object) -> bytes | None:
    """Return the 32 bytes that *text* is base64 of, or `None`."""
    if type(text) is not str:
        return None
    try:
        key = _bytes(text)
    except ValueError:
        return None
    return key if len(key) == KEY_SIZE else None


def _bytes(text: str) -> bytes:
    return b64decode(text, None, True)


def _text(content: bytes) -> str:
    """Return *content* as authsome takes it: text without white space around it."""
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        msg = "authsome's master secret is text in UTF-8, and this is not"
        raise SecretError(msg) from None
    if not text:
        msg = "authsome's master secret is empty"
        raise EmptySecretError(msg, hint="an unset variable or an empty file is not a secret")
    return text
