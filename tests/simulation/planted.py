"""
Bugs that are planted on purpose: the oracle is trusted because it catches every one of them.

Each is a few replacements in kvseal or in the simulated backend, the kinds of fault with which it is looked
for, and the verdicts that count.  The plan that catches one has no such verdict without it.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Replacements = list[tuple[Any, str, Any]]


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug."""

    what: str
    replaces: Callable[[], Replacements]
    verdicts: frozenset[str]
    faults: frozenset[str] = frozenset({"crash", "wire", "slow"})
    seeds: int = 400
    """It is caught in fewer seeds than these."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, value in self.replaces():
                stack.enter_context(patch.object(owner, name, value))
            yield


def _module(name: str) -> Any:
    from tests.simulation import seams

    return seams.module(name)


def _nothing(*_: Any, **__: Any) -> None:
    """Take the place of a check."""


async def _nothing_async(*_: Any, **__: Any) -> None:
    """Take the place of a check."""


def _no_refresh() -> Replacements:
    async def renew(self: Any, _: Any) -> None:
        self.confirm(self.clock())

    return [(_module("freshness").Freshness, "renew", renew)]


def _blind_swap() -> Replacements:
    from tests.simulation.server import KEEP, Server

    def swap(self: Any, swaps: Any) -> list[bool]:
        for name, _, new, ends in swaps:
            self.set(name, new, (self.data.get(name) or (b"", None))[1] if ends == KEEP else ends)
        return [True] * len(swaps)

    return [(Server, "swap", swap)]


def _overwriting_add() -> Replacements:
    from tests.simulation.server import Server

    return [(Server, "add", lambda self, name, body, ends: self.set(name, body, ends) or True)]


def _unchecked_checkpoint() -> Replacements:
    async def read(_: Any, entry: Any, __: Any) -> Any:
        return dict(entry.value)

    return [(_module("checkpoint").CheckpointStore, "_open", read)]


def _conflicts_skipped() -> Replacements:
    async def again(*_: Any) -> list[Any]:
        return []

    return [
        (_module("writing").InPlace, "_again", again),
        (_module("engine"), "_left_over", lambda *_: 0),
    ]


def _not_read_back() -> Replacements:
    async def read_back(self: Any, meta: Any) -> Any:
        await self.seen.remember(meta)
        return (await self.look()).entry, meta

    return [(_module("metastore").MetaStore, "_read_back", read_back)]


def _expiry_ignored() -> Replacements:
    wrapper = _module("wrapper")
    real = wrapper.expiry

    class Expiry:
        expiry_of = staticmethod(real.expiry_of)
        live = staticmethod(lambda value, *_: (value, None))

    class Clock:
        wall_ms = staticmethod(lambda: 0)

    return [(wrapper, "expiry", Expiry), (wrapper, "clock", Clock)]


def _page_skipped() -> Replacements:
    from tests.simulation.store import SimDriver

    page = SimDriver._page

    async def skipping(self: Any, cursor: str) -> Any:
        found = await page(self, cursor)
        return await page(self, found[-1][0]) if cursor == "" and found else found

    return [(SimDriver, "_page", skipping)]


def _keep(until: timedelta | None) -> Callable[[], Replacements]:
    def replacements() -> Replacements:
        changes = _module("changes")
        real = changes.with_slot_in_place

        def in_place(*args: Any, keep_until: Any, now: Any) -> Any:
            wrong = None if until is None or keep_until is None else now + until
            return real(*args, keep_until=wrong, now=now)

        return [(changes, "with_slot_in_place", in_place)]

    return replacements


def _older_believed() -> Replacements:
    session = _module("session")

    def take(self: Any, meta: Any, keyring: Any) -> None:
        self._meta = meta
        self._use(keyring)

    return [
        (_module("newest").Before, "check", _nothing),
        (session.Keyring, "lost_in", _nothing),
        (session.OpenVault, "take", take),
    ]


def _restore_overwrites() -> Replacements:
    restoring = _module("restoring")

    async def beside(self: Any, entry: Any, there: Any) -> Any:
        return "already" if restoring.is_meta(entry) else await self._replaced(entry, there)

    return [(restoring._Restore, "_beside", beside)]


def _expiry_dropped() -> Replacements:
    target = _module("formats").SealedTarget
    seal = target.seal
    return [(target, "seal", lambda self, value, entry, _: seal(self, value, entry, None))]


def _own_clock() -> Replacements:
    clocks = _module("store_clock")

    async def no_store_time(_: Any) -> None:
        return None

    class Abilities:
        store_time = staticmethod(no_store_time)

    return [(clocks, "abilities", Abilities)]


def _slot_kept() -> Replacements:
    changes = _module("changes")

    def without_slot(meta: Any, root: Any, _: str, *, now: Any) -> Any:
        return changes._next(meta, root, now)

    return [(changes, "without_slot", without_slot)]


def _check(module: str, name: str, *, owner: str = "", value: Any = _nothing) -> Callable[[], Replacements]:
    def replacements() -> Replacements:
        place = _module(module)
        return [(getattr(place, owner) if owner else place, name, value)]

    return replacements


_LOSS = frozenset({"lost_put", "unreadable"})
_CALM = frozenset({"crash", "wire"})

BUGS: dict[str, Planted] = {
    "retire-without-looking": Planted(
        "retire drops a DEK that records still need",
        _check("retirement", "_check_needs"),
        _LOSS | {"false_retire"},
        _CALM,
    ),
    "retire-without-grace": Planted(
        "retire does not wait until every process knows the next DEK",
        _check("retirement", "_check_grace", value=_nothing_async),
        _LOSS | {"false_retire"},
    ),
    "grace-by-own-clock": Planted(
        "a new DEK is stamped, and its grace measured, by whatever clock a host has",
        _own_clock,
        _LOSS | {"false_retire"},
        frozenset({"skew"}),
    ),
    "no-refresh": Planted("a process never reads the vault meta again", _no_refresh, _LOSS, _CALM),
    "no-limit": Planted(
        "a process that hears nothing of the vault meta goes on sealing",
        _check("freshness", "check", owner="Freshness"),
        _LOSS,
        frozenset({"meta_silent"}),
    ),
    "swap-without-compare": Planted(
        "the driver replaces what has changed since it was read",
        _blind_swap,
        _LOSS | {"lost_update", "swap_changes", "stale_value", "swap_destroys"},
    ),
    "add-overwrites": Planted(
        "of two processes that create the vault the second one wins, too",
        _overwriting_add,
        _LOSS | {"buried", "lost_update"},
    ),
    "mac-unchecked": Planted(
        "the MAC of the vault meta is not looked at",
        _check("meta", "verify", owner="VaultMeta"),
        frozenset({"forged"}),
        frozenset({"forged"}),
    ),
    "checkpoint-unchecked": Planted(
        "a checkpoint that nobody sealed is believed",
        _unchecked_checkpoint,
        frozenset({"false_report"}),
        frozenset({"forged"}),
    ),
    "conflicts-skipped": Planted(
        "a recode takes a lost swap for done",
        _conflicts_skipped,
        frozenset({"false_reencrypt", "false_migrate", "false_finalize", "unreadable"}),
    ),
    "rotation-not-read-back": Planted(
        "a change of the vault meta is believed as soon as it is acknowledged",
        _not_read_back,
        frozenset(
            {
                "false_rotate",
                "false_rotate_dek",
                "false_rotate_secret",
                "false_rotate_keep",
                "false_rotate_root",
            }
        ),
        frozenset({"write_dropped"}),
    ),
    "expiry-ignored": Planted(
        "a read does not look at the sealed expiry",
        _expiry_ignored,
        frozenset({"expired_value"}),
        frozenset({"ttl_lost"}),
    ),
    "page-skipped": Planted(
        "a scan leaves out a page",
        _page_skipped,
        _LOSS | {"false_retire", "false_reencrypt", "false_backup", "false_finalize"},
        _CALM,
    ),
    "reseal-without-compare": Planted(
        "a read re-seals an old record over what was put meanwhile",
        _check("resealing", "is_still", owner="OldRecord", value=lambda *_: True),
        frozenset({"lost_update", "swap_changes", "stale_value"}),
    ),
    "keep-old-ignored": Planted(
        "a rotation removes the old secret that it was to keep for a while",
        _keep(None),
        frozenset({"locked_out"}),
        _CALM,
    ),
    "keep-old-for-ever": Planted(
        "a rotation keeps the old secret for longer than it was told",
        _keep(timedelta(days=30)),
        frozenset({"shut_out_opens"}),
        _CALM,
    ),
    "slot-stays": Planted(
        "a slot that was removed still opens", _slot_kept, frozenset({"shut_out_opens"}), _CALM
    ),
    "finalize-without-proof": Planted(
        "a migration drops the old keys, whatever its verify pass has found",
        _check("migration", "_is_complete", value=lambda *_: True),
        _LOSS | {"false_finalize"},
        _CALM,
    ),
    "backup-of-two-metas": Planted(
        "a backup does not look whether the vault meta has changed meanwhile",
        _check("taking", "_refuse_changed", owner="_Backup", value=_nothing_async),
        frozenset({"false_backup"}),
    ),
    "restore-overwrites": Planted(
        "a restore replaces what is there without being told to",
        _restore_overwrites,
        frozenset({"lost_update", "missing_value", "stale_value"}),
        frozenset({"restores"}),
    ),
    "older-meta-believed": Planted(
        "a process goes back to an older vault meta",
        _older_believed,
        frozenset({"rollback"}),
        frozenset({"meta_older"}),
    ),
    "records-buried": Planted(
        "a vault is created where sealed records have lost theirs",
        _check("creation", "_refuse_orphaned_records", value=_nothing_async),
        frozenset({"buried"}),
        frozenset({"meta_deleted", "crash"}),
    ),
    "expiry-dropped": Planted(
        "a re-encryption leaves out the sealed expiry",
        _expiry_dropped,
        frozenset({"expiry_changed"}),
        _CALM,
    ),
    "verify-blind": Planted(
        "verify reports no record that does not open",
        _check("census", "_judge"),
        frozenset({"false_verify", "false_reencrypt"}),
        frozenset({"tampered"}),
    ),
}
