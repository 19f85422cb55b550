"""
Keys as the vault meta stores them: DEKs and legacy keys, each wrapped under the root key.

Reading raises `KeyError`, `TypeError` or `ValueError` for anything that no writer writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pybase64 import b64decode, b64encode_as_string

from kvseal.envelope.wrapping import WrappedKey
from kvseal.keys.stamps import time_of, time_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

DEKState = Literal["active", "readable", "retired"]

SECOND_DEK: Final = "kvseal-dek"
"""The kind of a held key that is a DEK."""

ID: Final = re.compile(r"[0-9a-f]{16}")
"""The id of a slot or of a held key."""
_LEGACY_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class WrappedDEK:
    """One numbered DEK at rest; a retired one keeps its wrap for a while, and its number for ever."""

    number: int
    state: DEKState
    created_at: datetime
    wrapped: WrappedKey | None
    retired_at: datetime | None = None
    """`None` as long as it is not retired; and for one that was dropped before this was stamped."""

    @property
    def is_consistent(self) -> bool:
        """Whether its state, its wrap and its stamps go together."""
        if self.state == "retired":
            return self.wrapped is None or self.retired_at is not None
        return self.wrapped is not None and self.retired_at is None


@dataclass(frozen=True, slots=True)
class WrappedLegacyKey:
    """A key of another format, held so that every process can read old records during a migration."""

    id: str
    kind: str
    created_at: datetime
    wrapped: WrappedKey
    ended_at: datetime | None = None
    """Since when it opens nothing; it stays wrapped for a while, should old records appear after all."""

    @property
    def opens_old(self) -> bool:
        """Whether it opens records in an old format: it is no DEK, and reads with it have not ended."""
        return self.kind != SECOND_DEK and self.ended_at is None

    @property
    def second_dek(self) -> int | None:
        """The number of the DEK that lost it to another one, if it is one: see `docs/format.md`."""
        return int(self.id[:8], 16) if self.kind == SECOND_DEK else None


def dek_of(value: Mapping[str, Any]) -> WrappedDEK:
    """Return the DEK that `dek_json` wrote."""
    state = value["state"]
    if state not in {"active", "readable", "retired"} or type(value["number"]) is not int:
        msg = "not a DEK of this version"
        raise ValueError(msg)
    wrapped = None if state == "retired" and "wrapped" not in value else wrapped_of(value)
    retired_at = time_of(value["retired_at"]) if "retired_at" in value else None
    return WrappedDEK(value["number"], state, time_of(value["created_at"]), wrapped, retired_at)


def dek_json(dek: WrappedDEK) -> dict[str, Any]:
    """Return *dek* as the vault meta stores it."""
    retired = {} if dek.retired_at is None else {"retired_at": time_text(dek.retired_at)}
    wrapped = {} if dek.wrapped is None else wrapped_json(dek.wrapped)
    stamps = {"created_at": time_text(dek.created_at), **retired}
    return {"number": dek.number, "state": dek.state, **stamps, **wrapped}


def legacy_of(value: Mapping[str, Any]) -> WrappedLegacyKey:
    """Return the held key that `legacy_json` wrote."""
    identifier, kind = text_of(value["id"]), text_of(value["kind"])
    if not ID.fullmatch(identifier) or not _LEGACY_KIND.fullmatch(kind):
        msg = "not a legacy key of this version"
        raise ValueError(msg)
    ended_at = time_of(value["ended_at"]) if "ended_at" in value else None
    if kind == SECOND_DEK and ended_at is not None:
        msg = "reads with a DEK do not end"
        raise ValueError(msg)
    return WrappedLegacyKey(identifier, kind, time_of(value["created_at"]), wrapped_of(value), ended_at)


def legacy_json(key: WrappedLegacyKey) -> dict[str, Any]:
    """Return *key* as the vault meta stores it."""
    ended = {} if key.ended_at is None else {"ended_at": time_text(key.ended_at)}
    stamps = {"created_at": time_text(key.created_at), **ended}
    return {"id": key.id, "kind": key.kind, **stamps, **wrapped_json(key.wrapped)}


def wrapped_of(value: Mapping[str, Any]) -> WrappedKey:
    """Return the wrapped key whose three fields lie flat in *value*."""
    return WrappedKey(bytes_of(value["commitment"]), bytes_of(value["nonce"]), bytes_of(value["wrapped"]))


def wrapped_json(wrapped: WrappedKey) -> dict[str, str]:
    """Return the three fields of *wrapped*."""
    return {
        "commitment": b64encode_as_string(wrapped.commitment),
        "nonce": b64encode_as_string(wrapped.nonce),
        "wrapped": b64encode_as_string(wrapped.ciphertext),
    }


def bytes_of(text: str) -> bytes:
    """Return what *text* is the standard base64 of."""
    return b64decode(text_of(text), None, True)


def text_of(value: object) -> str:
    """Return *value*, or raise `TypeError` where it is no text."""
    if type(value) is not str:
        msg = "not text"
        raise TypeError(msg)
    return value
