"""
The keyslot: one way to the root key.

A keyslot holds what leads from a master secret to the root key: Argon2id
parameters and salt, a commitment, and the wrapped root key.  A reader derives
the KEK, compares the commitment in constant time, and only then unwraps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import urandom
from typing import TYPE_CHECKING, Final

from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING, SALT_SIZE, Argon2idParams, argon2id
from kvseal.envelope.wrapping import DamagedWrapError, WrappedKey, unwrap_key, wrap_key
from kvseal.errors import DamagedSlotError, VaultError
from kvseal.keys.rootkey import RootKey

if TYPE_CHECKING:
    from datetime import datetime

    from kvseal.secrets.secret import Secret

KIND: Final = "argon2id"
MAX_LABEL: Final = 128
ID_SIZE: Final = 8

# docs/format.md has the list.  The last two characters of each plane stand for nothing, for ever.
_HIDDEN: Final = re.compile(
    r"[\x00-\x1f\x7f-\xa0\xad\u061c\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    r"\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe-\uffff\U000e0000-\U0010ffff"
    + "".join(rf"\U{plane:04x}fffe-\U{plane:04x}ffff" for plane in range(1, 0xE))
    + "]"
)

_PURPOSE: Final = b"kvseal/slot/v1"


@dataclass(frozen=True, slots=True)
class Keyslot:
    """One slot; `wrapped` is the root key wrapped by the KEK, bound to parameters, slot id and vault id."""

    id: str
    label: str
    params: Argon2idParams
    salt: bytes
    wrapped: WrappedKey
    created_at: datetime
    expires_at: datetime | None = None

    @classmethod
    def create(
        cls,
        root: RootKey,
        secret: Secret,
        params: Argon2idParams,
        *,
        label: str,
        now: datetime,
        expires_at: datetime | None = None,
        memory_ceiling: int = DEFAULT_MEMORY_CEILING,
    ) -> Keyslot:
        """
        Wrap *root* for *secret*.  Blocks for one derivation.

        Raises:
            KDFParametersError: *params* need more memory than *memory_ceiling* KiB, or than the machine has.
            VaultError: *label* is not a valid label.
        """
        label = checked_label(label)
        slot_id, salt = urandom(ID_SIZE).hex(), urandom(SALT_SIZE)
        derived = argon2id(secret.reveal(), salt, params, memory_ceiling=memory_ceiling)
        aad = _aad(root.vault_id, slot_id, params)
        wrapped = wrap_key(root.reveal(), under=derived, purpose=_PURPOSE, aad=aad)
        return cls(slot_id, label, params, salt, wrapped, now, expires_at)

    def open(
        self, secret: Secret, vault_id: bytes, *, memory_ceiling: int = DEFAULT_MEMORY_CEILING
    ) -> RootKey:
        """
        Return the root key.  Blocks for one derivation.

        Raises:
            envelope.wrapping.WrongKeyError: *secret* does not open this slot; it may open another one.
            DamagedSlotError: *secret* is right, but the wrapped key, the slot id or the vault id was changed.
            KDFParametersError: the parameters need more memory than *memory_ceiling* KiB.
        """
        derived = argon2id(secret.reveal(), self.salt, self.params, memory_ceiling=memory_ceiling)
        try:
            aad = _aad(vault_id, self.id, self.params)
            return RootKey(unwrap_key(self.wrapped, under=derived, purpose=_PURPOSE, aad=aad), vault_id)
        except DamagedWrapError:
            msg = f"the secret is right, but slot {self.id} ({self.label}) is damaged"
            raise DamagedSlotError(msg, hint="use another slot's secret, or restore the vault meta") from None

    def usable(self, now: datetime) -> bool:
        """Whether the slot has not expired."""
        return self.expires_at is None or now < self.expires_at


def cost_for(secret: Secret, *, present: Argon2idParams | None = None) -> Argon2idParams:
    """
    Return the cost of a new slot for *secret* where its caller chose none.

    *present* is the cost of the slot that it replaces, which is kept unless it is the default cost of the
    other kind of secret.  A derivation adds nothing to 256 random bits, so the default for a generated
    secret is the least cost that OWASP recommends; what a person may have thought up never inherits that.
    """
    own, other = Argon2idParams.OWASP_MINIMUM, Argon2idParams.RFC_9106_LOW_MEMORY
    if not secret.is_generated:
        own, other = other, own
    return own if present is None or present == other else present


def checked_label(text: str) -> str:
    """Return *text*, or raise `VaultError` if it is not a valid label."""
    if not is_label(text):
        msg = f"a slot label has 1 to {MAX_LABEL} printable characters"
        raise VaultError(msg)
    return text


def is_label(text: str) -> bool:
    """Whether a message can show *text* as it is: labels are shown before they are authenticated."""
    return 0 < len(text) <= MAX_LABEL and is_showable(text)


def is_showable(text: str) -> bool:
    """
    Whether no character of *text* breaks a line, steers a terminal or turns the direction of writing.

    The characters are listed and not looked up: what an interpreter calls printable depends on its release
    of Unicode, and a vault that one Python writes has to open under every other.
    """
    return _HIDDEN.search(text) is None


def _aad(vault_id: bytes, slot_id: str, params: Argon2idParams) -> bytes:
    return vault_id + params.encode() + slot_id.encode()
