"""
How a vault is reached: the options of its caller, and the way from there to its keys.

The options are kept for the life of a vault, because one that forgets its keys may have to go the
same way again.  A `Secret` that the caller brought is not kept here: only what can be read anew is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, get_args

from typing_extensions import TypedDict

from kvseal import clock
from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING
from kvseal.errors import KvsealError
from kvseal.keys.keyring import Keyring
from kvseal.keys.keyslot import KIND, Keyslot
from kvseal.keys.policy import Hold
from kvseal.keys.unlocking import unlock
from kvseal.observe import audit, telemetry
from kvseal.observe.counters import failed
from kvseal.secrets.given import check_secret, secret_for_opening
from kvseal.secrets.secret import Secret
from kvseal.vault.freshness import REFRESH_AFTER, Freshness
from kvseal.vault.metastore import MetaStore

if TYPE_CHECKING:
    from os import PathLike

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver
    from kvseal.keys.meta import VaultMeta
    from kvseal.keys.rootkey import RootKey
    from kvseal.secrets.sources import Unlocker


WhenLocked = Literal["fail", "unlock"]


LONGEST_UNDER_HOLD: Final = 300.0
"""Seconds of `refresh_after`: the grace of a flip counts on it."""


class OpeningOptions(TypedDict, total=False):
    """What `Vault.open`, `Vault.create` and `EnvelopeEncryptionWrapper` take alike; see `Opening`."""

    secret: Unlocker | str | None
    meta_store: AsyncKeyValue | Driver | None
    memory_ceiling: int
    refresh_after: float
    pin: str | PathLike[str] | None
    idle_timeout: timedelta | float | None
    when_locked: WhenLocked
    hold: Hold | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """
    How a vault is reached.

    *secret* is a `Secret`, a wrap key of `kvseal.wrapkeys`, a reference such as `env:NAME` or
    `transit:MOUNT/KEY`, or `None` for the default order.
    *meta_store* keeps the vault meta in a store of its own.  *memory_ceiling*, in KiB, bounds what
    a stored keyslot may ask for.  Before something is sealed, the meta is read again if that was
    more than *refresh_after* seconds ago.

    *pin* is a file that remembers the newest meta seen here, for later ones; see `kvseal.vault.seen.pin`.
    Keys that no caller has used for *idle_timeout* are forgotten as by `Vault.lock`.  After either, what
    needs a key raises `VaultLockedError`, or with *when_locked* `"unlock"` resolves *secret* again: that
    has to be a reference, or `None`, for a `Secret` would have to be kept and then nothing were forgotten.

    *hold* is the old format that this process may write while the vault's policy holds it.  It creates no
    vault, and writes nothing before the policy has held that format once.

    Raises:
        SecretReferenceError: *secret* is a `str` but no reference.
        ValueError: a number of seconds is not positive, or too large to hold an old format, or there is no
            way to unlock again.
    """

    secret: Unlocker | str | None = None
    meta_store: AsyncKeyValue | Driver | None = None
    memory_ceiling: int = DEFAULT_MEMORY_CEILING
    refresh_after: float = REFRESH_AFTER
    pin: str | PathLike[str] | None = None
    idle_timeout: timedelta | float | None = None
    when_locked: WhenLocked = "fail"
    hold: Hold | None = None

    def __post_init__(self) -> None:
        check_secret(self.secret)
        Freshness(self.refresh_after)
        if self.idle_seconds is not None and not (0 < self.idle_seconds < math.inf):
            msg = f"idle_timeout is a positive number of seconds, not {self.idle_timeout}"
            raise ValueError(msg)
        if self.hold not in {None, *get_args(Hold)}:
            msg = f"hold is 'fernet', 'plaintext' or None, not {self.hold!r}"
            raise ValueError(msg)
        if self.hold is not None and self.refresh_after > LONGEST_UNDER_HOLD:
            msg = f"with hold=, refresh_after is at most {LONGEST_UNDER_HOLD:g} seconds"
            raise ValueError(f"{msg}, not {self.refresh_after}")
        if self.when_locked not in get_args(WhenLocked):
            msg = f"when_locked is 'fail' or 'unlock', not {self.when_locked!r}"
            raise ValueError(msg)
        if self.when_locked == "unlock" and isinstance(self.secret, Secret):
            msg = "a vault cannot unlock again with a Secret: to keep it would be to forget nothing"
            raise ValueError(f"{msg}; give a reference such as 'file:PATH', or when_locked='fail'")

    @property
    def idle_seconds(self) -> float | None:
        """The idle timeout in seconds."""
        idle = self.idle_timeout
        return idle.total_seconds() if isinstance(idle, timedelta) else idle

    def kept(self) -> Opening:
        """Return what may be kept while the vault is locked: everything but a `Secret`."""
        return replace(self, secret=None) if isinstance(self.secret, Secret) else self


@dataclass(frozen=True, slots=True, repr=False)
class Opened:
    """A meta that its root key has verified, the keyring in it, and the way in."""

    metastore: MetaStore
    meta: VaultMeta
    keyring: Keyring
    root: RootKey
    secret: Unlocker
    slot_id: str


async def open_vault(store: AsyncKeyValue | Driver, opening: Opening) -> Opened:
    """Open the vault that is there; see `Vault.open` for what it raises."""
    async with MetaStore.reached(opening.meta_store or store, pin=opening.pin) as metastore:
        return await opened(metastore, opening)


async def opened(metastore: MetaStore, opening: Opening, meta: VaultMeta | None = None) -> Opened:
    """Return what *metastore* holds, or *meta* as it was just read there, opened for the first time."""
    found = await unlocked(metastore, opening, meta)
    await metastore.seen.remember(found.meta, must_last=True)
    metastore.warn_of_eviction()
    return found


async def unlocked(metastore: MetaStore, opening: Opening, meta: VaultMeta | None = None) -> Opened:
    """Return what *metastore* holds now, or *meta*, with the keys that *opening* leads to."""
    await telemetry.offer()
    try:
        if meta is None:
            _, meta = await metastore.expect()
        secret = await secret_for_opening(opening.secret)
        root, slot = await unlock(
            meta.slots,
            secret,
            meta.vault_id,
            now=clock.utc_seconds(),
            memory_ceiling=opening.memory_ceiling,
        )
        keyring = Keyring(meta, root)
    except KvsealError as exc:
        failed("unlock", exc)
        audit.unlock_failed(exc, None if meta is None else meta.vault_id.hex())
        raise
    kind = KIND if isinstance(slot, Keyslot) else slot.kind
    audit.unlocked(keyring.vault_id.hex(), keyring.revision, slot_id=slot.id, slot_kind=kind)
    return Opened(metastore, meta, keyring, root, secret, slot.id)
