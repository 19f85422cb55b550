"""A codec as a stranger writes it: it knows nothing of kvseal, and was written for an application of its own."""

# ruff: noqa: ANN001, ANN201, ANN204, ANN205 - it is written as a stranger writes it, without types

import base64
import hashlib
import hmac
import json
import zlib


class Codec:
    """XOR with a stream of SHA-256, compressed JSON, an HMAC over the names: nothing to imitate."""

    def __init__(self, keys):
        if not keys:
            msg = "hunter2: a key is needed"
            raise RuntimeError(msg)
        self._keys = keys

    def recognises(self, stored):
        return set(stored) == {"stranger", "mac"}

    def open(self, stored, collection, key):
        data = base64.b64decode(stored["stranger"])
        for secret in self._keys:
            if hmac.compare_digest(self._mac(secret, data, collection, key), stored["mac"]):
                return json.loads(zlib.decompress(self._mixed(secret, data)))
        msg = f"hunter2 {secret!r} does not open {data!r}"
        raise ValueError(msg)

    def seal(self, value, collection, key):
        data = self._mixed(self._keys[0], zlib.compress(json.dumps(value).encode()))
        mac = self._mac(self._keys[0], data, collection, key)
        return {"stranger": base64.b64encode(data).decode(), "mac": mac}

    @staticmethod
    def _mac(secret, data, collection, key):
        return hmac.new(secret, f"{collection}/{key}:".encode() + data, "sha256").hexdigest()

    @staticmethod
    def _mixed(secret, data):
        stream = b"".join(hashlib.sha256(secret + bytes([n])).digest() for n in range(len(data) // 32 + 1))
        return bytes(a ^ b for a, b in zip(data, stream, strict=False))


class OneWay:
    """Only opens, and takes every entry for one of its own."""

    def __init__(self, keys):
        self._codec = Codec(keys)

    def open(self, stored, collection, key):
        return self._codec.open(stored, collection, key)


class Vandal(Codec):
    """Changes what it is given, and ends the process where it may."""

    def open(self, stored, collection, key):
        value = super().open(dict(stored), collection, key)
        for inner in stored.values():
            if isinstance(inner, dict):
                inner.clear()
        stored.clear()
        if value.get("n") == 2:
            raise SystemExit(f"hunter2 {value}")
        return ["hunter2"] if value.get("n") == 3 else value


class Liar(Codec):
    """Does not read what it has written."""

    def seal(self, value, collection, key):
        return super().seal({"hunter2": 1}, collection, key)


class Mute:
    """Opens nothing."""

    def __init__(self, keys):
        pass
