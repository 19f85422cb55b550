"""
Records of other software that kvseal reads: one file for each stored format.

A codec is pure: it is given a stored value and returns the plaintext value.  The
wrapper uses codecs to read old records during a migration, and a recode uses the
same ones to re-seal them.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kvseal import exact_json
from kvseal.errors import MalformedRecordError, TamperedRecordError, UnsealableValueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class LegacyCodec(Protocol):
    """One stored format with the keys that open it."""

    @property
    def format(self) -> str:
        """The name of the format in reports: `fernet`, …"""
        ...

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* has this format, under any key."""
        ...

    def open(
        self, stored: Mapping[str, Any], collection: str | None = None, key: str | None = None, /
    ) -> dict[str, Any]:
        """
        Return the value, or raise `RecordError` where no key opens it or it is damaged.

        The names are those under which it is stored, as far as the store keeps them; few formats need them.
        """
        ...

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:
        """
        Return keys under which *value*, as it was opened, may be stored in *collection*.

        For stores that do not give a key back.  They are claims: a writer to the store
        chooses what a value says, so the driver has to prove a claim before it is used.
        """
        ...


@runtime_checkable
class SealingCodec(LegacyCodec, Protocol):
    """A codec that also writes its format: what the way back needs."""

    def seal(
        self, value: Mapping[str, Any], collection: str | None = None, key: str | None = None, /
    ) -> dict[str, Any]:
        """Return the stored mapping; or raise `UnsealableValueError`, or `RecordError` for lack of a name."""
        ...


class MergedCodec:
    """Opens with the first of *codecs*, all of one format, whose keys fit."""

    __slots__ = ("_codecs", "format")

    def __init__(self, codecs: Sequence[LegacyCodec]) -> None:
        self._codecs = codecs
        self.format = codecs[0].format

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether any of them does."""
        return any(codec.recognises(stored) for codec in self._codecs)

    def open(
        self, stored: Mapping[str, Any], collection: str | None = None, key: str | None = None, /
    ) -> dict[str, Any]:
        """Return the value, or raise what the last one did."""
        for codec in self._codecs[:-1]:
            try:
                return codec.open(stored, collection, key)
            except TamperedRecordError:
                continue
        return self._codecs[-1].open(stored, collection, key)

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:
        """Return what any of them knows."""
        return chain.from_iterable(codec.key_candidates(collection, value) for codec in self._codecs)


def merged(codecs: Iterable[LegacyCodec]) -> list[LegacyCodec]:
    """Return *codecs*, in order, with all of one format joined at the place of the first."""
    formats: dict[str, list[LegacyCodec]] = {}
    for codec in codecs:
        formats.setdefault(codec.format, []).append(codec)
    return [same[0] if len(same) == 1 else MergedCodec(same) for same in formats.values()]


def json_text(value: dict[str, Any]) -> bytes:
    """
    Return JSON that Python's own parser reads as *value*.

    Raises:
        UnsealableValueError: there is none.
    """
    text, is_portable = exact_json.dumps(value)
    if is_portable:
        return text
    escaped = exact_json.ascii_text(value).encode()
    if exact_json.dumps(exact_json.loads_exact(escaped))[0] != text:
        msg = "the value has a high surrogate before a low one, which a parser of JSON would join"
        raise UnsealableValueError(msg, hint="change it before the way back, or keep it sealed")
    return escaped


def json_value(plaintext: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in *plaintext*; raises `MalformedRecordError` about the *what* record."""
    try:
        value = exact_json.loads(plaintext)
    except ValueError:
        value = None
    if type(value) is not dict:
        msg = f"the {what} record opens, but its content is not a JSON object"
        raise MalformedRecordError(msg)
    return value
