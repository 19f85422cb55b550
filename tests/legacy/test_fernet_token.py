"""Fernet tokens opened by kvseal itself: exactly those that `cryptography` opens, and to the same bytes."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from hypothesis import given
from hypothesis import strategies as st

from kvseal.legacy.fernet_token import FernetKey, decoded

if TYPE_CHECKING:
    from collections.abc import Callable

# The key and the token of the specification's own test vectors.
KEY = urlsafe_b64decode("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=")
TOKEN = (
    b"gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA=="
)
FERNET = Fernet(urlsafe_b64encode(KEY))


def signed(padded: bytes, *, version: int = 0x80, cut: int = 0) -> bytes:
    """Return a token, without its base64, of plaintext that is padded already, with an HMAC that is right."""
    encryptor = Cipher(AES(KEY[16:]), CBC(bytes(range(16)))).encryptor()
    ciphertext = encryptor.update(padded)
    body = bytes([version]) + bytes(8) + bytes(range(16)) + ciphertext[: len(ciphertext) - cut]
    hmac = HMAC(KEY[:16], SHA256())
    hmac.update(body)
    return body + hmac.finalize()


def as_fernet_says(data: bytes) -> bytes | None:
    """Return what `cryptography` makes of a token without its base64."""
    try:
        return FERNET.decrypt(urlsafe_b64encode(data))
    except InvalidToken:
        return None


def test_vector_of_the_specification() -> None:
    """The specification's token opens to its text, without the help of `cryptography`'s Fernet."""
    assert b"hello" == FernetKey(KEY).open_decoded(decoded(TOKEN))


@given(plaintext=st.binary(max_size=200))
def test_every_token_opens(plaintext: bytes) -> None:
    """Whatever Fernet encrypts is opened here, of any length, and what kvseal writes is opened by Fernet."""
    key = FernetKey(KEY)

    assert plaintext == key.open_decoded(decoded(FERNET.encrypt(plaintext)))
    assert plaintext == FERNET.decrypt(key.encrypt(plaintext))


def test_tokens_one_after_another() -> None:
    """What one token says does not depend on which were opened, or refused, before it."""
    key = FernetKey(KEY)
    texts = [bytes([n]) * n for n in range(40)]
    tokens = [decoded(FERNET.encrypt(text)) for text in texts]

    for _ in range(2):
        assert key.open_decoded(tokens[0][:-1] + b"?") is None
        assert texts == [key.open_decoded(token) for token in tokens]
        tokens.reverse()
        texts.reverse()


def test_every_flipped_bit() -> None:
    """A token with any bit flipped does not open."""
    key, data = FernetKey(KEY), decoded(TOKEN)

    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert key.open_decoded(bytes(flipped)) is None


def test_every_length() -> None:
    """What is left of a token that was cut short does not open, and neither does one with more behind it."""
    key, data = FernetKey(KEY), decoded(TOKEN)

    assert [None] * len(data) == [key.open_decoded(data[:size]) for size in range(len(data))]
    assert key.open_decoded(data + b"\0") is None


@pytest.mark.parametrize(
    "data",
    [
        signed(bytes(15) + b"\x01", version=0x81),
        signed(bytes(16)),
        signed(bytes(15) + b"\x11"),
        signed(bytes(14) + b"\x01\x02"),
        signed(b"\x10" * 16, cut=1),
        signed(b""),
    ],
    ids=["version", "padding-of-none", "padding-of-17", "padding-of-two-kinds", "half-a-block", "no-block"],
)
def test_signed_but_wrong(data: bytes) -> None:
    """What holds the key could sign still has to be a token, as `cryptography` finds, too."""
    assert FernetKey(KEY).open_decoded(data) is None
    assert as_fernet_says(data) is None


@given(
    padded=st.binary(max_size=4).map(lambda end: (bytes(64) + end)[-48:]), version=st.sampled_from([0x80, 0])
)
def test_same_verdict(padded: bytes, version: int) -> None:
    """Of anything that is signed, `cryptography` says the same."""
    data = signed(padded, version=version)

    assert as_fernet_says(data) == FernetKey(KEY).open_decoded(data)


def test_another_key() -> None:
    """A token of another key opens in neither way."""
    other = FernetKey(bytes(32))

    assert other.open_decoded(decoded(TOKEN)) is None
    assert other.decrypt(TOKEN) is None


@pytest.mark.parametrize(
    "spelled",
    [lambda t: t[:9] + b"\n" + t[9:], lambda t: t.replace(b"-", b"+").replace(b"_", b"/")],
    ids=["line-break", "standard-alphabet"],
)
def test_spellings_that_only_a_lenient_reader_takes(spelled: Callable[[bytes], bytes]) -> None:
    """Base64 that is not strictly the specification's is left to `cryptography`, which opens it."""
    token = spelled(TOKEN)

    assert b"" == decoded(token)
    assert b"hello" == FERNET.decrypt(token) == FernetKey(KEY).decrypt(token)
