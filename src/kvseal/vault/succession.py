"""
From the root key that a process holds to the one that has taken its place, without a restart.

An attacker who writes to the store decides how often a vault meta changes, so each meta is tried
once, its outcome is remembered, and a root key has no more than `_ATTEMPTS` tries.  None at all is made
for a meta that does not carry this root key's own handover, so without one nothing is ever derived.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from kvseal import clock
from kvseal.errors import (
    KDFParametersError,
    RootRotatedError,
    TamperedMetaError,
    VaultError,
    WrongSecretError,
)
from kvseal.keys.unlocking import unlock

if TYPE_CHECKING:
    from kvseal.keys.making_slots import Slot
    from kvseal.keys.meta import VaultMeta
    from kvseal.keys.rootkey import RootKey
    from kvseal.secrets.sources import Unlocker

_ATTEMPTS: Final = 8

_Opened = tuple["RootKey", "Slot"]


class Succession:
    """The tries of one process to follow one root key.  It holds what they found until it is let go."""

    __slots__ = ("_tries",)

    def __init__(self) -> None:
        self._tries: dict[VaultMeta, asyncio.Task[_Opened]] = {}

    async def follow(self, meta: VaultMeta, secret: Unlocker, *, memory_ceiling: int) -> _Opened:
        """
        Return the root key that has taken over, and the slot that *secret*, or a wrap key, opened.

        *meta* has the handover of the root key that is held; see `VaultMeta.follows`.  The derivation
        goes on if the caller gives up, and the next caller gets its result.

        Raises:
            RootRotatedError: *secret* opens no slot of *meta*, or one to another root key.
        """
        task = self._tries.get(meta)
        if task is None or _is_void(task):
            if task is None and len(self._tries) >= _ATTEMPTS:
                raise _lost("too many different vault metas were there since")
            task = self._tries[meta] = asyncio.create_task(_opened(meta, secret, memory_ceiling))
            task.add_done_callback(_looked_at)
        return await asyncio.shield(task)


async def _opened(meta: VaultMeta, secret: Unlocker, memory_ceiling: int) -> _Opened:
    try:
        root, slot = await unlock(
            meta.slots, secret, meta.vault_id, now=clock.utc_seconds(), memory_ceiling=memory_ceiling
        )
        if meta.handover is None or not meta.handover.is_to(root):
            msg = "a slot of the vault meta does not lead to the root key that was handed over to"
            raise TamperedMetaError(msg)
        meta.verify(root)
    except (KDFParametersError, VaultError, WrongSecretError) as exc:
        raise _lost(str(exc)) from exc
    return root, slot


def _is_void(task: asyncio.Task[_Opened]) -> bool:
    """Whether it says nothing of its meta: it failed for another reason, or runs in another event loop."""
    if not task.done():
        return task.get_loop() is not asyncio.get_running_loop()
    return task.cancelled() or not isinstance(task.exception(), RootRotatedError | None)


def _looked_at(task: asyncio.Task[_Opened]) -> None:
    """Take note of a failure that no caller has waited for: the next one gets it."""
    if not task.cancelled():
        task.exception()


def _lost(reason: str) -> RootRotatedError:
    msg = f"the root key of the vault was rotated, and this process cannot take the new one: {reason}"
    return RootRotatedError(msg, hint="open the vault again, with a secret that has a keyslot now")
