"""
A transit engine in a thread: the few endpoints that a wrap key needs, with real AES-256-GCM.

It answers as OpenBao and HashiCorp Vault do: the same paths, statuses and words, tokens with the
capabilities of their policies, versioned keys, derived keys, and an `encrypt` that makes the
key where there is none and the token may create.  `broken` makes it answer otherwise.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.http_service import HTTPService

ROOT_TOKEN = "hvs.the-token-of-the-tests"
_PATH = re.compile(r"/v1/(.+)/(encrypt|decrypt|keys)/([\w.-]+)(?:/(rotate|config))?")
_TEXT = re.compile(r"vault:v(\d+):(.*)", re.DOTALL)


@dataclass
class TransitKeyRing:
    """One named key: its versions from 1 on, the oldest that decrypts, and what it can do."""

    derived: bool = False
    aead: bool = True
    min_decryption_version: int = 1
    versions: list[bytes] = field(default_factory=lambda: [os.urandom(32)])

    def cipher(self, version: int, context: str) -> AESGCM:
        """Return the cipher of one version, of a derived key for this context."""
        key = self.versions[version - 1]
        return AESGCM(sha256(key + b64decode(context)).digest() if self.derived else key)


class RefusedError(Exception):
    """What the engine answers instead of a result."""

    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(status, errors)
        self.status, self.errors = status, errors


class TransitServer(HTTPService):
    """The service at `url`; *capabilities* says which paths a token may use and how."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, str], TransitKeyRing] = {}
        self.tokens: dict[str, dict[str, set[str]] | None] = {ROOT_TOKEN: None}
        self.mounts = {"transit"}
        self.namespaces: list[str | None] = []
        self.requests: list[str] = []
        self.ignores_associated_data = False
        self.broken: tuple[int, bytes] | None = None
        super().__init__(self._handler())

    def answer(self, path: str, token: str | None, body: dict[str, Any]) -> dict[str, Any]:
        """Return what one request is answered with, or raise `RefusedError`."""
        found = _PATH.fullmatch(path)
        mount, verb, name, action = found.groups() if found else ("", "", "", None)
        if mount not in self.mounts:
            raise RefusedError(404, f'no handler for route "{path[4:]}". route entry not found.')
        ring = self.keys.get((mount, name))
        self._check(token, path.removeprefix("/v1/"), "update" if ring or verb != "encrypt" else "create")
        if verb == "keys":
            return self._manage(mount, name, action, body)
        if ring is None and verb == "encrypt":
            ring = self.keys[mount, name] = TransitKeyRing(derived="context" in body)
        if ring is None:
            raise RefusedError(400, "encryption key not found")
        if ring.derived and not body.get("context"):
            raise RefusedError(400, "missing 'context' for key derivation")
        if "associated_data" in body and not ring.aead:
            raise RefusedError(400, "'[0].associated_data' provided for non-AEAD cipher suite rsa-2048")
        return self._encrypt(ring, body) if verb == "encrypt" else self._decrypt(ring, body)

    def _check(self, token: str | None, path: str, capability: str) -> None:
        allowed = self.tokens.get(token or "", {})
        if allowed is not None and capability not in allowed.get(path, set()):
            raise RefusedError(403, "1 error occurred:\n\t* permission denied\n\n")

    def _manage(self, mount: str, name: str, action: str | None, body: dict[str, Any]) -> dict[str, Any]:
        if action is None:
            self.keys.setdefault((mount, name), TransitKeyRing(derived=bool(body.get("derived"))))
        elif action == "rotate":
            self.keys[mount, name].versions.append(os.urandom(32))
        else:
            self.keys[mount, name].min_decryption_version = body["min_decryption_version"]
        return {}

    def _encrypt(self, ring: TransitKeyRing, body: dict[str, Any]) -> dict[str, Any]:
        version, nonce = len(ring.versions), os.urandom(12)
        sealed = ring.cipher(version, body.get("context", "")).encrypt(
            nonce, b64decode(body["plaintext"]), self._associated(body)
        )
        return {
            "ciphertext": f"vault:v{version}:{b64encode(nonce + sealed).decode()}",
            "key_version": version,
        }

    def _decrypt(self, ring: TransitKeyRing, body: dict[str, Any]) -> dict[str, Any]:
        found = _TEXT.fullmatch(body["ciphertext"])
        if found is None:
            raise RefusedError(400, "invalid ciphertext: no prefix")
        version = int(found[1])
        if version > len(ring.versions):
            raise RefusedError(400, "invalid ciphertext: version is too new")
        if version < ring.min_decryption_version:
            raise RefusedError(400, "ciphertext or signature version is disallowed by policy (too old)")
        try:
            raw = b64decode(found[2], validate=True)
            opened = ring.cipher(version, body.get("context", "")).decrypt(
                raw[:12], raw[12:], self._associated(body)
            )
        except (InvalidTag, ValueError):
            raise RefusedError(400, "cipher: message authentication failed") from None
        return {"plaintext": b64encode(opened).decode()}

    def _associated(self, body: dict[str, Any]) -> bytes:
        return b"" if self.ignores_associated_data else b64decode(body.get("associated_data", ""))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
                server.requests.append(self.path)
                server.namespaces.append(self.headers.get("X-Vault-Namespace"))
                if server.broken is not None:
                    self._send(*server.broken)
                    return
                try:
                    answer = server.answer(self.path, self.headers.get("X-Vault-Token"), body)
                    self._send(200, json.dumps({"data": answer, "warnings": None}).encode())
                except RefusedError as refused:
                    self._send(refused.status, json.dumps({"errors": refused.errors}).encode())

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
