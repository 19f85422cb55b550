"""Records and keys of other software: Fernet, FastMCP, authsome, plaintext; damaged ones and authentic ones."""

from __future__ import annotations

import json
import sqlite3
from base64 import b64encode
from contextlib import closing
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.fuzz.target import MIGRATIONS, VECTORS, Target
from tests.fuzz.targets.sealed import mapping

from kvseal.envelope.stored import DATA_FIELD, VERSION_FIELD
from kvseal.errors import KvsealError
from kvseal.legacy.authsome import AuthsomeCodec, AuthsomeControlCodec, AuthsomeFlatCodec
from kvseal.legacy.authsome_keys import AuthsomeKeyRecord, read_master_key_file, read_master_secret
from kvseal.legacy.base import merged
from kvseal.legacy.by_hand import ByHandCodec, Layout
from kvseal.legacy.ciphers import AesCbcHmac, AesGcm, ChaCha20, SecretBox
from kvseal.legacy.fastmcp import FastMCPCodec, key_of_bytes_signing_key, key_of_client_secret
from kvseal.legacy.fernet import FernetCodec, parse_key
from kvseal.legacy.fernet_keys import decoded_secret, parse_kdf, parse_keys
from kvseal.legacy.fernet_token import FernetKey, decoded
from kvseal.legacy.jwe import JweCodec
from kvseal.legacy.plaintext import PlaintextCodec

if TYPE_CHECKING:
    from kvseal.legacy.base import LegacyCodec, SealingCodec

KEY = bytes(range(32))
_NONCE = b"twelve bytes"
_COMPARED = 2**16
"""Bytes up to which a value is also compared with itself: what that needs would count for the parser."""


@cache
def bodies() -> list[bytes]:
    """Return what the real software put into rows of frozen vaults."""
    found: list[bytes] = []
    for path in sorted(MIGRATIONS.glob("*/vault/cache.db")):
        with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as con:
            found += [
                value.encode()
                for (value,) in con.execute("SELECT value FROM Cache")
                if isinstance(value, str)
            ]
    return found


@cache
def _values() -> list[bytes]:
    vectors = json.loads((VECTORS / "fastmcp.json").read_text())["vectors"]
    values = [json.loads(body)["value"] for body in bodies()] + [vector["stored"] for vector in vectors]
    return [json.dumps(value).encode() for value in values]


@cache
def _codecs() -> list[LegacyCodec]:
    real = parse_key((MIGRATIONS / "0001-fernet-0.2.7/keys/fernet.key").read_bytes())
    flat = AuthsomeFlatCodec([KEY])
    urls = ["https://host/mcp"]
    return merged(
        [
            FernetCodec([KEY, real]),
            FastMCPCodec([real], server_urls=urls),
            flat,
            AuthsomeCodec([KEY]),
            AuthsomeControlCodec(),
            PlaintextCodec(),
        ]
    )


def _record(data: bytes) -> None:
    value = mapping(data)
    for codec in _codecs():
        if codec.recognises(value):
            opened = codec.open(value)
            assert type(opened) is dict
            list(codec.key_candidates("mcp-jti-mappings", opened))


def _plaintexts() -> list[bytes]:
    return [b'{"access_token": "x", "n": 1.5, "big": 1e999}', b"1", b'["a", "b"]', b'{"data": "x"}', b"\xff"]


def _authentic(data: bytes) -> None:
    """Open what has a right seal and any content: a key that leaked, or an application with faults of its own."""
    sealed = AESGCM(KEY).encrypt(_NONCE, data, None)
    envelope = b64encode(_NONCE + sealed).decode()
    flat = f"{b64encode(_NONCE).decode()}.{b64encode(sealed).decode()}"
    token = b64encode(FernetKey(KEY).encrypt(data)).decode()
    records: list[tuple[LegacyCodec, dict[str, Any]]] = [
        (FernetCodec([KEY]), {DATA_FIELD: token, VERSION_FIELD: 1}),
        (AuthsomeCodec([KEY]), {DATA_FIELD: envelope, VERSION_FIELD: 1}),
        (AuthsomeFlatCodec([KEY]), {"data": flat}),
    ]
    for codec, stored in records:
        try:
            opened = codec.open(stored)
        except KvsealError:
            continue
        if isinstance(codec, FernetCodec) and len(data) < _COMPARED:
            assert repr(codec.open(codec.seal(opened))) == repr(opened)


def _tokens() -> list[bytes]:
    return [FernetKey(KEY).encrypt(b'{"a": 1}'), FernetKey(KEY).encrypt(b"")]


def _token(data: bytes) -> None:
    """Compare the quick reader with `cryptography`: what one opens, the other opens to the same."""
    key = FernetKey(KEY)
    quick, judge = key.open_decoded(decoded(data)), key.decrypt(data)
    assert quick in {None, judge}


def _keys() -> list[bytes]:
    return [path.read_bytes() for path in sorted(MIGRATIONS.glob("*/keys/*.key"))]


def _key(data: bytes) -> None:
    for read in (
        parse_key,
        parse_keys,
        *(partial(decoded_secret, encoding=encoding, what="key") for encoding in ("hex", "base64")),
        key_of_client_secret,
        key_of_bytes_signing_key,
        read_master_key_file,
        read_master_secret,
    ):
        try:
            read(data)
        except KvsealError:
            continue


def _key_records() -> list[bytes]:
    values = [value for value in _values() if b"wrapped_dek" in value]
    cheap = json.loads(values[0])
    cheap["kdf"] |= {"memory_cost": 8, "time_cost": 1, "parallelism": 1}
    return [*values, json.dumps(cheap).encode()]


def _key_record(data: bytes) -> None:
    AuthsomeKeyRecord.from_value(mapping(data)).unwrap(b"secret", memory_ceiling=1024)


@cache
def _by_hand() -> list[SealingCodec]:
    layouts = (Layout(), Layout("a.b", nonce="n", encoding="hex"), Layout("d", encoding="base64url"))
    aead = [AesGcm(KEY), ChaCha20(KEY)]
    cbc = AesCbcHmac.of_one_key(2 * KEY)
    return [
        *(ByHandCodec("aead", aead, layout) for layout in layouts),
        ByHandCodec("cbc", [cbc], Layout("d")),
        ByHandCodec("box", [SecretBox(KEY)], Layout("d")),
        JweCodec([KEY], "t"),
        JweCodec([KEY], "t", alg="A256KW", enc="A128CBC-HS256"),
    ]


def _records_by_hand() -> list[bytes]:
    return [json.dumps(codec.seal({"a": 1})).encode() for codec in _by_hand()]


def _record_by_hand(data: bytes) -> None:
    value = mapping(data)
    for codec in _by_hand():
        if codec.recognises(value):
            try:
                assert type(codec.open(value, "c", "k")) is dict
            except KvsealError:
                continue


def _derivations() -> list[bytes]:
    known = ("sha256", "pbkdf2:sha512,1000", "hkdf", "hkdf:app", "scrypt:16384,8,1")
    return [text.encode() for text in known]


def _derivation(data: bytes) -> None:
    parse_kdf(data.decode("utf-8", "surrogateescape"))


_OF_KEYS = (
    "legacy.fernet.parse_key",
    "legacy.fernet_keys.parse_keys",
    "legacy.fernet_keys.decoded_secret",
    "legacy.authsome_keys.read_master_key_file",
    "legacy.authsome_keys.read_master_secret",
)
TARGETS = (
    Target("legacy-record", (), _values, _record, is_json=True),
    Target("legacy-authentic", (), _plaintexts, _authentic, is_json=True),
    Target("fernet-token", ("legacy.fernet_token.decoded",), _tokens, _token),
    Target("record-by-hand", ("legacy.by_hand.decode",), _records_by_hand, _record_by_hand, is_json=True),
    Target("fernet-kdf", ("legacy.fernet_keys.parse_kdf",), _derivations, _derivation),
    Target("legacy-key", _OF_KEYS, _keys, _key),
    Target(
        "authsome-key-record",
        ("legacy.authsome_keys.AuthsomeKeyRecord.from_value",),
        _key_records,
        _key_record,
        is_json=True,
    ),
)
