"""
Envelope encryption over any py-key-value store, with key rotation and migration.

>>> from kvseal import EnvelopeEncryptionWrapper
>>> kv = EnvelopeEncryptionWrapper(key_value=store, secret="env:KVSEAL_MASTER_KEY")

Backwards compatibility: whatever a released kvseal has written, every later one reads.
"""

import typing

from kvseal import lazy

if typing.TYPE_CHECKING:
    from kvseal.drivers.purging import purge
    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.errors import KvsealError, RecordError
    from kvseal.keys.policy import Policy
    from kvseal.recoding.census import verify
    from kvseal.recoding.engine import recode
    from kvseal.records.wrapper import EnvelopeEncryptionWrapper
    from kvseal.secrets.secret import Secret
    from kvseal.vault.vault import Vault
else:
    __getattr__, __dir__ = lazy.names(
        __name__,
        {
            ".drivers.purging": ("purge",),
            ".envelope.kdf": ("Argon2idParams",),
            ".errors": (
                "KvsealError",
                "RecordError",
            ),
            ".keys.policy": ("Policy",),
            ".recoding.census": ("verify",),
            ".recoding.engine": ("recode",),
            ".records.wrapper": ("EnvelopeEncryptionWrapper",),
            ".secrets.secret": ("Secret",),
            ".vault.vault": ("Vault",),
        },
    )

__all__ = [
    "Argon2idParams",
    "EnvelopeEncryptionWrapper",
    "KvsealError",
    "Policy",
    "RecordError",
    "Secret",
    "Vault",
    "purge",
    "recode",
    "verify",
]
