"""A wrap key without a service: real AES-GCM in this process, which counts, and fails when it is told to."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kvseal.envelope.wrapping import DamagedWrapError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class LocalKey:
    """A third party's wrap key: it has what the protocol asks for, and derives from nothing of kvseal's."""

    kind = "local"
    address = "this process"

    def __init__(self, name: str = "k", *, binds: bool = True) -> None:
        self.name = name
        self.wraps = self.unwraps = 0
        self.fails: Callable[[Mapping[str, str]], Exception | None] = lambda _: None
        self.asked, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self._binds = binds
        self._cipher = AESGCM(os.urandom(32))

    def wrap(self, key: bytes, context: Mapping[str, str]) -> bytes:
        """Return nonce and ciphertext."""
        self.wraps += 1
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, key, self._bound(context))

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Return the key, once the gate is open."""
        self.unwraps += 1
        self.asked.set()
        self.gate.wait()
        error = self.fails(context)
        if error is not None:
            raise error
        try:
            return self._cipher.decrypt(wrapped[:12], wrapped[12:], self._bound(context))
        except InvalidTag:
            raise DamagedWrapError from None

    def _bound(self, context: Mapping[str, str]) -> bytes:
        return json.dumps(dict(context)).encode() if self._binds else b""
