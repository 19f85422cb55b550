"""
Envelope encryption over any py-key-value store, with key rotation and migration.

>>> from kvseal import EnvelopeEncryptionWrapper
>>> kv = EnvelopeEncryptionWrapper(key_value=store, secret="env:KVSEAL_MASTER_KEY")

Backwards compatibility: whatever a released kvseal has written, every later one reads.
"""

from kvseal.envelope.kdf import Argon2idParams
from kvseal.errors import KvsealError, RecordError
from kvseal.keys.policy import Policy
from kvseal.keys.secret import Secret
from kvseal.purging import purge
from kvseal.recode.engine import recode
from kvseal.recode.verify import verify
from kvseal.vault import Vault
from kvseal.wrapper import EnvelopeEncryptionWrapper

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
