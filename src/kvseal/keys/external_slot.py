"""
The external slot: a slot whose KEK a key management service holds.

The service wraps the root key itself, bound to the vault and to the slot.  The kind and name of
the key in the slot only serve to choose the slot.  kvseal always uses the key that the caller has
named, so an attacker who writes to the store cannot direct a process to another key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from os import urandom
from typing import TYPE_CHECKING, Final

from kvseal.envelope.wrapping import DamagedWrapError
from kvseal.errors import DamagedSlotError, VaultError, WrapKeyError
from kvseal.keys.keyslot import ID_SIZE, KIND, checked_label, is_showable
from kvseal.keys.rootkey import RootKey

if TYPE_CHECKING:
    from datetime import datetime

    from kvseal.wrapkeys import WrapKey

MAX_NAME: Final = 2048
MAX_WRAPPED: Final = 8192

_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ExternalSlot:
    """One slot; `wrapped` is the root key, wrapped by the key named `key` of the service `kind`."""

    id: str
    label: str
    kind: str
    key: str
    wrapped: bytes = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        named = is_external_kind(self.kind) and 0 < len(self.key) <= MAX_NAME and is_showable(self.key)
        if not named or not 0 < len(self.wrapped) <= MAX_WRAPPED:
            msg = "an external slot needs the kind and the name of a key, and the wrapped root key"
            raise ValueError(msg)

    @classmethod
    def create(
        cls,
        root: RootKey,
        wrap_key: WrapKey,
        *,
        label: str,
        now: datetime,
        expires_at: datetime | None = None,
    ) -> ExternalSlot:
        """
        Wrap *root* with *wrap_key*.  Blocks while it waits for the service.

        Raises:
            WrapKeyError: the service did not wrap it, or does not bind what it wraps to the context.
            VaultError: *label* is not a valid label.
        """
        slot_id, label = urandom(ID_SIZE).hex(), checked_label(label)
        wrapped = wrap_key.wrap(root.reveal(), _context(root.vault_id, slot_id))
        _refuse_unbound(wrap_key, wrapped, root.vault_id)
        try:
            return cls(slot_id, label, wrap_key.kind, wrap_key.name, wrapped, now, expires_at)
        except ValueError:
            msg = f"the output of the {wrap_key.kind} key does not fit into a slot"
            raise VaultError(msg, hint="use another key") from None

    def open(self, wrap_key: WrapKey, vault_id: bytes) -> RootKey:
        """
        Return the root key.  Blocks while it waits for the service.

        Raises:
            DamagedSlotError: the service cannot unwrap these bytes for this slot of this vault.
            WrapKeyError: it does not answer, or refuses.
        """
        try:
            return RootKey(wrap_key.unwrap(self.wrapped, _context(vault_id, self.id)), vault_id)
        except (DamagedWrapError, ValueError):
            msg = (
                f"slot {self.id} ({self.label}) is damaged, or belongs to another vault, slot or key:"
                f" {self.kind} key {wrap_key.name} cannot unwrap it"
            )
            raise DamagedSlotError(msg, hint="use another slot, or restore the vault meta") from None

    def is_of(self, wrap_key: WrapKey) -> bool:
        """Whether *wrap_key* is the key that opens this slot."""
        return (self.kind, self.key) == (wrap_key.kind, wrap_key.name)

    def usable(self, now: datetime) -> bool:
        """Whether the slot has not expired."""
        return self.expires_at is None or now < self.expires_at


def is_external_kind(kind: str) -> bool:
    """Whether *kind* can name a service."""
    return kind != KIND and _KIND.fullmatch(kind) is not None


def _context(vault_id: bytes, slot_id: str) -> dict[str, str]:
    return {"kvseal-slot": slot_id, "kvseal-vault": vault_id.hex()}


def _refuse_unbound(wrap_key: WrapKey, wrapped: bytes, vault_id: bytes) -> None:
    """Raise if the service unwraps for another slot too: some services ignore a context."""
    try:
        wrap_key.unwrap(wrapped, _context(vault_id, bytes(ID_SIZE).hex()))
    except DamagedWrapError:
        return
    msg = f"the {wrap_key.kind} key {wrap_key.name} does not bind what it wraps to a context"
    raise WrapKeyError(msg, hint="use a key, or a release of the service, that authenticates it")
