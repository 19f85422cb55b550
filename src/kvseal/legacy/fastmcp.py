"""
What FastMCP keeps encrypted, every release that does (2.13 on): its keys, and the names in its values.

The records are those of py-key-value's `FernetEncryptionWrapper`, so the format in
reports is `fernet`, and a key that the vault holds for the time of a migration is of
kind `fernet`: a reader of such a record knows its name, and needs nothing of this module.

FastMCP's own are the key, which is derived from what the server was configured with, and
the collections.  A file tree store, its default since 3.0, does not give most of the keys
of its entries back; but many values repeat the key under which they are stored, which
the driver has to prove.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from kvseal.errors import SecretError
from kvseal.legacy.fernet import KEY_SIZE, FernetCodec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KDF_ITERATIONS: Final = 1_000_000
"""PBKDF2-HMAC-SHA256 iterations for a signing key that the server was given as text."""

KEY_FIELDS: Final = {
    "fastmcp_events": "event_id",
    "mcp-authorization-codes": "code",
    "mcp-jti-mappings": "jti",
    "mcp-oauth-proxy-clients": "client_id",
    "mcp-oauth-transactions": "txn_id",
    "mcp-upstream-tokens": "upstream_token_id",
}
"""
Field of the value that repeats the key, by collection.

`mcp-refresh-tokens`, `mcp-consent-csrf-tokens` and the response caches have hashes in
hexadecimal for keys, which a file tree store keeps as they are.
"""

URL_SUFFIXES: Final = {
    "mcp-oauth-client-info": "client_info",
    "mcp-oauth-token": "tokens",
    "mcp-oauth-token-expiry": "token_expiry",
}
"""What follows the server's URL in the keys of a client's collections."""

_SIGNING_SALT: Final = b"fastmcp-jwt-signing-key"
_STORAGE_SALT: Final = b"fastmcp-storage-encryption-key"
_FINGERPRINT_SIZE: Final = 12
_AUTHORITY_END: Final = re.compile("[/?#]")


class FastMCPCodec(FernetCodec):
    """
    Opens FastMCP's records with the first of *keys* (32 bytes each) that fits.

    *server_urls* are the servers whose tokens a client has stored: those records do
    not name them.
    """

    __slots__ = ("_server_urls",)

    def __init__(self, keys: Sequence[bytes], *, server_urls: Iterable[str] = ()) -> None:
        super().__init__(keys)
        self._server_urls = tuple(dict.fromkeys(form for url in server_urls for form in _forms(url)))

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:
        """Return what the value repeats as its key, or what each of the server URLs makes of it."""
        if collection in URL_SUFFIXES:
            return tuple(f"{url}/{URL_SUFFIXES[collection]}" for url in self._server_urls)
        key = value.get(KEY_FIELDS.get(collection or "", ""))
        return (key,) if isinstance(key, str) else ()


def key_of_client_secret(client_secret: bytes) -> bytes:
    """
    Return the Fernet key of a proxy that was given no signing key, as text of 44 characters.

    Raises:
        SecretError: *client_secret* is no UTF-8, so FastMCP could not have used it.
    """
    return _storage_key(_hkdf(_text(client_secret), _SIGNING_SALT))


def key_of_text_signing_key(signing_key: bytes) -> bytes:
    """
    Return the Fernet key of a proxy whose `jwt_signing_key` is a `str`.  Blocks.

    Raises:
        SecretError: *signing_key* is no UTF-8.
    """
    stretched = PBKDF2HMAC(SHA256(), KEY_SIZE, _SIGNING_SALT, KDF_ITERATIONS).derive(_text(signing_key))
    return _storage_key(urlsafe_b64encode(stretched))


def key_of_bytes_signing_key(signing_key: bytes) -> bytes:
    """
    Return the Fernet key of a proxy whose `jwt_signing_key` is `bytes`.

    Raises:
        SecretError: *signing_key* is no UTF-8, which FastMCP refuses too.
    """
    return _storage_key(_text(signing_key))


def fingerprint(key: bytes) -> str:
    """
    Return the name that FastMCP gives the directory of a store under *key*, the text of a Fernet key.

    The command line's own key counts character by character, as the variable
    `FASTMCP_OAUTH_ENCRYPTION_KEY` has it.
    """
    return sha256(key).hexdigest()[:_FINGERPRINT_SIZE]


def _storage_key(signing_key: bytes) -> bytes:
    return _hkdf(signing_key, _STORAGE_SALT)


def _hkdf(material: bytes, salt: bytes) -> bytes:
    return urlsafe_b64encode(HKDF(SHA256(), KEY_SIZE, salt, b"Fernet").derive(material))


def _text(secret: bytes) -> bytes:
    try:
        secret.decode()
    except UnicodeDecodeError:
        pass
    else:
        return secret
    msg = "this is not what FastMCP was configured with: it takes nothing but UTF-8 text"
    raise SecretError(msg, hint="give the secret as the server's configuration has it, not decoded")


def _forms(url: str) -> tuple[str, ...]:
    """Return *url* as clients write it into their keys: since 2.14 in full, before that without its path."""
    scheme, _, rest = url.partition("://")
    return (url.rstrip("/"), url, f"{scheme}://{_AUTHORITY_END.split(rest, maxsplit=1)[0]}")
