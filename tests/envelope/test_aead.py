"""XAES-256-GCM against the vectors that C2SP publishes."""

from __future__ import annotations

import json
from hashlib import shake_128
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from kvseal.envelope.aead import DERIVATION_SIZE, KEY_SIZE, NONCE_SIZE, TAG_SIZE, XAES256GCM, _double

C2SP: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "xaes-256-gcm.json").read_text())
VECTORS = C2SP["vectors"]
KEY, NONCE = bytes(range(KEY_SIZE)), bytes(range(NONCE_SIZE))

vectors = pytest.mark.parametrize("vector", VECTORS, ids=["msb-clear", "msb-set"])


def accumulated(steps: int) -> str:
    """Return the accumulated value of *steps* random cases, as `xaes-256-gcm.json` describes it."""
    # A step takes 58 bytes and two lengths of 127.5 on average: 330 leave room.
    stream = BytesIO(shake_128().digest(steps * 330))
    results = shake_128()
    for _ in range(steps):
        key, nonce = stream.read(KEY_SIZE), stream.read(NONCE_SIZE)
        plaintext = stream.read(stream.read(1)[0])
        aad = stream.read(stream.read(1)[0])
        xaes = XAES256GCM(key)
        ciphertext = xaes.seal(nonce, plaintext, aad)
        results.update(ciphertext)
        assert plaintext == xaes.open(nonce, ciphertext, aad)
    assert stream.read(1)
    return results.hexdigest(32)


@vectors
def test_vector_seals_and_opens(vector: dict[str, str]) -> None:
    """The published plaintext seals to the published ciphertext, and back."""
    xaes, nonce = XAES256GCM(bytes.fromhex(vector["key"])), bytes.fromhex(vector["nonce"])
    plaintext, aad = vector["plaintext_utf8"].encode(), vector["aad_utf8"].encode()

    sealed = xaes.seal(nonce, plaintext, aad)

    assert vector["ciphertext"] == sealed.hex()
    assert plaintext == xaes.open(nonce, sealed, aad)


@vectors
def test_intermediate_subkey(vector: dict[str, str]) -> None:
    """L doubles to K1, with and without a carry."""
    block_cipher = Cipher(AES(bytes.fromhex(vector["key"])), ECB())
    subkey = block_cipher.encryptor().update(bytes(16))

    assert vector["L"] == subkey.hex()
    assert vector["K1"] == _double(subkey).hex()


@vectors
def test_intermediate_derived_key(vector: dict[str, str]) -> None:
    """The derived key is Kx: AES-256-GCM under the published one seals the same."""
    nonce, aad = bytes.fromhex(vector["nonce"]), b"any"
    derived = XAES256GCM(bytes.fromhex(vector["key"])).derive(nonce[:DERIVATION_SIZE])

    assert vector["Nx"] == nonce[DERIVATION_SIZE:].hex()
    assert AESGCM(bytes.fromhex(vector["Kx"])).encrypt(
        nonce[DERIVATION_SIZE:], b"text", aad
    ) == derived.encrypt(nonce[DERIVATION_SIZE:], b"text", aad)


def test_stream_of_the_accumulated_vector() -> None:
    """The SHAKE-128 stream starts as the vector's description says."""
    assert "7f9c2ba4e88f827d616045507605853e" == shake_128().hexdigest(16)


def test_accumulated_10_000() -> None:
    """Ten thousand random cases accumulate to the published value."""
    assert C2SP["accumulated"]["10000"] == accumulated(10_000)


@pytest.mark.long
def test_accumulated_1_000_000() -> None:
    """A million random cases accumulate to the published value."""
    assert C2SP["accumulated"]["1000000"] == accumulated(1_000_000)


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33, 64])
def test_key_of_another_length_is_refused(size: int) -> None:
    """A key that is not 32 bytes is a `ValueError` that says how long it was."""
    with pytest.raises(ValueError, match=f"32 bytes, not {size}"):
        XAES256GCM(bytes(size))


@pytest.mark.parametrize("size", [0, 12, 23, 25])
@pytest.mark.parametrize("operation", ["seal", "open"])
def test_nonce_of_another_length_is_refused(operation: str, size: int) -> None:
    """A nonce that is not 24 bytes is a `ValueError`, to seal and to open."""
    with pytest.raises(ValueError, match=f"24 bytes, not {size}"):
        getattr(XAES256GCM(KEY), operation)(bytes(size), bytes(TAG_SIZE), b"")


@pytest.mark.parametrize("size", [0, 11, 13, 24])
def test_start_of_another_length_is_refused(size: int) -> None:
    """A derived key takes exactly the first 12 nonce bytes."""
    with pytest.raises(ValueError, match=f"12 nonce bytes, not {size}"):
        XAES256GCM(KEY).derive(bytes(size))


@given(plaintext=st.binary(max_size=64), aad=st.binary(max_size=64), data=st.data())
def test_every_flipped_bit_is_found(plaintext: bytes, aad: bytes, data: st.DataObject) -> None:
    """A change of one bit of nonce, ciphertext or tag raises `InvalidTag`."""
    xaes = XAES256GCM(KEY)
    message = bytearray(NONCE + xaes.seal(NONCE, plaintext, aad))
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    message[bit // 8] ^= 1 << bit % 8

    with pytest.raises(InvalidTag):
        xaes.open(bytes(message[:NONCE_SIZE]), bytes(message[NONCE_SIZE:]), aad)


def test_aad_is_bound() -> None:
    """Other associated data raises `InvalidTag`."""
    xaes = XAES256GCM(KEY)

    with pytest.raises(InvalidTag):
        xaes.open(NONCE, xaes.seal(NONCE, b"text", b"aad"), b"aae")
