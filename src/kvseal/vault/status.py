"""What a vault says about itself, without a secret in it: for people, scripts and monitoring."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kvseal import clock
from kvseal.keys.extensions import KNOWN
from kvseal.keys.external_slot import ExternalSlot
from kvseal.keys.keyslot import KIND, Keyslot
from kvseal.keys.policy import DEFAULT_MAX_DEK_AGE
from kvseal.keys.stamps import time_of, time_text

if TYPE_CHECKING:
    from datetime import datetime

    from kvseal.keys.making_slots import Slot
    from kvseal.keys.meta import VaultMeta
    from kvseal.keys.wrapped_keys import WrappedDEK, WrappedLegacyKey


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """
    One keyslot; `opened` is whether this process came in through it, and `opened_at` when.

    One of the kind `argon2id` has a cost, `t`, `m` and `p`; any other has `key`, the name of a wrap key.
    """

    id: str
    label: str
    kind: str
    t: int | None
    m: int | None
    p: int | None
    key: str | None
    created_at: str
    expires_at: str | None
    opened: bool
    opened_at: str | None

    @classmethod
    def of(cls, slot: Slot, *, opened_at: datetime | None) -> SlotStatus:
        """Describe *slot*, through which this process came in *opened_at*, or never."""
        external = slot if isinstance(slot, ExternalSlot) else None
        cost = slot.params if isinstance(slot, Keyslot) else None
        return cls(
            id=slot.id,
            label=slot.label,
            kind=KIND if external is None else external.kind,
            t=None if cost is None else cost.time_cost,
            m=None if cost is None else cost.memory_cost,
            p=None if cost is None else cost.parallelism,
            key=None if external is None else external.key,
            created_at=time_text(slot.created_at),
            expires_at=None if slot.expires_at is None else time_text(slot.expires_at),
            opened=opened_at is not None,
            opened_at=None if opened_at is None else time_text(opened_at),
        )


@dataclass(frozen=True, slots=True)
class DEKStatus:
    """One DEK by number; a retired one opens records, and has a key, until it is dropped."""

    id: int
    state: str
    created_at: str
    retired_at: str | None
    dropped: bool

    @classmethod
    def of(cls, dek: WrappedDEK) -> DEKStatus:
        """Describe *dek*."""
        retired_at = None if dek.retired_at is None else time_text(dek.retired_at)
        return cls(dek.number, dek.state, time_text(dek.created_at), retired_at, dek.wrapped is None)


@dataclass(frozen=True, slots=True)
class LegacyKeyStatus:
    """One legacy key that the vault holds; one that has ended opens nothing until it is dropped."""

    id: str
    kind: str
    created_at: str
    ended_at: str | None

    @classmethod
    def of(cls, key: WrappedLegacyKey) -> LegacyKeyStatus:
        """Describe *key*."""
        ended_at = None if key.ended_at is None else time_text(key.ended_at)
        return cls(key.id, key.kind, time_text(key.created_at), ended_at)


@dataclass(frozen=True, slots=True)
class ExtensionStatus:
    """One part of a later kvseal; a critical one that is not known ends sealing and changes here."""

    name: str
    critical: bool
    known: bool


@dataclass(frozen=True, slots=True)
class VaultStatus:
    """The vault meta in words.  Times are RFC 3339, UTC."""

    location: str
    vault_id: str
    revision: int
    created_at: str
    updated_at: str
    slots: tuple[SlotStatus, ...]
    deks: tuple[DEKStatus, ...]
    policy: dict[str, Any]
    legacy: tuple[LegacyKeyStatus, ...]
    extensions: tuple[ExtensionStatus, ...]

    @classmethod
    def of(cls, meta: VaultMeta, *, location: str, opened_by: str, opened_at: datetime) -> VaultStatus:
        """Describe *meta*, which the slot with the id *opened_by* opened at that time."""
        return cls(
            location=location,
            vault_id=meta.vault_id.hex(),
            revision=meta.revision,
            created_at=time_text(meta.created_at),
            updated_at=time_text(meta.updated_at),
            slots=tuple(
                SlotStatus.of(slot, opened_at=opened_at if slot.id == opened_by else None)
                for slot in meta.slots
            ),
            deks=tuple(map(DEKStatus.of, meta.deks)),
            policy=meta.policy.as_json(),
            legacy=tuple(map(LegacyKeyStatus.of, meta.legacy)),
            extensions=tuple(
                ExtensionStatus(name, name in meta.extensions.critical, name in KNOWN)
                for name in meta.extensions.parts
            ),
        )

    def due(self, *, records: int | None = None, max_age: float | None = None) -> str | None:
        """
        Say why policy asks for a rotation of the DEK, or return `None`.

        The age costs nothing to know; only a census counts the *records* that the active DEK seals, and
        without it that limit is not judged.  *max_age* seconds take the place of the policy's.
        """
        active = next(dek for dek in self.deks if dek.state == "active")
        limit = max_age or self.policy.get("max_dek_age", DEFAULT_MAX_DEK_AGE)
        age = clock.utc_seconds() - time_of(active.created_at)
        if age.total_seconds() > limit:
            return f"DEK {active.id} has been active since {active.created_at}"
        most = self.policy.get("max_dek_records")
        if most is not None and records is not None and records > most:
            return f"DEK {active.id} seals {records:,} records, and its limit is {most:,}"
        return None

    @property
    def active_dek(self) -> int:
        """The number of the DEK that seals new records."""
        return next(dek.id for dek in self.deks if dek.state == "active")

    def as_dict(self) -> dict[str, Any]:
        """Return what `vaultctl status --json` prints."""
        return asdict(self)
