"""
Every error kvseal raises, each a subclass of py-key-value's own.

* KvsealError
  + RecordError (DecryptionError): one record cannot be opened
    - MalformedRecordError (CorruptedDataError)
    - UnknownRecordVersionError (EncryptionVersionError)
      · UnknownSuiteError
      · UnknownFlagsError
    - UnknownDEKError
    - TamperedRecordError (CorruptedDataError)
    - LegacyRecordError
    - PlaintextRecordError
    - UnreadableRecordsError: several records of one call
  + MissingRecordError
  + UnsealableValueError (SerializationError)
  + ReservedNameError (InvalidKeyError)
  + VaultError (StoreSetupError): the vault as a whole
    - VaultNotFoundError
    - VaultExistsError
    - VaultMetaLostError
    - VaultMetaError
      · UnknownMetaVersionError
      · UnknownSlotKindError
      · TamperedMetaError
      · RolledBackMetaError
      · ForkedMetaError
    - DamagedSlotError
    - LastSlotError
    - SlotsLeftOutError
    - RootRotatedError
    - SlotExistsError
    - SlotNotFoundError
    - EvictingStoreError
    - ForeignVaultError
    - VaultLockedError
    - PinFileError
      · PinNotWrittenError
    - DEKNeededError
  + SecretError
    - WrongSecretError
    - EmptySecretError
    - MistypedSecretError
    - SecretReferenceError
    - SecretNotFoundError
    - ExposedSecretFileError
    - WrapKeyError
      · WrapKeyRefusedError
      · WrapKeyUnreachableError
  + KDFParametersError
  + StoreError (StoreConnectionError): the backend
    - StoreNotFoundError
    - StoreUnreachableError
      · StaleKeyringError
    - ManifestError
    - UnsupportedStoreError
      · UnsupportedStackError
    - Conflict
  + RecodeError
    - WrongLegacyKeyError
    - PlaintextFoundError
    - LeaseHeldError
  + BackupError
    - BackupFileError
    - MalformedBackupError
      · UnknownBackupVersionError
      · TruncatedBackupError
  + UsageError

`exit_code` is what vaultctl exits with; the codes are listed in `EXIT_CODES`.
No message contains a secret, a key or a plaintext value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from key_value.aio.errors import (
    BaseKeyValueError,
    CorruptedDataError,
    DecryptionError,
    EncryptionVersionError,
    InvalidKeyError,
    SerializationError,
    StoreConnectionError,
    StoreSetupError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_CODES: Final[dict[int, str]] = {
    0: "ok",
    1: "failed",
    2: "usage: something in the command, the environment or a file has to be changed first",
    3: "finished, but some records failed; each is named",
    4: "work is pending: --check has found it, or other writers made it meanwhile",
    10: "store, vault or key service absent or unreachable",
    11: "another run holds the lease",
    12: "no keyslot opens with this secret, or the key service refuses",
    130: "interrupted; run the same command again to resume",
}


class KvsealError(BaseKeyValueError):
    """
    Superclass of every kvseal error.  Never raised directly.

    `hint` is the next step in one sentence, or empty.
    """

    exit_code: ClassVar[int] = 1
    hint: str

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


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


class ReservedNameError(KvsealError, InvalidKeyError):
    """The name belongs to kvseal's own vault meta."""

    exit_code = 2


class VaultError(KvsealError, StoreSetupError):
    """The vault as a whole cannot be used."""


class VaultNotFoundError(VaultError):
    """The store holds no vault, and none was to be created."""

    exit_code = 10


class VaultExistsError(VaultError):
    """The store already holds a vault; a second one over it would orphan its records."""


class VaultMetaLostError(VaultError):
    """Sealed records exist but the vault meta that opens them is missing."""


class VaultMetaError(VaultError):
    """The vault meta is malformed."""


class UnknownMetaVersionError(VaultMetaError):
    """The vault meta is of a version that this kvseal does not read."""


class UnknownSlotKindError(VaultMetaError):
    """A keyslot is of a kind whose fields this kvseal does not know."""


class TamperedMetaError(VaultMetaError):
    """The vault meta was changed by something that does not hold the root key."""


class RolledBackMetaError(VaultMetaError):
    """The vault meta is older than one that this process, or its pin file, has already seen."""


class ForkedMetaError(VaultMetaError):
    """The vault meta cannot come after the pinned one: another of the same revision, or another vault's."""


class DamagedSlotError(VaultError):
    """The secret is right, but the keyslot's wrapped root key is damaged."""


class LastSlotError(VaultError):
    """The change would leave no usable keyslot that lasts."""


class SlotsLeftOutError(VaultError):
    """A rotation of the root key would drop keyslots whose secret was not given; each is named."""

    exit_code = 2


class RootRotatedError(VaultError):
    """The root key was rotated, and the secret that this process holds does not lead to the new one."""


class SlotExistsError(VaultError):
    """There already is a keyslot with this label."""

    exit_code = 2


class SlotNotFoundError(VaultError):
    """No keyslot, or more than one, has this id or label."""

    exit_code = 2


class EvictingStoreError(VaultError):
    """The store drops entries when it is full, and would drop the vault meta first."""


class ForeignVaultError(VaultError):
    """Another program keeps its own key record where the vault meta would be."""


class VaultLockedError(VaultError):
    """The keys of this vault are forgotten: by `lock()`, or because nobody used them for so long."""


class PinFileError(VaultError):
    """The pin file is damaged, not this user's alone, or out of reach; nothing is believed without it."""

    exit_code = 2


class PinNotWrittenError(PinFileError):
    """The pin file cannot be written; it still says what it said before."""


class DEKNeededError(VaultError):
    """A DEK cannot be retired: a record, a process or a recode may still need it."""


class SecretError(KvsealError):
    """The master secret cannot be used."""

    exit_code = 2


class WrongSecretError(SecretError):
    """No keyslot opens with this secret."""

    exit_code = 12


class EmptySecretError(SecretError):
    """The secret is empty."""


class MistypedSecretError(SecretError):
    """The secret has the form of a generated one but its checksum does not match."""


class SecretReferenceError(SecretError, ValueError):
    """The text is not a reference of the form `scheme:rest`."""


class SecretNotFoundError(SecretError):
    """The reference points at nothing, or no reference was given and none of the defaults exists."""


class ExposedSecretFileError(SecretError):
    """Others than its owner can read the key file."""


class WrapKeyError(SecretError):
    """The service that holds a wrap key answers with what cannot be used."""

    exit_code = 1


class WrapKeyRefusedError(WrapKeyError):
    """The service does not let this process use the wrap key, has disabled it, or has none of that name."""

    exit_code = 12


class WrapKeyUnreachableError(WrapKeyError):
    """The service that holds a wrap key does not answer, or answers that it cannot now."""

    exit_code = 10


class KDFParametersError(KvsealError, ValueError):
    """Argon2id parameters are outside the bounds that this process accepts."""


class StoreError(KvsealError, StoreConnectionError):
    """The backend cannot do what is needed."""


class StoreNotFoundError(StoreError):
    """There is no store at this place."""

    exit_code = 10


class StoreUnreachableError(StoreError):
    """The store does not answer, or answers with an error."""

    exit_code = 10


class StaleKeyringError(StoreUnreachableError):
    """Nobody could read the vault meta for so long that nothing is sealed with what it said then."""


class ManifestError(StoreError):
    """A manifest of names cannot be read."""

    exit_code = 2


class UnsupportedStoreError(StoreError):
    """kvseal has no driver for this store."""

    exit_code = 2


class UnsupportedStackError(UnsupportedStoreError):
    """A wrapper of this stack keeps a driver from every record as it lies, or forbids to write it."""


class Conflict(StoreError):  # noqa: N818 - the field's own word for a lost compare-and-swap
    """Somebody else changed the entry first; read it again and decide again."""


class RecodeError(KvsealError):
    """A recode cannot run."""


class WrongLegacyKeyError(RecodeError):
    """None of the legacy keys opens any of the sampled legacy records."""


class PlaintextFoundError(RecodeError):
    """The store holds plaintext, and the plan is to refuse it."""


class LeaseHeldError(RecodeError):
    """Another run works on this vault's records, or has taken this one's part over."""

    exit_code = 11


class BackupError(KvsealError):
    """A backup cannot be taken, or cannot be restored."""


class BackupFileError(BackupError):
    """The file cannot be opened, read or written, or there is one of that name already."""

    exit_code = 2


class MalformedBackupError(BackupError):
    """The file is no backup, or a damaged one; nothing of it is believed."""


class UnknownBackupVersionError(MalformedBackupError):
    """The backup is of a format version that this kvseal does not read."""


class TruncatedBackupError(MalformedBackupError):
    """The end of the backup is missing."""


class UsageError(KvsealError):
    """The command was called in a way that cannot work."""

    exit_code = 2
