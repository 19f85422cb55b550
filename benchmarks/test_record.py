"""Seal and open the bytes of one value: kvseal's record, its peers and the floor, from 64 bytes to 1 MiB."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks import peers
from benchmarks.peers import COLLECTION, KEY
from benchmarks.shapes import SIZES, flat
from benchmarks.turns import Case, measure
from kvseal.envelope.sealing import Associations, Opener, Sealer

if TYPE_CHECKING:
    from collections.abc import Callable

    Bytes = Callable[[bytes], bytes]


def kvseal() -> tuple[Bytes, Bytes]:
    """Return a record's sealing and opening by the small steps; the wrapper does more of it in one piece."""
    dek, associations = os.urandom(32), Associations(bytes(16))
    sealer, opener = Sealer(dek, 1, associations), Opener({1: dek}, associations)
    return (
        lambda text: sealer.seal(text, COLLECTION, KEY),
        lambda record: opener.open(record, COLLECTION, KEY),
    )


def floor() -> tuple[Bytes, Bytes]:
    """Return one draw of random bytes and one call of AES-GCM, with an AAD that is there already."""
    aes_gcm, aad = AESGCM(os.urandom(32)), bytes(80)

    def seal(text: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + aes_gcm.encrypt(nonce, text, aad)

    return seal, lambda record: aes_gcm.decrypt(record[:12], record[12:], aad)


def by_hand() -> tuple[Bytes, Bytes]:
    """Return the same without any AAD."""
    return peers.hand_written(os.urandom(32))


def tink() -> tuple[Bytes, Bytes]:
    """Return Tink's AEAD, with an AAD that is there already."""
    primitive, aad = peers.tink_aead(), bytes(80)
    return lambda text: primitive.encrypt(text, aad), lambda record: primitive.decrypt(record, aad)


def fernet() -> tuple[Bytes, Bytes]:
    """Return Fernet, whose tokens are base64."""
    one = Fernet(Fernet.generate_key())
    return one.encrypt, one.decrypt


@pytest.mark.parametrize("operation", ["seal", "open"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "contestant", [kvseal, floor, by_hand, tink, fernet], ids=lambda contestant: contestant.__name__
)
def test_record(
    benchmark: Any, contestant: Callable[[], tuple[Bytes, Bytes]], size: str, operation: str
) -> None:
    """What was sealed opens, and the time that it takes is written down."""
    text = orjson.dumps(flat(SIZES[size]))
    seal, open_ = contestant()
    record = seal(text)
    call, given = (seal, text) if operation == "seal" else (open_, record)

    def repeat(times: int) -> None:
        for _ in range(times):
            call(given)

    name = contestant.__name__.replace("_", " ")
    measure(benchmark, Case("none", operation, size, name), repeat)

    assert text == open_(record)
