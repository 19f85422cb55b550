"""
What kvseal is measured against, all over the same store that does nothing.

`DictStore` keeps a reference and returns it, so that a figure is the cost of the
encryption and of nothing else.  The floor makes the primitive calls that no
correct implementation can avoid, in straight lines with no object around them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Final

import orjson
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from key_value.aio.stores.disk import DiskStore
from key_value.aio.wrappers.encryption.base import BaseEncryptionWrapper
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from pybase64 import b64decode, b64encode_as_string

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret
from kvseal.envelope.record import FIXED_SIZE, NONCE_END, Header, associated_data

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import SupportsFloat

    Put = Callable[[str, dict[str, Any]], Awaitable[None]]
    Get = Callable[[str], Awaitable[dict[str, Any] | None]]

CHEAP: Final = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
"""The least Argon2id cost: a key is derived once, before anything is measured."""

SIZES: Final = {"64 B": 64, "1 KiB": 1024, "16 KiB": 16 * 1024, "256 KiB": 256 * 1024}
"""Lengths of the JSON text of what is put; the smallest value is a little longer than its name says."""

KEY: Final = "user-8f14e45f"
COLLECTION: Final = "default_collection"

_NONCE_SIZE: Final = 12
_NONCE_START: Final = NONCE_END - _NONCE_SIZE


class DictStore:
    """An `AsyncKeyValue` over one dict, with neither serialization nor expiry: the least store."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str | None, str], Mapping[str, Any]] = {}

    async def get(self, key: str, *, collection: str | None = None) -> Any:
        return self._entries.get((collection, key))

    async def ttl(self, key: str, *, collection: str | None = None) -> tuple[Any, None]:
        return self._entries.get((collection, key)), None

    async def put(
        self,
        key: str,
        value: Mapping[str, Any],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,  # noqa: ARG002 - the protocol's signature
    ) -> None:
        self._entries[collection, key] = value

    async def delete(self, key: str, *, collection: str | None = None) -> bool:
        return self._entries.pop((collection, key), None) is not None

    async def get_many(self, keys: Sequence[str], *, collection: str | None = None) -> list[Any]:
        return [self._entries.get((collection, key)) for key in keys]

    async def ttl_many(self, keys: Sequence[str], *, collection: str | None = None) -> list[tuple[Any, None]]:
        return [(self._entries.get((collection, key)), None) for key in keys]

    async def put_many(
        self,
        keys: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,  # noqa: ARG002 - the protocol's signature
    ) -> None:
        for key, value in zip(keys, values, strict=True):
            self._entries[collection, key] = value

    async def delete_many(self, keys: Sequence[str], *, collection: str | None = None) -> int:
        return sum([await self.delete(key, collection=collection) for key in keys])


class HandWrittenAESGCM(BaseEncryptionWrapper):
    """What projects write by hand: AES-256-GCM, 12 random bytes in front, bound to nothing."""

    def __init__(self, key_value: DictStore, key: bytes) -> None:
        aes_gcm = AESGCM(key)

        def encrypt(plaintext: bytes) -> bytes:
            nonce = os.urandom(_NONCE_SIZE)
            return nonce + aes_gcm.encrypt(nonce, plaintext, None)

        def decrypt(data: bytes, _version: int) -> bytes:
            return aes_gcm.decrypt(data[:_NONCE_SIZE], data[_NONCE_SIZE:], None)

        super().__init__(key_value, encrypt, decrypt, encryption_version=1)


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to keep a value sealed: its `put(key, value)` and its `get(key)`."""

    name: str
    put: Put
    get: Get


def token(size: int) -> dict[str, Any]:
    """Return an OAuth token as an application keeps it, whose JSON text has *size* bytes if it can."""
    value: dict[str, Any] = {
        "token_type": "Bearer",
        "scope": "openid offline",
        "id": None,
        "expires_at": 1767225600.25,
        "access_token": "",
    }
    value["access_token"] = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjQ3In0" * (1 + size // 35)
    surplus = len(orjson.dumps(value)) - size
    value["access_token"] = value["access_token"][:-surplus] or "eyJhbGci"
    return value


def fernet() -> Peer:
    """Return py-key-value's own `FernetEncryptionWrapper`."""
    wrapper = FernetEncryptionWrapper(DictStore(), fernet=Fernet(Fernet.generate_key()))
    return Peer("fernet", wrapper.put, wrapper.get)


def by_hand() -> Peer:
    """Return the wrapper that projects write by hand."""
    wrapper = HandWrittenAESGCM(DictStore(), os.urandom(32))
    return Peer("by hand", wrapper.put, wrapper.get)


def lasting() -> DiskStore:
    """Return a store for the vault meta: one in memory is refused beside a store that may last longer."""
    return DiskStore(directory=mkdtemp(prefix="kvseal-benchmark-"))


def kvseal(store: DictStore | None = None) -> Peer:
    """Return kvseal as it is used: over the store itself, with the vault meta beside it."""
    wrapper = EnvelopeEncryptionWrapper(
        store or DictStore(), secret=Secret(os.urandom(32)), kdf=CHEAP, meta_store=lasting()
    )
    return Peer("kvseal", wrapper.put, wrapper.get)


def floor() -> Peer:
    """Return the primitive calls alone, on bytes of the same layout: the least that sealing can cost."""
    store = DictStore()
    aes_gcm = AESGCM(os.urandom(32))
    header = Header(dek=1, nonce=os.urandom(_NONCE_SIZE)).start() + os.urandom(_NONCE_SIZE)
    # What a record is bound to ends with its key, so no implementation can prepare more than this.
    prefix = associated_data(bytes(16), Header(dek=1, nonce=b""), COLLECTION, "")[:-4]
    assert len(header) == FIXED_SIZE + _NONCE_SIZE == _NONCE_START

    async def put(key: str, value: dict[str, Any]) -> None:
        plaintext = orjson.dumps(value)
        nonce = os.urandom(_NONCE_SIZE)
        name = key.encode()
        aad = prefix + len(name).to_bytes(4, "big") + name
        record = header + nonce + aes_gcm.encrypt(nonce, plaintext, aad)
        stored = {"__encrypted_data__": b64encode_as_string(record), "__encryption_version__": 2}
        await store.put(key=key, value=stored, collection=None, ttl=None)

    async def get(key: str) -> dict[str, Any]:
        stored = await store.get(key=key, collection=None)
        record = b64decode(stored["__encrypted_data__"], None, True)
        name = key.encode()
        aad = prefix + len(name).to_bytes(4, "big") + name
        plaintext = aes_gcm.decrypt(record[_NONCE_START:NONCE_END], record[NONCE_END:], aad)
        value: dict[str, Any] = orjson.loads(plaintext)
        return value

    return Peer("floor", put, get)
