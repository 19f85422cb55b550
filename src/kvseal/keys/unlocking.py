"""
From a vault meta and a secret or wrap key to the root key, with at most one run per process.

Argon2id is expensive by design, and a call to a key service crosses a network.  All callers that
unlock one vault with one secret, or one wrap key, therefore share a single run: a caller that asks
during the run waits for it, across threads and event loops, and a later caller gets the same root
key while any part of the process still holds it.  A run whose callers have all given up, because their
deadlines are shorter than a derivation, is not in vain: the next caller within `KEPT_FOR` gets its result.

A process reads slots before it can authenticate the vault meta, so an attacker who writes to the
store can plant slots.  Of the slots that last the cheapest is tried first, so for the holder of such a
slot no planted slot costs more than the holder's own; then those that expire.  All attempts
together stay within a budget, so unlocking with a wrong secret ends too.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from kvseal.concurrency import after_fork
from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING, check_memory
from kvseal.envelope.wrapping import WrongKeyError
from kvseal.errors import (
    DamagedSlotError,
    KDFParametersError,
    VaultError,
    VaultMetaError,
    WrapKeyRefusedError,
    WrongSecretError,
)
from kvseal.keys.external_slot import ExternalSlot
from kvseal.keys.keyring import Keyring
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.meta import VaultMeta
from kvseal.observe import counters
from kvseal.secrets.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from kvseal.keys.making_slots import Slot
    from kvseal.keys.rootkey import RootKey
    from kvseal.secrets.sources import Unlocker
    from kvseal.wrapkeys import WrapKey

_PROCESS_KEY: Final = os.urandom(32)
"""Keys the names in the cache, so that it holds no secret and nothing to test guesses against."""

_PASSES: Final = 96
"""The most that one unlocking may cost, in passes over all memory below the ceiling: 32 slots of 3 passes."""

KEPT_FOR: Final = 30.0
"""Seconds for which a root key is held that no caller waited for any more."""


class _Run:
    """One run, with the number of callers that wait for it."""

    __slots__ = ("callers", "future")

    def __init__(self) -> None:
        self.future: Future[RootKey] = Future()
        # From now on no cancelled caller can cancel it for the others.
        self.future.set_running_or_notify_cancel()
        self.callers = 0


_lock = threading.Lock()
_held: WeakValueDictionary[bytes, RootKey] = WeakValueDictionary()
_unclaimed: dict[bytes, RootKey] = {}
_running: dict[bytes, _Run] = {}


async def unlock(
    slots: Sequence[Slot],
    unlocker: Unlocker,
    vault_id: bytes,
    *,
    now: datetime,
    memory_ceiling: int,
    anew: bool = False,
) -> tuple[RootKey, Slot]:
    """
    Return the root key and the usable slot that *unlocker* opens, one that lasts before one that expires.

    A wrap key is tried only on slots of its kind and name.  With *anew* kvseal asks its service
    even if this process holds the root key already.

    Raises:
        WrongSecretError: *unlocker* opens no slot.
        DamagedSlotError: *unlocker* belongs to a slot that is damaged.
        KDFParametersError: it opens none of the slots tried; the others are too expensive to try.
        WrapKeyError: the service does not answer, or refuses.
        VaultMetaError: there is no usable slot.
    """
    usable = [slot for slot in slots if slot.usable(now)]
    if not usable:
        msg = "the vault meta has no usable keyslot"
        raise VaultMetaError(msg, hint="restore the vault meta from a backup")
    if not isinstance(unlocker, Secret):
        return await _with_wrap_key(usable, unlocker, vault_id, anew=anew)
    own = [slot for slot in usable if isinstance(slot, Keyslot)]
    if not own:
        msg = f"the vault has no keyslot for a secret: {_keys(usable)}"
        raise WrongSecretError(msg, hint="name the key instead, such as --secret KIND:KEY")
    return await _with_secret(own, unlocker, vault_id, memory_ceiling)


async def _with_secret(
    slots: Sequence[Keyslot], secret: Secret, vault_id: bytes, memory_ceiling: int
) -> tuple[RootKey, Keyslot]:
    # A slot that is damaged, or too expensive for this machine, does not prevent another from opening.
    tried: list[Keyslot] = []
    damaged: list[DamagedSlotError] = []
    refused: list[tuple[Keyslot, KDFParametersError]] = []
    budget = memory_ceiling * _PASSES
    for slot in sorted(slots, key=_turn):
        try:
            check_memory(slot.params, memory_ceiling)
            budget -= _cost(slot)
            _check_budget(budget)
            return await _derive_once(slot, secret, vault_id, memory_ceiling), slot
        except WrongKeyError:
            tried.append(slot)
        except DamagedSlotError as exc:
            damaged.append(exc)
        except KDFParametersError as exc:
            refused.append((slot, exc))
    if damaged:
        raise damaged[0]
    raise _refusal(tried, refused) if refused else _wrong_secret(tried)


async def _with_wrap_key(
    slots: Sequence[Slot], wrap_key: WrapKey, vault_id: bytes, *, anew: bool
) -> tuple[RootKey, ExternalSlot]:
    # A service may refuse one slot and accept another: its policy sees the context.  An unreachable
    # service ends the loop, because every further slot would wait as long.
    failed: list[DamagedSlotError | WrapKeyRefusedError] = []
    for slot in sorted(slots, key=_expires):
        if not isinstance(slot, ExternalSlot) or not slot.is_of(wrap_key):
            continue
        try:
            return await _unwrap_once(slot, wrap_key, vault_id, anew=anew), slot
        except (DamagedSlotError, WrapKeyRefusedError) as exc:
            failed.append(exc)
    if failed:
        raise failed[0]
    msg = f"the vault has no keyslot of the {wrap_key.kind} key {wrap_key.name}: {_keys(slots)}"
    raise WrongSecretError(msg, hint="name the key as its slot does, or use another slot's secret")


def _keys(slots: Sequence[Slot]) -> str:
    return ", ".join(
        f"{slot.id} ({slot.label}) is of "
        + (f"the {slot.kind} key {slot.key}" if isinstance(slot, ExternalSlot) else "a secret")
        for slot in slots
    )


def _turn(slot: Keyslot) -> tuple[bool, int]:
    return _expires(slot), _cost(slot)


def _expires(slot: Slot) -> bool:
    """Whether *slot* comes last: a secret that was rotated away and back opens one that lasts, too."""
    return slot.expires_at is not None


def _cost(slot: Keyslot) -> int:
    return slot.params.time_cost * slot.params.memory_cost


def _check_budget(left: int) -> None:
    if left < 0:
        msg = "the vault's keyslots together cost more than one unlocking may"
        raise KDFParametersError(msg, hint="remove unused slots, or raise the memory ceiling")


def _refusal(
    tried: Sequence[Keyslot], refused: Sequence[tuple[Keyslot, KDFParametersError]]
) -> KDFParametersError:
    """Name both: the slots that the secret does not open, and those that were not tried."""
    slots, (first, *_) = [slot for slot, _ in refused], [error for _, error in refused]
    opens = f"this secret opens none of the keyslots {_names(tried)}, and " if tried else ""
    msg = f"{opens}{_names(slots)} could not be tried: {first}"
    return KDFParametersError(msg, hint=first.hint)


def _wrong_secret(tried: Sequence[Keyslot]) -> WrongSecretError:
    msg = f"this secret opens none of the vault's keyslots: {_names(tried)}"
    return WrongSecretError(msg, hint="check which secret this process was given; was the vault rotated?")


def _names(slots: Sequence[Keyslot]) -> str:
    return ", ".join(f"{slot.id} ({slot.label})" for slot in slots)


async def _derive_once(slot: Keyslot, secret: Secret, vault_id: bytes, memory_ceiling: int) -> RootKey:
    # Checked here too: the derivation to join may be that of a caller with another ceiling.
    check_memory(slot.params, memory_ceiling)

    def derive() -> RootKey:
        counters.derivations.number += 1
        return slot.open(secret, vault_id, memory_ceiling=memory_ceiling)

    wrapped = slot.wrapped
    parts = (slot.params.encode(), slot.salt, wrapped.commitment, wrapped.nonce, wrapped.ciphertext)
    return await _once(_cache_name(vault_id, slot, *parts, secret.reveal()), derive)


async def _unwrap_once(slot: ExternalSlot, wrap_key: WrapKey, vault_id: bytes, *, anew: bool) -> RootKey:
    def unwrap() -> RootKey:
        counters.unwrappings.number += 1
        return slot.open(wrap_key, vault_id)

    key = (wrap_key.kind.encode(), wrap_key.name.encode(), wrap_key.address.encode())
    return await _once(_cache_name(vault_id, slot, *key, slot.wrapped), unwrap, anew=anew)


async def _once(name: bytes, work: Callable[[], RootKey], *, anew: bool = False) -> RootKey:
    """Return the root key held under *name*, or the result of *work*, shared by all concurrent callers."""
    with _lock:
        held, running = None if anew else _held.get(name), _running.get(name)
        counters.hits.number += held is not None or running is not None
        if held is not None:
            _unclaimed.pop(name, None)
            return held
        run = running or _running.setdefault(name, _Run())
        run.callers += 1
    if running is None:
        _start(run, name, work)
    try:
        return await asyncio.wrap_future(run.future)
    finally:
        with _lock:
            run.callers -= 1


def _start(shared: _Run, name: bytes, work: Callable[[], RootKey]) -> None:
    """Run *work* in its own thread, which outlives the event loop and the task of the first caller."""

    def fail(error: BaseException) -> None:
        with _lock:
            _running.pop(name, None)
        shared.future.set_exception(error)

    def run() -> None:
        try:
            root = work()
        except BaseException as exc:  # noqa: BLE001 - every error goes to the callers that wait
            fail(exc)
        else:
            with _lock:
                _held[name] = root
                _running.pop(name, None)
                if not shared.callers:
                    _keep(name, root)
            shared.future.set_result(root)

    try:
        _spawn(run)
    except RuntimeError as exc:
        # The thread could not start: without this, every later caller would wait for ever.
        fail(exc)


def _keep(name: bytes, root: RootKey) -> None:
    _unclaimed[name] = root
    timer = threading.Timer(KEPT_FOR, _unclaimed.pop, (name, None))
    timer.daemon = True
    with suppress(RuntimeError):  # At the end of the process no thread can start any more.
        timer.start()


def _spawn(target: Callable[[], None]) -> None:
    """Run *target* in a thread that no event loop waits for."""
    threading.Thread(target=target, name="kvseal-unlock", daemon=True).start()


def _cache_name(vault_id: bytes, slot: Slot, *parts: bytes) -> bytes:
    """Return a name for these bytes of a slot and their unlocker, so that a changed slot is opened anew."""
    message = b"".join(len(part).to_bytes(4, "big") + part for part in (vault_id, slot.id.encode(), *parts))
    return hmac.digest(_PROCESS_KEY, message, "sha256")


def _forget_running() -> None:
    """Forget running work in a forked child, which does not have the parent's threads."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    _running.clear()
    _unclaimed.clear()


after_fork(_forget_running)


async def prove(
    meta: VaultMeta, slot: Slot, unlocker: Unlocker, root: RootKey, *, now: datetime
) -> tuple[RootKey, Keyring]:
    """
    Open the bytes that are about to be written, in memory, with the secret or key that has to open them.

    Returns the root key and the keyring that result.

    Raises:
        VaultError: *slot* does not open to *root*; nothing may be written.
    """
    written = VaultMeta.from_value(meta.as_value())
    slots = [candidate for candidate in written.slots if candidate.id == slot.id]
    ceiling = slot.params.memory_cost if isinstance(slot, Keyslot) else DEFAULT_MEMORY_CEILING
    opened, _ = await unlock(slots, unlocker, meta.vault_id, now=now, memory_ceiling=ceiling)
    if opened.reveal() != root.reveal():
        msg = "the new keyslot does not open to this vault's root key"
        raise VaultError(msg, hint="nothing was written; report this")
    return opened, Keyring(written, opened)
