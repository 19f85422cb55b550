"""
Open the frozen vaults of migrations/ with an implementation that shares nothing with kvseal.

    python tests/vectors/verify_legacy.py

Written from section 8 of docs/format.md and the table of recipes; it needs cryptography, argon2-cffi, PyNaCl and
the standard library.  It reads vaults that lie in one DiskStore, and stops at the first record that it sees otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import sqlite3
import sys
from functools import cache
from pathlib import Path
from typing import Any

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.secret import SecretBox

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Every record of a vault asks for the same key.
_pbkdf2, _scrypt = cache(hashlib.pbkdf2_hmac), cache(hashlib.scrypt)

ROOT = Path(__file__).parent.parent.parent / "migrations"
FORMATS = {
    "fernet",
    "fastmcp",
    "authsome",
    "aes-gcm",
    "chacha20-poly1305",
    "aes-cbc-hmac",
    "secretbox",
    "jwe",
}


def vaults() -> list[Path]:
    """Return the folders whose format is described and whose store is one DiskStore."""
    found = [path for path in sorted(ROOT.glob("[0-9]*")) if _source(path)["format"] in FORMATS]
    return [path for path in found if _source(path)["store"].startswith("disk:")]


def check(folder: Path) -> int:
    """Open what `expected.jsonl` says opens, refuse the rest, and return how many records opened."""
    recipe, entries = _source(folder), _entries(folder)
    opened = 0
    for line in (folder / "expected.jsonl").read_text().splitlines():
        expected = json.loads(line)
        if None in (expected["collection"], expected["key"]) or "skipped" in expected:
            continue
        names = expected["collection"], expected["key"]
        value = _opened(folder, recipe, entries, entries[names], names)
        assert ("value" in expected) == (value is not None), (folder.name, names)
        if value is not None:
            assert repr(expected["value"]) == repr(value) or expected["value"] == value, (folder.name, names)
            opened += 1
    return opened


def _source(folder: Path) -> dict[str, Any]:
    source: dict[str, Any] = tomllib.loads((folder / "recipe.toml").read_text())["source"]
    return source


def _entries(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the stored mappings of a DiskStore; old bodies leave the names to the row's key."""
    directory = folder / _source(folder)["store"].removeprefix("disk:")
    found = {}
    with sqlite3.connect(f"file:{directory / 'cache.db'}?mode=ro&immutable=1", uri=True) as con:
        for row_key, value, filename in con.execute("SELECT key, value, filename FROM Cache"):
            body = json.loads((directory / filename).read_text() if filename else value)
            collection, _, key = row_key.partition("::")
            found[body.get("collection", collection), body.get("key", key)] = body["value"]
    con.close()
    return found


def _read(folder: Path, reference: str) -> bytes:
    return (folder / reference.removeprefix("file:")).read_bytes()


def _opened(
    folder: Path,
    recipe: dict[str, Any],
    entries: dict[Any, Any],
    stored: dict[str, Any],
    names: tuple[str, str],
) -> Any:
    """Return the value under the first key that fits, or `None`."""
    if recipe["format"] == "authsome":
        return _authsome(folder, recipe, entries, stored)
    for key in _keys(folder, recipe):
        try:
            if recipe["format"] in {"fernet", "fastmcp"}:
                return json.loads(_fernet(key, base64.b64decode(stored["__encrypted_data__"], validate=True)))
            return json.loads(_by_hand(folder, recipe, key, stored, names))
        except Exception:  # noqa: BLE001 - whatever a cipher raises, the key does not fit
            continue
    return None


def _keys(folder: Path, recipe: dict[str, Any]) -> list[bytes]:
    if recipe["format"] == "fastmcp":
        signing = _hk(_read(folder, recipe["client_secret"]).strip(), b"fastmcp-jwt-signing-key")
        return [base64.urlsafe_b64decode(_hk(signing, b"fastmcp-storage-encryption-key"))]
    found = []
    for reference in recipe.get("keys", []):
        for text in re.split(rb"[,\s]+", _read(folder, reference).strip()):
            is_hex = re.fullmatch(rb"[0-9a-f]{64}", text)
            found.append(bytes.fromhex(text.decode()) if is_hex else base64.b64decode(text, b"-_"))
            if b"+" in text or b"/" in text:
                found[-1] = base64.b64decode(text)
    if "source_material" in recipe:
        found += _derived(folder, recipe)
    return found


def _derived(folder: Path, recipe: dict[str, Any]) -> list[bytes]:
    def forms(name: str) -> list[bytes]:
        content = _read(folder, recipe[name])
        encoding = recipe.get(f"{name}_encoding", "raw")
        if encoding == "raw":
            return [content.rstrip(b"\r\n"), content]
        text = content.strip()
        return [bytes.fromhex(text.decode()) if encoding == "hex" else base64.b64decode(text)]

    name, _, rest = recipe.get("kdf", "pbkdf2:sha256,1200000").partition(":")
    found = []
    for material in forms("source_material"):
        for salt in forms("salt") if "salt" in recipe else [b""]:
            if name == "sha256":
                found.append(hashlib.sha256(material).digest())
            elif name == "pbkdf2":
                algorithm, iterations = rest.split(",")
                found.append(_pbkdf2(algorithm, material, salt, int(iterations), 32))
            elif name == "hkdf":
                found.append(HKDF(SHA256(), 32, salt or bytes(32), rest.encode()).derive(material))
            else:
                n, r, p = map(int, rest.split(","))
                found.append(_scrypt(material, salt=salt, n=n, r=r, p=p, maxmem=2**26, dklen=32))
    return found


def _hk(material: bytes, salt: bytes) -> bytes:
    return base64.urlsafe_b64encode(HKDF(SHA256(), 32, salt, b"Fernet").derive(material))


def _cbc(key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    decryptor = Cipher(AES(key), CBC(iv)).decryptor()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    assert padded.endswith(bytes([padded[-1]]) * padded[-1])
    return padded[: -padded[-1]]


def _fernet(key: bytes, token: bytes) -> bytes:
    data = base64.urlsafe_b64decode(token)
    assert data[0] == 0x80
    assert hmac.compare_digest(hmac.digest(key[:16], data[:-32], "sha256"), data[-32:])
    return _cbc(key[16:], data[9:25], data[25:-32])


def _by_hand(
    folder: Path, recipe: dict[str, Any], key: bytes, stored: dict[str, Any], names: tuple[str, str]
) -> bytes:
    if recipe["format"] == "jwe":
        protected, wrapped, nonce, ciphertext, tag = stored[recipe.get("jwe_field", "jwe")].split(".")
        assert {"alg": "dir", "enc": "A256GCM"} == json.loads(_url(protected))
        assert wrapped == ""
        return AESGCM(key).decrypt(_url(nonce), _url(ciphertext) + _url(tag), protected.encode())
    aad = recipe.get("aad", "").replace("{collection}", names[0]).replace("{key}", names[1]).encode()
    blob = _bytes(recipe, stored, recipe.get("ciphertext", "__encrypted_data__"))
    if recipe["format"] == "secretbox":
        return bytes(SecretBox(key).decrypt(blob[24:], blob[:24]))
    if recipe["format"] == "aes-cbc-hmac":
        mac_key = base64.b64decode(_read(folder, recipe["mac_key"]))
        assert hmac.compare_digest(hmac.digest(mac_key, aad + blob[:-32], "sha256"), blob[-32:])
        return _cbc(key, blob[:16], blob[16:-32])
    if "nonce" in recipe:
        blob = _bytes(recipe, stored, recipe["nonce"]) + blob
    if "tag" in recipe:
        blob += _bytes(recipe, stored, recipe["tag"])
    aead = AESGCM(key) if recipe["format"] == "aes-gcm" else ChaCha20Poly1305(key)
    return aead.decrypt(blob[:12], blob[12:], aad)


def _bytes(recipe: dict[str, Any], stored: Any, field: str) -> bytes:
    for name in field.split("."):
        stored = stored[name]
    encoding = recipe.get("encoding", "base64")
    if encoding == "hex":
        return bytes.fromhex(stored)
    return _url(stored) if encoding == "base64url" else base64.b64decode(stored, validate=True)


def _url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _authsome(folder: Path, recipe: dict[str, Any], entries: dict[Any, Any], stored: dict[str, Any]) -> Any:
    text = _read(folder, recipe.get("key_file") or recipe["secret"]).decode().strip()
    try:
        if set(stored) == {"data"}:
            document = json.loads(text)
            nonce, sealed = (base64.b64decode(part) for part in stored["data"].split("."))
            return {"data": AESGCM(base64.b64decode(document["key"])).decrypt(nonce, sealed, None).decode()}
        record = entries["__vault_meta__", "__dek__"]
        kdf, wrapped = record["kdf"], record["wrapped_dek"]
        kek = hash_secret_raw(
            *(text.encode(), base64.b64decode(kdf["salt"])),
            *(kdf["time_cost"], kdf["memory_cost"], kdf["parallelism"], 32, Type.ID),
        )
        nonce, sealed = (base64.b64decode(wrapped[name]) for name in ("nonce", "ciphertext"))
        dek = AESGCM(kek).decrypt(nonce, sealed, None)
        data = base64.b64decode(stored["__encrypted_data__"], validate=True)
        return json.loads(AESGCM(dek).decrypt(data[:12], data[12:], None))
    except Exception:  # noqa: BLE001 - whatever is raised, the record does not open
        return None


if __name__ == "__main__":
    for one in vaults():
        print(f"{one.name}: {check(one)} records")  # noqa: T201 - what it has to say
