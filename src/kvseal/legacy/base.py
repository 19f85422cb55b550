"""
Records of other software that kvseal reads: one file for each stored format.

A codec is pure: it is given a stored value and returns the plaintext value.  The
wrapper uses codecs to read old records during a migration, and a recode uses the
same ones to re-seal them.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from kvseal.errors import TamperedRecordError

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

    def open(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value, or raise `RecordError` where no key opens it or it is damaged."""
        ...

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:
        """
        Return keys under which *value*, as it was opened, may be stored in *collection*.

        For stores that do not give a key back.  They are claims: a writer to the store
        chooses what a value says, so the driver has to prove a claim before it is used.
        """
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

    def open(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value, or raise what the last one did."""
        for codec in self._codecs[:-1]:
            try:
                return codec.open(stored)
            except TamperedRecordError:
                continue
        return self._codecs[-1].open(stored)

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:
        """Return what any of them knows."""
        return chain.from_iterable(codec.key_candidates(collection, value) for codec in self._codecs)


def merged(codecs: Iterable[LegacyCodec]) -> list[LegacyCodec]:
    """Return *codecs*, in order, with all of one format joined at the place of the first."""
    formats: dict[str, list[LegacyCodec]] = {}
    for codec in codecs:
        formats.setdefault(codec.format, []).append(codec)
    return [same[0] if len(same) == 1 else MergedCodec(same) for same in formats.values()]
