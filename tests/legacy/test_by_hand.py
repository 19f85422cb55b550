"""Records that other libraries encrypted by hand, in every cipher and layout that a recipe can declare."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from base64 import b64decode, b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import OctKey
from nacl.secret import SecretBox as NaClBox
from tests.strategies import json_values, same, utf8_text

from kvseal.envelope.stored import VERSION_FIELD, to_stored
from kvseal.errors import (
    MalformedRecordError,
    RecordError,
    SecretError,
    TamperedRecordError,
    UnsealableValueError,
    UsageError,
)
from kvseal.legacy.by_hand import ByHandCodec, Layout
from kvseal.legacy.ciphers import AesCbcHmac, AesGcm, ChaCha20, SecretBox
from kvseal.legacy.jwe import JweCodec

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE = {"user": "Ada", "größer": [1, None, True, 1.5], "n": 2**70}
TEXT = json.dumps(VALUE).encode()
KEYS = [bytes(range(number, number + 64)) for number in (0, 100)]
KEY = KEYS[0][:32]
NONCE = bytes(range(12))
GCM = AESGCM(KEY).encrypt(NONCE, TEXT, b"")
WRAPPER = {"__encryption_version__": 1}


def b64(data: bytes) -> str:
    """Return *data* as people write it."""
    return b64encode(data).decode()


def cbc(key: bytes, mac_key: bytes, digest: str, aad: bytes = b"") -> bytes:
    """Return IV, AES-CBC and HMAC, made of the primitives alone."""
    iv, padder = bytes(range(16)), PKCS7(128).padder()
    encryptor = Cipher(AES(key), CBC(iv)).encryptor()
    sealed = iv + encryptor.update(padder.update(TEXT) + padder.finalize()) + encryptor.finalize()
    return sealed + hmac.digest(mac_key, aad + sealed, digest)


def made() -> dict[str, tuple[ByHandCodec, dict[str, Any]]]:
    """Return a codec and a record of another library, by name."""
    tag, body = GCM[-16:], GCM[:-16]
    odd = AESGCM(KEY).encrypt(bytes(16), TEXT, b"")
    own = {"__encrypted_data__": "", "__encryption_version__": 7}
    small = AESGCM(KEY[:16]).encrypt(NONCE, TEXT, None)
    dictionary = Layout("box.ct", nonce="box.iv", tag="box.tag", encoding="hex", constants={"v": 1})
    return {
        "aes-256-gcm": (
            ByHandCodec("aes-gcm", [AesGcm(KEY)], Layout()),
            {"__encrypted_data__": b64(NONCE + GCM), **WRAPPER},
        ),
        "aes-128-gcm": (
            ByHandCodec("aes-gcm", [AesGcm(KEY[:16])], Layout("data", encoding="base64url")),
            {"data": urlsafe_b64encode(NONCE + small).decode().rstrip("=")},
        ),
        "dictionary": (
            ByHandCodec("aes-gcm", [AesGcm(KEY)], dictionary),
            {"v": 1, "box": {"iv": NONCE.hex(), "ct": body.hex(), "tag": tag.hex()}},
        ),
        "nonce-apart": (
            ByHandCodec("aes-gcm", [AesGcm(KEY)], Layout("ct", nonce="iv")),
            {"iv": b64(NONCE), "ct": b64(GCM)},
        ),
        "tag-first": (
            ByHandCodec("aes-gcm", [AesGcm(KEY)], Layout("d", parts=("nonce", "tag", "ciphertext"))),
            {"d": b64(NONCE + tag + body)},
        ),
        "nonce-of-16": (
            ByHandCodec("aes-gcm", [AesGcm(KEY)], Layout("d", nonce_size=16)),
            {"d": b64(bytes(16) + odd)},
        ),
        "aad": (
            ByHandCodec("aes-gcm", [AesGcm(KEY)], Layout("d", aad="app:{collection}/{key}")),
            {"d": b64(NONCE + AESGCM(KEY).encrypt(NONCE, TEXT, b"app:c/k"))},
        ),
        "own-version": (
            ByHandCodec("aes-gcm", [AesGcm(KEY)], Layout(constants={"__encryption_version__": 7})),
            {**own, "__encrypted_data__": b64(NONCE + GCM)},
        ),
        "chacha20": (
            ByHandCodec("chacha20-poly1305", [ChaCha20(KEY)], Layout("d")),
            {"d": b64(NONCE + ChaCha20Poly1305(KEY).encrypt(NONCE, TEXT, None))},
        ),
        "cbc-two-keys": (
            ByHandCodec("aes-cbc-hmac", [AesCbcHmac(KEY, b"mac key")], Layout("d")),
            {"d": b64(cbc(KEY, b"mac key", "sha256"))},
        ),
        "cbc-one-key": (
            ByHandCodec("aes-cbc-hmac", [AesCbcHmac.of_one_key(KEYS[0], mac_hash="sha512")], Layout("d")),
            {"d": b64(cbc(KEYS[0][32:], KEYS[0][:32], "sha512"))},
        ),
        "cbc-mac-last": (
            ByHandCodec("aes-cbc-hmac", [AesCbcHmac.of_one_key(KEYS[0], mac_first=False)], Layout("d")),
            {"d": b64(cbc(KEYS[0][:32], KEYS[0][32:], "sha256"))},
        ),
        "secretbox": (
            ByHandCodec("secretbox", [SecretBox(KEY)], Layout("d")),
            {"d": b64(bytes(NaClBox(KEY).encrypt(TEXT)))},
        ),
    }


@pytest.fixture(params=made())
def one(request: pytest.FixtureRequest) -> tuple[ByHandCodec, dict[str, Any]]:
    """Return every codec with a record of another library in turn."""
    return made()[request.param]


def test_opens(one: tuple[ByHandCodec, dict[str, Any]]) -> None:
    """A record of the real library opens to its value."""
    codec, stored = one

    assert codec.recognises(stored)
    assert VALUE == codec.open(stored, "c", "k")


def test_there_and_back(one: tuple[ByHandCodec, dict[str, Any]]) -> None:
    """What is sealed for the way back has the same fields and opens again, under a nonce of its own."""
    codec, stored = one

    sealed, again = codec.seal(VALUE, "c", "k"), codec.seal(VALUE, "c", "k")

    assert sealed != again
    assert set(stored) == set(sealed)
    assert codec.recognises(sealed)
    assert VALUE == codec.open(sealed, "c", "k")


def test_every_flipped_bit(one: tuple[ByHandCodec, dict[str, Any]]) -> None:
    """A damaged record never opens."""
    codec, stored = one
    fields = codec._layout.fields
    for field in fields:
        holder, _, name = field.rpartition(".")
        text = (stored[holder] if holder else stored)[name].encode()
        for bit in range(0, 8 * len(text), 3):
            flipped = bytearray(text)
            flipped[bit // 8] ^= 1 << bit % 8
            changed = flipped.decode("latin-1")
            record = (
                {**stored, holder: {**stored[holder], name: changed}} if holder else {**stored, name: changed}
            )
            try:
                opened = codec.open(record, "c", "k")
            except RecordError:
                continue
            # Unused bits of base64's last character, a sign of the other alphabet, or a letter's case in hex.
            assert VALUE == opened


@pytest.mark.parametrize("names", [("c", "other"), ("other", "k"), (None, "k"), ("c", None)])
def test_names_in_the_associated_data(names: tuple[str | None, str | None]) -> None:
    """A record with its names in the associated data opens under these names alone."""
    codec, stored = made()["aad"]

    with pytest.raises(RecordError):
        codec.open(stored, *names)
    if None in names:
        with pytest.raises(RecordError, match="does not keep its name"):
            codec.seal(VALUE, *names)


def test_names_are_no_pattern() -> None:
    """A name that looks like a placeholder stands for itself."""
    codec = ByHandCodec("aes-gcm", [AesGcm(KEY)], Layout("d", aad="{collection}|{key}"))
    stored = {"d": b64(NONCE + AESGCM(KEY).encrypt(NONCE, TEXT, b"{key}|{collection}"))}

    assert VALUE == codec.open(stored, "{key}", "{collection}")


def test_several_keys() -> None:
    """A record opens with the one of several keys that wrote it, and none is one error."""
    _, stored = made()["aes-256-gcm"]
    codec = ByHandCodec("aes-gcm", [AesGcm(bytes(32)), AesGcm(KEY)], Layout())

    assert VALUE == codec.open(stored)
    with pytest.raises(TamperedRecordError, match="none of 1 keys"):
        ByHandCodec("aes-gcm", [AesGcm(bytes(32))], Layout()).open(stored)


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"user": "Ada"},
        {"__encrypted_data__": "AAAA"},
        {"__encrypted_data__": "AAAA", "__encryption_version__": True},
        {"__encrypted_data__": 7, "__encryption_version__": 1},
        {"__encrypted_data__": "AAAA", "__encryption_version__": 2},
    ],
    ids=repr,
)
def test_recognises_nothing_else(stored: dict[str, Any]) -> None:
    """Plaintext, kvseal's own records and other versions are not taken for it."""
    assert not ByHandCodec("aes-gcm", [], Layout()).recognises(stored)


def test_kvseals_own_records_are_never_taken() -> None:
    """Whatever a layout declares, what kvseal has sealed is not of it."""
    sealed = to_stored(bytes(60))
    constants: dict[str, str | int | bool] = {VERSION_FIELD: sealed[VERSION_FIELD]}

    assert not ByHandCodec("aes-gcm", [], Layout(constants=constants)).recognises(sealed)


@pytest.mark.parametrize("text", ["", "AAAA", "!", "AAAA====", "ключ", b64(bytes(27))])
def test_no_record(text: str) -> None:
    """What is no base64, or too short, is malformed."""
    codec = ByHandCodec("aes-gcm", [AesGcm(KEY)], Layout("d"))

    with pytest.raises(MalformedRecordError):
        codec.open({"d": text})


@pytest.mark.parametrize("plaintext", [b"[]", b"hunter2", b"", b"\xff"])
def test_no_object_inside(plaintext: bytes) -> None:
    """A plaintext that is no JSON object is malformed, and not shown."""
    codec = ByHandCodec("aes-gcm", [AesGcm(KEY)], Layout("d"))

    with pytest.raises(MalformedRecordError, match="not a JSON object"):
        codec.open({"d": b64(NONCE + AESGCM(KEY).encrypt(NONCE, plaintext, None))})


@pytest.mark.parametrize(
    "layout",
    [
        {"parts": ("nonce", "tag")},
        {"nonce": "iv", "parts": ("nonce", "ciphertext", "tag")},
        {"parts": ("nonce", "nonce", "ciphertext", "tag")},
        {"aad": "{tenant}"},
        {"aad": "{}"},
    ],
    ids=repr,
)
def test_layouts_that_make_no_sense(layout: dict[str, Any]) -> None:
    """A layout that contradicts itself is a mistake at once."""
    with pytest.raises(UsageError):
        Layout(**layout)


@pytest.mark.parametrize("make", [AesGcm, ChaCha20, SecretBox, AesCbcHmac.of_one_key])
def test_keys_of_a_wrong_size(make: Callable[[bytes], Any]) -> None:
    """A key that a cipher does not take is named by its size, and not shown."""
    with pytest.raises(SecretError, match="has 7") as caught:
        make(b"hunter2")
    assert "hunter2" not in str(caught.value)


JWES = [
    *(("dir", enc, size) for enc, size in (("A128GCM", 16), ("A192GCM", 24), ("A256GCM", 32))),
    *(
        ("dir", enc, size)
        for enc, size in (("A128CBC-HS256", 32), ("A192CBC-HS384", 48), ("A256CBC-HS512", 64))
    ),
    *(("A128KW", "A128GCM", 16), ("A256KW", "A256GCM", 32), ("A192KW", "A128CBC-HS256", 24)),
]


@pytest.mark.parametrize(("alg", "enc", "size"), JWES)
def test_jwe_of_joserfc(alg: str, enc: str, size: int) -> None:
    """A token of joserfc opens, and joserfc opens what is sealed for the way back."""
    key = KEYS[0][:size]
    names = [alg, enc]
    token = jwe.encrypt_compact({"alg": alg, "enc": enc}, TEXT, OctKey.import_key(key), algorithms=names)
    codec = JweCodec([KEYS[1][:size], key], "token")

    assert codec.recognises({"token": token})
    assert VALUE == codec.open({"token": token})
    sealed = JweCodec([key], "token", alg=alg, enc=enc).seal(VALUE)
    opened = jwe.decrypt_compact(sealed["token"], OctKey.import_key(key), algorithms=names)
    assert VALUE == json.loads(opened.plaintext or b"")
    with pytest.raises(TamperedRecordError):
        JweCodec([KEYS[1][:size]], "token").open({"token": token})


def test_jwe_keys_of_several_sizes() -> None:
    """A key whose size is not that of the token's algorithm is passed over, for it may be of another token."""
    stored = JweCodec([KEY]).seal(VALUE)

    assert VALUE == JweCodec([KEY[:16], KEYS[0], KEY]).open(stored)


def test_every_changed_character_of_a_jwe() -> None:
    """A token with one other character never opens to another value."""
    codec = JweCodec([KEY])
    text = codec.seal(VALUE)["jwe"]
    for index, character in enumerate(text):
        changed = text[:index] + ("A" if character != "A" else "B") + text[index + 1 :]
        try:
            opened = codec.open({"jwe": changed})
        except (RecordError, ValueError):
            continue
        assert VALUE == opened


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "dir", "enc": "A256GCM", "zip": "DEF"},
        {"alg": "dir", "enc": "A256GCM", "crit": ["exp"]},
        {"alg": "RSA-OAEP", "enc": "A256GCM"},
        {"alg": "dir", "enc": "none"},
        {"alg": ["dir"], "enc": "A256GCM"},
        ["dir"],
    ],
    ids=repr,
)
def test_jwe_headers_that_are_not_known(header: Any) -> None:
    """A token that is encrypted in another way is malformed: nothing is guessed."""
    protected = urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")

    with pytest.raises(MalformedRecordError):
        JweCodec([KEY]).open({"jwe": f"{protected}..AAAA.AAAA.AAAA"})


@given(value=st.dictionaries(utf8_text, json_values, max_size=4))
@pytest.mark.exhaustive
def test_values_come_back_exactly(value: dict[str, Any]) -> None:
    """Whatever can be sealed on the way back is read with its types, by the codec and by Python's own parser."""
    codec = ByHandCodec("aes-gcm", [AesGcm(KEY)], Layout("d"))
    try:
        stored = codec.seal(value)
    except UnsealableValueError:
        return
    blob = b64decode(stored["d"])

    assert same(value, codec.open(stored))
    assert same(value, json.loads(AESGCM(KEY).decrypt(blob[:12], blob[12:], None)))


def test_nonces_are_drawn() -> None:
    """A thousand records have a thousand nonces of the declared size."""
    codec = ByHandCodec("aes-gcm", [AesGcm(os.urandom(32))], Layout("d", nonce="iv", nonce_size=16))
    nonces = {codec.seal({})["iv"] for _ in range(1000)}

    assert (1000, {16}) == (len(nonces), {len(b64decode(nonce)) for nonce in nonces})
    assert hashlib.sha256(b"").digest_size == 2 * 16
