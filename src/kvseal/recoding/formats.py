"""
The stored formats: how a recode opens what it reads and seals what it writes.

A source turns an entry into a value and its expiry; a target can also seal.
kvseal's own records are both.  Re-encryption is a recode whose source and target
are the same keyring; a rollback exchanges the source and target of a migration.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, Final, Protocol

from kvseal import expiry
from kvseal.envelope.record import Header
from kvseal.envelope.stored import from_stored, is_sealed
from kvseal.errors import RecordError, SealedTwiceError
from kvseal.keys.keyring import codec_key
from kvseal.vault import inside_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Self

    from kvseal.drivers.base import Entry
    from kvseal.envelope.codec import RecordCodec
    from kvseal.legacy import LegacyCodec, SealingCodec
    from kvseal.vault.inside_names import Leads
    from kvseal.vault.vault import Vault

KVSEAL: Final = "kvseal"
UNDECODABLE: Final = "undecodable"


class Source(Protocol):
    """One stored format that a recode can open."""

    @property
    def format(self) -> str:
        """The name of the format in reports."""
        ...

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* has this format, under any key."""
        ...

    def open(self, entry: Entry) -> tuple[dict[str, Any], int | None]:
        """Return the value and the expiry to seal with it, in Unix milliseconds; or raise `RecordError`."""
        ...

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:
        """Return possible keys of an entry that opened to *value*; the store has to prove one."""
        ...


class Target(Source, Protocol):
    """The stored format that a recode writes."""

    @property
    def keeps_expiry(self) -> bool:
        """Whether the format contains an expiry, in addition to the backend's."""
        ...

    def is_current(self, stored: Mapping[str, Any]) -> bool:
        """Whether this target has nothing to change in *stored*, judged by its header alone."""
        ...

    def seal(self, value: Mapping[str, Any], entry: Entry, expires_at: int | None) -> dict[str, Any]:
        """Return what to store for *value* under the names of *entry*."""
        ...


class LegacySource:
    """A legacy format; the backend's expiry of an entry becomes the sealed expiry."""

    __slots__ = ("_codec",)

    def __init__(self, codec: LegacyCodec) -> None:
        self._codec = codec

    @property
    def format(self) -> str:
        """The codec's name."""
        return self._codec.format

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether the codec recognises *stored*."""
        return self._codec.recognises(stored)

    def open(self, entry: Entry) -> tuple[dict[str, Any], int | None]:
        """Return the value and the entry's own expiry."""
        expires_at = None if entry.expires_at is None else expiry.milliseconds(entry.expires_at)
        return self._codec.open(_stored(entry), entry.collection, entry.key), expires_at

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:
        """Return the candidates of the codec."""
        return self._codec.key_candidates(collection, value)


class RefusedSource:
    """A format that reports can name but that is never opened."""

    __slots__ = ("_codec", "_error")

    def __init__(self, codec: LegacyCodec, error: RecordError) -> None:
        self._codec = codec
        self._error = error

    @property
    def format(self) -> str:
        """The codec's name."""
        return self._codec.format

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether the codec recognises *stored*."""
        return self._codec.recognises(stored)

    def open(self, _: Entry) -> tuple[dict[str, Any], int | None]:
        """Raise the error that gives the reason."""
        raise self._error

    def key_candidates(self, _: str | None, __: Mapping[str, Any]) -> Iterable[str]:
        """Return nothing, because nothing was opened."""
        return ()


class LegacyTarget(LegacySource):
    """The target of a rollback: records that the old application reads."""

    __slots__ = ("_sealing",)

    keeps_expiry: Final = False

    def __init__(self, codec: SealingCodec) -> None:
        super().__init__(codec)
        self._sealing = codec

    def is_current(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* is a record of the codec's, under any key."""
        return self._sealing.recognises(stored)

    def seal(self, value: Mapping[str, Any], entry: Entry, _: int | None) -> dict[str, Any]:
        """Encrypt under the first key; only the backend keeps the expiry."""
        return self._sealing.seal(value, entry.collection, entry.key)


class SealedTarget:
    """
    kvseal's records under the current keyring; a sealed expiry does not change.

    *codec* is called at every use, so that the target follows a rotation of the DEK; its argument says
    whether the store that is written loses names.
    """

    __slots__ = ("_codec_for", "_loses_names")

    format: Final = KVSEAL
    keeps_expiry: Final = True

    def __init__(self, codec: Callable[[bool], RecordCodec], *, loses_names: bool = False) -> None:
        self._codec_for = codec
        self._loses_names = loses_names

    @classmethod
    def of(cls, vault: Vault, context: str = "") -> Self:
        """Return the target that seals as a wrapper with *vault* and *context* does."""
        return cls(lambda loses_names: vault.codecs[codec_key(context, loses_names=loses_names)])

    def on(self, *, loses_names: bool) -> Self:
        """Return the same target for a store that loses names, or keeps them."""
        same = copy(self)
        same._loses_names = loses_names  # noqa: SLF001 - its own, on the copy
        return same

    def _codec(self) -> RecordCodec:
        return self._codec_for(self._loses_names)

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* claims to be a kvseal record."""
        return is_sealed(stored)

    def is_current(self, stored: Mapping[str, Any]) -> bool:
        """Whether the header of *stored* names the active DEK, and has the flags that the store needs."""
        if not is_sealed(stored):
            return False
        try:
            return self._codec().is_current(stored)
        except RecordError:
            return False

    def located(self, entry: Entry, leads: Leads) -> Entry:
        """Return *entry* with the names that its record carries, if it has to have them from there."""
        return inside_names.located(self._codec(), entry, leads)

    def open(self, entry: Entry) -> tuple[dict[str, Any], int | None]:
        """Return the value and its sealed expiry."""
        return self._codec().open(_stored(entry), *_names(entry))

    def seal(self, value: Mapping[str, Any], entry: Entry, expires_at: int | None) -> dict[str, Any]:
        """Seal under the active DEK."""
        return self._codec().seal(value, *_names(entry), expires_at=expires_at)

    def key_candidates(self, _: str | None, __: Mapping[str, Any]) -> Iterable[str]:
        """Return nothing: a record does not open without its key."""
        return ()


class StrictSource(SealedTarget):
    """The same records, opened only in the one form that a writer gives them: what a proof reads."""

    __slots__ = ()

    def open(self, entry: Entry) -> tuple[dict[str, Any], int | None]:
        """Return the value and its sealed expiry."""
        return self._codec().verify(_stored(entry), *_names(entry))


def located(source: Source, entry: Entry, leads: Leads) -> Entry:
    """Return *entry* with the names that its record carries: see `kvseal.vault.inside_names`."""
    return source.located(entry, leads) if isinstance(source, SealedTarget) else entry


def anywhere(_: Entry, __: str, ___: str) -> bool:
    """Believe the names, for a caller that does nothing by them."""
    return True


def opened(source: Source, entry: Entry) -> tuple[dict[str, Any], int | None]:
    """
    Return what *source* makes of *entry*, if that is a value and no record again.

    A record inside is of a second wrapper, above the one that sealed it.  What is done to the outer one
    leaves the inner one under its own DEK, whose need no header shows.

    Raises:
        SealedTwiceError: it is a sealed record.
        RecordError: it does not open.
    """
    value, expires_at = source.open(entry)
    if is_sealed(value):
        msg = "its value is a sealed record itself, of a second wrapper above the one that sealed it"
        raise SealedTwiceError(msg, hint="read such values through both wrappers, and put them through one")
    return value, expires_at


def dek_of(stored: Mapping[str, Any]) -> int:
    """Return the DEK number in the header of a sealed record, or raise `RecordError`."""
    return Header.parse(from_stored(stored)).dek


def _stored(entry: Entry) -> Mapping[str, Any]:
    if entry.value is None:
        msg = f"an unreadable entry reached a codec: {entry.problem}"
        raise AssertionError(msg)
    return entry.value


def _names(entry: Entry) -> tuple[str, str]:
    if entry.collection is None or entry.key is None:
        msg = "the store does not keep its name, to which the record is bound, and it does not carry it"
        raise RecordError(msg, hint="let the application read it, or name it in a manifest: --manifest FILE")
    return entry.collection, entry.key
