"""
A rotation of the root key: a new one takes the place of one that somebody may have a copy of.

It is one write of the vault meta.  Every DEK and every legacy key is wrapped under the new root key,
each keyslot whose secret is given is made anew, and the rest go, for which somebody has to agree.
The old root key hands over to the new one, so processes that hold it can follow; see
`kvseal.keys.handover`.  Records stay as they are, because the DEKs do.

What it ends: the old root key opens no vault meta that is written from now on.  What it does not: with
an old copy of the vault meta, the old root key still gives the DEKs of that time.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kvseal.errors import KDFParametersError, SlotsLeftOutError, WrongSecretError
from kvseal.keys import changes
from kvseal.keys.defaults import secret_for_opening
from kvseal.keys.keyring import locked
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.meta import present
from kvseal.keys.proof import prove
from kvseal.keys.rootkey import RootKey
from kvseal.keys.unlock import unlock
from kvseal.keys.unlocker import new_slot
from kvseal.rotation import own_slot
from kvseal.status import SlotStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kvseal.keys.meta import VaultMeta
    from kvseal.keys.unlocker import Slot, Unlocker
    from kvseal.status import VaultStatus
    from kvseal.vault import Vault


@dataclass(frozen=True, slots=True)
class RootRotated:
    """What a rotation of the root key did, or with a dry run would do: the slots that went are `dropped`."""

    status: VaultStatus
    dropped: tuple[SlotStatus, ...]
    changed: bool

    def as_dict(self) -> dict[str, Any]:
        """Return what `vaultctl rotate --root --json` prints."""
        dropped = [asdict(slot) for slot in self.dropped]
        return {**self.status.as_dict(), "dropped": dropped, "changed": self.changed}


class RootRotation:
    """One rotation of the root key of *vault*; see `Vault.rotate_root`."""

    def __init__(
        self, vault: Vault, secrets: Sequence[Unlocker | str], drop_slots: bool | Collection[str]
    ) -> None:
        self._vault = vault
        self._secrets = secrets
        self._drop_slots = drop_slots

    async def run(self, *, dry_run: bool) -> RootRotated:
        """Do it, or with *dry_run* all but the write; see `Vault.rotate_root` for what it raises."""
        vault = self._vault
        root, given = vault._unlocked(), await self._given()
        entry, meta = await vault._current(root)
        own = own_slot(vault, meta)
        kept, dropped = await self._sorted(meta, given)
        if not dry_run:
            self._check_consent(dropped)
        new = RootKey.generate(meta.vault_id)
        made = {slot.id: await self._made_anew(slot, new, secret) for slot, secret in kept}
        changed = changes.with_new_root(meta, root, successor=new, slots=tuple(made.values()), now=present())
        for slot, secret in kept:
            opened = await prove(changed, made[slot.id], secret, new, now=present())
            if slot.id == own.id:
                new = opened
        if not dry_run:
            await vault._metastore.change(entry, changed)
            vault._came_in(given[0], made[own.id].id, new)
            vault._take(changed, new)
        gone = tuple(SlotStatus.of(slot, opened_at=None) for slot in dropped)
        return RootRotated(vault.status(), gone, not dry_run)

    async def _made_anew(self, slot: Slot, root: RootKey, unlocker: Unlocker) -> Slot:
        """Return *slot* for another root key: the same way in for the same time, under a new id and salt."""
        return await new_slot(
            root,
            unlocker,
            slot.params if isinstance(slot, Keyslot) else None,
            label=slot.label,
            now=present(),
            expires_at=slot.expires_at,
            memory_ceiling=self._vault._memory_ceiling,
        )

    async def _given(self) -> list[Unlocker]:
        """Return each secret once, and first the one that opened the vault."""
        own = self._vault._secret
        if own is None:
            raise locked()
        given = [own]
        for reference in self._secrets:
            secret = await secret_for_opening(reference)
            if secret not in given:
                given.append(secret)
        return given

    async def _sorted(
        self, meta: VaultMeta, given: Sequence[Unlocker]
    ) -> tuple[list[tuple[Slot, Unlocker]], list[Slot]]:
        """Return the usable slots that a secret opens, each with it, and the others."""
        kept: list[tuple[Slot, Unlocker]] = []
        dropped: list[Slot] = []
        opened: Counter[int] = Counter()
        for slot in meta.slots:
            if not slot.usable(present()):
                continue
            number = await self._opened_by(slot, given, meta.vault_id)
            if number is None:
                dropped.append(slot)
            else:
                kept.append((slot, given[number]))
                opened[number] += 1
        for number in range(1, len(given)):
            if not opened[number]:
                msg = f"secret {number} of the {len(given) - 1} that were given opens no keyslot"
                raise WrongSecretError(msg, hint="nothing was changed; vaultctl slot list shows the slots")
        return kept, dropped

    async def _opened_by(self, slot: Slot, given: Sequence[Unlocker], vault_id: bytes) -> int | None:
        ceiling = self._vault._memory_ceiling
        for number, secret in enumerate(given):
            # A slot that is too dear for this machine is one whose secret nobody can give here.
            with suppress(WrongSecretError, KDFParametersError):
                await unlock([slot], secret, vault_id, now=present(), memory_ceiling=ceiling)
                return number
        return None

    def _check_consent(self, dropped: Sequence[Slot]) -> None:
        allowed = self._drop_slots
        if isinstance(allowed, bool):
            refused = [] if allowed else dropped
        else:
            refused = [slot for slot in dropped if slot.id not in allowed and slot.label not in allowed]
        if refused:
            names = ", ".join(f"{slot.id} ({slot.label})" for slot in refused)
            msg = f"without their secrets, these keyslots would be dropped: {names}"
            raise SlotsLeftOutError(
                msg, hint="give each secret with --slot-secret REF, or let them go with --drop-slots"
            )
