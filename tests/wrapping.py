"""The wrapper over the very store that a vault was opened from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvseal import EnvelopeEncryptionWrapper

if TYPE_CHECKING:
    from kvseal import Vault


def wrapped(vault: Vault, **options: Any) -> EnvelopeEncryptionWrapper:
    """Return the store of *vault*, whose vault meta is there too, with its values sealed."""
    store: Any = vault.metastore.store
    return EnvelopeEncryptionWrapper(store, vault=vault, **options)
