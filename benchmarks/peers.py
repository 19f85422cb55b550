"""
What kvseal is measured against, each over a store that all share.

`DictStore` keeps a reference and returns it, so that a figure is the cost of the
encryption and of nothing else.  The floor makes the primitive calls that no
correct implementation can avoid, in straight lines with no object around them.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from functools import cache
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Final

import orjson
import ormsgpack
import tink
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.encryption.base import BaseEncryptionWrapper
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from pybase64 import b64decode, b64encode_as_string
from tests.envelope.associated import associated_data
from tink import aead

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret
from kvseal.envelope.record import FIXED_SIZE, NONCE_END, Header

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import SupportsFloat

    from key_value.aio.protocols.key_value import AsyncKeyValue

    Value = dict[str, Any]
    Bytes = Callable[[bytes], bytes]

CHEAP: Final = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
"""The least Argon2id cost: a key is derived once, before anything is measured."""

KEY: Final = "user-8f14e45f"
COLLECTION: Final = "default_collection"

SECRET: Final = Secret(os.urandom(32))
"""One secret, so that all wrappers of a process find the same vault beside the same store."""

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


class HandWritten(BaseEncryptionWrapper):
    """What projects write by hand: two functions on py-key-value's base class, bound to nothing."""

    def __init__(self, key_value: AsyncKeyValue, encrypt: Bytes, decrypt: Bytes) -> None:
        super().__init__(key_value, encrypt, lambda data, _version: decrypt(data), encryption_version=1)


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to keep values sealed: four operations of the store's protocol."""

    name: str
    put: Callable[[str, Value], Awaitable[None]]
    get: Callable[[str], Awaitable[Value | None]]
    put_many: Callable[[Sequence[str], Sequence[Value]], Awaitable[None]]
    get_many: Callable[[Sequence[str]], Awaitable[Sequence[Value | None]]]

    @classmethod
    def of(cls, name: str, kv: Any) -> Peer:
        """Return the operations of a wrapper or store."""
        return cls(name, kv.put, kv.get, kv.put_many, kv.get_many)


def bare(store: AsyncKeyValue) -> Peer:
    """Return the store alone, which keeps plaintext."""
    return Peer.of("bare", store)


def fernet(store: AsyncKeyValue) -> Peer:
    """Return py-key-value's own `FernetEncryptionWrapper`."""
    return Peer.of("fernet", FernetEncryptionWrapper(store, fernet=Fernet(Fernet.generate_key())))


def by_hand(store: AsyncKeyValue) -> Peer:
    """Return the wrapper that projects write by hand."""
    return Peer.of("by hand", HandWritten(store, *hand_written(os.urandom(32))))


def hand_written(key: bytes) -> tuple[Bytes, Bytes]:
    """Return AES-256-GCM with 12 random bytes in front."""
    aes_gcm = AESGCM(key)

    def encrypt(plaintext: bytes) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        return nonce + aes_gcm.encrypt(nonce, plaintext, None)

    def decrypt(data: bytes) -> bytes:
        return aes_gcm.decrypt(data[:_NONCE_SIZE], data[_NONCE_SIZE:], None)

    return encrypt, decrypt


def tink_by_hand(store: AsyncKeyValue) -> Peer:
    """Return the same wrapper around Tink's AES-256-GCM."""
    primitive = tink_aead()
    return Peer.of(
        "tink",
        HandWritten(
            store, lambda text: primitive.encrypt(text, b""), lambda data: primitive.decrypt(data, b"")
        ),
    )


def tink_aead() -> aead.Aead:
    """Return Tink's AEAD with a fresh keyset of one AES-256-GCM key."""
    aead.register()
    return tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM).primitive(aead.Aead)


@cache
def _directory() -> str:
    directory = mkdtemp(prefix="kvseal-benchmark-")
    atexit.register(rmtree, directory, ignore_errors=True)
    return directory


def lasting() -> DiskStore:
    """Return a store for the vault meta: one in memory is refused beside a store that may last longer."""
    return DiskStore(directory=_directory())


def kvseal(store: AsyncKeyValue) -> Peer:
    """Return kvseal as it is used; what is not on a disk or a server has the vault meta beside it."""
    beside = lasting() if isinstance(store, DictStore | MemoryStore) else None
    return Peer.of("kvseal", EnvelopeEncryptionWrapper(store, secret=SECRET, kdf=CHEAP, meta_store=beside))


def floor(store: Any) -> Peer:
    """Return the primitive calls alone, on bytes of the same layout: the least that sealing JSON can cost."""
    return _straight_line("floor", store, orjson.dumps, orjson.loads)


def packed_floor(store: Any) -> Peer:
    """Return the same with MessagePack, which proves nothing of the value either."""
    return _straight_line("packed floor", store, ormsgpack.packb, ormsgpack.unpackb)


def _straight_line(
    name: str, store: Any, dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any]
) -> Peer:
    aes_gcm = AESGCM(os.urandom(32))
    header = Header(dek=1, nonce=os.urandom(_NONCE_SIZE)).start() + os.urandom(_NONCE_SIZE)
    # What a record is bound to ends with its key, so no implementation can prepare more than this.
    prefix = associated_data(bytes(16), Header(dek=1, nonce=b""), COLLECTION, "")[:-4]
    assert len(header) == FIXED_SIZE + _NONCE_SIZE == _NONCE_START

    async def put(key: str, value: Value) -> None:
        plaintext = dumps(value)
        nonce = os.urandom(_NONCE_SIZE)
        name = key.encode()
        aad = prefix + len(name).to_bytes(4, "big") + name
        record = header + nonce + aes_gcm.encrypt(nonce, plaintext, aad)
        stored = {"__encrypted_data__": b64encode_as_string(record), "__encryption_version__": 2}
        await store.put(key=key, value=stored, collection=None, ttl=None)

    async def get(key: str) -> Value:
        stored = await store.get(key=key, collection=None)
        record = b64decode(stored["__encrypted_data__"], None, True)
        name = key.encode()
        aad = prefix + len(name).to_bytes(4, "big") + name
        plaintext = aes_gcm.decrypt(record[_NONCE_START:NONCE_END], record[NONCE_END:], aad)
        value: Value = loads(plaintext)
        return value

    async def put_many(keys: Sequence[str], values: Sequence[Value]) -> None:
        sealed = []
        for key, value in zip(keys, values, strict=True):
            nonce = os.urandom(_NONCE_SIZE)
            name = key.encode()
            aad = prefix + len(name).to_bytes(4, "big") + name
            record = header + nonce + aes_gcm.encrypt(nonce, dumps(value), aad)
            sealed.append({"__encrypted_data__": b64encode_as_string(record), "__encryption_version__": 2})
        await store.put_many(keys=keys, values=sealed, collection=None, ttl=None)

    async def get_many(keys: Sequence[str]) -> list[Value]:
        values = []
        for key, stored in zip(keys, await store.get_many(keys=keys, collection=None), strict=True):
            record = b64decode(stored["__encrypted_data__"], None, True)
            name = key.encode()
            aad = prefix + len(name).to_bytes(4, "big") + name
            plaintext = aes_gcm.decrypt(record[_NONCE_START:NONCE_END], record[NONCE_END:], aad)
            values.append(loads(plaintext))
        return values

    return Peer(name, put, get, put_many, get_many)


EVERYONE: Final = (kvseal, bare, floor, by_hand, tink_by_hand, fernet)
