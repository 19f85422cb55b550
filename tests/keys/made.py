"""A vault meta with everything in it, made without a store, and the way to open one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from kvseal import Argon2idParams, Policy, Secret
from kvseal.keys import changes
from kvseal.keys.keyring import Keyring, LegacyKey
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.meta import VaultMeta
from kvseal.keys.rootkey import Handover, RootKey

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
VAULT_ID = bytes(range(16))
SECRET, OTHER_SECRET = Secret(b"correct horse"), Secret(b"battery staple")
LEGACY = [LegacyKey("fernet", b"a" * 32), LegacyKey("fernet", b"b" * 32)]


@dataclass(frozen=True)
class Made:
    """A vault meta, its root key, and the meta before each change."""

    root: RootKey
    meta: VaultMeta
    history: tuple[VaultMeta, ...]

    @property
    def value(self) -> dict[str, Any]:
        """The stored mapping, as a store gives it back."""
        value: dict[str, Any] = json.loads(json.dumps(self.meta.as_value()))
        return value


def slot(root: RootKey, secret: Secret, *, label: str = "primary") -> Keyslot:
    """Return a slot of the least cost."""
    return Keyslot.create(root, secret, CHEAP, label=label, now=NOW)


def make(vault_id: bytes = VAULT_ID) -> Made:
    """Return a meta of two slots, one of them expiring, two DEKs and two legacy keys, after a root rotation."""
    root = RootKey.generate(vault_id)
    first = changes.first(root, slot(root, SECRET), Policy(), now=NOW)
    handover = Handover.between(RootKey.generate(vault_id), root)
    metas = [replace(first, handover=handover).authenticated(root)]
    expiring = replace(
        slot(root, OTHER_SECRET, label="zweiter Schlüssel"), expires_at=NOW + timedelta(days=9)
    )
    metas.append(changes.with_slot(metas[-1], root, expiring, now=NOW))
    metas.append(changes.with_new_dek(metas[-1], root, now=NOW, at=NOW))
    metas.append(changes.with_legacy_keys(metas[-1], root, keys=LEGACY, plaintext=False, now=NOW, at=NOW))
    return Made(root, metas[-1], tuple(metas))


def open_value(value: Mapping[str, Any], secret: Secret = SECRET) -> Keyring:
    """Open a stored meta as a vault does: parse, try the first slot, verify, unwrap every key."""
    meta = VaultMeta.from_value(value)
    return Keyring(meta, meta.slots[0].open(secret, meta.vault_id))
