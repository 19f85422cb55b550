"""
A rotation of the root key: a new one takes the place of one that an attacker may have a copy of.

It is one write of the vault meta.  Every DEK and every legacy key is wrapped under the new root key,
each keyslot whose secret is given is made anew, and the rest go, to which the operator has to agree.
The old root key hands over to the new one, so processes that hold it can follow; see
`kvseal.keys.rootkey.Handover`.  Records stay as they are, because the DEKs do.

What it ends: the old root key opens no vault meta that is written from now on.  What it does not: with
an old copy of the vault meta, the old root key still gives the DEKs of that time.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kvseal import clock
from kvseal.errors import KDFParametersError, SlotsLeftOutError, WrongSecretError
from kvseal.keys import changes
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.making_slots import new_slot
from kvseal.keys.rootkey import RootKey
from kvseal.keys.unlocking import prove, unlock
from kvseal.secrets.given import secret_for_opening
from kvseal.vault.changing.secret_rotation import own_slot
from kvseal.vault.session import WayIn
from kvseal.vault.status import SlotStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kvseal.keys.making_slots import Slot
    from kvseal.keys.meta import VaultMeta
    from kvseal.secrets.sources import Unlocker
    from kvseal.vault.session import OpenVault
    from kvseal.vault.status import VaultStatus


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


async def rotate_root(
    vault: OpenVault,
    secrets: Sequence[Unlocker | str],
    *,
    drop_slots: bool | Collection[str],
    dry_run: bool,
) -> RootRotated:
    """Replace the root key of *vault*, or with *dry_run* do all but the write; see `Vault.rotate_root`."""
    came_by = vault.way_in()
    given = await _each_once(came_by.secret, secrets)
    entry, meta = await vault.read_current(came_by.root)
    own = own_slot(vault, meta)
    kept, dropped = await _sorted(meta, given, vault.memory_ceiling)
    if not dry_run:
        _check_consent(dropped, drop_slots)
    new = RootKey.generate(meta.vault_id)
    made = {slot.id: await _made_anew(slot, new, secret, vault.memory_ceiling) for slot, secret in kept}
    now = (await vault.clocks()).reached
    changed = changes.with_new_root(meta, came_by.root, successor=new, slots=tuple(made.values()), now=now)
    proofs = {
        slot.id: await prove(changed, made[slot.id], secret, new, now=clock.utc_seconds())
        for slot, secret in kept
    }
    if not dry_run:
        root, keyring = proofs[own.id]
        await vault.commit(entry, changed, keyring, way_in=WayIn(given[0], made[own.id].id, root))
    gone = tuple(SlotStatus.of(slot, opened_at=None) for slot in dropped)
    return RootRotated(vault.status(), gone, not dry_run)


async def _each_once(own: Unlocker, references: Sequence[Unlocker | str]) -> list[Unlocker]:
    """Return each secret once, and first the one that opened the vault."""
    given = [own]
    for reference in references:
        secret = await secret_for_opening(reference)
        if secret not in given:
            given.append(secret)
    return given


async def _made_anew(slot: Slot, root: RootKey, unlocker: Unlocker, memory_ceiling: int) -> Slot:
    """Return *slot* for another root key: the same way in for the same time, under a new id and salt."""
    return await new_slot(
        root,
        unlocker,
        slot.params if isinstance(slot, Keyslot) else None,
        label=slot.label,
        now=clock.utc_seconds(),
        expires_at=slot.expires_at,
        memory_ceiling=memory_ceiling,
    )


async def _sorted(
    meta: VaultMeta, given: Sequence[Unlocker], memory_ceiling: int
) -> tuple[list[tuple[Slot, Unlocker]], list[Slot]]:
    """Return the usable slots that a secret opens, each with it, and the others."""
    kept: list[tuple[Slot, Unlocker]] = []
    dropped: list[Slot] = []
    opened: Counter[int] = Counter()
    for slot in meta.slots:
        if not slot.usable(clock.utc_seconds()):
            continue
        number = await _opened_by(slot, given, meta.vault_id, memory_ceiling)
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


async def _opened_by(
    slot: Slot, given: Sequence[Unlocker], vault_id: bytes, memory_ceiling: int
) -> int | None:
    now = clock.utc_seconds()
    for number, secret in enumerate(given):
        # A slot that is too dear for this machine is one whose secret cannot be given here.
        with suppress(WrongSecretError, KDFParametersError):
            await unlock([slot], secret, vault_id, now=now, memory_ceiling=memory_ceiling)
            return number
    return None


def _check_consent(dropped: Sequence[Slot], allowed: bool | Collection[str]) -> None:
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
