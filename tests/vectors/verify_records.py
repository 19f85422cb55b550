"""
Check record-v1.json, meta-v1.json and extensions-v1.json with an implementation that shares nothing with kvseal.

    python tests/vectors/verify_records.py

Written from the description of the formats; it needs cryptography, argon2-cffi
and the standard library (it reads MessagePack itself), and stops at the first vector that it sees otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
BINDINGS = {"collection+key": 0, "collection": 1, "none": 2}
SLOT_FIELDS = {"id", "label", "kind", "t", "m", "p", "salt", "commitment", "nonce", "wrapped", "created_at"}
META_FIELDS = {
    "kvseal",
    "vault_id",
    "revision",
    "created_at",
    "updated_at",
    "policy",
    "slots",
    "deks",
    "legacy",
    "mac",
}
OPTIONAL_META_FIELDS = {"handover", "ext", "crit"}
KNOWN_PARTS: set[str] = set()
"""The extensions that this reader knows: none. It is the oldest one that there will ever be."""
WRAP_FIELDS = {"commitment", "nonce", "wrapped"}
CONSTANTS = {
    **{byte: byte for byte in range(0x80)},
    **{byte: byte - 256 for byte in range(0xE0, 0x100)},
    0xC0: None,
    0xC2: False,
    0xC3: True,
}
"""Bytes of MessagePack that are a whole value."""


HIDDEN = (
    *((0x00, 0x1F), (0x7F, 0xA0), (0xAD, 0xAD), (0x61C, 0x61C), (0x180E, 0x180E), (0x2000, 0x200F)),
    *((0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000), (0xD800, 0xF8FF), (0xFDD0, 0xFDEF)),
    *((0xFEFF, 0xFEFF), (0xFFF0, 0xFFFB), (0xE0000, 0x10FFFF)),
)


class Refused(Exception):  # noqa: N818 - not an error: the expected outcome of half of the vectors
    """The vector is refused, for the reason that its argument names."""


def require(condition: object, reason: str) -> None:
    """Refuse unless *condition* holds."""
    if not condition:
        raise Refused(reason)


def is_showable(character: str) -> bool:
    """Whether *character* may stand in a label."""
    number = ord(character)
    return number & 0xFFFE != 0xFFFE and not any(first <= number <= last for first, last in HIDDEN)


def aes_gcm_key(key: bytes, nonce: bytes) -> bytes:
    """Return XAES-256-GCM's derived key: NIST SP 800-108 in counter mode with CMAC-AES-256."""
    derived = b""
    for counter in (1, 2):
        cmac = CMAC(AES(key))
        cmac.update(struct.pack(">H", counter) + b"X\x00" + nonce[:12])
        derived += cmac.finalize()
    return derived


def xaes_open(key: bytes, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes | None:
    """Return the plaintext, or None."""
    try:
        return AESGCM(aes_gcm_key(key, nonce)).decrypt(nonce[12:], ciphertext, aad)
    except InvalidTag:
        return None


def expand(key: bytes, info: bytes, size: int) -> bytes:
    """Return HKDF-SHA256's expand step, as RFC 5869 writes it."""
    output = block = b""
    counter = 1
    while len(output) < size:
        block = hmac.digest(key, block + info + bytes((counter,)), hashlib.sha256)
        output += block
        counter += 1
    return output[:size]


def unwrap(under: bytes, purpose: bytes, wrapped: dict[str, Any], aad: bytes) -> bytes | str:
    """Return the key, or `wrong` or `damaged`."""
    material = expand(under, purpose, 64)
    if material[32:] != unbase64(wrapped["commitment"]):
        return "wrong"
    key = xaes_open(material[:32], unbase64(wrapped["nonce"]), unbase64(wrapped["wrapped"]), aad)
    return key if key is not None else "damaged"


def unbase64(text: str) -> bytes:
    """Return the bytes of base64 in its one spelling, or refuse."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused("base64") from None
    require(base64.b64encode(data).decode() == text, "base64")
    return data


def field(name: str) -> bytes:
    """Return a name as it is authenticated."""
    encoded = name.encode("utf-8", "surrogatepass")
    return struct.pack(">I", len(encoded)) + encoded


def record_of(stored: dict[str, Any]) -> bytes:
    """Return the record bytes of a stored mapping."""
    data, version = "__encrypted_data__", "__encryption_version__"
    require(data in stored or version in stored, "PlaintextRecordError")
    require(data in stored and version in stored, "MalformedRecordError")
    require(type(stored[version]) is int, "MalformedRecordError")
    require(stored[version] != 1, "LegacyRecordError")
    require(stored[version] == 2, "UnknownRecordVersionError")
    require(len(stored) == 2 and type(stored[data]) is str, "MalformedRecordError")
    try:
        return unbase64(stored[data])
    except Refused:
        raise Refused("MalformedRecordError") from None


def open_record(
    stored: dict[str, Any],
    deks: dict[int, bytes],
    *,
    vault_id: bytes,
    collection: str,
    key: str,
    context: str = "",
    weakest: int = 0,
) -> dict[str, Any]:
    """Return the fields and the payload of a record, or refuse it."""
    record = record_of(stored)
    require(len(record) >= 48, "MalformedRecordError")
    version, suite, flags, reserved, number = struct.unpack(">BBBBI", record[:8])
    require(version == 1, "UnknownRecordVersionError")
    require(suite == 1, "UnknownSuiteError")
    encoding, expires, inside, binding = flags & 3, flags & 4, flags & 8, flags >> 4
    require(encoding < 3 and binding < 3 and not (inside and binding), "UnknownFlagsError")
    require(reserved == 0 and number > 0, "MalformedRecordError")
    body = 40 if expires else 32
    require(len(record) >= body + 16 + (8 if inside else 0), "MalformedRecordError")
    require(number in deks, "UnknownDEKError")
    require(binding <= weakest, "TamperedRecordError")
    aad = b"kvseal/record/v1\0" + vault_id + record[:8] + record[32:body]
    bound = (collection if binding < 2 else "", key if binding < 1 else "")
    aad += field("") * 2 if inside else field(bound[0]) + field(bound[1])
    aad += field(context) if context else b""
    payload = xaes_open(deks[number], record[8:32], record[body:], aad)
    require(payload is not None, "TamperedRecordError")
    names = None
    if inside:
        *names, payload = names_and_payload(payload)
        require(names == [collection, key], "MovedRecordError")
    expires_at = struct.unpack(">q", record[32:40])[0] if expires else None
    require(type(value_of(payload, encoding)) is dict, "MalformedRecordError")
    return {
        "dek": number,
        "encoding": encoding,
        "binding": binding,
        **({} if names is None else {"names_inside": True}),
        "expires_at": expires_at,
        "nonce": record[8:32].hex(),
        "payload": payload,
    }


def names_and_payload(plaintext: bytes) -> tuple[str, str, bytes]:
    """Return the names inside and what follows them, or refuse."""
    names = []
    for _ in range(2):
        length = int.from_bytes(taken(plaintext, 0, 4), "big")
        name, plaintext = taken(plaintext, 4, length), plaintext[4 + length :]
        names.append("".join(code_points(name)))
        require(not re.search("[\ud800-\udbff][\udc00-\udfff]", names[-1]), "MalformedRecordError")
    return names[0], names[1], plaintext


def code_points(name: bytes) -> Iterator[str]:
    """Yield the code points of generalized UTF-8, of which each has one form; or refuse."""
    while name:
        size = next((n for n, first in ((1, 0x80), (2, 0xE0), (3, 0xF0), (4, 0xF8)) if name[0] < first), 5)
        require(not 0x80 <= name[0] < 0xC0, "MalformedRecordError")
        point = name[0] & (0x7F, 0x1F, 0x0F, 0x07, 0x00)[size - 1]
        for byte in taken(name, 1, size - 1):
            require(byte >> 6 == 2, "MalformedRecordError")
            point = point << 6 | byte & 0x3F
        least = (0, 0x80, 0x800, 0x10000, 0x110000)[size - 1]
        require(least <= point < 0x110000, "MalformedRecordError")
        yield chr(point)
        name = name[size:]


def value_of(payload: bytes, encoding: int) -> Any:
    """Return the value of a payload, or refuse it."""
    if encoding == 2:
        value, end = unpack(payload, 0, 1)
        require(end == len(payload), "MalformedRecordError")
        return value
    try:
        text = payload.decode("utf-8", "surrogatepass" if encoding else "strict")
        constant, integer = (float, int) if encoding else (refuse_constant, of_64_bits)
        return json.loads(text, parse_constant=constant, parse_int=integer)
    except ValueError:
        raise Refused("MalformedRecordError") from None


def of_64_bits(digits: str) -> int:
    """Return an integer that plain JSON may have here, or refuse it."""
    if not -(2**63) <= int(digits) < 2**64:
        raise ValueError(digits)
    return int(digits)


def refuse_constant(name: str) -> Any:
    """Refuse NaN and infinities, which plain JSON does not have."""
    raise ValueError(name)


def unpack(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Return the MessagePack value at *at* and where it ends, or refuse whatever has a shorter form."""
    byte, at = number(data, at, 1)
    if byte in CONSTANTS:
        return CONSTANTS[byte], at
    if byte == 0xCB:
        return struct.unpack(">d", taken(data, at, 8))[0], at + 8
    if 0xCC <= byte <= 0xD3:
        return integer(data, byte, at)
    kind, length, at = container(data, byte, at)
    if kind == "text":
        return text_of(data, at, length), at + length
    require(depth <= 254, "MalformedRecordError")
    return items(data, at, length, depth) if kind == "list" else fields(data, at, length, depth)


def integer(data: bytes, byte: int, at: int) -> tuple[int, int]:
    """Return the integer that *byte* begins, if no shorter form holds it."""
    size = 1 << (byte & 3)
    value = int.from_bytes(taken(data, at, size), "big", signed=byte >= 0xD0)
    half = 1 << 4 * size
    if byte < 0xD0:
        require(value >= (0x80 if size == 1 else half), "MalformedRecordError")
    else:
        require(value < (-32 if size == 1 else -half // 2), "MalformedRecordError")
    return value, at + size


def items(data: bytes, at: int, length: int, depth: int) -> tuple[list[Any], int]:
    """Return a list and where it ends."""
    found = []
    for _ in range(length):
        item, at = unpack(data, at, depth + 1)
        found.append(item)
    return found, at


def fields(data: bytes, at: int, length: int, depth: int) -> tuple[dict[str, Any], int]:
    """Return a map and where it ends; its keys are text, each once."""
    found: dict[str, Any] = {}
    for _ in range(length):
        key, at = unpack(data, at, 255)
        require(type(key) is str and key not in found, "MalformedRecordError")
        found[key], at = unpack(data, at, depth + 1)
    return found, at


def container(data: bytes, byte: int, at: int) -> tuple[str, int, int]:
    """Return what *byte* begins, a text, a list or a map, its length, and where its content begins."""
    for kind, fixed, most, longer, first_size in (
        ("text", 0xA0, 31, 0xD9, 1),
        ("list", 0x90, 15, 0xDC, 2),
        ("map", 0x80, 15, 0xDE, 2),
    ):
        if fixed <= byte <= fixed + most:
            return kind, byte - fixed, at
        sizes = [size for size in (1, 2, 4) if size >= first_size]
        if longer <= byte < longer + len(sizes):
            size = sizes[byte - longer]
            length, at = number(data, at, size)
            shorter = most if size == first_size else (1 << 4 * size) - 1
            require(length > shorter, "MalformedRecordError")
            return kind, length, at
    raise Refused("MalformedRecordError")  # bin, an extension type, float 32 or C1


def text_of(data: bytes, at: int, length: int) -> str:
    """Return the text of *length* bytes, or refuse it."""
    try:
        return taken(data, at, length).decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise Refused("MalformedRecordError") from None


def number(data: bytes, at: int, size: int) -> tuple[int, int]:
    """Return the unsigned number of *size* bytes, and where it ends."""
    return int.from_bytes(taken(data, at, size), "big"), at + size


def taken(data: bytes, at: int, size: int) -> bytes:
    """Return *size* bytes, or refuse what ends before."""
    require(at + size <= len(data), "MalformedRecordError")
    return data[at : at + size]


def check_meta(meta: dict[str, Any]) -> None:
    """Refuse a vault meta that is not exactly as kvseal writes it."""
    version = meta.get("kvseal")
    require(type(version) is not int or version <= 1, "UnknownMetaVersionError")
    required = set(meta) - OPTIONAL_META_FIELDS
    require(type(version) is int and required == META_FIELDS, "VaultMetaError")
    require(len(canonical(meta)) <= 2**20, "VaultMetaError")
    check_extensions(meta)
    require(re.fullmatch("[0-9a-f]{32}", meta["vault_id"]), "VaultMetaError")
    require(type(meta["revision"]) is int and 1 <= meta["revision"] < 2**53, "VaultMetaError")
    opening = [key["id"] for key in meta["legacy"] if key["kind"] != "kvseal-dek" and "ended_at" not in key]
    check_policy(meta["policy"], set(opening))
    require(meta["policy"]["binding"] in BINDINGS, "VaultMetaError")
    for slot in meta["slots"]:
        require(set(slot) | {"expires_at"} == SLOT_FIELDS | {"expires_at"}, "VaultMetaError")
        require(0 < len(slot["label"]) <= 128 and all(map(is_showable, slot["label"])), "VaultMetaError")
        require(len(slot["salt"]) == 24, "VaultMetaError")
        require(1 <= slot["t"] <= 64 and 1 <= slot["p"] <= 64, "KDFParametersError")
        require(8 * slot["p"] <= slot["m"] <= 4 * 2**20, "KDFParametersError")
    for dek in meta["deks"]:
        fields, stamped = {"number", "state", "created_at"}, {"retired_at"}
        require(dek["state"] in {"active", "readable", "retired"}, "VaultMetaError")
        forms = [fields | WRAP_FIELDS]
        if dek["state"] == "retired":
            forms = [fields, fields | stamped, fields | stamped | WRAP_FIELDS]
        require(set(dek) in forms, "VaultMetaError")
    for key in meta["legacy"]:
        ends = {"ended_at"} & set(key) if key["kind"] != "kvseal-dek" else set()
        require(set(key) == {"id", "kind", "created_at"} | ends | WRAP_FIELDS, "VaultMetaError")
        require(re.fullmatch("[a-z][a-z0-9-]{0,31}", key["kind"]), "VaultMetaError")
        if key["kind"] == "kvseal-dek":
            numbered = re.fullmatch("[0-9a-f]{16}", key["id"])
            require(numbered and 1 <= int(key["id"][:8], 16) <= len(meta["deks"]), "VaultMetaError")
    require(meta["slots"], "VaultMetaError")
    for part in (meta["slots"], meta["legacy"]):
        ids = [one["id"] for one in part]
        require(all(re.fullmatch("[0-9a-f]{16}", one) for one in ids), "VaultMetaError")
        require(len(set(ids)) == len(ids), "VaultMetaError")
    require([dek["number"] for dek in meta["deks"]] == [*range(1, len(meta["deks"]) + 1)], "VaultMetaError")
    states = [dek["state"] for dek in meta["deks"]]
    require(states.index("active") == len(states) - 1 if "active" in states else False, "VaultMetaError")
    parts = [meta, *meta["slots"], *meta["deks"], *meta["legacy"]]
    times = [value for part in parts for name, value in part.items() if name.endswith("_at")]
    require(all(isinstance(time, str) and re.fullmatch(TIME, time) for time in times), "VaultMetaError")


def check_policy(policy: dict[str, Any], held: set[str]) -> None:
    """Refuse a policy that is malformed, or writes what it does not read."""
    optional = {"max_dek_age", "max_dek_records", "names_inside", "write"}
    if "names_inside" in policy:
        require(policy["names_inside"] is True and policy["binding"] == "collection+key", "VaultMetaError")
    require(set(policy) - optional == {"read_legacy", "read_plaintext", "binding"}, "VaultMetaError")
    require(
        all(isinstance(policy[name], bool) for name in ("read_legacy", "read_plaintext")), "VaultMetaError"
    )
    for name, most in (("max_dek_age", 3_153_600_000), ("max_dek_records", 2**53 - 1)):
        limit = policy.get(name, 1)
        require(type(limit) is int and 1 <= limit <= most, "VaultMetaError")
    if "write" not in policy:
        return
    write = policy["write"]
    fields = {"as", "since"} | ({"key"} if write.get("as") == "legacy" else set())
    require(set(write) == fields, "VaultMetaError")
    is_time = isinstance(write["since"], str) and re.fullmatch(TIME, write["since"])
    require(is_time, "VaultMetaError")
    can_read = {
        "sealed": True,
        "plaintext": policy["read_plaintext"],
        "legacy": policy["read_legacy"] and write.get("key") in held,
    }
    require(can_read.get(write["as"], False), "VaultMetaError")


def reads_at(expires_at: int | None, now: int) -> str:
    """Return what a record with that sealed expiry reads as at that Unix millisecond."""
    return "value" if expires_at is None or now < expires_at else "missing"


def reads_under(policy: dict[str, bool], held: set[str], stored: str) -> str:
    """
    Return what a stored value of that kind reads as under a policy, with legacy keys of those kinds held.

    A key with which reads have ended is none of them.
    """
    if stored == "sealed":
        return "value"
    if stored == "plaintext":
        return "value" if policy["read_plaintext"] else "PlaintextRecordError"
    if not policy["read_legacy"]:
        return "LegacyRecordError"
    if held - {"fernet", "authsome", "authsome-flat", "kvseal-dek"}:
        return "VaultError"
    return "value" if stored in held else "LegacyRecordError"


def check_extensions(meta: dict[str, Any]) -> None:
    """Refuse parts of later releases that are not of the shape that each release can keep."""
    ext, crit = meta.get("ext", {}), meta.get("crit", [])
    require(isinstance(ext, dict) and isinstance(crit, list), "VaultMetaError")
    require(("ext" in meta) == bool(ext) and ("crit" in meta) == bool(crit), "VaultMetaError")
    require(len(ext) <= 32, "VaultMetaError")
    require(all(re.fullmatch("[a-z][a-z0-9-]{0,31}", name) for name in ext), "VaultMetaError")
    for part in ext.values():
        check_part(part, 2)
    require(len(canonical(ext)) <= 65_536, "VaultMetaError")
    require(all(isinstance(name, str) and name in ext for name in crit), "VaultMetaError")
    require(crit == sorted(set(crit)), "VaultMetaError")
    for name in crit:
        since = ext[name].get("since") if isinstance(ext[name], dict) else None
        pattern = r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}"
        require(isinstance(since, str) and re.fullmatch(pattern, since), "VaultMetaError")


def check_part(value: Any, depth: int) -> None:
    """Refuse a part, or what is in one, that two canonical encoders could write in two ways."""
    if isinstance(value, dict):
        require(depth <= 8 and all(re.fullmatch("[a-z0-9_-]{1,64}", key) for key in value), "VaultMetaError")
        for inner in value.values():
            check_part(inner, depth + 1)
    elif isinstance(value, list):
        require(depth <= 8, "VaultMetaError")
        for inner in value:
            check_part(inner, depth + 1)
    elif isinstance(value, str):
        require(not any(0xD800 <= ord(character) <= 0xDFFF for character in value), "VaultMetaError")
    elif not isinstance(value, bool) and value is not None:
        require(isinstance(value, int) and abs(value) < 2**53, "VaultMetaError")


def check_critical(meta: dict[str, Any]) -> None:
    """Refuse to seal by *meta*, or to change it, where a critical part is of a later release."""
    require(set(meta.get("crit", [])) <= KNOWN_PARTS, "UnknownExtensionError")


def relabelled(meta: dict[str, Any], root: bytes, label: str) -> dict[str, Any]:
    """Return the next revision, in which the first slot has another *label*, as this reader writes it."""
    check_critical(meta)
    first, *others = meta["slots"]
    changed = {**meta, "revision": meta["revision"] + 1, "slots": [{**first, "label": label}, *others]}
    return {**changed, "mac": base64.b64encode(mac_of(changed, root)).decode()}


def canonical(value: Any) -> bytes:
    """Return RFC 8785 JSON: the keys are ASCII and the numbers integers, so this is all there is to it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        errors="surrogatepass"
    )


def root_key(meta: dict[str, Any], secret: bytes) -> bytes:
    """Return the root key that *secret* opens in one of the slots, or refuse."""
    for slot in meta["slots"]:
        under = hash_secret_raw(
            secret, unbase64(slot["salt"]), slot["t"], slot["m"], slot["p"], 32, Type.ID, version=19
        )
        aad = bytes.fromhex(meta["vault_id"]) + struct.pack(">III", slot["t"], slot["m"], slot["p"])
        root = unwrap(under, b"kvseal/slot/v1", slot, aad + slot["id"].encode())
        require(root != "damaged", "DamagedSlotError")
        if isinstance(root, bytes):
            return root
    raise Refused("WrongSecretError")


def mac_of(meta: dict[str, Any], root: bytes) -> bytes:
    """Return the MAC that a holder of *root* gives *meta*."""
    authenticated = {name: value for name, value in meta.items() if name != "mac"}
    key = expand(root, b"kvseal/meta-mac/v1", 32)
    return hmac.digest(key, canonical(authenticated), hashlib.sha256)


def check_mac(meta: dict[str, Any], root: bytes) -> None:
    """Refuse a vault meta that a holder of *root* did not write."""
    require(mac_of(meta, root) == unbase64(meta["mac"]), "TamperedMetaError")


def open_meta(meta: dict[str, Any], secret: bytes) -> tuple[bytes, dict[int, bytes], dict[str, bytes]]:
    """Return the root key, the DEKs and the legacy keys, or refuse."""
    check_meta(meta)
    root, vault_id = root_key(meta, secret), bytes.fromhex(meta["vault_id"])
    check_mac(meta, root)
    deks, legacy = {}, {}
    for dek in meta["deks"]:
        if "wrapped" in dek:
            number = dek["number"]
            key = unwrap(root, b"kvseal/dek/v1", dek, vault_id + struct.pack(">I", number))
            require(isinstance(key, bytes), "TamperedMetaError")
            deks[number] = key
    for one in meta["legacy"]:
        aad = vault_id + one["kind"].encode() + b"\0" + one["id"].encode()
        key = unwrap(root, b"kvseal/legacy-key/v1", one, aad)
        require(isinstance(key, bytes), "TamperedMetaError")
        legacy[one["id"]] = key
    return root, deks, legacy


def check_handover(meta: dict[str, Any], previous: bytes, root: bytes) -> None:
    """Refuse unless the root key *previous* has named *root* as its successor."""
    identity = expand(root, b"kvseal/root-id/v1", 32)
    mac = hmac.digest(
        expand(previous, b"kvseal/root-handover/v1", 32),
        bytes.fromhex(meta["vault_id"]) + identity,
        hashlib.sha256,
    )
    handover = {name: unbase64(value) for name, value in meta["handover"].items()}
    require(handover == {"successor": identity, "mac": mac}, "TamperedMetaError")


def expect(name: str, expected: object, actual: object) -> None:
    """Stop with the vector's name unless both are the same."""
    if expected != actual:
        raise SystemExit(f"{name}: expected {expected!r}, got {actual!r}")


def outcome_of(function: Any, *args: Any, **kwargs: Any) -> str:
    """Return why *function* refuses, or `accepted`."""
    try:
        function(*args, **kwargs)
    except Refused as exc:
        return str(exc)
    return "accepted"


def verify_records(vectors: dict[str, Any]) -> int:
    """Check every vector of the record format and return how many there are."""
    deks = {int(number): bytes.fromhex(dek) for number, dek in vectors["deks"].items()}
    for vector in vectors["positive"]:
        opened = open_record(
            vector["stored"],
            deks,
            vault_id=bytes.fromhex(vectors["vault_id"]),
            collection=vector["collection"],
            key=vector["key"],
            context=vector["context"],
            weakest=vector["binding"],
        )
        expect(vector["name"], bytes.fromhex(vector["payload"]), opened.pop("payload"))
        expect(vector["name"], {name: vector[name] for name in opened}, opened)
        if "value" in vector:
            value = value_of(bytes.fromhex(vector["payload"]), opened["encoding"])
            expect(vector["name"], vector["value"], json.dumps(value))
    for vector in vectors["negative"]:
        where = {name: vector[name] for name in ("collection", "key", "context", "weakest")}
        vault_id = bytes.fromhex(vector["vault_id"])
        actual = outcome_of(open_record, vector["stored"], deks, vault_id=vault_id, **where)
        expect(vector["name"], vector["error"], actual)
    return len(vectors["positive"]) + len(vectors["negative"])


def edited(meta: dict[str, Any], edits: list[Any]) -> dict[str, Any]:
    """Return a copy of *meta* with the new value at each path."""
    copy: dict[str, Any] = json.loads(json.dumps(meta))
    for (*path, last), new in edits:
        target: Any = copy
        for step in path:
            target = target[step]
        target[last] = new
    return copy


def open_by_any(
    meta: dict[str, Any], record: dict[str, Any], deks: dict[int, bytes], legacy: dict[str, bytes]
) -> dict[str, Any]:
    """Open *record* with the DEK of its number, or else with those that lost that number, in their order."""
    held = [one["id"] for one in meta["legacy"] if one["kind"] == "kvseal-dek"]
    tries = [deks, *({**deks, int(name[:8], 16): legacy[name]} for name in held)]
    for keys in tries:
        try:
            return open_record(
                record["stored"],
                keys,
                vault_id=bytes.fromhex(meta["vault_id"]),
                collection=record["collection"],
                key=record["key"],
                weakest=BINDINGS[meta["policy"]["binding"]],
            )
        except Refused as exc:
            if str(exc) != "TamperedRecordError":
                raise
    raise Refused("TamperedRecordError")


def verify_metas(vectors: dict[str, Any]) -> int:
    """Check every vector of the vault meta and return how many there are."""
    for vector in vectors["positive"]:
        meta, record = vector["meta"], vector["record"]
        for secret in vector["secrets"]:
            root, deks, legacy = open_meta(meta, bytes.fromhex(secret))
            expect(vector["name"], vector["root_key"], root.hex())
            expect(vector["name"], "handover" in meta, "previous_root_key" in vector)
            if "handover" in meta:
                check_handover(meta, bytes.fromhex(vector["previous_root_key"]), root)
            expect(vector["name"], vector["deks"], {str(number): dek.hex() for number, dek in deks.items()})
            expect(vector["name"], vector["legacy"], {name: key.hex() for name, key in legacy.items()})
            opened = open_by_any(meta, record, deks, legacy)
            expect(vector["name"], record["value"], json.loads(opened["payload"]))
    for vector in vectors["negative"]:
        meta = edited(vectors["positive"][-1]["meta"], vector["edits"])
        actual = outcome_of(open_meta, meta, bytes.fromhex(vector["secret"]))
        expect(vector["name"], vector["error"], actual)
    return len(vectors["positive"]) + len(vectors["negative"])


def verify_extensions(vectors: dict[str, Any]) -> int:
    """Check every vector of a vault meta of a later release and return how many there are."""
    for vector in vectors["positive"]:
        meta = vector["meta"]
        root, deks, _ = open_meta(meta, bytes.fromhex(vector["secret"]))
        expect(vector["name"], vector["deks"], {str(number): dek.hex() for number, dek in deks.items()})
        expect(vector["name"], vector["change"], outcome_of(relabelled, meta, root, "later"))
        if vector["change"] == "accepted":
            later = relabelled(meta, root, "later")
            open_meta(later, bytes.fromhex(vector["secret"]))
            expect(vector["name"], canonical(meta["ext"]), canonical(later["ext"]))
    for vector in vectors["negative"]:
        actual = outcome_of(open_meta, vector["meta"], bytes.fromhex(vectors["positive"][0]["secret"]))
        expect(vector["name"], vector["error"], actual)
    return len(vectors["positive"]) + len(vectors["negative"])


def verify_reading(vectors: dict[str, Any]) -> int:
    """Check every vector of what a stored value reads as and return how many there are."""
    for vector in vectors["expiry"]:
        expect(vector["name"], vector["reads_as"], reads_at(vector["expires_at"], vector["now"]))
    for vector in vectors["policy"]:
        opening = set() if vector.get("ended") else set(vector["held"])
        actual = reads_under(vector, opening, vector["stored"])
        expect(vector["name"], vector["reads_as"], actual)
    return len(vectors["expiry"]) + len(vectors["policy"])


def main() -> None:
    """Check all four files."""
    records = verify_records(json.loads((HERE / "record-v1.json").read_text(encoding="ascii")))
    metas = verify_metas(json.loads((HERE / "meta-v1.json").read_text(encoding="ascii")))
    later = verify_extensions(json.loads((HERE / "extensions-v1.json").read_text(encoding="ascii")))
    reading = verify_reading(json.loads((HERE / "reading-v1.json").read_text(encoding="ascii")))
    counts = f"{records} record, {metas} vault meta, {later} extension and {reading} reading vectors"
    print(f"{counts} verified")  # noqa: T201 - a script


if __name__ == "__main__":
    main()
