"""Whose store this looks like, by what anybody can see in it: for the hint of an error, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvseal.legacy.authsome import AuthsomeCodec, AuthsomeFlatCodec
from kvseal.legacy.fastmcp import KEY_FIELDS, URL_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Mapping

_SERVER: Final = (
    "the collections are those of a FastMCP server: give its --fastmcp-signing-key, or its"
    " --fastmcp-client-secret if it was started without a signing key"
)
_CLIENT: Final = "the collections are those of a FastMCP client: give its --fastmcp-encryption-key"
_AUTHSOME: Final = "the records have the form of authsome's: use vaultctl migrate-from-authsome"

_SERVER_COLLECTIONS: Final = frozenset(
    {*KEY_FIELDS, "mcp-consent-csrf-tokens", "mcp-refresh-tokens", "fastmcp_streams"}
)
_AUTHSOME_CODECS: Final = (AuthsomeFlatCodec(()), AuthsomeCodec(()))


class Likeness:
    """What the entries that it has been shown look like."""

    __slots__ = ("_hint",)

    def __init__(self) -> None:
        self._hint = ""

    @property
    def hint(self) -> str:
        """Which option fits, or nothing."""
        return self._hint

    @property
    def is_authsome(self) -> bool:
        """Whether they look like authsome's."""
        return self._hint == _AUTHSOME

    def look(self, collection: str | None, value: Mapping[str, Any]) -> None:
        """Take one stored entry into account; the first that is like a known program's decides."""
        if self._hint:
            return
        if collection in URL_SUFFIXES:
            self._hint = _CLIENT
        elif collection in _SERVER_COLLECTIONS:
            self._hint = _SERVER
        elif any(codec.recognises(value) for codec in _AUTHSOME_CODECS):
            self._hint = _AUTHSOME
