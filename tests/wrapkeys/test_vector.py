"""The frozen vault of a transit key: kvseal opens it, and so does what docs/format.md says, without kvseal."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.fakes import put_raw_meta, raw_meta
from tests.transit_server import TransitKeyRing

from kvseal import Vault

if TYPE_CHECKING:
    from key_value.aio.stores.memory import MemoryStore
    from tests.transit_server import TransitServer


@pytest.fixture(scope="module")
def vector() -> dict[str, Any]:
    """Return the frozen vault meta and the bytes of the transit key."""
    path = Path(__file__).parents[1] / "vectors" / "external-slot-v1.json"
    vector: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return vector


async def test_opens(vector: dict[str, Any], transit: TransitServer, store: MemoryStore) -> None:
    """What an earlier kvseal wrote opens, and would be written back as it was."""
    transit.keys["transit", "kv"] = TransitKeyRing(versions=[bytes.fromhex(vector["transit_key"])])
    await put_raw_meta(store, vector["meta"])

    vault = await Vault.open(store, secret="transit:transit/kv")

    assert vector["meta"] == await raw_meta(store)
    assert vector["meta"] == vault.meta.as_value()


def test_by_the_format(vector: dict[str, Any]) -> None:
    """The associated data is the canonical JSON of the two texts, and the root key authenticates the meta."""
    meta = vector["meta"]
    (slot,) = meta["slots"]
    prefix, version, text = b64decode(slot["wrapped"]).decode().split(":")
    raw, bound = b64decode(text), {"kvseal-slot": slot["id"], "kvseal-vault": meta["vault_id"]}
    associated = json.dumps(bound, sort_keys=True, separators=(",", ":")).encode()

    root = AESGCM(bytes.fromhex(vector["transit_key"])).decrypt(raw[:12], raw[12:], associated)

    rest = {name: value for name, value in meta.items() if name != "mac"}
    message = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
    key = hmac.new(root, b"kvseal/meta-mac/v1\x01", hashlib.sha256).digest()
    assert ("vault", "v1", 32) == (prefix, version, len(root))
    assert b64decode(meta["mac"]) == hmac.new(key, message, hashlib.sha256).digest()
