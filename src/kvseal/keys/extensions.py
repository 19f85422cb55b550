"""
Parts of a vault meta that later releases of kvseal add to it.

A release that does not know a part keeps it value for value in every change.  A part whose meaning it
would have to know, to seal or to change anything, is critical: such a release reads on, and seals and
changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from kvseal.errors import UnknownExtensionError, VaultError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from typing_extensions import Self

MAX_PARTS: Final = 32
MAX_SIZE: Final = 64 * 1024
"""Bytes of the canonical JSON of all parts."""
MAX_DEPTH: Final = 8
"""Objects and arrays inside each other, `ext` itself counted."""
KNOWN: Final[frozenset[str]] = frozenset()
"""The names of the parts whose meaning this release knows."""

_NOTHING: Final = object()
_EXT: Final = "ext"
_CRIT: Final = "crit"
_SINCE: Final = "since"
_MAX_INTEGER: Final = 2**53 - 1
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_KEY: Final = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
_RELEASE: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Extensions:
    """
    The parts, as their RFC 8785 canonical JSON, and the names of the critical ones, sorted.

    Bytes keep what this release does not know exactly as it is.
    """

    canonical: bytes = b"{}"
    critical: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        """Read `ext` and `crit` of *meta*; raises `TypeError` or `ValueError` for anything malformed."""
        parts = _present(meta, _EXT, dict)
        critical = _present(meta, _CRIT, list)
        if len(parts) > MAX_PARTS or not all(_NAME.fullmatch(name) for name in parts):
            raise _malformed()
        _check(parts, _NAME, 1)
        if sorted(set(critical)) != critical or not all(_is_critical(parts.get(name)) for name in critical):
            raise _malformed()
        canonical = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
        if len(canonical) > MAX_SIZE:
            raise _malformed()
        return cls(canonical, tuple(critical))

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the vault meta: neither is there while there is no part."""
        parts = self.parts
        critical = {_CRIT: list(self.critical)} if self.critical else {}
        return {_EXT: parts, **critical} if parts else {}

    @property
    def parts(self) -> dict[str, Any]:
        """Every part by its name, for a caller that may keep what it gets."""
        parts: dict[str, Any] = orjson.loads(self.canonical)
        return parts

    def without(self, name: str) -> Extensions:
        """Return these without the part *name*; raises `VaultError` where it is not there."""
        parts = self.parts
        if parts.pop(name, _NOTHING) is _NOTHING:
            msg = f"the vault meta has no extension {name!r}"
            raise VaultError(msg, hint="vaultctl status names those that it has")
        critical = tuple(other for other in self.critical if other != name)
        return Extensions(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS), critical)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names of the critical parts whose meaning this release does not know."""
        return tuple(name for name in self.critical if name not in KNOWN)

    def refusal(self) -> UnknownExtensionError | None:
        """Return why this release may not seal or change anything, or `None` where it may."""
        unknown = self.unknown
        if not unknown:
            return None
        parts = self.parts
        needed = max((parts[name][_SINCE] for name in unknown), key=_release)
        names = ", ".join(unknown)
        msg = f"the vault meta has what only kvseal {needed} or newer knows: {names}"
        return UnknownExtensionError(
            f"{msg}; nothing is sealed or changed",
            hint=f"upgrade kvseal to {needed}; until then records are read as before",
        )


NO_EXTENSIONS: Final = Extensions()


def _present(meta: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """Return the field *name* of *meta*, which is absent where it would be empty."""
    if name not in meta:
        return kind()
    value = meta[name]
    if type(value) is not kind or not value:
        raise _malformed()
    return value


def _check(value: Any, names: re.Pattern[str], depth: int) -> None:
    """Raise unless *value* is JSON of the kind that every canonical encoder writes alike."""
    inside: Iterable[Any] = ()
    if type(value) is dict:
        right = depth <= MAX_DEPTH and all(type(key) is str and names.fullmatch(key) for key in value)
        inside = value.values()
    elif type(value) is list:
        right, inside = depth <= MAX_DEPTH, value
    elif type(value) is int:
        right = abs(value) <= _MAX_INTEGER
    else:
        right = value is None or type(value) in {bool, str}
    if not right:
        raise _malformed()
    for inner in inside:
        _check(inner, _KEY, depth + 1)


def _is_critical(part: Any) -> bool:
    """Whether *part* says which release knows it, as a critical one has to."""
    return type(part) is dict and type(part.get(_SINCE)) is str and bool(_RELEASE.fullmatch(part[_SINCE]))


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _malformed() -> ValueError:
    return ValueError("not extensions of this version")
