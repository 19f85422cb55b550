"""
Sealing and opening records, with everything that many records share prepared once.

A sealer draws the first half of the nonce for a run of records and keeps the
AES-256-GCM key that it derives, so one record costs one AES-GCM call.  Nothing
is counted across processes: after a fork two writers share a derived key but
not the 96 random bits that each record draws for itself.
"""

from __future__ import annotations

from functools import lru_cache, partial
from os import urandom as _os_urandom
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag

from kvseal.envelope.aead import DERIVATION_SIZE, NONCE_SIZE, XAES256GCM
from kvseal.envelope.bounded_cache import BoundedCache
from kvseal.envelope.record import (
    AAD_LABEL,
    BINDING_MASK,
    BINDING_SHIFT,
    EXPIRES,
    EXPIRY_SIZE,
    FIXED_SIZE,
    FORMAT_VERSION,
    MIN_SIZE,
    NONCE_END,
    SUITE_XAES_256_GCM,
    Binding,
    Header,
    bound_names,
    context_field,
    encode_expiry,
    name_field,
    no_dek_zero,
    pack_length,
)
from kvseal.errors import TamperedRecordError, UnknownDEKError
from kvseal.observe.counters import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


RECORDS_PER_DERIVED_KEY: Final = 2**20
"""A writer draws a new derived key at the latest after so many records."""

_DERIVED_KEYS: Final = 1024
"""Derived keys that a reader keeps: one for each writer process and 2^20 records."""
_COMMON_START: Final = bytes((FORMAT_VERSION, SUITE_XAES_256_GCM, 0, 0))
_EXPIRING_START: Final = bytes((FORMAT_VERSION, SUITE_XAES_256_GCM, EXPIRES, 0))
_EXPIRY_END: Final = NONCE_END + EXPIRY_SIZE
_MIN_EXPIRING_SIZE: Final = MIN_SIZE + EXPIRY_SIZE
_COLLECTIONS: Final = 4096
_FLAGS: Final = 256
_DERIVATION_END: Final = FIXED_SIZE + DERIVATION_SIZE
_NONCE_REST: Final = NONCE_SIZE - DERIVATION_SIZE


class Associations:
    """Builds the AAD of one vault and context: `prefix`, which many records share, the key, `context`."""

    __slots__ = ("_label", "context")

    def __init__(self, vault_id: bytes, *, context: str = "") -> None:
        self._label = AAD_LABEL + vault_id
        self.context = context_field(context)

    def of(self, start: bytes, expiry: bytes, collection: str, key: str) -> bytes:
        """Return the AAD for header bytes 0-7, the encoded expiry and the bound names."""
        if weaker := start[2] & BINDING_MASK:
            collection, key = bound_names(Binding(weaker >> BINDING_SHIFT), collection, key)
        return self._label + start + expiry + name_field(collection) + name_field(key) + self.context

    def prefix(self, start: bytes, collection: str) -> bytes:
        """Return the AAD up to the key, for a record without expiry that is bound to both names."""
        return self._label + start + name_field(collection)

    def around_expiry(self, start: bytes, collection: str) -> tuple[bytes, bytes]:
        """Return what stands in `prefix` before the expiry of a record that has one, and what behind it."""
        return self._label + start, name_field(collection)


class Sealer:
    """
    Seals records under one DEK, each of them a step of *counts*.

    Safe to share between threads: at worst two of them draw a new derived key at once.
    """

    __slots__ = (
        "_associations",
        "_context",
        "_dek",
        "_expiring",
        "_expiring_start",
        "_flags",
        "_prefixes",
        "_run",
        "_sealed",
        "_start",
        "_starts",
        "_urandom",
        "_xaes",
    )

    def __init__(
        self,
        dek: bytes,
        number: int,
        associations: Associations,
        *,
        binding: Binding = Binding.COLLECTION_AND_KEY,
        counts: Count | None = None,
        urandom: Callable[[int], bytes] = _os_urandom,
    ) -> None:
        self._xaes = XAES256GCM(dek)
        self._dek = number
        self._associations = associations
        self._context = associations.context
        self._sealed = Count() if counts is None else counts
        self._urandom = urandom
        self._start = Header(dek=number, nonce=b"", binding=binding).start()
        self._flags = self._start[2]
        self._expiring_start = self._start_with(self._flags | EXPIRES)
        self._prefixes = BoundedCache(partial(associations.prefix, self._start), _COLLECTIONS)
        self._expiring = BoundedCache(partial(associations.around_expiry, self._expiring_start), _COLLECTIONS)
        self._starts = BoundedCache(self._start_with, _FLAGS)
        self._run = self._begin_run()

    @property
    def dek(self) -> int:
        """The number of the DEK that seals."""
        return self._dek

    def seal(
        self, payload: bytes, collection: str, key: str, encoding: int = 0, expires_at: int | None = None
    ) -> bytes:
        """
        Return the record of *payload* for these names at the base store.

        *expires_at* is in Unix milliseconds.  Sealing the same payload twice gives different records.
        """
        head, encrypt, budget = self._run
        try:
            next(budget)
        except StopIteration:
            self._run = head, encrypt, budget = self._begin_run()
            next(budget)
        self._sealed.number += 1
        nonce_rest = self._urandom(_NONCE_REST)
        if encoding or self._flags:
            flags = self._flags | encoding | (EXPIRES if expires_at is not None else 0)
            start, expiry = self._starts[flags], encode_expiry(expires_at)
            aad = self._associations.of(start, expiry, collection, key)
            ciphertext = encrypt(nonce_rest, payload, aad)
            return b"".join((start, head[FIXED_SIZE:], nonce_rest, expiry, ciphertext))
        try:
            name = key.encode()  # `name_field` in line: a call less for every record.
        except UnicodeEncodeError:
            name = key.encode("utf-8", "surrogatepass")
        if expires_at is None:
            aad = self._prefixes[collection] + pack_length(len(name)) + name + self._context
            return head + nonce_rest + encrypt(nonce_rest, payload, aad)
        before, behind = self._expiring[collection]
        expiry = encode_expiry(expires_at)
        aad = before + expiry + behind + pack_length(len(name)) + name + self._context
        nonce = head[FIXED_SIZE:] + nonce_rest
        return self._expiring_start + nonce + expiry + encrypt(nonce_rest, payload, aad)

    def _start_with(self, flags: int) -> bytes:
        return self._start[:2] + bytes((flags,)) + self._start[3:]

    def _begin_run(self) -> tuple[bytes, Callable[[bytes, bytes, bytes], bytes], Iterator[int]]:
        """Return the first 20 bytes and the encryption that the next records share, and their budget."""
        nonce_start = self._urandom(DERIVATION_SIZE)
        encrypt = self._xaes.derive(nonce_start).encrypt
        return self._start + nonce_start, encrypt, iter(range(RECORDS_PER_DERIVED_KEY))


class Opener:
    """
    Opens the records of one vault under whichever of its DEKs sealed them.

    *weakest* is the weakest binding that is accepted: a record that could have been
    moved further than the vault's policy allows is refused.  Each record that was opened
    is a step of what *counts* has for its DEK.
    """

    __slots__ = ("_associations", "_context", "_derived", "_keys", "_opened", "_prepared", "_weakest")

    def __init__(
        self,
        deks: Mapping[int, bytes],
        associations: Associations,
        *,
        weakest: Binding = Binding.COLLECTION_AND_KEY,
        counts: Mapping[int, Count] | None = None,
    ) -> None:
        self._keys = {number: XAES256GCM(dek) for number, dek in deks.items()}
        self._associations = associations
        self._context = associations.context
        self._opened = {number: Count() for number in deks} if counts is None else counts
        self._weakest = weakest
        self._derived = lru_cache(maxsize=_DERIVED_KEYS)(self._derive)
        self._prepared = BoundedCache(self._prepare, _DERIVED_KEYS)

    def open(self, record: bytes, collection: str, key: str) -> bytes:
        """
        Return the payload that was sealed for these names at the base store.

        Raises:
            MalformedRecordError, UnknownRecordVersionError: *record* is no record that this kvseal reads.
            UnknownDEKError: none of these DEKs sealed it.
            TamperedRecordError: it was changed, or sealed for other names, another context or vault.
        """
        if len(record) < MIN_SIZE:
            Header.parse(record)
        prepared = self._prepared[record[:_DERIVATION_END], collection]
        if prepared is None:
            return self._open_uncommon(record, collection, key)
        decrypt, prefix, behind, opened = prepared
        try:
            name = key.encode()  # As in `Sealer.seal`.
        except UnicodeEncodeError:
            name = key.encode("utf-8", "surrogatepass")
        body = NONCE_END
        if behind is not None:
            body = _EXPIRY_END
            if len(record) < _MIN_EXPIRING_SIZE:
                Header.parse(record)
            prefix += record[NONCE_END:body] + behind
        aad = prefix + pack_length(len(name)) + name + self._context
        try:
            payload = decrypt(record[_DERIVATION_END:NONCE_END], record[body:], aad)
        except InvalidTag:
            raise _tampered() from None
        opened.number += 1
        return payload

    def _open_uncommon(self, record: bytes, collection: str, key: str) -> bytes:
        """Open a record with another encoding or a weaker binding, or say why it is none."""
        header = Header.parse(record)
        if header.binding > self._weakest:
            msg = f"the record is bound to {header.binding.name}, weaker than this vault's policy accepts"
            raise TamperedRecordError(msg)
        body = NONCE_END if header.expires_at is None else _EXPIRY_END
        aes_gcm = self._derived(record[4:_DERIVATION_END])
        aad = self._associations.of(record[:FIXED_SIZE], record[NONCE_END:body], collection, key)
        try:
            payload = aes_gcm.decrypt(record[_DERIVATION_END:NONCE_END], record[body:], aad)
        except InvalidTag:
            raise _tampered() from None
        self._opened[header.dek].number += 1
        return payload

    def _prepare(
        self, start_and_collection: tuple[bytes, str]
    ) -> tuple[Callable[[bytes, bytes, bytes], bytes], bytes, bytes | None, Count] | None:
        """
        Return what opens records that start like this, their AAD up to the key, and who counts; or `None`.

        The AAD of those with an expiry is in two parts, because the expiry stands between them.
        """
        start, collection = start_and_collection
        prefix: tuple[bytes, bytes | None]
        if start.startswith(_COMMON_START):
            prefix = self._associations.prefix(start[:FIXED_SIZE], collection), None
        elif start.startswith(_EXPIRING_START):
            prefix = self._associations.around_expiry(start[:FIXED_SIZE], collection)
        else:
            return None
        decrypt = self._derived(start[4:]).decrypt
        return decrypt, *prefix, self._opened[int.from_bytes(start[4:FIXED_SIZE], "big")]

    def _derive(self, dek_and_nonce_start: bytes) -> AESGCM:
        number = int.from_bytes(dek_and_nonce_start[:4], "big")
        if number == 0:
            raise no_dek_zero()
        try:
            return self._keys[number].derive(dek_and_nonce_start[4:])
        except KeyError:
            known = ", ".join(map(str, sorted(self._keys))) or "none"
            msg = f"the record is sealed with DEK {number}; this keyring holds {known}"
            raise UnknownDEKError(
                msg, hint="unlock the vault again, or restore the vault meta that has it"
            ) from None


def _tampered() -> TamperedRecordError:
    return TamperedRecordError("the record was changed, or was sealed for another name, context or vault")
