"""Make a slot for what opens it: a master secret or a wrap key."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from kvseal.concurrency import in_thread
from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING, Argon2idParams, check_memory
from kvseal.errors import UsageError
from kvseal.keys.external_slot import ExternalSlot
from kvseal.keys.keyslot import Keyslot, cost_for
from kvseal.secrets.secret import Secret

if TYPE_CHECKING:
    from datetime import datetime

    from kvseal.keys.rootkey import RootKey
    from kvseal.secrets.sources import Unlocker

Slot: TypeAlias = Keyslot | ExternalSlot


async def new_slot(
    root: RootKey,
    unlocker: Unlocker,
    cost: Argon2idParams | None,
    *,
    label: str,
    now: datetime,
    expires_at: datetime | None = None,
    memory_ceiling: int = DEFAULT_MEMORY_CEILING,
) -> Slot:
    """
    Return a slot of *root* that *unlocker* opens; `cost_of` returns the *cost*.

    The derivation, or the call to the service, runs in a thread.

    Raises:
        WrapKeyError: the service did not wrap the root key.
        KDFParametersError, VaultError: see `Keyslot.create`.
    """
    if isinstance(unlocker, Secret):
        return await in_thread(
            Keyslot.create,
            root,
            unlocker,
            cost or cost_for(unlocker),
            label=label,
            now=now,
            expires_at=expires_at,
            memory_ceiling=memory_ceiling,
        )
    return await in_thread(ExternalSlot.create, root, unlocker, label=label, now=now, expires_at=expires_at)


def cost_of(
    unlocker: Unlocker,
    kdf: Argon2idParams | None,
    *,
    replaces: Slot | None = None,
    memory_ceiling: int = DEFAULT_MEMORY_CEILING,
) -> Argon2idParams | None:
    """
    Return the Argon2id cost of a new slot: *kdf*, or the default of `cost_for`.

    A wrap key derives nothing and has no cost.

    Raises:
        UsageError: *kdf* was given for a wrap key.
        KDFParametersError: it needs more memory than *memory_ceiling* KiB, or than the machine has.
    """
    if isinstance(unlocker, Secret):
        cost = kdf or cost_for(unlocker, present=replaces.params if isinstance(replaces, Keyslot) else None)
        check_memory(cost, memory_ceiling)
        return cost
    if kdf is not None:
        msg = f"an Argon2id cost is for a secret, and {unlocker.kind} key {unlocker.name} derives nothing"
        raise UsageError(msg, hint="leave the cost out")
    return None


def is_such_a_slot(slot: Slot, unlocker: Unlocker, cost: Argon2idParams | None) -> bool:
    """Whether *slot* has the kind, and the key or the *cost*, of a slot made for *unlocker*."""
    if isinstance(unlocker, Secret):
        return isinstance(slot, Keyslot) and slot.params == cost
    return isinstance(slot, ExternalSlot) and slot.is_of(unlocker)
