"""
The common path in one piece: what nearly every `put` and `get` does, with no call but the primitives'.

At 1 KiB calls of Python and looks into objects cost as much as the encryption.  So everything that the
records of one collection share is prepared once, and one closure does the rest.  Whatever is unusual is left
to *otherwise*, which does the same from the start, in small steps and with an error for each of them: a value
that MessagePack cannot hold, another encoding, names inside, a weaker binding, anything that does not open.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import ormsgpack
from cryptography.exceptions import InvalidTag
from pybase64 import b64decode, b64encode_as_string

from kvseal.envelope.payload import STRICT_PACKING, Encoding, is_shallow
from kvseal.envelope.record import (
    DERIVATION_END,
    EXPIRES,
    EXPIRY_END,
    FIXED_SIZE,
    NONCE_END,
    Binding,
    encode_expiry,
)
from kvseal.envelope.sealing import NONCE_REST, leads_of
from kvseal.envelope.stored import DATA_FIELD, LAST_CHARACTERS, QUANTUM, VERSION, VERSION_FIELD
from kvseal.errors import RecordError
from kvseal.exact_json import STRICT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvseal.envelope.sealing import Opener, Sealer

LARGE: Final = 8192
"""Bytes of a payload from which on a look at a few types takes less time than to write it once more."""


class Seal(Protocol):
    """Seals the values of one collection."""

    def __call__(self, value: Mapping[str, Any], key: str, expires_at: int | None = None) -> dict[str, Any]:
        """Return what to store for *value* under *key*; raises `UnsealableValueError`."""


class Open(Protocol):
    """Opens the records of one collection."""

    def __call__(self, stored: Mapping[str, Any], key: str) -> tuple[dict[str, Any], int | None]:
        """Return the value and its sealed expiry; raises `RecordError`."""


def sealing(sealer: Sealer, otherwise: Callable[..., dict[str, Any]], collection: str) -> Seal:
    """Return what seals the values of *collection*; *otherwise* takes the collection and what that takes."""
    uncommon = partial(otherwise, collection)
    if sealer.binding != Binding.COLLECTION_AND_KEY:
        return uncommon
    start, expiring_start = sealer.start(Encoding.MESSAGEPACK), sealer.start(Encoding.MESSAGEPACK | EXPIRES)
    before, behind = sealer.associations.around_expiry(start, collection)
    leads = leads_of(before + behind)
    expiring_before, behind = sealer.associations.around_expiry(expiring_start, collection)
    expiring_leads = leads_of(behind)
    context, sealed, urandom = sealer.associations.context, sealer.sealed, sealer.urandom
    # A variable of the enclosing function takes no look into the dict of the module's globals.
    pack, witness, encoded = ormsgpack.packb, orjson.dumps, b64encode_as_string

    def seal(value: Mapping[str, Any], key: str, expires_at: int | None = None) -> dict[str, Any]:
        if type(value) is not dict:
            return uncommon(value, key, expires_at)
        try:
            body = pack(value, None, STRICT_PACKING)
            if len(body) < LARGE or not is_shallow(value):
                witness(value, None, STRICT)
            name = key.encode()
        except (TypeError, UnicodeEncodeError):
            return uncommon(value, key, expires_at)
        head, encrypt, budget = sealer.run
        for _ in budget:
            break
        else:
            head, encrypt, _ = sealer.renewed()
        sealed.number += 1
        rest = urandom(NONCE_REST)
        # One name for plaintext, ciphertext and record, so that each is freed before the next copy is made.
        if expires_at is None:
            body = encrypt(rest, body, leads[len(name)] + name + context)
            body = head + rest + body
        else:
            expiry = encode_expiry(expires_at)
            body = encrypt(rest, body, expiring_before + expiry + expiring_leads[len(name)] + name + context)
            body = expiring_start + head[FIXED_SIZE:] + rest + expiry + body
        return {DATA_FIELD: encoded(body), VERSION_FIELD: VERSION}

    return seal


def opening(
    opener: Opener, otherwise: Callable[..., tuple[dict[str, Any], int | None]], collection: str
) -> Open:
    """Return what opens the records of *collection*; *otherwise* takes the collection and what that takes."""
    uncommon = partial(otherwise, collection)
    context, runs = opener.associations.context, opener.runs
    decoded, unpack, from_bytes = b64decode, ormsgpack.unpackb, int.from_bytes

    def open_(stored: Mapping[str, Any], key: str) -> tuple[dict[str, Any], int | None]:
        try:
            text, version = stored[DATA_FIELD], stored[VERSION_FIELD]
            if version != VERSION or type(version) is not int or len(stored) != 2 or type(text) is not str:  # noqa: PLR2004
                return uncommon(stored, key)
            record = decoded(text, None, True)
            surplus = len(record) % 3
            run = runs[record[:DERIVATION_END], collection]
            if run is None or (surplus and text[surplus - QUANTUM] not in LAST_CHARACTERS[surplus]):
                return uncommon(stored, key)
            decrypt, before, leads, opened = run
            name = key.encode()
            aad, nonce = leads[len(name)] + name + context, record[DERIVATION_END:NONCE_END]
            if before is None:
                value, expires_at = unpack(decrypt(nonce, record[NONCE_END:], aad)), None
            else:
                expiry = record[NONCE_END:EXPIRY_END]
                value = unpack(decrypt(nonce, record[EXPIRY_END:], before + expiry + aad))
                expires_at = from_bytes(expiry, "big", signed=True)
        except (KeyError, ValueError, InvalidTag, RecordError):
            return uncommon(stored, key)
        if type(value) is not dict:
            return uncommon(stored, key)
        opened.number += 1
        return value, expires_at

    return open_
