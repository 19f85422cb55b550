"""Errors about one record, or about the value or name that was to become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from key_value.aio.errors import (
    CorruptedDataError,
    DecryptionError,
    EncryptionVersionError,
    InvalidKeyError,
    SerializationError,
)

from kvseal.errors.base import KvsealError
from kvseal.errors.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence


class RecordError(KvsealError, DecryptionError):
    """One record cannot be opened; `collection` and `key` are its names at the base store."""

    def __init__(
        self, message: str, *, collection: str | None = None, key: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.collection = collection
        self.key = key

    def at(self, collection: str | None, key: str | None) -> RecordError:
        """Return this error with the names of the record it is about."""
        self.collection, self.key = collection, key
        return self

    def __str__(self) -> str:
        text = self.message or type(self).__name__
        return text if self.key is None else f"{text} (collection {self.collection!r}, key {self.key!r})"


class MalformedRecordError(RecordError, CorruptedDataError):
    """What is stored is not one valid encoding of a record: truncated, padded or not base64."""


class UnknownRecordVersionError(RecordError, EncryptionVersionError):
    """The record is of a format version that this kvseal does not read."""


class UnknownSuiteError(UnknownRecordVersionError):
    """The record is sealed with a cipher suite that this kvseal does not know."""


class UnknownFlagsError(UnknownRecordVersionError):
    """The record header has flags that this kvseal does not know."""


class UnknownDEKError(RecordError):
    """The record names a DEK that is not in this vault."""


class TamperedRecordError(RecordError, CorruptedDataError):
    """The record was changed, or was sealed for another name, context or vault."""


class MovedRecordError(TamperedRecordError):
    """The record carries its names, and they are not those of the place where it was found."""


class SealedTwiceError(RecordError):
    """The value in the record is a sealed record itself: two wrappers seal, one above the other."""


class LegacyRecordError(RecordError):
    """The record was written by something other than kvseal, and policy does not read such records."""


class PlaintextRecordError(RecordError):
    """The record is not encrypted at all, and policy does not read such records."""


class UnreadableRecordsError(RecordError):
    """Some records of a `get_many` or `ttl_many` cannot be opened; `errors` has one error for each."""

    def __init__(self, errors: Sequence[RecordError], total: int) -> None:
        lines = "".join(f"\n  {type(error).__name__}: {error}" for error in errors)
        super().__init__(f"{len(errors)} of {total} records cannot be opened:{lines}")
        self.errors = tuple(errors)
        self.total = total

    def __reduce__(self) -> tuple[type[UnreadableRecordsError], tuple[tuple[RecordError, ...], int]]:
        return type(self), (self.errors, self.total)


class MissingRecordError(KvsealError):
    """There is no such record, or it has expired."""


class UnsealableValueError(KvsealError, SerializationError):
    """JSON cannot hold the value, so it would not come back as it was put."""


class EntryTooLargeError(UnsealableValueError):
    """The store cannot hold an entry as large as this one would become."""


class ReservedNameError(KvsealError, InvalidKeyError):
    """The name belongs to the vault itself, or leads to another place than its own in this store."""

    exit_code = ExitCode.USAGE
