"""
Write record-v1.json and meta-v1.json: kvseal's own formats as test vectors.

    python -m tests.vectors.generate_records

Everything that is drawn at random is a SHAKE-128 stream, so the files come out
the same each time.  verify_records.py reads them without a line of kvseal.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import datetime, timezone
from hashlib import shake_128
from io import BytesIO
from pathlib import Path
from typing import Any

from kvseal import Argon2idParams, Policy, Secret, exact_json
from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.payload import Encoding, encode
from kvseal.envelope.record import NAMES_INSIDE, Binding, Header
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.envelope.stored import DATA_FIELD, VERSION_FIELD, to_stored
from kvseal.envelope.wrapping import WrappedKey, wrap_key
from kvseal.keys import keyslot, rootkey
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.meta import VaultMeta
from kvseal.keys.policy import WritePolicy
from kvseal.keys.rootkey import Handover, RootKey
from kvseal.keys.wrapped_keys import WrappedDEK, WrappedLegacyKey
from kvseal.secrets.secret import generate

HERE = Path(__file__).parent
PROVENANCE = {
    "generated_by": "tests/vectors/generate_records.py, with kvseal itself",
    "verified_by": "tests/vectors/verify_records.py, with cryptography, argon2-cffi and the standard library alone",
    "randomness": "SHAKE-128 over the name of the file's format",
}

VAULT_ID = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
DEKS = {1: bytes([1]) * 32, 2: bytes([2]) * 32, 0x01020304: bytes([3]) * 32}
EXPIRY = 1_893_456_000_000
VALUE = {"user": "Ada", "roles": ["admin", None, True], "n": -1.5, "nested": {"": {}}}


class Randomness:
    """A stand-in for `os.urandom` that gives the same bytes each time."""

    def __init__(self, name: str) -> None:
        self._stream = BytesIO(shake_128(name.encode()).digest(65536))

    def __call__(self, size: int) -> bytes:
        """Return the next bytes."""
        return self._stream.read(size)


def records() -> dict[str, Any]:
    """Return the vectors of the record format."""
    urandom = Randomness("kvseal record-v1")
    positive = [
        _record(urandom, "plain", VALUE, "sessions", "user:1"),
        _record(urandom, "empty value", {}, "sessions", "user:1"),
        _record(urandom, "empty names", VALUE, "", ""),
        _record(urandom, "empty key", VALUE, "sessions", ""),
        _record(urandom, "unicode names", VALUE, "Sitzungen für Köln", "ключ 🔑"),
        _record(urandom, "surrogates in names", VALUE, "\ud800", "a\udfff"),
        _record(urandom, "bound to the collection", VALUE, "c", "k", binding=Binding.COLLECTION),
        _record(urandom, "bound to nothing", VALUE, "c", "k", binding=Binding.NONE),
        _record(urandom, "context", VALUE, "c", "k", context="tenant-7"),
        _record(urandom, "context without names", VALUE, "c", "k", context="é", binding=Binding.NONE),
        _record(urandom, "expiry", VALUE, "c", "k", expires_at=EXPIRY),
        _record(urandom, "expiry before 1970", VALUE, "c", "k", expires_at=-1),
        _record(urandom, "expiry beyond 63 bits", VALUE, "c", "k", expires_at=2**70),
        _record(urandom, "64-bit integers", {"a": 2**64 - 1, "b": -(2**63)}, "c", "k"),
        _record(urandom, "large integer", {"a": 2**64}, "c", "k"),
        _record(urandom, "NaN and infinities", {"a": [float("nan"), float("inf"), -float("inf")]}, "c", "k"),
        _record(urandom, "lone surrogate", {"\ud800": "\ud83d\ude00"}, "c", "k"),
        _record(urandom, "large DEK number", VALUE, "c", "k", dek=0x01020304),
        _record(
            urandom,
            "all flags",
            {"a": float("inf")},
            "c",
            "k",
            dek=2,
            context="x",
            expires_at=EXPIRY,
            binding=Binding.COLLECTION,
        ),
    ]
    negative = _refused_records(urandom)
    packed, refused_packings = _packed_records(urandom), _refused_packings(urandom)
    # A stream of its own, so that the vectors of before stay what they were.
    named = Randomness("kvseal record-v1, names inside")
    return {
        "format": "kvseal record, version 1",
        "provenance": PROVENANCE,
        "vault_id": VAULT_ID.hex(),
        "deks": {str(number): dek.hex() for number, dek in DEKS.items()},
        "positive": positive + packed + _json_records(urandom) + _named_records(named),
        "negative": negative + refused_packings + _refused_json(urandom) + _refused_names(named),
    }


def metas() -> dict[str, Any]:
    """Return the vectors of the vault meta and of the way from a secret to a record."""
    urandom = Randomness("kvseal meta-v1")
    generated = generate(random=urandom)
    small = _vault(urandom, "one slot and one DEK", [("primary", Secret(b"correct horse"), None)])
    full = _vault(
        urandom,
        "two slots, a retired, a readable and an active DEK, legacy keys and a weaker policy",
        [("primary", generated, None), ("zweiter Schlüssel 🔑", Secret(b"battery\xff"), _time(2030))],
        states=["retired", "readable", "active"],
        policy=Policy(read_legacy=True, binding=Binding.COLLECTION),
        legacy=["fernet", "fernet"],
    )
    previous = RootKey.generate(bytes(16), random=urandom).reveal()
    rotated = _vault(
        urandom,
        "after the root key was rotated",
        [("primary", Secret(b"correct horse"), None)],
        previous=previous,
    )
    kept = _vault(
        urandom,
        "a DEK that was retired and is dropped, and one that is retired and kept",
        [("primary", Secret(b"correct horse"), None)],
        states=["retired", "kept", "active"],
    )
    held = _vault(
        urandom,
        "new values are held in an old format, under the second of two legacy keys",
        [("primary", Secret(b"correct horse"), None)],
        policy=Policy(read_legacy=True),
        legacy=["fernet", "fernet"],
        writes_with=1,
    )
    joined = _vault(
        urandom,
        "a DEK that lost its number to another one, and a record under it",
        [("primary", Secret(b"correct horse"), None)],
        states=["readable", "active"],
        legacy=["fernet", "kvseal-dek", "kvseal-dek"],
    )
    ended = _vault(
        urandom,
        "reads with the first of two legacy keys have ended",
        [("primary", Secret(b"correct horse"), None)],
        policy=Policy(read_legacy=True),
        legacy=["fernet", "fernet"],
        ended=1,
    )
    carrying = _vault(
        urandom,
        "every record carries its names",
        [("primary", Secret(b"correct horse"), None)],
        policy=Policy(names_inside=True),
    )
    return {
        "format": "kvseal vault meta, version 1",
        "provenance": PROVENANCE,
        "positive": [small, rotated, kept, held, joined, ended, carrying, full],
        "negative_are": "the last of the positive ones, with a new value at each path of the edits",
        "negative": _refused_metas(full),
    }


def text_of(vectors: dict[str, Any]) -> str:
    """Return the content of a vector file: ASCII, so that surrogates survive every editor."""
    return json.dumps(vectors, indent=1, ensure_ascii=True) + "\n"


def _record(
    urandom: Randomness,
    name: str,
    value: dict[str, Any],
    collection: str,
    key: str,
    *,
    dek: int = 1,
    context: str = "",
    binding: Binding = Binding.COLLECTION_AND_KEY,
    expires_at: int | None = None,
) -> dict[str, Any]:
    text, portable = exact_json.dumps(value)
    encoding = Encoding.JSON if portable else Encoding.EXTENDED_JSON
    sealer = Sealer(DEKS[dek], dek, Associations(VAULT_ID, context=context), binding=binding, urandom=urandom)
    record = sealer.seal(text, collection, key, encoding, expires_at)
    return _vector(name, record, text, collection=collection, key=key, context=context)


def _vector(name: str, record: bytes, payload: bytes, **names: str) -> dict[str, Any]:
    header = Header.parse(record)
    return {
        "name": name,
        **names,
        "binding": int(header.binding),
        "dek": header.dek,
        "encoding": int(header.encoding),
        **({"names_inside": True} if header.names_inside else {}),
        "expires_at": header.expires_at,
        "nonce": header.nonce.hex(),
        "payload": payload.hex(),
        "stored": to_stored(record),
    }


def _packed_records(urandom: Randomness) -> list[dict[str, Any]]:
    """Return the vectors of payload encoding 2, each with its value as extended JSON text."""
    edges = [2**bits for bits in (5, 7, 8, 15, 16, 31, 32, 63)]
    values: dict[str, dict[str, Any]] = {
        "MessagePack": VALUE,
        "MessagePack: empty": {},
        "MessagePack: integers from 0": {"a": [0, *(n + d for n in edges for d in (-1, 0)), 2**64 - 1]},
        "MessagePack: integers below 0": {"a": [-n - d for n in edges for d in (0, 1) if n + d <= 2**63]},
        "MessagePack: floats": {
            "a": [0.0, -0.0, 1.0, 0.1, 5e-324, float("nan"), float("inf"), -float("inf")]
        },
        "MessagePack: text": {"a" * size: "b" * size for size in (0, 31, 32, 255, 256)},
        "MessagePack: text beyond ASCII": {"größe 🔑": "\x00\u07ff\u0800\uffff\U0010ffff"},
        "MessagePack: lists": {str(size): [None] * size for size in (0, 15, 16)},
        "MessagePack: maps": {str(size): dict.fromkeys(map(str, range(size))) for size in (0, 15, 16)},
        "MessagePack: order of keys": {"b": 1, "a": True, "": False, "B": 2},
        "MessagePack: 254 levels": _nested(254),
    }
    one = Sealer(DEKS[1], 1, Associations(VAULT_ID), urandom=urandom)
    flagged = Sealer(
        DEKS[2], 2, Associations(VAULT_ID, context="x"), binding=Binding.COLLECTION, urandom=urandom
    )
    made = [(name, one, value, "", None) for name, value in values.items()]
    made.append(("MessagePack: all flags", flagged, VALUE, "x", EXPIRY))
    vectors = []
    for name, sealer, value, context, expires_at in made:
        payload, encoding = encode(value)
        record = sealer.seal(payload, "c", "k", encoding, expires_at)
        vector = _vector(name, record, payload, collection="c", key="k", context=context)
        vectors.append({**vector, "value": json.dumps(value)})
    return vectors


def _nested(depth: int) -> dict[str, Any]:
    leaf: Any = 1
    for level in reversed(range(1, depth)):
        leaf = [leaf] if level % 2 else {"k": leaf}
    return {"k": leaf}


def _refused_packings(urandom: Randomness) -> list[dict[str, Any]]:
    """
    Return payloads of encoding 2 that are authentic, and not in its strict form.

    Every reader refuses those that are found by `open`; the others have a value, in a form that no writer gives it.
    """
    by_open = {
        "empty": b"",
        "JSON text": b'{"a":1}',
        "truncated map": b"\x82\xa1a\x01",
        "truncated text": b"\x81\xa1a\xa2b",
        "length beyond the end": b"\x81\xa1a\xdd\xff\xff\xff\xff",
        "list on top": b"\x90",
        "nil on top": b"\xc0",
        "reserved byte C1": b"\x81\xa1a\xc1",
        "extension type": b"\x81\xa1a\xd4\x05x",
        "ext 8": b"\x81\xa1a\xc7\x01\x05x",
        "timestamp": b"\x81\xa1a\xd6\xff\x00\x00\x00\x01",
        "integer as a key": b"\x81\x01\x01",
        "nil as a key": b"\x81\xa1a\x81\xc0\x01",
        "float as a key": b"\x81\xa1a\x91\x81\xcb\x00\x00\x00\x00\x00\x00\x00\x00\x01",
        "bin as a key": b"\x81\xc4\x01a\x01",
        "list as a key": b"\x81\x90\x01",
        "ill-formed UTF-8": b"\x81\xa1a\xa1\xff",
        "surrogate in UTF-8": b"\x81\xa1a\xa3\xed\xa0\x80",
        "overlong UTF-8": b"\x81\xa1a\xa2\xc0\x80",
        "ill-formed UTF-8 in a key": b"\x81\xa1\xff\x01",
        "5000 levels": b"\x81\xa1a" + b"\x91" * 5000 + b"\xc0",
    }
    by_verify = {
        "byte behind the map": b"\x80\xc0",
        "second map": b"\x80\x80",
        "bin 8": b"\x81\xa1a\xc4\x01b",
        "bin 32, empty, in a list": b"\x81\xa1a\x91\xc6\x00\x00\x00\x00",
        "float 32": b"\x81\xa1a\xca\x3f\x80\x00\x00",
        "uint 8 for a fixint": b"\x81\xa1a\xcc\x01",
        "uint 64 for a uint 32": b"\x81\xa1a\xcf\x00\x00\x00\x00\xff\xff\xff\xff",
        "int 16 for a uint 8": b"\x81\xa1a\xd1\x00\xff",
        "int 8 for a negative fixint": b"\x81\xa1a\xd0\xff",
        "str 8 for a fixstr": b"\x81\xd9\x01a\x01",
        "str 16 for a str 8": b"\x81\xa1a\xda\x00\x20" + b"b" * 32,
        "array 16 for a fixarray": b"\x81\xa1a\xdc\x00\x00",
        "map 16 for a fixmap": b"\xde\x00\x00",
        "map 32 for a fixmap": b"\xdf\x00\x00\x00\x01\xa1a\x01",
        "key that is there twice": b"\x82\xa1a\x01\xa1a\x02",
        "key that is there twice, inside": b"\x81\xa1a\x91\x82\xa0\x01\xa0\x01",
        "255 levels": b"\x81\xa1k" + b"\x91" * 254 + b"\x01",
    }
    sealer = Sealer(DEKS[1], 1, Associations(VAULT_ID), urandom=urandom)
    place = {"collection": "c", "key": "k", "context": "", "weakest": 0, "vault_id": VAULT_ID.hex()}
    return [
        {
            "name": f"MessagePack: {name}",
            "error": "MalformedRecordError",
            "found_by": found_by,
            **place,
            "stored": to_stored(sealer.seal(payload, "c", "k", Encoding.MESSAGEPACK)),
        }
        for found_by, payloads in (("open", by_open), ("verify", by_verify))
        for name, payload in payloads.items()
    ]


def _named_records(urandom: Randomness) -> list[dict[str, Any]]:
    """Return vectors of records that carry their names."""
    made: dict[str, tuple[str, str, str, int | None, dict[str, Any]]] = {
        "plain": ("c", "k", "", None, VALUE),
        "empty names": ("", "", "", None, VALUE),
        "a URL": ("clients", "https://app.example.com/client.json?a=1#b", "", None, VALUE),
        "unicode": ("Sitzungen für Köln", "ключ 🔑", "", None, VALUE),
        "not normalized": ("Ko\u0308ln", "K\u00f6ln", "", None, VALUE),
        "lone surrogates": ("\ud800", "a\udfff", "", None, VALUE),
        "surrogates that are no pair": ("\udd11\ud83d", "k", "", None, VALUE),
        "context": ("c", "k", "tenant-7", None, VALUE),
        "expiry": ("c", "k", "", EXPIRY, VALUE),
        "expiry and context": ("c", "k", "é", -1, VALUE),
        "extended JSON": ("c", "k", "", None, {"a": 2**64}),
        "long": ("c" * 300, "k" * 70_000, "", None, {}),
    }
    vectors = []
    for name, (collection, key, context, expires_at, value) in made.items():
        sealer = Sealer(DEKS[2], 2, Associations(VAULT_ID, context=context), urandom=urandom)
        payload, encoding = encode(value)
        record = sealer.seal(payload, collection, key, encoding, expires_at, names_inside=True)
        names = {"collection": collection, "key": key, "context": context}
        vector = _vector(f"names inside: {name}", record, payload, **names)
        vectors.append({**vector, "value": json.dumps(value)})
    return vectors


def _refused_names(urandom: Randomness) -> list[dict[str, Any]]:
    """Return records that carry other names than those asked for, and plaintexts that begin with none."""
    sealer = Sealer(DEKS[1], 1, Associations(VAULT_ID), urandom=urandom)
    payload, encoding = encode(VALUE)
    place = {"collection": "c", "key": "k", "context": "", "weakest": 2, "vault_id": VAULT_ID.hex()}

    def refused(name: str, error: str, record: bytes, **where: Any) -> dict[str, Any]:
        return {
            "name": f"names inside: {name}",
            "error": error,
            **place,
            **where,
            "stored": to_stored(record),
        }

    def sealed(collection: str, key: str) -> bytes:
        return sealer.seal(payload, collection, key, encoding, names_inside=True)

    # Each begins as it should for c/k, so that what comes behind it is what is refused.
    plaintexts = {
        "no second name": b"\0\0\0\1c\0\0\0",
        "first length beyond the end": b"\0\0\0\xffc" + b"\0\0\0\1k" + payload,
        "second length beyond the end": b"\0\0\0\1c" + b"\xff\xff\xff\xffk" + payload,
        "overlong": b"\0\0\0\2\xc1\xa3" + b"\0\0\0\1k" + payload,
        "overlong surrogate": b"\0\0\0\1c" + b"\0\0\0\4\xf0\x8d\xa0\x80" + payload,
        "surrogate pair": b"\0\0\0\1c" + b"\0\0\0\6\xed\xa0\xbd\xed\xb4\x91" + payload,
        "beyond Unicode": b"\0\0\0\1c" + b"\0\0\0\4\xf4\x90\x80\x80" + payload,
        "half a character": b"\0\0\0\1\xc3" + b"\0\0\0\1k" + payload,
        "no character begins so": b"\0\0\0\2\xbf\x80" + b"\0\0\0\1k" + payload,
        "names, and no payload": b"\0\0\0\1c" + b"\0\0\0\1k",
    }
    moved, tampered, malformed = "MovedRecordError", "TamperedRecordError", "MalformedRecordError"
    good = sealed("c", "k")
    vectors = [
        refused("another key", moved, sealed("c", "l")),
        refused("another collection", moved, sealed("d", "k")),
        refused("shifted", moved, sealed("ck", "")),
        refused("a longer key", moved, sealed("c", "k2")),
        refused("another form of the same text", moved, sealed("c", "\u00f6"), key="o\u0308"),
        refused("into a context", tampered, good, context="x"),
        refused("flag removed", tampered, good[:2] + bytes((good[2] & ~0b1000,)) + good[3:]),
        refused("no room for them", malformed, good[:55]),
        refused(
            "no room for them and an expiry", malformed, good[:2] + bytes((good[2] | 0b100,)) + good[3:63]
        ),
    ]
    for name, plaintext in plaintexts.items():
        # Authentic, as only a holder of the DEK could make it.
        vectors.append(refused(name, malformed, sealer.seal(plaintext, "", "", encoding | NAMES_INSIDE)))
    return vectors


def _json_records(urandom: Randomness) -> list[dict[str, Any]]:
    """Return vectors of the encodings 0 and 1 at their bounds."""
    deep = b'{"k":' * 254 + b"1" + b"}" * 254
    payloads = {
        "JSON: integers at the ends of 64 bits": (
            Encoding.JSON,
            b'{"a":[18446744073709551615,-9223372036854775808]}',
        ),
        "JSON: 254 levels": (Encoding.JSON, deep),
        "extended JSON: 254 levels": (Encoding.EXTENDED_JSON, deep),
        "extended JSON: 4300 digits": (Encoding.EXTENDED_JSON, b'{"a":' + b"9" * 4300 + b"}"),
        "JSON: a name twice, of which the last counts": (Encoding.JSON, b'{"a":1,"a":2}'),
    }
    sealer = Sealer(DEKS[1], 1, Associations(VAULT_ID), urandom=urandom)
    return [
        _vector(name, sealer.seal(payload, "c", "k", encoding), payload, collection="c", key="k", context="")
        for name, (encoding, payload) in payloads.items()
    ]


def _refused_json(urandom: Randomness) -> list[dict[str, Any]]:
    """Return vectors that are no payload of the encodings 0 and 1."""
    payloads = {
        "JSON: an integer beyond 64 bits": (Encoding.JSON, b'{"a":18446744073709551616}'),
        "JSON: an integer below 64 bits": (Encoding.JSON, b'{"a":[-9223372036854775809]}'),
        "JSON: NaN": (Encoding.JSON, b'{"a":NaN}'),
        "JSON: a lone surrogate": (Encoding.JSON, b'{"a":"\xed\xa0\x80"}'),
        "JSON: byte order mark": (Encoding.JSON, b'\xef\xbb\xbf{"a":1}'),
        "extended JSON: byte order mark": (Encoding.EXTENDED_JSON, b'\xef\xbb\xbf{"a":1}'),
        "extended JSON: UTF-16": (Encoding.EXTENDED_JSON, '{"a":1}'.encode("utf-16")),
        "extended JSON: UTF-32": (Encoding.EXTENDED_JSON, '{"a":1}'.encode("utf-32-be")),
        "extended JSON: no object": (Encoding.EXTENDED_JSON, b"[1]"),
        "JSON: something behind it": (Encoding.JSON, b'{"a":1}{}'),
    }
    sealer = Sealer(DEKS[1], 1, Associations(VAULT_ID), urandom=urandom)
    place = {"collection": "c", "key": "k", "context": "", "weakest": 0, "vault_id": VAULT_ID.hex()}
    return [
        {
            "name": name,
            "error": "MalformedRecordError",
            **place,
            "stored": to_stored(sealer.seal(payload, "c", "k", encoding)),
        }
        for name, (encoding, payload) in payloads.items()
    ]


def _refused_records(urandom: Randomness) -> list[dict[str, Any]]:
    good = _record(urandom, "", VALUE, "c", "k")
    loose = _record(urandom, "", VALUE, "c", "k", binding=Binding.COLLECTION)
    expiring = _record(urandom, "", VALUE, "c", "k", expires_at=EXPIRY)
    record, text = b64decode(good["stored"][DATA_FIELD]), good["stored"][DATA_FIELD]

    def changed(offset: int, byte: int, source: bytes = record) -> dict[str, Any]:
        return to_stored(source[:offset] + bytes((byte,)) + source[offset + 1 :])

    def fields(**stored: Any) -> dict[str, Any]:
        return {DATA_FIELD: text, VERSION_FIELD: 2, **stored}

    def refused(name: str, error: str, stored: dict[str, Any], **where: Any) -> dict[str, Any]:
        place = {"collection": "c", "key": "k", "context": "", "weakest": 0, "vault_id": VAULT_ID.hex()}
        return {"name": name, "error": error, **place, **where, "stored": stored}

    malformed, tampered = "MalformedRecordError", "TamperedRecordError"
    version, flags = "UnknownRecordVersionError", "UnknownFlagsError"
    return [
        refused("no bytes", malformed, to_stored(b"")),
        refused("header alone", malformed, to_stored(record[:32])),
        refused("one byte less than the least", malformed, to_stored(record[:47])),
        refused(
            "expiry without room for a tag",
            malformed,
            to_stored(b64decode(expiring["stored"][DATA_FIELD])[:55]),
        ),
        refused("truncated ciphertext", tampered, to_stored(record[:-1])),
        refused("one byte too many", tampered, to_stored(record + b"\0")),
        refused("format version 0", version, changed(0, 0)),
        refused("format version 2", version, changed(0, 2)),
        refused("suite 0", "UnknownSuiteError", changed(1, 0)),
        refused("suite 2", "UnknownSuiteError", changed(1, 2)),
        refused("encoding 2", tampered, changed(2, 0b0000_0010)),
        refused("encoding 3", flags, changed(2, 0b0000_0011)),
        refused("claimed names inside", tampered, changed(2, 0b0000_1000)),
        refused("names inside, bound to the collection", flags, changed(2, 0b0001_1000)),
        refused("names inside, bound to nothing", flags, changed(2, 0b0010_1000)),
        refused("unknown flag 6", flags, changed(2, 0b0100_0000)),
        refused("unknown flag 7", flags, changed(2, 0b1000_0000)),
        refused("binding 3", flags, changed(2, 0b0011_0000)),
        refused("reserved byte", malformed, changed(3, 1)),
        refused("DEK 0", malformed, changed(7, 0)),
        refused("unknown DEK", "UnknownDEKError", changed(7, 9)),
        refused("another DEK", tampered, changed(7, 2)),
        refused("flipped encoding", tampered, changed(2, 0b0000_0001)),
        refused("claimed expiry", tampered, changed(2, 0b0000_0100)),
        refused("flipped bit of the nonce's start", tampered, changed(8, record[8] ^ 1)),
        refused("flipped bit of the nonce's end", tampered, changed(31, record[31] ^ 0x80)),
        refused("flipped bit of the ciphertext", tampered, changed(32, record[32] ^ 1)),
        refused("flipped bit of the tag", tampered, changed(len(record) - 1, record[-1] ^ 1)),
        refused(
            "changed expiry",
            tampered,
            changed(39, 0xFF, b64decode(expiring["stored"][DATA_FIELD])),
        ),
        refused("another key", tampered, good["stored"], key="l"),
        refused("another collection", tampered, good["stored"], collection="d"),
        refused("shifted names", tampered, good["stored"], collection="ck", key=""),
        refused("into a context", tampered, good["stored"], context="x"),
        refused("another vault", tampered, good["stored"], vault_id="ff" * 16, weakest=2),
        refused("weaker binding than policy", tampered, loose["stored"]),
        refused("weakened binding", tampered, changed(2, 0b0001_0000), weakest=2),
        refused(
            "strengthened binding", tampered, changed(2, 0, b64decode(loose["stored"][DATA_FIELD])), weakest=2
        ),
        refused("base64 without padding", malformed, fields(**{DATA_FIELD: text.rstrip("=")[:-1]})),
        refused("url-safe base64", malformed, fields(**{DATA_FIELD: "_" + text[1:]})),
        refused("line break in base64", malformed, fields(**{DATA_FIELD: text + "\n"})),
        refused("unused bits of base64", malformed, fields(**{DATA_FIELD: _with_unused_bits(record)})),
        refused("empty text", malformed, fields(**{DATA_FIELD: ""})),
        refused("data that is no text", malformed, fields(**{DATA_FIELD: None})),
        refused("third field", malformed, fields(extra=1)),
        refused("version as text", malformed, fields(**{VERSION_FIELD: "2"})),
        refused("version true", malformed, fields(**{VERSION_FIELD: True})),
        refused("version 2.0", malformed, fields(**{VERSION_FIELD: 2.0})),
        refused("version 1", "LegacyRecordError", fields(**{VERSION_FIELD: 1})),
        refused("version 3", version, fields(**{VERSION_FIELD: 3})),
        refused("no version", malformed, {DATA_FIELD: text}),
        refused("no data", malformed, {VERSION_FIELD: 2}),
        refused("plaintext", "PlaintextRecordError", {"user": "Ada"}),
    ]


def _with_unused_bits(record: bytes) -> str:
    """Return base64 that a lenient decoder reads as a record, in a spelling that nobody writes."""
    padded = record + bytes(2 - len(record) % 3 if len(record) % 3 < 2 else 2)
    text = b64encode(padded).decode().rstrip("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1] + "=" * (-len(text) % 4)


def _vault(
    urandom: Randomness,
    name: str,
    slots: list[tuple[str, Secret, datetime | None]],
    *,
    states: list[Any] | None = None,
    policy: Policy | None = None,
    legacy: list[str] | None = None,
    previous: bytes | None = None,
    writes_with: int | None = None,
    ended: int = 0,
) -> dict[str, Any]:
    # "kept" stands for a DEK that is retired and not dropped; beside one, those that are dropped have a stamp too.
    states, policy, legacy = states or ["active"], policy or Policy(), legacy or []
    root = RootKey.generate(urandom(16), random=urandom)
    deks = {number: urandom(32) for number in range(1, len(states) + 1)}
    active = len(states)
    legacy_keys = {
        (f"{active:08x}{urandom(4).hex()}" if kind == "kvseal-dek" else urandom(8).hex()): (kind, urandom(32))
        for kind in legacy
    }
    if writes_with is not None:
        write = WritePolicy("legacy", _time(2027), list(legacy_keys)[writes_with])
        policy = replace(policy, write=write)
    meta = VaultMeta(
        vault_id=root.vault_id,
        revision=7,
        created_at=_time(2026),
        updated_at=_time(2027),
        policy=policy,
        slots=tuple(_slot(urandom, root, *slot) for slot in slots),
        deks=tuple(
            WrappedDEK(
                number,
                "retired" if states[number - 1] == "kept" else states[number - 1],
                _time(2026),
                None
                if states[number - 1] == "retired"
                else _wrap(urandom, root, rootkey._DEK_PURPOSE, dek, root._dek_aad(number)),
                _time(2027) if "kept" in states and states[number - 1] in {"kept", "retired"} else None,
            )
            for number, dek in deks.items()
        ),
        legacy=tuple(
            WrappedLegacyKey(
                identifier,
                kind,
                _time(2026),
                _wrap(urandom, root, rootkey._LEGACY_PURPOSE, key, root._legacy_aad(kind, identifier)),
                _time(2027) if number < ended else None,
            )
            for number, (identifier, (kind, key)) in enumerate(legacy_keys.items())
        ),
        handover=None if previous is None else Handover.between(RootKey(previous, root.vault_id), root),
    ).authenticated(root)
    associations = Associations(root.vault_id)
    # Where there is a DEK that lost its number, the last of them has sealed the record.
    lost = [key for kind, key in legacy_keys.values() if kind == "kvseal-dek"]
    sealer = Sealer([deks[active], *lost][-1], active, associations, binding=policy.binding, urandom=urandom)
    sealed = RecordCodec(sealer, Opener(deks, associations)).seal_json(VALUE, "sessions", "user:1")
    return {
        "name": name,
        "secrets": [secret.reveal().hex() for _, secret, _ in slots],
        "root_key": root.reveal().hex(),
        **({} if previous is None else {"previous_root_key": previous.hex()}),
        "deks": {str(number): dek.hex() for number, dek in deks.items() if states[number - 1] != "retired"},
        "legacy": {identifier: key.hex() for identifier, (_, key) in legacy_keys.items()},
        "meta": meta.as_value(),
        "record": {"collection": "sessions", "key": "user:1", "value": VALUE, "stored": sealed},
    }


def _slot(
    urandom: Randomness, root: RootKey, label: str, secret: Secret, expires_at: datetime | None
) -> Keyslot:
    params = Argon2idParams(time_cost=2, memory_cost=32, parallelism=2)
    slot_id, salt = urandom(8).hex(), urandom(16)
    under = keyslot.argon2id(secret.reveal(), salt, params)
    aad = keyslot._aad(root.vault_id, slot_id, params)
    wrapped = wrap_key(root.reveal(), under=under, purpose=keyslot._PURPOSE, aad=aad, urandom=urandom)
    return Keyslot(slot_id, label, params, salt, wrapped, _time(2026), expires_at)


def _wrap(urandom: Randomness, root: RootKey, purpose: bytes, key: bytes, aad: bytes) -> WrappedKey:
    return wrap_key(key, under=root.reveal(), purpose=purpose, aad=aad, urandom=urandom)


def _refused_metas(full: dict[str, Any]) -> list[dict[str, Any]]:
    def refused(
        name: str, error: str, *edits: tuple[tuple[str | int, ...], Any], **secret: str
    ) -> dict[str, Any]:
        return {"name": name, "error": error, "secret": full["secrets"][0], **secret, "edits": edits}

    meta = full["meta"]
    first, second = meta["deks"][1], meta["deks"][2]
    wrap = ("commitment", "nonce", "wrapped")
    tampered, malformed, wrong, damaged = (
        "TamperedMetaError",
        "VaultMetaError",
        "WrongSecretError",
        "DamagedSlotError",
    )
    since, legacy = meta["created_at"], meta["legacy"][0]["id"]
    lost = "00000001" + "0" * 8

    def write(value: dict[str, Any]) -> tuple[tuple[str | int, ...], Any]:
        return ("policy", "write"), value

    return [
        refused("wrong secret", wrong, secret=b"wrong".hex()),
        refused("changed salt", wrong, (("slots", 0, "salt"), meta["slots"][1]["salt"])),
        refused("changed passes", wrong, (("slots", 0, "t"), 3)),
        refused("changed commitment", wrong, (("slots", 0, "commitment"), meta["slots"][1]["commitment"])),
        refused("changed slot id", damaged, (("slots", 0, "id"), "0" * 16)),
        refused("changed vault id", damaged, (("vault_id",), "ff" * 16)),
        refused("changed nonce", damaged, (("slots", 0, "nonce"), meta["slots"][1]["nonce"])),
        refused("changed wrapped root key", damaged, (("slots", 0, "wrapped"), meta["slots"][1]["wrapped"])),
        refused("changed revision", tampered, (("revision",), 8)),
        refused("changed label", tampered, (("slots", 0, "label"), "another")),
        refused("removed expiry", tampered, (("slots", 1), _without(meta["slots"][1], "expires_at"))),
        refused("removed slot", tampered, (("slots",), meta["slots"][:1])),
        refused("edited policy", tampered, (("policy", "read_plaintext"), True)),
        refused("weakened binding", tampered, (("policy", "binding"), "none")),
        refused(
            "flipped DEK states",
            malformed,
            (("deks", 1, "state"), "active"),
            (("deks", 2, "state"), "readable"),
        ),
        refused(
            "swapped DEKs",
            tampered,
            (("deks", 1), {**first, **{field: second[field] for field in wrap}}),
            (("deks", 2), {**second, **{field: first[field] for field in wrap}}),
        ),
        refused("dropped legacy keys", tampered, (("legacy",), [])),
        refused("held without the right to read it", malformed, write({"as": "plaintext", "since": since})),
        refused(
            "held under a key that is not there",
            malformed,
            write({"as": "legacy", "key": "0", "since": since}),
        ),
        refused("held under no key", malformed, write({"as": "legacy", "since": since})),
        refused("sealed under a key", malformed, write({"as": "sealed", "key": legacy, "since": since})),
        refused("held in an unknown format", malformed, write({"as": "fernet", "since": since})),
        refused("held since no time", malformed, write({"as": "sealed"})),
        refused("held since a number", malformed, write({"as": "sealed", "since": 1})),
        refused("claimed hold", tampered, write({"as": "legacy", "key": legacy, "since": since})),
        refused("names inside, bound to the collection", malformed, (("policy", "names_inside"), True)),
        refused("names inside false", malformed, *_bound(False)),
        refused("names inside 1", malformed, *_bound(1)),
        refused("claimed names inside", tampered, *_bound(True)),
        refused(
            "held under a key that has ended",
            malformed,
            write({"as": "legacy", "key": legacy, "since": since}),
            (("legacy", 0), {**meta["legacy"][0], "ended_at": since}),
        ),
        refused(
            "DEK that has ended",
            malformed,
            (("legacy", 0), {**meta["legacy"][0], "kind": "kvseal-dek", "id": lost, "ended_at": since}),
        ),
        refused("key that has ended at no time", malformed, (("legacy", 0, "ended_at"), 1)),
        refused("claimed end", tampered, (("legacy", 0, "ended_at"), since)),
        refused(
            "held under a DEK that lost its number",
            malformed,
            (("legacy", 0), {**meta["legacy"][0], "kind": "kvseal-dek", "id": lost}),
            write({"as": "legacy", "key": lost, "since": since}),
        ),
        refused("changed MAC", tampered, (("mac",), b64encode(bytes(32)).decode())),
        refused("retired DEK with a key and no stamp", malformed, (("deks", 1, "state"), "retired")),
        refused("readable DEK with a stamp", malformed, (("deks", 1, "retired_at"), "2027-01-02T03:04:05Z")),
        refused(
            "stamp of a retired DEK that is no time", malformed, (("deks", 0, "retired_at"), "2027-01-02")
        ),
        refused(
            "retired DEK with a stamp of its own",
            tampered,
            (("deks", 0, "retired_at"), "2027-01-02T03:04:05Z"),
        ),
        refused("dropped DEK called readable", malformed, (("deks", 0, "state"), "readable")),
        refused("held DEK that names none", malformed, (("legacy", 0, "kind"), "kvseal-dek")),
        refused(
            "held DEK under another kind",
            tampered,
            (("legacy", 0), {**meta["legacy"][0], "kind": "kvseal-dek", "id": lost}),
        ),
        refused("later version", "UnknownMetaVersionError", (("kvseal",), 2)),
        refused("version true", malformed, (("kvseal",), True)),
        refused("unknown field", malformed, (("extra",), 1)),
        refused("unknown field of a slot", malformed, (("slots", 0, "extra"), 1)),
        refused("revision 7.0", malformed, (("revision",), 7.0)),
        refused("upper-case vault id", malformed, (("vault_id",), meta["vault_id"].upper())),
        refused("two active DEKs", malformed, (("deks", 1, "state"), "active")),
        refused("DEK numbers with a gap", malformed, (("deks",), meta["deks"][1:])),
        refused("the same slot twice", malformed, (("slots", 1), meta["slots"][0])),
        refused("no slots", malformed, (("slots",), [])),
        refused("short salt", malformed, (("slots", 0, "salt"), "AAAA")),
        refused("time with an offset", malformed, (("created_at",), "2026-01-01T00:00:00+00:00")),
        refused("white space in a slot id", malformed, (("slots", 0, "id"), "00 " * 5 + "0")),
        refused("white space around a slot id", malformed, (("slots", 0, "id"), "0" * 15 + "\n")),
        refused("upper-case slot id", malformed, (("slots", 0, "id"), "A" * 16)),
        refused("the same legacy key twice", malformed, (("legacy",), meta["legacy"][:1] * 2)),
        refused("white space in the id of a legacy key", malformed, (("legacy", 0, "id"), "00 " * 5 + "0")),
        refused("a kind that no legacy key has", malformed, (("legacy", 0, "kind"), "Fernet")),
        refused("revision 0", malformed, (("revision",), 0)),
        refused("revision 2^53", malformed, (("revision",), 2**53)),
        refused(
            "a wrapped key inside an object",
            malformed,
            (("deks", 2), {**_bare(second), "key": _key_of(second)}),
        ),
        refused("65 passes", "KDFParametersError", (("slots", 0, "t"), 65)),
        refused("65 lanes", "KDFParametersError", (("slots", 0, "p"), 65)),
        refused("too little memory for the lanes", "KDFParametersError", (("slots", 0, "m"), 15)),
        refused("memory above the ceiling", "KDFParametersError", (("slots", 0, "m"), 2**32 - 1)),
    ]


def _bound(names_inside: Any) -> tuple[tuple[tuple[str | int, ...], Any], ...]:
    return (("policy", "binding"), "collection+key"), (("policy", "names_inside"), names_inside)


def _bare(dek: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in dek.items() if name in {"number", "state", "created_at"}}


def _key_of(dek: dict[str, Any]) -> dict[str, Any]:
    return {name: dek[name] for name in ("commitment", "nonce", "wrapped")}


def _without(value: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: part for name, part in value.items() if name != field}


def _time(year: int) -> datetime:
    return datetime(year, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def main() -> None:
    """Write both files."""
    (HERE / "record-v1.json").write_text(text_of(records()), encoding="ascii")
    (HERE / "meta-v1.json").write_text(text_of(metas()), encoding="ascii")


if __name__ == "__main__":
    main()
