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
      · MovedRecordError
    - SealedTwiceError
    - LegacyRecordError
    - PlaintextRecordError
    - UnreadableRecordsError: several records of one call
  + MissingRecordError
  + UnsealableValueError (SerializationError)
    - EntryTooLargeError
  + ReservedNameError (InvalidKeyError)
  + VaultError (StoreSetupError): the vault as a whole
    - VaultNotFoundError
    - VaultExistsError
    - VaultMetaLostError
    - RefutedKeyringError
    - VaultMetaError
      · UnknownMetaVersionError
      · UnknownSlotKindError
      · TamperedMetaError
      · RolledBackMetaError
      · ForkedMetaError
    - UnknownExtensionError
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
    - VaultHeldError
      · HoldNotPermittedError
    - DEKNeededError
    - ClocksApartError
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

`exit_code` is what vaultctl exits with, one of `ExitCode`.
No message contains a secret, a key or a plaintext value.
"""

from kvseal.errors.base import KvsealError
from kvseal.errors.exit_codes import ExitCode
from kvseal.errors.records import (
    EntryTooLargeError,
    LegacyRecordError,
    MalformedRecordError,
    MissingRecordError,
    MovedRecordError,
    PlaintextRecordError,
    RecordError,
    ReservedNameError,
    SealedTwiceError,
    TamperedRecordError,
    UnknownDEKError,
    UnknownFlagsError,
    UnknownRecordVersionError,
    UnknownSuiteError,
    UnreadableRecordsError,
    UnsealableValueError,
)
from kvseal.errors.secrets import (
    EmptySecretError,
    ExposedSecretFileError,
    KDFParametersError,
    MistypedSecretError,
    SecretError,
    SecretNotFoundError,
    SecretReferenceError,
    WrapKeyError,
    WrapKeyRefusedError,
    WrapKeyUnreachableError,
    WrongSecretError,
)
from kvseal.errors.stores import (
    Conflict,
    ManifestError,
    StaleKeyringError,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsupportedStackError,
    UnsupportedStoreError,
)
from kvseal.errors.tools import (
    BackupError,
    BackupFileError,
    LeaseHeldError,
    MalformedBackupError,
    PlaintextFoundError,
    RecodeError,
    TruncatedBackupError,
    UnknownBackupVersionError,
    UsageError,
    WrongLegacyKeyError,
)
from kvseal.errors.vault import (
    ClocksApartError,
    DamagedSlotError,
    DEKNeededError,
    EvictingStoreError,
    ForeignVaultError,
    ForkedMetaError,
    HoldNotPermittedError,
    LastSlotError,
    PinFileError,
    PinNotWrittenError,
    RefutedKeyringError,
    RolledBackMetaError,
    RootRotatedError,
    SlotExistsError,
    SlotNotFoundError,
    SlotsLeftOutError,
    TamperedMetaError,
    UnknownExtensionError,
    UnknownMetaVersionError,
    UnknownSlotKindError,
    VaultError,
    VaultExistsError,
    VaultHeldError,
    VaultLockedError,
    VaultMetaError,
    VaultMetaLostError,
    VaultNotFoundError,
)

__all__ = [
    "BackupError",
    "BackupFileError",
    "ClocksApartError",
    "Conflict",
    "DEKNeededError",
    "DamagedSlotError",
    "EmptySecretError",
    "EntryTooLargeError",
    "EvictingStoreError",
    "ExitCode",
    "ExposedSecretFileError",
    "ForeignVaultError",
    "ForkedMetaError",
    "HoldNotPermittedError",
    "KDFParametersError",
    "KvsealError",
    "LastSlotError",
    "LeaseHeldError",
    "LegacyRecordError",
    "MalformedBackupError",
    "MalformedRecordError",
    "ManifestError",
    "MissingRecordError",
    "MistypedSecretError",
    "MovedRecordError",
    "PinFileError",
    "PinNotWrittenError",
    "PlaintextFoundError",
    "PlaintextRecordError",
    "RecodeError",
    "RecordError",
    "RefutedKeyringError",
    "ReservedNameError",
    "RolledBackMetaError",
    "RootRotatedError",
    "SealedTwiceError",
    "SecretError",
    "SecretNotFoundError",
    "SecretReferenceError",
    "SlotExistsError",
    "SlotNotFoundError",
    "SlotsLeftOutError",
    "StaleKeyringError",
    "StoreError",
    "StoreNotFoundError",
    "StoreUnreachableError",
    "TamperedMetaError",
    "TamperedRecordError",
    "TruncatedBackupError",
    "UnknownBackupVersionError",
    "UnknownDEKError",
    "UnknownExtensionError",
    "UnknownFlagsError",
    "UnknownMetaVersionError",
    "UnknownRecordVersionError",
    "UnknownSlotKindError",
    "UnknownSuiteError",
    "UnreadableRecordsError",
    "UnsealableValueError",
    "UnsupportedStackError",
    "UnsupportedStoreError",
    "UsageError",
    "VaultError",
    "VaultExistsError",
    "VaultHeldError",
    "VaultLockedError",
    "VaultMetaError",
    "VaultMetaLostError",
    "VaultNotFoundError",
    "WrapKeyError",
    "WrapKeyRefusedError",
    "WrapKeyUnreachableError",
    "WrongLegacyKeyError",
    "WrongSecretError",
]
