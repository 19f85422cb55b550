"""Records that were never encrypted: the store holds the value itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvseal.envelope.stored import DATA_FIELD, VERSION_FIELD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class PlaintextCodec:
    """Takes every value that has neither field of an encryption wrapper."""

    __slots__ = ()

    format: Final = "plaintext"

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* has neither of the two fields; with one of them it is damaged, not plaintext."""
        return DATA_FIELD not in stored and VERSION_FIELD not in stored

    def open(self, stored: Mapping[str, Any], *_: str | None) -> dict[str, Any]:
        """Return the value as it is stored."""
        return dict(stored)

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:  # noqa: ARG002
        """Return nothing: what applications keep in their values is not known."""
        return ()
