"""
How a recode opens what it finds and seals what it writes.

A source turns an entry into a value and its expiry; a target can seal as well.
kvseal's own records are both, so re-encryption is a recode whose source and
target are the same keyring, and a rollback is one with the two exchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from kvseal import expiry
from kvseal.envelope.record import Header
from kvseal.envelope.stored import from_stored, is_sealed
from kvseal.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Self

    from kvseal.drivers.base import Entry
    from kvseal.envelope.codec import RecordCodec
    from kvseal.legacy import FernetCodec, LegacyCodec
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
        """Whether *stored* has this format, whichever key it takes."""
        ...

    def open(self, entry: Entry) -> tuple[dict[str, Any], int | None]:
        """Return the value and the expiry to seal with it, in Unix milliseconds; or raise `RecordError`."""
        ...

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:
        """Return what may be the key of an entry that opened to *value*; the store has to prove it."""
        ...


class Target(Source, Protocol):
    """The stored format that a recode writes."""

    @property
    def keeps_expiry(self) -> bool:
        """Whether the format holds an expiry of its own, beside the backend's."""
        ...

    def is_current(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* is what this target would write: a look at the header, nothing is opened."""
        ...

    def seal(self, value: Mapping[str, Any], entry: Entry, expires_at: int | None) -> dict[str, Any]:
        """Return what to store for *value* under the names of *entry*."""
        ...


class LegacySource:
    """A legacy format; the expiry that its entries have on the backend becomes the sealed one."""

    __slots__ = ("_codec",)

    def __init__(self, codec: LegacyCodec) -> None:
        self._codec = codec

    @property
    def format(self) -> str:
        """The codec's name."""
        return self._codec.format

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether the codec does."""
        return self._codec.recognises(stored)

    def open(self, entry: Entry) -> tuple[dict[str, Any], int | None]:
        """Return the value and the entry's own expiry."""
        expires_at = None if entry.expires_at is None else expiry.milliseconds(entry.expires_at)
        return self._codec.open(_stored(entry)), expires_at

    def key_candidates(self, collection: str | None, value: Mapping[str, Any]) -> Iterable[str]:
        """Return what the codec knows."""
        return self._codec.key_candidates(collection, value)


class RefusedSource:
    """A format that is recognised, so that it has its name in reports, but never opened."""

    __slots__ = ("_codec", "_error")

    def __init__(self, codec: LegacyCodec, error: RecordError) -> None:
        self._codec = codec
        self._error = error

    @property
    def format(self) -> str:
        """The codec's name."""
        return self._codec.format

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether the codec does."""
        return self._codec.recognises(stored)

    def open(self, _: Entry) -> tuple[dict[str, Any], int | None]:
        """Raise the error that says why not."""
        raise self._error

    def key_candidates(self, _: str | None, __: Mapping[str, Any]) -> Iterable[str]:
        """Return nothing: nothing was opened."""
        return ()


class FernetTarget(LegacySource):
    """Records that py-key-value's own Fernet wrapper reads: the way back."""

    __slots__ = ("_fernet",)

    keeps_expiry: Final = False

    def __init__(self, codec: FernetCodec) -> None:
        super().__init__(codec)
        self._fernet = codec

    def is_current(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* is a Fernet record, whichever key it takes."""
        return self._fernet.recognises(stored)

    def seal(self, value: Mapping[str, Any], _: Entry, __: int | None) -> dict[str, Any]:
        """Encrypt under the first key; the expiry is left to the backend, as that wrapper does."""
        return self._fernet.seal(value)


class SealedTarget:
    """
    kvseal's records under the keyring of the moment; the expiry that was sealed stays.

    *codec* is asked at every use, so that a DEK which is rotated meanwhile is taken up.
    """

    __slots__ = ("_codec",)

    format: Final = KVSEAL
    keeps_expiry: Final = True

    def __init__(self, codec: Callable[[], RecordCodec]) -> None:
        self._codec = codec

    @classmethod
    def of(cls, vault: Vault, context: str = "") -> Self:
        """Return the target that seals as a wrapper of *vault* and *context* does."""
        return cls(lambda: vault.codecs[context])

    def recognises(self, stored: Mapping[str, Any]) -> bool:
        """Whether *stored* claims to be a kvseal record."""
        return is_sealed(stored)

    def is_current(self, stored: Mapping[str, Any]) -> bool:
        """Whether the active DEK sealed *stored*, by its header."""
        if not is_sealed(stored):
            return False
        try:
            return Header.parse(from_stored(stored)).dek == self._codec().active_dek
        except RecordError:
            return False

    def open(self, entry: Entry) -> tuple[dict[str, Any], int | None]:
        """Return the value and its sealed expiry."""
        return self._codec().open(_stored(entry), *_names(entry))

    def seal(self, value: Mapping[str, Any], entry: Entry, expires_at: int | None) -> dict[str, Any]:
        """Seal under the active DEK."""
        return self._codec().seal(value, *_names(entry), expires_at=expires_at)

    def key_candidates(self, _: str | None, __: Mapping[str, Any]) -> Iterable[str]:
        """Return nothing: without its key, a record does not open."""
        return ()


class StrictSource(SealedTarget):
    """The same records, opened only in the one form that a writer gives them: what a proof reads."""

    __slots__ = ()

    def open(self, entry: Entry) -> tuple[dict[str, Any], int | None]:
        """Return the value and its sealed expiry."""
        return self._codec().verify(_stored(entry), *_names(entry))


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
        msg = "the store does not keep its name, which it is bound to"
        raise RecordError(msg, hint="name it in a manifest: --manifest FILE")
    return entry.collection, entry.key
