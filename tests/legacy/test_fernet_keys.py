"""Fernet keys in every form in which people keep them, derived in every way that they are derived."""

from __future__ import annotations

import hashlib
import secrets
import traceback
from base64 import b64encode, standard_b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from kvseal.errors import EmptySecretError, KDFParametersError, SecretError
from kvseal.legacy.fernet import parse_key
from kvseal.legacy.fernet_keys import Pbkdf2, derive_keys, forms_of, parse_kdf, parse_keys

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = [bytes(range(number, number + 32)) for number in (0, 60, 190)]
TEXTS = [urlsafe_b64encode(key) for key in KEYS]
UNENCODED = b"hunter2!"
MATERIAL, SALT = b"correct horse", b"battery staple"


@pytest.mark.parametrize(
    "between", [b",", b", ", b"\n", b"\r\n", b" ", b"\t", b",\n", b"\n\n", b" ,, "], ids=repr
)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b",", b"\n\n"], ids=repr)
def test_several_keys_in_one_reference(between: bytes, end: bytes) -> None:
    """Keys that commas or white space separate are all taken, in their order."""
    assert parse_keys(between.join(TEXTS) + end) == KEYS


@pytest.mark.parametrize(
    ("form", "write"),
    [
        pytest.param("url", urlsafe_b64encode, id="url-safe"),
        pytest.param("standard", standard_b64encode, id="standard"),
        pytest.param("hex", lambda key: key.hex().encode(), id="hex"),
        pytest.param("HEX", lambda key: key.hex().upper().encode(), id="upper-hex"),
        pytest.param("raw", bytes, id="raw"),
    ],
)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"], ids=repr)
def test_forms_of_one_key(form: str, write: Callable[[bytes], bytes], end: bytes) -> None:
    """A key is taken as 44 characters, in hex, or as its 32 bytes, with a line break behind it or not."""
    assert form
    assert all([key] == parse_keys(write(key) + end) for key in KEYS)


@given(st.binary(min_size=32, max_size=32))
def test_every_raw_key(key: bytes) -> None:
    """Whatever 32 bytes there are, commas and line breaks among them, they are one key."""
    assert [key] == parse_keys(key)


@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.booleans()), min_size=1, max_size=5))
def test_every_list(drawn: list[tuple[bytes, bool]]) -> None:
    """A list of keys, some in base64 and some in hex, comes back as it was written."""
    written = [key.hex().encode() if as_hex else urlsafe_b64encode(key) for key, as_hex in drawn]

    assert [key for key, _ in drawn] == parse_keys(b",".join(written))


@pytest.mark.parametrize(
    "content",
    [
        TEXTS[0] + TEXTS[1],
        TEXTS[0] + b"=",
        TEXTS[0] + b";" + TEXTS[1],
        TEXTS[0] + b",hunter2",
        TEXTS[0] + b"\nhunter2",
        TEXTS[0] + b" # hunter2",
        b'"' + TEXTS[0] + b'"',
        TEXTS[0] + b"," + TEXTS[1][:-1],
        KEYS[0].hex().encode() + b"0",
        b"hunter2" * 5,
        KEYS[2] + b"!!",
    ],
    ids=["joined", "padded", "semicolon", "word", "line", "remark", "quoted", "cut", "hex", "words", "raw"],
)
def test_nothing_follows_a_key(content: bytes) -> None:
    """What stands beside a key and is no key is an error, which repeats nothing of it, and never dropped."""
    with pytest.raises(SecretError) as caught:
        parse_keys(content)
    shown = caught.value.hint + "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown
    assert TEXTS[0][:12].decode() not in shown
    assert caught.value.__context__ is None


def test_which_key_is_wrong() -> None:
    """Of several, the error says which one is no key."""
    with pytest.raises(SecretError, match="key 2 of 3"):
        parse_keys(b"\n".join([TEXTS[0], TEXTS[1][:-5], TEXTS[2]]))


@pytest.mark.parametrize("content", [b"", b"\n", b" , ,"], ids=repr)
def test_no_key_at_all(content: bytes) -> None:
    """Separators alone are no key."""
    with pytest.raises(EmptySecretError):
        parse_keys(content)


def test_a_list_is_not_one_key() -> None:
    """What takes one key refuses two: the second would be dropped in silence."""
    with pytest.raises(SecretError):
        parse_key(b",".join(TEXTS[:2]))


@pytest.mark.parametrize(
    ("text", "made"),
    [
        pytest.param("sha256", lambda: hashlib.sha256(MATERIAL).digest(), id="sha256"),
        pytest.param(
            "pbkdf2:sha1,1000", lambda: hashlib.pbkdf2_hmac("sha1", MATERIAL, SALT, 1000), id="pbkdf2-sha1"
        ),
        pytest.param(
            "pbkdf2:SHA-512,77",
            lambda: hashlib.pbkdf2_hmac("sha512", MATERIAL, SALT, 77, dklen=32),
            id="pbkdf2-sha512",
        ),
        pytest.param(
            "scrypt:1024,8,1",
            lambda: hashlib.scrypt(MATERIAL, salt=SALT, n=1024, r=8, p=1, dklen=32),
            id="scrypt",
        ),
        pytest.param("hkdf", lambda: HKDF(SHA256(), 32, SALT, b"").derive(MATERIAL), id="hkdf"),
        pytest.param(
            "hkdf:app, storage: v1",
            lambda: HKDF(SHA256(), 32, SALT, b"app, storage: v1").derive(MATERIAL),
            id="hkdf-info",
        ),
    ],
)
def test_derivations(text: str, made: Callable[[], bytes]) -> None:
    """Each derivation gives the key that the standard library, or cryptography's own class, gives."""
    kdf = parse_kdf(text)
    expected = made()[:32].ljust(32, b"?")

    if text == "pbkdf2:sha1,1000":
        expected = hashlib.pbkdf2_hmac("sha1", MATERIAL, SALT, 1000, dklen=32)
    assert [expected] == derive_keys(kdf, MATERIAL, SALT if kdf.takes_salt else None)
    Fernet(urlsafe_b64encode(expected))


def test_hkdf_without_a_salt() -> None:
    """HKDF without a salt is that of cryptography's `salt=None`."""
    expected = HKDF(SHA256(), 32, None, b"info").derive(MATERIAL)

    assert [expected] == derive_keys(parse_kdf("hkdf:info"), MATERIAL, None)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "md5",
            "sha256:",
            "pbkdf2",
            "pbkdf2:sha256",
            "pbkdf2:md5,1",
            "pbkdf2:sha256,0",
            "pbkdf2:sha256,x",
        ),
        *("pbkdf2:sha256,1,1", "pbkdf2:sha256,999999999", "scrypt", "scrypt:1024,8", "scrypt:1000,8,1"),
        *("scrypt:1024,0,1", "scrypt:1024,8,0", "scrypt:1,8,1", "scrypt:1073741824,8,1", "scrypt:1024,8,65"),
    ],
)
def test_no_derivation(text: str) -> None:
    """A name or a cost that makes no sense is an error before anything is allocated."""
    with pytest.raises(KDFParametersError):
        parse_kdf(text)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=repr)
def test_both_with_and_without_a_line_break(end: bytes) -> None:
    """A line break at the end of old material may be a part of it, so each reading gives a key."""
    kdf = Pbkdf2("sha256", 2)
    found = derive_keys(kdf, MATERIAL + end, SALT + end)

    expected = [
        hashlib.pbkdf2_hmac("sha256", material, salt, 2)
        for material in (MATERIAL, MATERIAL + end)
        for salt in (SALT, SALT + end)
    ]
    assert expected == found
    assert (MATERIAL, MATERIAL + end) == forms_of(MATERIAL + end)
    assert (MATERIAL,) == forms_of(MATERIAL)


@pytest.mark.parametrize(
    ("encoding", "write"),
    [
        ("hex", lambda raw: raw.hex().encode() + b"\n"),
        ("base64", lambda raw: b64encode(raw) + b"\n"),
        ("base64", urlsafe_b64encode),
        ("base64", lambda raw: urlsafe_b64encode(raw).rstrip(b"=")),
    ],
)
def test_encoded_material_and_salt(encoding: str, write: Callable[[bytes], bytes]) -> None:
    """Material and salt that are kept in hex or base64 stand for their bytes, and for nothing else."""
    material, salt = secrets.token_bytes(33), secrets.token_bytes(16)

    found = derive_keys(Pbkdf2("sha256", 2), write(material), write(salt), encodings=(encoding, encoding))

    assert [hashlib.pbkdf2_hmac("sha256", material, salt, 2)] == found


@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_not_encoded(encoding: str) -> None:
    """Material that is not in the encoding is an error that does not repeat it."""
    with pytest.raises(SecretError, match=f"source material is not {encoding}") as caught:
        derive_keys(Pbkdf2("sha256", 2), UNENCODED, b"00", encodings=(encoding, "raw"))
    assert UNENCODED.decode() not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
