"""
What wrote the records that kvseal takes over: one file for each stored format.

A codec is pure: it is given a stored value and returns the plaintext value.  The
wrapper uses codecs to read old records during a migration, and a recode uses the
same ones to re-seal them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class LegacyCodec(Protocol):
    """One stored format with the keys that open it."""

    @property
    def format(self) -> str:
        """The name of the format in reports: `fernet`, …"""
        ...

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* has this format, whichever key it takes."""
        ...

    def open(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value, or raise `RecordError` where no key opens it or it is damaged."""
        ...

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:
        """
        Return keys under which *value*, as it was opened, may be stored in *collection*.

        For stores that do not give a key back.  They are claims: whoever can write to the
        store chooses what a value says, so the driver has to prove one before it is used.
        """
        ...
