"""
Records that an application encrypted by hand: which cipher, and where its parts are in the stored value.

A layout is declared, in a recipe for example.  Without one it is that of py-key-value's own
`BaseEncryptionWrapper`: base64 of nonce ‖ ciphertext ‖ tag, in `__encrypted_data__`, beside version 1.  The
plaintext is the value as a JSON object.
"""

from __future__ import annotations

import binascii
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pybase64 import b64decode, b64encode

from kvseal.envelope.stored import DATA_FIELD, LEGACY_VERSION, VERSION_FIELD, is_sealed
from kvseal.errors import MalformedRecordError, RecordError, TamperedRecordError, UsageError
from kvseal.legacy.base import json_text, json_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kvseal.legacy.ciphers import Cipher

ENCODINGS: Final = ("base64", "base64url", "hex")
"""How the bytes of a part are written in the stored value."""

PARTS: Final = ("nonce", "ciphertext", "tag")

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_NAMES: Final = ("collection", "key")
_URL_SAFE: Final = b"-_"
_SAFE: Final = re.compile(r"[A-Za-z0-9_-]*={0,2}")
_STANDARD: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")


@dataclass(frozen=True, slots=True)
class Layout:
    """
    Where the parts of a record are.

    A field may be inside others: `payload.ct`.  *parts* is the order in which what has no field of its own
    stands in that of the ciphertext.  *aad* may name `{collection}` and `{key}`.  *constants* are fields
    with one value in every record.
    """

    ciphertext: str = DATA_FIELD
    nonce: str | None = None
    tag: str | None = None
    parts: tuple[str, ...] = ()
    encoding: str = "base64"
    nonce_size: int | None = None
    aad: str = ""
    constants: Mapping[str, str | int | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that it makes sense, and complete what was not said."""
        inside = tuple(part for part in PARTS if part == "ciphertext" or getattr(self, part) is None)
        if self.parts and sorted(self.parts) != sorted(inside):
            msg = f"the layout has to name each of {', '.join(inside)} once, and nothing else"
            raise UsageError(msg, hint="a part with a field of its own is not in the ciphertext's")
        unknown = [name for name in _PLACEHOLDER.findall(self.aad) if name not in _NAMES]
        if unknown:
            msg = "the associated data may have {collection} and {key} in it, and no other placeholder"
            raise UsageError(msg, hint="for anything else, write a codec: python:MODULE:CODEC")
        object.__setattr__(self, "parts", self.parts or inside)
        if self.ciphertext == DATA_FIELD and not self.constants:
            object.__setattr__(self, "constants", {VERSION_FIELD: LEGACY_VERSION})

    @property
    def apart(self) -> tuple[tuple[str, str], ...]:
        """The parts that have a field of their own, each with that."""
        named = (("nonce", self.nonce), ("tag", self.tag))
        return tuple((part, name) for part, name in named if name is not None)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that have to be there as text."""
        return (self.ciphertext, *(name for _, name in self.apart))


class ByHandCodec:
    """Opens records of one *layout* with the first of *ciphers* that fits, and seals with the first."""

    __slots__ = ("_ciphers", "_layout", "format")

    def __init__(self, name: str, ciphers: Sequence[Cipher], layout: Layout) -> None:
        self.format = name
        self._ciphers = tuple(ciphers)
        self._layout = layout

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* has every field of the layout, damaged or not."""
        return (
            not is_sealed(stored)
            and all(type(_at(stored, name)) is str for name in self._layout.fields)
            and all(_same(_at(stored, name), value) for name, value in self._layout.constants.items())
        )

    def open(
        self, stored: Mapping[str, Any], collection: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """
        Return the value.

        Raises:
            MalformedRecordError: a part is not in its encoding, or the plaintext is no JSON object.
            TamperedRecordError: no key opens it.
            RecordError: its associated data has a name in it that the store does not keep.
        """
        aad = associated_data(self._layout.aad, collection, key)
        decoded = {name: decode(_at(stored, name), self._layout.encoding) for name in self._layout.fields}
        for cipher in self._ciphers:
            plaintext = cipher.open(*self._taken_apart(decoded, cipher), aad)
            if plaintext is not None:
                return json_value(plaintext, self.format)
        count = len(self._ciphers)
        msg = f"none of {count} keys opens the {self.format} record: it is damaged, or another key's"
        raise TamperedRecordError(msg)

    def key_candidates(self, _: str | None, __: Mapping[str, Any]) -> Iterable[str]:
        """Return nothing: what applications keep in their values is not known."""
        return ()

    def seal(
        self, value: Mapping[str, Any], collection: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """
        Return the record that the application would write, under the first key.

        Raises:
            UnsealableValueError: that application would read something else than *value*.
            RecordError: its associated data has a name in it that the store does not keep.
        """
        aad, cipher, layout = (
            associated_data(self._layout.aad, collection, key),
            self._ciphers[0],
            self._layout,
        )
        nonce = os.urandom(layout.nonce_size or cipher.nonce_size)
        ciphertext, tag = cipher.seal(nonce, json_text(dict(value)), aad)
        parts = {"nonce": nonce, "ciphertext": ciphertext, "tag": tag}
        stored: dict[str, Any] = {}
        for name, constant in layout.constants.items():
            _put(stored, name, constant)
        _put(
            stored, layout.ciphertext, encode(b"".join(parts[part] for part in layout.parts), layout.encoding)
        )
        for part, name in layout.apart:
            _put(stored, name, encode(parts[part], layout.encoding))
        return stored

    def _taken_apart(self, decoded: Mapping[str, bytes], cipher: Cipher) -> tuple[bytes, bytes, bytes]:
        layout = self._layout
        blob = decoded[layout.ciphertext]
        sizes = {"nonce": layout.nonce_size or cipher.nonce_size, "tag": cipher.tag_size}
        rest = len(blob) - sum(sizes[part] for part in layout.parts if part != "ciphertext")
        if rest < 0:
            msg = f"the {self.format} record is too short for its nonce and its tag"
            raise MalformedRecordError(msg)
        found, start = {}, 0
        for part in layout.parts:
            end = start + sizes.get(part, rest)
            found[part], start = blob[start:end], end
        for part, name in layout.apart:
            found[part] = decoded[name]
        return found["nonce"], found["ciphertext"], found["tag"]


def associated_data(pattern: str, collection: str | None, key: str | None) -> bytes:
    """Return *pattern* with the names in place, or raise `RecordError` where the store does not keep one."""
    names = {"collection": collection, "key": key}
    if any(names[name] is None for name in _PLACEHOLDER.findall(pattern)):
        msg = "the store does not keep its name, which is in the associated data of the record"
        raise RecordError(msg, hint="name it in a manifest: --manifest FILE")
    text = _PLACEHOLDER.sub(lambda found: names[found[1]] or "", pattern)
    return text.encode("utf-8", "surrogatepass")


def decode(text: str, encoding: str) -> bytes:
    """Return the bytes of *text*, or raise `MalformedRecordError`."""
    try:
        if encoding == "hex":
            return bytes.fromhex(text)
        if encoding == "base64url" and _SAFE.fullmatch(text):
            # Padding is left out as often as not.
            bare = text.rstrip("=")
            return b64decode(bare + "=" * (-len(bare) % 4), _URL_SAFE, True)
        if encoding == "base64" and _STANDARD.fullmatch(text):
            return b64decode(text, None, True)
    except (binascii.Error, ValueError):
        pass
    msg = f"the record is not {encoding}"
    raise MalformedRecordError(msg)


def encode(data: bytes, encoding: str) -> str:
    """Return *data* as text."""
    if encoding == "hex":
        return data.hex()
    return b64encode(data, _URL_SAFE if encoding == "base64url" else None).decode()


def _at(stored: Mapping[str, Any], path: str) -> Any:
    """Return what is at *path*, or `None`; a field whose own name has dots comes first."""
    if path in stored:
        return stored[path]
    found: Any = stored
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def _put(stored: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for name in outer:
        stored = stored.setdefault(name, {})
    stored[last] = value


def _same(found: Any, value: Any) -> bool:
    # By type, too: `true` is no 1.
    return type(found) is type(value) and found == value
