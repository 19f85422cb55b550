"""The DEKs that records of a backup need, and those that a vault has for them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kvseal.envelope.record import Header
from kvseal.envelope.stored import from_stored
from kvseal.errors import RecordError, VaultMetaError
from kvseal.keys.meta import VaultMeta, is_vault_meta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.drivers.base import Entry
    from kvseal.keys.wrapped_keys import WrappedDEK


def dek_of(value: Mapping[str, Any]) -> int | None:
    """Return the DEK in the header of a sealed record, `None` where it has none that can be read."""
    with suppress(RecordError):
        return Header.parse(from_stored(value)).dek
    return None


def meta_in(entry: Entry | None) -> VaultMeta | None:
    """Return the vault meta in *entry*, `None` where it is none."""
    if entry is None or entry.value is None or not is_vault_meta(entry.value):
        return None
    return VaultMeta.from_value(entry.value)


def usable_deks(present: VaultMeta, saved: VaultMeta | None) -> frozenset[int]:
    """
    Return the DEKs that *present* has, has not retired, and that are the same ones in *saved*.

    A number proves nothing: a rotation may have been lost, such as in a failover, and made again.  A wrap is
    made once, and again only for a new root key, which leaves number and stamp as they are.
    """
    if saved is not None and saved.vault_id != present.vault_id:
        return frozenset()
    known = {} if saved is None else {dek.number: dek for dek in saved.deks}
    is_rewrapped = saved is not None and saved.handover != present.handover

    def is_other(dek: WrappedDEK) -> bool:
        old = known.get(dek.number)
        if old is None or old.wrapped is None or old.wrapped == dek.wrapped:
            return False
        return not is_rewrapped or old.created_at != dek.created_at

    return frozenset(dek.number for dek in present.deks if dek.state != "retired" and not is_other(dek))


def is_later(there: Entry, entry: Entry) -> bool:
    """Whether *there* is a later revision of the vault meta *entry*."""
    try:
        held, saved = meta_in(there), meta_in(entry)
    except VaultMetaError:
        return False
    if held is None or saved is None:
        return False
    return held.vault_id == saved.vault_id and held.revision > saved.revision
