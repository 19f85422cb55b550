"""What a vault says about itself, without a secret in it: for people, scripts and monitoring."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kvseal.keys.meta import time_text

if TYPE_CHECKING:
    from datetime import datetime

    from kvseal.keys.keyslot import Keyslot
    from kvseal.keys.meta import VaultMeta


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One keyslot; `opened` is whether this process came in through it, and `opened_at` when."""

    id: str
    label: str
    kind: str
    t: int
    m: int
    p: int
    created_at: str
    expires_at: str | None
    opened: bool
    opened_at: str | None

    @classmethod
    def of(cls, slot: Keyslot, *, opened_at: datetime | None) -> SlotStatus:
        """Describe *slot*, through which this process came in *opened_at*, or never."""
        return cls(
            id=slot.id,
            label=slot.label,
            kind="argon2id",
            t=slot.params.time_cost,
            m=slot.params.memory_cost,
            p=slot.params.parallelism,
            created_at=time_text(slot.created_at),
            expires_at=None if slot.expires_at is None else time_text(slot.expires_at),
            opened=opened_at is not None,
            opened_at=None if opened_at is None else time_text(opened_at),
        )


@dataclass(frozen=True, slots=True)
class DEKStatus:
    """One DEK by number."""

    id: int
    state: str
    created_at: str


@dataclass(frozen=True, slots=True)
class LegacyKeyStatus:
    """One legacy key that the vault holds."""

    id: str
    kind: str
    created_at: str


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
            deks=tuple(DEKStatus(dek.number, dek.state, time_text(dek.created_at)) for dek in meta.deks),
            policy=meta.policy.as_json(),
            legacy=tuple(LegacyKeyStatus(k.id, k.kind, time_text(k.created_at)) for k in meta.legacy),
        )

    @property
    def active_dek(self) -> int:
        """The number of the DEK that seals new records."""
        return next(dek.id for dek in self.deks if dek.state == "active")

    def as_dict(self) -> dict[str, Any]:
        """Return what `vaultctl status --json` prints."""
        return asdict(self)
