"""
`python:MODULE:CODEC`: a codec that a developer has written, for a format that kvseal does not know.

    class Codec:
        def __init__(self, keys: Sequence[bytes]) -> None: ...
        def open(self, stored: dict, collection: str | None, key: str | None) -> dict: ...
        # as you like:
        def recognises(self, stored: dict) -> bool: ...
        def seal(self, value: dict, collection: str | None, key: str | None) -> dict: ...

`keys` are the bytes that the references of `--key`, or of a recipe's `keys`, point at.  `open` returns the
value, and raises whatever it likes where the record does not open: nothing of that is repeated but the name
of its class.  A name is `None` where the store does not keep it.  Without `recognises`, every entry that
kvseal has not sealed is of this format.  With `seal` there is a way back.  One object is called from
several threads.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from kvseal.envelope.stored import is_sealed
from kvseal.errors import MalformedRecordError, TamperedRecordError, UnsealableValueError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SCHEME: Final = "python:"

_EVERYTHING: Final = (Exception, SystemExit)
"""What a codec may raise: a process is not ended by a record."""


class Codec(Protocol):
    """What has to be there; `recognises` and `seal` may be."""

    def open(self, stored: dict[str, Any], collection: str | None, key: str | None) -> dict[str, Any]:
        """Return the value, or raise."""
        ...


class ForeignCodec:
    """The codec that *location*, `MODULE:CODEC`, names, with everything that it raises translated."""

    __slots__ = ("_codec", "format")

    def __init__(self, location: str, keys: Sequence[bytes]) -> None:
        """
        Load and make it.

        Raises:
            UsageError: there is no such class, it cannot be made of these keys, or it cannot open.
        """
        self.format = location
        failure = ""
        try:
            self._codec: Codec = _loaded(location)(tuple(keys))
        except _EVERYTHING as exc:
            failure = type(exc).__name__
        if failure:
            msg = f"the codec python:{location} cannot be loaded and made of these keys ({failure})"
            raise UsageError(msg, hint="write python:MODULE:CODEC, and try CODEC(keys) in Python")
        if not callable(getattr(self._codec, "open", None)):
            msg = f"the codec python:{location} has no method open(stored, collection, key)"
            raise UsageError(msg, hint="docs/legacy-codecs.md has a complete example")

    @property
    def seals(self) -> bool:
        """Whether there is a way back."""
        return callable(getattr(self._codec, "seal", None))

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether the codec says so; without its word, whether kvseal has not sealed *stored*."""
        if is_sealed(stored):
            return False
        judge = getattr(self._codec, "recognises", None)
        if judge is None:
            return True
        try:
            return bool(judge(deepcopy(dict(stored))))
        except _EVERYTHING:
            return False

    def open(
        self, stored: Mapping[str, Any], collection: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """
        Return the value.

        Raises:
            TamperedRecordError: the codec raised something.
            MalformedRecordError: what it returned is no JSON object.
        """
        failure: str = ""
        value: Any = None
        try:
            value = self._codec.open(deepcopy(dict(stored)), collection, key)
        except _EVERYTHING as exc:
            failure = type(exc).__name__
        if failure:
            msg = f"the codec {self.format} does not open the record ({failure})"
            raise TamperedRecordError(msg)
        return self._checked(value, MalformedRecordError)

    def key_candidates(self, _: str | None, __: Mapping[str, Any]) -> Iterable[str]:
        """Return nothing: what applications keep in their values is not known."""
        return ()

    def seal(
        self, value: Mapping[str, Any], collection: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """
        Return the record that the codec makes, which it also opens to *value* again.

        Raises:
            UnsealableValueError: the codec raised something, or does not read what it wrote.
        """
        failure: str = ""
        stored: Any = None
        opened: Any = None
        try:
            # Of a protocol whose other method is not required.
            stored = self._codec.seal(deepcopy(dict(value)), collection, key)  # type: ignore[attr-defined]
            opened = self._codec.open(deepcopy(stored), collection, key)
        except _EVERYTHING as exc:
            failure = type(exc).__name__
        if failure or opened != value:
            msg = (
                f"the codec {self.format} does not seal the value ({failure or 'it reads another one back'})"
            )
            raise UnsealableValueError(msg, hint="keep the record sealed, or mend the codec")
        return self._checked(stored, UnsealableValueError)

    def _checked(
        self, value: Any, error: type[MalformedRecordError | UnsealableValueError]
    ) -> dict[str, Any]:
        if type(value) is not dict or not all(type(name) is str for name in value):
            msg = f"the codec {self.format} returned no dictionary with names of text"
            raise error(msg)
        return value


def _loaded(location: str) -> Any:
    module, _, name = location.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        # As with `python -m`, an application that is not installed is found where one stands.
        sys.path.insert(0, here)
    return getattr(import_module(module), name)
