"""
Sealing and opening records, with everything that many records share prepared once.

A sealer draws the first half of the nonce for a run of records and keeps the
AES-256-GCM key that it derives, so one record costs one AES-GCM call.  Nothing
is counted across processes: after a fork two writers share a derived key but
not the 96 random bits that each record draws for itself.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from os import urandom as _os_urandom
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.exceptions import InvalidTag

from kvseal.envelope.aead import DERIVATION_SIZE, NONCE_SIZE, XAES256GCM
from kvseal.envelope.bounded_cache import BoundedCache
from kvseal.envelope.inside import names_field, parse_names, payload_of
from kvseal.envelope.payload import Encoding
from kvseal.envelope.record import (
    AAD_LABEL,
    BINDING_MASK,
    BINDING_SHIFT,
    DERIVATION_END,
    EXPIRES,
    EXPIRY_END,
    FIXED_SIZE,
    FORMAT_VERSION,
    NAMES_INSIDE,
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
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


RECORDS_PER_DERIVED_KEY: Final = 2**20
"""A writer draws a new derived key at the latest after so many records."""

NONCE_REST: Final = NONCE_SIZE - DERIVATION_SIZE
"""Bytes of the nonce that are drawn for each record."""

_DERIVED_KEYS: Final = 1024
"""Derived keys that a reader keeps: one for each writer process and 2^20 records."""
_LENGTHS: Final = 64
"""Lengths of a key for which the AAD before it is kept."""
_COMMON_START: Final = bytes((FORMAT_VERSION, SUITE_XAES_256_GCM, Encoding.MESSAGEPACK, 0))
_EXPIRING_START: Final = bytes((FORMAT_VERSION, SUITE_XAES_256_GCM, Encoding.MESSAGEPACK | EXPIRES, 0))

Run: TypeAlias = "tuple[bytes, Callable[[bytes, bytes, bytes], bytes], Iterator[int]]"
"""Of a writer: the first 20 bytes of its common records, their encryption, a step for each to come."""

OpenRun: TypeAlias = (
    "tuple[Callable[[bytes, bytes, bytes], bytes], bytes | None, BoundedCache[int, bytes], Count]"
)
"""Of a reader: what decrypts, the AAD before an expiry (if any), the AAD from there to the key, the count."""

_NAMES_LEFT_OUT: Final = BINDING_MASK | NAMES_INSIDE
"""Flags of records whose AAD lacks a name."""


class Associations:
    """Builds the AAD of one vault and context: `prefix`, which many records share, the key, `context`."""

    __slots__ = ("_label", "context")

    def __init__(self, vault_id: bytes, *, context: str = "") -> None:
        self._label = AAD_LABEL + vault_id
        self.context = context_field(context)

    def of(self, start: bytes, expiry: bytes, collection: str, key: str) -> bytes:
        """Return the AAD for header bytes 0-7, the encoded expiry and the bound names."""
        if left_out := start[2] & _NAMES_LEFT_OUT:
            if left_out & NAMES_INSIDE:
                collection = key = ""
            else:
                collection, key = bound_names(Binding(left_out >> BINDING_SHIFT), collection, key)
        return self._label + start + expiry + name_field(collection) + name_field(key) + self.context

    def around_expiry(self, start: bytes, collection: str) -> tuple[bytes, bytes]:
        """Return the AAD before an expiry and, up to the key, behind it, for records bound to both names."""
        return self._label + start, name_field(collection)


def leads_of(prefix: bytes) -> BoundedCache[int, bytes]:
    """Return by the length of a key what stands in the AAD before it: *prefix* and that length."""
    return BoundedCache(lambda length: prefix + pack_length(length), _LENGTHS)


class Sealer:
    """
    Seals records under one DEK, each of them a step of *counts*.

    Safe to share between threads: at worst two of them draw a new derived key at once.
    """

    __slots__ = ("_start", "_xaes", "associations", "binding", "dek", "run", "sealed", "urandom")

    dek: int
    """The number of the DEK that seals."""

    run: Run
    """What the next records share; a writer that finds its budget spent calls `renewed`."""

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
        self._start = Header(dek=number, nonce=b"", binding=binding).start()
        self.dek = number
        self.associations = associations
        self.binding = binding
        self.sealed = Count() if counts is None else counts
        self.urandom = urandom
        self.run = self._begin_run()

    def start(self, flags: int) -> bytes:
        """Return header bytes 0-7 with *flags* beside those of the binding."""
        return self._start[:2] + bytes((self._start[2] | flags,)) + self._start[3:]

    def renewed(self) -> Run:
        """Begin a run, and take its first step."""
        self.run = run = self._begin_run()
        next(run[2])
        return run

    def seal(
        self,
        payload: bytes,
        collection: str,
        key: str,
        encoding: int = 0,
        expires_at: int | None = None,
        *,
        names_inside: bool = False,
    ) -> bytes:
        """
        Return the record of *payload* for these names at the base store, which it carries if *names_inside*.

        *expires_at* is in Unix milliseconds.  Sealing the same payload twice gives different records.
        """
        flags = encoding | (EXPIRES if expires_at is not None else 0)
        if names_inside:
            flags |= NAMES_INSIDE
            payload = names_field(collection, key) + payload
        head, encrypt, budget = self.run
        for _ in budget:
            break
        else:
            head, encrypt, _ = self.renewed()
        self.sealed.number += 1
        rest = self.urandom(NONCE_REST)
        start = self.start(flags)
        expiry = encode_expiry(expires_at)
        aad = self.associations.of(start, expiry, collection, key)
        return b"".join((start, head[FIXED_SIZE:], rest, expiry, encrypt(rest, payload, aad)))

    def _begin_run(self) -> Run:
        nonce_start = self.urandom(DERIVATION_SIZE)
        encrypt = self._xaes.derive(nonce_start).encrypt
        return self.start(Encoding.MESSAGEPACK) + nonce_start, encrypt, iter(range(RECORDS_PER_DERIVED_KEY))


class Opener:
    """
    Opens the records of one vault, under any of its DEKs.

    *weakest* is the weakest binding that is accepted: a record that could have been
    moved further than the vault's policy allows is refused.  Each record that was opened
    is a step of what *counts* has for its DEK.  *seconds* are tried where the DEK itself does not open.
    """

    __slots__ = ("_derived", "_keys", "_opened", "_seconds", "_weakest", "associations", "runs")

    runs: BoundedCache[tuple[bytes, str], OpenRun | None]
    """By the first 20 bytes of records and their collection: what common ones share, or `None`."""

    def __init__(
        self,
        deks: Mapping[int, bytes],
        associations: Associations,
        *,
        weakest: Binding = Binding.COLLECTION_AND_KEY,
        counts: Mapping[int, Count] | None = None,
        seconds: Mapping[int, Sequence[bytes]] | None = None,
    ) -> None:
        self._seconds = seconds or {}
        self._keys = {number: XAES256GCM(dek) for number, dek in deks.items()}
        self._opened = {number: Count() for number in deks} if counts is None else counts
        self._weakest = weakest
        self._derived = lru_cache(maxsize=_DERIVED_KEYS)(self._derive)
        self.associations = associations
        self.runs = BoundedCache(self._open_run, _DERIVED_KEYS)

    def open(self, record: bytes, collection: str, key: str) -> bytes:
        """
        Return the payload that was sealed for these names at the base store.

        Raises:
            MalformedRecordError, UnknownRecordVersionError: *record* is no record that this kvseal reads.
            UnknownDEKError: none of these DEKs sealed it.
            TamperedRecordError: it was changed, or sealed for other names, another context or vault.
            MovedRecordError: it carries other names.
        """
        header = Header.parse(record)
        payload = self._decrypted(record, header, collection, key)
        if header.names_inside:
            payload = payload_of(payload, collection, key)
        self._opened[header.dek].number += 1
        return payload

    def names_in(self, record: bytes) -> tuple[str, str] | None:
        """Return the names that *record* carries, `None` where it has none; raises like `open`."""
        header = Header.parse(record)
        if not header.names_inside:
            return None
        return parse_names(self._decrypted(record, header, "", ""))[:2]

    def _decrypted(self, record: bytes, header: Header, collection: str, key: str) -> bytes:
        if header.binding > self._weakest:
            msg = f"the record is bound to {header.binding.name}, weaker than this vault's policy accepts"
            raise TamperedRecordError(msg)
        body = NONCE_END if header.expires_at is None else EXPIRY_END
        aes_gcm = self._derived(record[4:DERIVATION_END])
        aad = self.associations.of(record[:FIXED_SIZE], record[NONCE_END:body], collection, key)
        try:
            return aes_gcm.decrypt(record[DERIVATION_END:NONCE_END], record[body:], aad)
        except InvalidTag:
            return self._opened_second(header.dek, record, body, aad)

    def _opened_second(self, dek: int, record: bytes, body: int, aad: bytes) -> bytes:
        """Open with a DEK that has lost its number to another one, or raise `TamperedRecordError`."""
        for second in self._seconds.get(dek, ()):
            with suppress(InvalidTag):
                aes_gcm = XAES256GCM(second).derive(record[FIXED_SIZE:DERIVATION_END])
                return aes_gcm.decrypt(record[DERIVATION_END:NONCE_END], record[body:], aad)
        msg = "the record was changed, or was sealed for another name, context or vault"
        raise TamperedRecordError(msg)

    def _open_run(self, start_and_collection: tuple[bytes, str]) -> OpenRun | None:
        start, collection = start_and_collection
        before, behind = self.associations.around_expiry(start[:FIXED_SIZE], collection)
        aad: tuple[bytes | None, BoundedCache[int, bytes]]
        if start.startswith(_COMMON_START):
            aad = None, leads_of(before + behind)
        elif start.startswith(_EXPIRING_START):
            aad = before, leads_of(behind)
        else:
            return None
        decrypt = self._derived(start[4:]).decrypt
        return decrypt, *aad, self._opened[int.from_bytes(start[4:FIXED_SIZE], "big")]

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
