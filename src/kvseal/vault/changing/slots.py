"""The ways into an open vault: up to 32 keyslots, each with a label and a secret or wrap key of its own."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from kvseal import clock
from kvseal.errors import MistypedSecretError, SlotExistsError, SlotNotFoundError, VaultError
from kvseal.keys import changes
from kvseal.keys.external_slot import ExternalSlot
from kvseal.keys.keyring import Keyring
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.making_slots import cost_of, new_slot
from kvseal.keys.stamps import time_of, time_text
from kvseal.keys.unlocking import prove, unlock
from kvseal.secrets.given import new_secret_for, secret_for_opening
from kvseal.secrets.secret import generate_recovery_key
from kvseal.vault.status import SlotStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.keys.making_slots import Slot
    from kvseal.keys.meta import VaultMeta
    from kvseal.keys.rootkey import RootKey
    from kvseal.secrets.secret import Secret
    from kvseal.secrets.sources import Unlocker
    from kvseal.vault.session import OpenVault

RECOVERY: Final = "recovery"
TIME_TO_CONFIRM: Final = timedelta(hours=1)
"""How long the slot of a new recovery key opens before its owner has confirmed the key."""

_Slot = TypeVar("_Slot", Keyslot | ExternalSlot, SlotStatus)


class Slots:
    """
    The keyslots of *vault*: add one, verify it, and only then remove another.

    Every change is one write of the vault meta, which raises `Conflict` and changes nothing
    where another process was faster.  A vault always keeps a slot that does not expire.
    """

    __slots__ = ("_vault",)

    def __init__(self, vault: OpenVault) -> None:
        self._vault = vault

    def list(self) -> tuple[SlotStatus, ...]:
        """Return the slots of the vault meta as it was last read, expired ones too."""
        return self._vault.status().slots

    def named(self, name: str) -> SlotStatus:
        """Return the slot with this id or label; raises `SlotNotFoundError`."""
        return _named(name, self.list())

    async def add(
        self,
        secret: Unlocker | str,
        *,
        label: str,
        kdf: Argon2idParams | None = None,
        expires_in: timedelta | None = None,
        dry_run: bool = False,
    ) -> SlotStatus:
        """
        Add a slot that *secret*, or a wrap key, opens, from now on or until it expires.

        Returns when it was opened from the bytes that are then stored.  Without *kdf* it has the default
        cost, or, for a generated secret, the light one of `Argon2idParams.OWASP_MINIMUM`.  A *dry_run*
        does everything but the write: a key service is asked then, too.

        Raises:
            SlotExistsError: there is one with this *label*; a rotation replaces it.
            UsageError: *kdf* was given for a wrap key.
            Conflict, SecretError, KDFParametersError, VaultError: nothing was changed.
        """
        vault, now = self._vault, clock.utc_seconds()
        root = await vault.root_key()
        if expires_in is not None:
            (await vault.clocks()).check("when a slot expires")
        expires_at = None if expires_in is None else (now + expires_in).replace(microsecond=0)
        if expires_at is not None and expires_at <= now:
            msg = "the slot would have expired before it is there"
            raise VaultError(msg, hint="give it more time")
        entry, meta = await vault.read_current(root)
        _refuse_known(label, meta, now)
        chosen = await new_secret_for(secret)
        cost = cost_of(chosen, kdf, memory_ceiling=vault.memory_ceiling)
        slot = await new_slot(root, chosen, cost, label=label, now=now, expires_at=expires_at)
        added = changes.with_slot(meta, root, slot, now=(await vault.clocks()).reached)
        _, keyring = await prove(added, slot, chosen, root, now=clock.utc_seconds())
        if not dry_run:
            await vault.commit(entry, added, keyring)
        return self._status(slot)

    async def add_recovery(
        self,
        hand_over: Callable[[Secret, SlotStatus], Awaitable[bool]],
        *,
        label: str = RECOVERY,
        kdf: Argon2idParams | None = None,
    ) -> SlotStatus:
        """
        Add a slot for a new recovery key, and let it last once *hand_over* has returned `True`.

        *hand_over* gives the key to its owner, and returns whether the owner has it.  Until then the slot
        expires within the hour, so no slot lasts whose key is lost: not after a power failure before the
        key was printed, and not where it was written down wrongly.  What an interrupted call has left is
        removed by the next one.

        Raises:
            MistypedSecretError: *hand_over* returned `False`; the slot was removed.
            SlotExistsError, Conflict, KDFParametersError, VaultError: see `add`.
        """
        for left in self._never_confirmed(label):
            await self.remove(left.id)
        key = generate_recovery_key()
        added = await self.add(key, label=label, kdf=kdf, expires_in=TIME_TO_CONFIRM)
        if not await hand_over(key, added):
            await self.remove(added.id)
            msg = "the recovery key was not confirmed, so its slot was removed"
            raise MistypedSecretError(msg, hint="add another recovery key, and write it down as it is shown")
        return await self.keep(added.id)

    async def keep(self, slot: str) -> SlotStatus:
        """
        Let *slot*, an id or a label, last: it was added for a time, until its secret is known to be kept.

        Raises:
            SlotNotFoundError: it has expired meanwhile.
            Conflict: another process changed the vault meta first.
        """
        await self._vault.amend(partial(_with_lasting, name=slot))
        return self.named(slot)

    async def verify(self, secret: Unlocker | str | None = None) -> SlotStatus:
        """
        Return the slot that *secret* opens, by the vault meta as it is stored now.

        The service of a wrap key is asked, whether this process already holds the root key or not.

        Raises:
            WrongSecretError, DamagedSlotError, KDFParametersError, WrapKeyError: it opens none; see `unlock`.
        """
        vault = self._vault
        _, meta = await vault.read_current(await vault.root_key())
        chosen = await secret_for_opening(secret)
        ceiling = vault.memory_ceiling
        root, slot = await unlock(
            meta.slots, chosen, meta.vault_id, now=clock.utc_seconds(), memory_ceiling=ceiling, anew=True
        )
        Keyring(meta, root)
        return self._status(slot)

    async def remove(self, slot: str, *, dry_run: bool = False) -> None:
        """
        Remove *slot*, an id or a label.  A copy of the old vault meta still opens with its secret.

        A *dry_run* does everything but the write.

        Raises:
            SlotNotFoundError: there is none, or several have this label.
            LastSlotError: no other slot would last.
            Conflict: another process changed the vault meta first.
        """
        vault = self._vault
        if dry_run:
            root = await vault.root_key()
            _, meta = await vault.read_current(root)
            _without(meta, root, name=slot, now=(await vault.clocks()).reached)
            return
        await vault.amend(partial(_without, name=slot))

    def _never_confirmed(self, label: str) -> Sequence[SlotStatus]:
        """Return the slots of *label* that interrupted calls of `add_recovery` have left."""
        return [
            slot
            for slot in self.list()
            if slot.label == label
            and not slot.opened
            and slot.expires_at == time_text(time_of(slot.created_at) + TIME_TO_CONFIRM)
        ]

    def _status(self, slot: Slot) -> SlotStatus:
        vault = self._vault
        return SlotStatus.of(slot, opened_at=vault.opened_at if slot.id == vault.slot_id else None)


def _refuse_known(label: str, meta: VaultMeta, now: datetime) -> None:
    for slot in meta.slots:
        if slot.label == label and slot.usable(now):
            msg = f"there already is a slot {label}, with the id {slot.id}"
            raise SlotExistsError(msg, hint="choose another label, remove that slot, or rotate it")


def _with_lasting(meta: VaultMeta, root: RootKey, *, name: str, now: datetime) -> VaultMeta:
    usable = [slot for slot in meta.slots if slot.usable(now)]
    return changes.with_lasting_slot(meta, root, _named(name, usable).id, now=now)


def _without(meta: VaultMeta, root: RootKey, *, name: str, now: datetime) -> VaultMeta:
    return changes.without_slot(meta, root, _named(name, meta.slots).id, now=now)


def _named(name: str, slots: Sequence[_Slot]) -> _Slot:
    """Return the one slot with this id, or else this label."""
    found = [slot for slot in slots if slot.id == name] or [slot for slot in slots if slot.label == name]
    if len(found) == 1:
        return found[0]
    if found:
        msg = f"{len(found)} slots have the label {name}: {', '.join(slot.id for slot in found)}"
        raise SlotNotFoundError(msg, hint="name one by its id")
    msg = f"there is no slot with the id or label {name!r}"
    raise SlotNotFoundError(msg, hint="vaultctl slot list shows all of them")
