"""
The vault meta: the one stored entry that a vault needs to be opened.

It is JSON with exactly one valid encoding: a reader parses it into values, encodes
them again and compares, so no field is ignored and no byte string has a second
form.  A MAC under the root key covers all of it.  Before `verify` has been called,
a caller must not trust anything in it except the slots, which authenticate themselves.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from dataclasses import dataclass, replace
from hmac import compare_digest
from re import fullmatch
from typing import TYPE_CHECKING, Any, Final

import orjson
from pybase64 import b64encode_as_string

from kvseal.envelope.kdf import SALT_SIZE, Argon2idParams
from kvseal.envelope.record import MAX_DEK, VAULT_ID_SIZE
from kvseal.errors import (
    KDFParametersError,
    ReservedNameError,
    TamperedMetaError,
    UnknownMetaVersionError,
    UnknownSlotKindError,
    VaultMetaError,
)
from kvseal.keys.extensions import NO_EXTENSIONS, Extensions
from kvseal.keys.external_slot import ExternalSlot, is_external_kind
from kvseal.keys.keyslot import KIND, Keyslot, is_label
from kvseal.keys.policy import Policy
from kvseal.keys.rootkey import Handover
from kvseal.keys.stamps import time_of, time_text
from kvseal.keys.wrapped_keys import (
    ID,
    SECOND_DEK,
    WrappedDEK,
    WrappedLegacyKey,
    bytes_of,
    dek_json,
    dek_of,
    legacy_json,
    legacy_of,
    text_of,
    wrapped_json,
    wrapped_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kvseal.keys.making_slots import Slot
    from kvseal.keys.rootkey import RootKey

META_COLLECTION: Final = "__vault_meta__"
META_KEY: Final = "__dek__"
FORMAT: Final = 1
MAX_SLOTS: Final = 32
MAX_SIZE: Final = 2**20
"""Bytes of the canonical JSON of the whole meta."""

_FORMAT_FIELD: Final = "kvseal"
_MAC_FIELD: Final = "mac"
_HANDOVER_FIELD: Final = "handover"
_MAC_SIZE: Final = 32
_MAX_REVISION: Final = 2**53 - 1
"""The most that RFC 8785 writes exactly."""
_MAX_KEYS: Final = 65_536
"""The maximum number of DEKs, and of legacy keys, in one vault: a rotation every day for 179 years."""
_EXTERNAL_FIELDS: Final = {"id", "label", "kind", "key", "wrapped", "created_at"}
_MALFORMED: Final = "restore the vault meta from a backup"


@dataclass(frozen=True, slots=True)
class VaultMeta:
    """The vault meta, version 1.  Immutable: every change is a new one with the next revision."""

    vault_id: bytes
    revision: int
    created_at: datetime
    updated_at: datetime
    policy: Policy
    slots: tuple[Slot, ...]
    deks: tuple[WrappedDEK, ...]
    legacy: tuple[WrappedLegacyKey, ...] = ()
    mac: bytes = b""
    handover: Handover | None = None
    """Present once the root key has been rotated."""
    extensions: Extensions = NO_EXTENSIONS
    """What later releases have added."""

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> VaultMeta:
        """
        Read a stored vault meta.  Nothing is derived or decrypted.

        Raises:
            UnknownMetaVersionError, UnknownSlotKindError: a later kvseal wrote it.
            KDFParametersError: a slot's parameters are out of bounds.
            VaultMetaError: it is malformed.
        """
        version = value.get(_FORMAT_FIELD)
        if type(version) is int and version > FORMAT:
            msg = f"the vault meta has version {version}; this kvseal reads version {FORMAT}"
            raise UnknownMetaVersionError(msg, hint="upgrade kvseal")
        try:
            meta = _parse(value)
            canonical = _canonical(value)
            exact = (
                meta is not None and len(canonical) <= MAX_SIZE and _canonical(meta.as_value()) == canonical
            )
        except KDFParametersError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, Base64Error):
            # No cause is attached: a parser's message could quote the input.
            meta, exact = None, False
        if meta is None or not exact:
            msg = "the vault meta is malformed"
            raise VaultMetaError(msg, hint=_MALFORMED)
        return meta

    def as_value(self) -> dict[str, Any]:
        """Return the mapping that is stored."""
        return {**self._unauthenticated(), _MAC_FIELD: b64encode_as_string(self.mac)}

    @property
    def old_key_ids(self) -> frozenset[str]:
        """The ids of the held keys that open records in an old format."""
        return frozenset(key.id for key in self.legacy if key.opens_old)

    def authenticated(self, root: RootKey) -> VaultMeta:
        """Return this meta with its MAC under *root*."""
        return replace(self, mac=root.mac(self._message()))

    def verify(self, root: RootKey) -> None:
        """
        Raise unless a holder of *root* has written all of this.

        Raises:
            TamperedMetaError: a slot, the policy, a DEK state or another part was changed.
        """
        if not compare_digest(self.mac, root.mac(self._message())):
            msg = "the vault meta was changed by a writer that does not hold the root key"
            hint = "find out what wrote to it, then restore it from a backup"
            if self.handover is not None:
                hint += "; or the root key was rotated more than once meanwhile: open the vault again"
            raise TamperedMetaError(msg, hint=hint)

    def follows(self, root: RootKey) -> bool:
        """Whether *root* has handed over to the root key that authenticates this meta."""
        return self.handover is not None and self.handover.is_by(root)

    def refuse_unknown(self) -> None:
        """
        Raise where this release may change nothing.

        Raises:
            UnknownExtensionError: a critical part is of a later release.
        """
        refusal = self.extensions.refusal()
        if refusal is not None:
            raise refusal

    @property
    def size(self) -> int:
        """How many bytes its canonical JSON has."""
        return len(_canonical(self.as_value()))

    @property
    def active_dek(self) -> WrappedDEK:
        """The DEK that seals new records."""
        return next(dek for dek in self.deks if dek.state == "active")

    def _message(self) -> bytes:
        """Return the RFC 8785 canonical JSON of everything but the MAC."""
        return _canonical(self._unauthenticated())

    def _unauthenticated(self) -> dict[str, Any]:
        handover = {} if self.handover is None else {_HANDOVER_FIELD: _handover_json(self.handover)}
        return {
            _FORMAT_FIELD: FORMAT,
            "vault_id": self.vault_id.hex(),
            "revision": self.revision,
            "created_at": time_text(self.created_at),
            "updated_at": time_text(self.updated_at),
            "policy": self.policy.as_json(),
            "slots": [_slot_json(slot) for slot in self.slots],
            "deks": [dek_json(dek) for dek in self.deks],
            "legacy": [legacy_json(key) for key in self.legacy],
            **handover,
            **self.extensions.as_json(),
        }


def refuse_reserved(collection: str | None) -> None:
    """Raise `ReservedNameError` if *collection* is that of the vault meta."""
    if collection == META_COLLECTION:
        msg = f"the collection {META_COLLECTION} is reserved for the vault meta"
        raise ReservedNameError(
            msg, hint="use vaultctl status to look at it, and another name for your own data"
        )


def is_vault_meta(value: Mapping[str, Any]) -> bool:
    """Whether kvseal wrote *value*, readable or not; other programs use this name too."""
    return _FORMAT_FIELD in value


def _canonical(value: Mapping[str, Any]) -> bytes:
    """Return RFC 8785 JSON, which distinguishes 1, 1.0 and true; `==` does not."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _parse(value: Mapping[str, Any]) -> VaultMeta | None:
    # Checked before anything is built: this limits the work that a hostile meta can cause.
    if len(value["slots"]) > MAX_SLOTS or max(len(value["deks"]), len(value["legacy"])) > _MAX_KEYS:
        return None
    meta = VaultMeta(
        vault_id=bytes.fromhex(value["vault_id"]),
        revision=value["revision"],
        created_at=time_of(value["created_at"]),
        updated_at=time_of(value["updated_at"]),
        policy=Policy.from_json(value["policy"]),
        slots=tuple(_slot(slot) for slot in value["slots"]),
        deks=tuple(dek_of(dek) for dek in value["deks"]),
        legacy=tuple(legacy_of(key) for key in value["legacy"]),
        mac=bytes_of(value[_MAC_FIELD]),
        handover=_handover(value[_HANDOVER_FIELD]) if _HANDOVER_FIELD in value else None,
        extensions=Extensions.from_json(value),
    )
    return meta if _is_consistent(meta) else None


def _is_consistent(meta: VaultMeta) -> bool:
    numbers = [dek.number for dek in meta.deks]
    return (
        len(meta.vault_id) == VAULT_ID_SIZE
        and len(meta.mac) == _MAC_SIZE
        and type(meta.revision) is int
        and 1 <= meta.revision <= _MAX_REVISION
        and 1 <= len(meta.slots) <= MAX_SLOTS
        and _unique([slot.id for slot in meta.slots])
        and _unique([key.id for key in meta.legacy])
        and all(key.kind != SECOND_DEK or _is_numbered(key.id, len(numbers)) for key in meta.legacy)
        and numbers == list(range(1, len(numbers) + 1))
        and len(numbers) <= MAX_DEK
        and [dek.number for dek in meta.deks if dek.state == "active"] == [len(numbers)]
        and all(dek.is_consistent for dek in meta.deks)
        and meta.policy.can_hold(meta.old_key_ids)
    )


def _is_numbered(key_id: str, deks: int) -> bool:
    return fullmatch("[0-9a-f]{16}", key_id) is not None and 1 <= int(key_id[:8], 16) <= deks


def _unique(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def _slot(value: Mapping[str, Any]) -> Slot:
    slot_id, label, kind = text_of(value["id"]), text_of(value["label"]), text_of(value["kind"])
    if not ID.fullmatch(slot_id) or not is_label(label):
        msg = "not a keyslot of this version"
        raise ValueError(msg)
    times = time_of(value["created_at"]), time_of(value["expires_at"]) if "expires_at" in value else None
    if kind == KIND:
        return _argon2id_slot(value, slot_id, label, *times)
    if is_external_kind(kind) and set(value) - {"expires_at"} != _EXTERNAL_FIELDS:
        msg = f"slot {slot_id} ({label}) has the kind {kind}, with fields that this kvseal does not know"
        raise UnknownSlotKindError(msg, hint="upgrade kvseal")
    return ExternalSlot(slot_id, label, kind, text_of(value["key"]), bytes_of(value["wrapped"]), *times)


def _argon2id_slot(
    value: Mapping[str, Any], slot_id: str, label: str, created_at: datetime, expires_at: datetime | None
) -> Keyslot:
    salt = bytes_of(value["salt"])
    if len(salt) != SALT_SIZE:
        msg = "not a salt of this version"
        raise ValueError(msg)
    params = Argon2idParams(value["t"], value["m"], value["p"])
    return Keyslot(slot_id, label, params, salt, wrapped_of(value), created_at, expires_at)


def _slot_json(slot: Slot) -> dict[str, Any]:
    expiry = {} if slot.expires_at is None else {"expires_at": time_text(slot.expires_at)}
    if isinstance(slot, ExternalSlot):
        return {
            "id": slot.id,
            "label": slot.label,
            "kind": slot.kind,
            "key": slot.key,
            "wrapped": b64encode_as_string(slot.wrapped),
            "created_at": time_text(slot.created_at),
            **expiry,
        }
    return {
        "id": slot.id,
        "label": slot.label,
        "kind": KIND,
        "t": slot.params.time_cost,
        "m": slot.params.memory_cost,
        "p": slot.params.parallelism,
        "salt": b64encode_as_string(slot.salt),
        **wrapped_json(slot.wrapped),
        "created_at": time_text(slot.created_at),
        **expiry,
    }


def _handover(value: Mapping[str, Any]) -> Handover:
    return Handover(bytes_of(value["successor"]), bytes_of(value["mac"]))


def _handover_json(handover: Handover) -> dict[str, str]:
    return {
        "successor": b64encode_as_string(handover.successor),
        "mac": b64encode_as_string(handover.mac),
    }
