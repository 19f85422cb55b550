"""Codecs of the formats that kvseal takes over, and the one table of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvseal.errors import VaultError
from kvseal.legacy.authsome import ENVELOPE as AUTHSOME
from kvseal.legacy.authsome import FLAT as AUTHSOME_FLAT
from kvseal.legacy.authsome import AuthsomeCodec, AuthsomeControlCodec, AuthsomeFlatCodec
from kvseal.legacy.base import LegacyCodec, SealingCodec
from kvseal.legacy.fastmcp import FastMCPCodec
from kvseal.legacy.fernet import KIND as FERNET
from kvseal.legacy.fernet import FernetCodec
from kvseal.legacy.plaintext import PlaintextCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "AUTHSOME",
    "AUTHSOME_FLAT",
    "CODECS",
    "FERNET",
    "AuthsomeCodec",
    "AuthsomeControlCodec",
    "AuthsomeFlatCodec",
    "FastMCPCodec",
    "FernetCodec",
    "LegacyCodec",
    "PlaintextCodec",
    "SealingCodec",
    "codecs_for",
]

CODECS: Final[dict[str, Callable[[Sequence[bytes]], LegacyCodec]]] = {
    FERNET: FernetCodec,
    AUTHSOME: AuthsomeCodec,
    AUTHSOME_FLAT: AuthsomeFlatCodec,
}
"""Kind of a legacy key → the codec that takes keys of this kind, in order."""


def codecs_for(keys: Iterable[tuple[str, bytes]]) -> tuple[LegacyCodec, ...]:
    """
    Return one codec for each kind among (kind, key) pairs; the order of the keys is kept.

    Raises:
        VaultError: a later kvseal wrote a key of a kind that this one does not know.
    """
    by_kind: dict[str, list[bytes]] = {}
    for kind, key in keys:
        if kind not in CODECS:
            msg = f"the vault holds a legacy key of kind {kind!r}, which this kvseal does not know"
            raise VaultError(msg, hint="upgrade kvseal")
        by_kind.setdefault(kind, []).append(key)
    return tuple(CODECS[kind](of_kind) for kind, of_kind in by_kind.items())
