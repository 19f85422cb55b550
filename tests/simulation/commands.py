"""What operators run: each command is a process of its own, as `vaultctl` is, on the host that runs it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.simulation import seams
from tests.simulation.registers import Write
from tests.simulation.views import COLLECTION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.simulation.loop import Process
    from tests.simulation.oracle import Oracle
    from tests.simulation.store import SimDriver
    from tests.simulation.world import World

_FOLDER = tempfile.TemporaryDirectory(prefix="kvseal-simulation-")


class Incomplete(Exception):  # noqa: N818 - it is no error, and no success
    """The command has said itself that something is left."""


@dataclass(eq=False)
class Operation:
    """One command under way."""

    world: World
    me: Process
    what: str
    args: dict[str, Any]
    begun: float
    driver: SimDriver
    vault: seams.Vault | None = None

    @property
    def oracle(self) -> Oracle:
        return self.world.oracle

    async def open(self) -> seams.Vault:
        ways = self.world.ways
        try:
            self.vault = await seams.Vault.open(self.driver, secret=ways.current.secret)
        except seams.WrongSecretError:
            ways.try_another()
            self.vault = await seams.Vault.open(self.driver, secret=ways.current.secret)
        return self.vault


async def _rotate_dek(op: Operation) -> str:
    vault = await op.open()
    status = await vault.rotate_dek()
    op.oracle.judge_change(op.me, op.what, vault)
    return f"DEK {status.deks[-1].id}"


async def _rotate(op: Operation) -> str:
    """Rotate the secret in one of its forms: the same at another cost, a new one, the one before."""
    vault, ways = await op.open(), op.world.ways
    own = ways.current
    new = {"rotate": lambda: own, "rotate_back": ways.previous}.get(op.what, lambda: ways.make("primary"))()
    keep = op.args.get("keep", 600.0 if op.what == "rotate_back" else None)
    ways.begin(op.me)
    ways.unsure(*ways.primaries())
    try:
        if new is own:
            await vault.rotate(kdf=seams.CHEAP)
        else:
            keep_old_for = None if keep is None else timedelta(seconds=keep)
            await vault.rotate(new_secret=new.secret, keep_old_for=keep_old_for)
        own.state = "opens" if own is not new and own.state == "maybe" else own.state
        ways.rotated(new, None if new is own else keep, op.begun, op.oracle.loop.now)
        op.oracle.judge_change(op.me, op.what, vault)
        ways.judge(f"after {op.what} of {op.me.name}")
    finally:
        ways.end(op.me)
    return f"revision {vault.meta.revision}" + ("" if keep is None else f", the old one for {keep:.0f} s")


async def _rotate_root(op: Operation) -> str:
    vault, ways = await op.open(), op.world.ways
    kept = [way for way in ways.spares() if way.state == "opens"]
    ways.begin(op.me)
    current = ways.current
    ways.unsure()
    try:
        await vault.rotate_root([way.secret for way in kept], drop_slots=True)
        ways.only(current, *kept)
        op.oracle.judge_change(op.me, op.what, vault)
        ways.judge(f"after {op.what} of {op.me.name}")
    finally:
        ways.end(op.me)
    return f"revision {vault.meta.revision}"


async def _slot_add(op: Operation) -> str:
    vault, ways = await op.open(), op.world.ways
    way = ways.make(f"spare-{len(ways.spares())}")
    ways.begin(op.me)
    try:
        await vault.slots.add(way.secret, label=way.label, kdf=seams.CHEAP)
        ways.set(way, "opens")
        op.oracle.judge_change(op.me, op.what, vault)
    finally:
        ways.end(op.me)
    return way.label


async def _slot_remove(op: Operation) -> str:
    vault, ways = await op.open(), op.world.ways
    spares = ways.spares()
    if not spares:
        return "nothing to do"
    ways.begin(op.me)
    ways.unsure(spares[-1])
    try:
        await vault.slots.remove(spares[-1].label)
        ways.set(spares[-1], "shut")
        op.oracle.judge_change(op.me, op.what, vault)
        ways.judge(f"after {op.what} of {op.me.name}")
    finally:
        ways.end(op.me)
    return spares[-1].label


async def _reencrypt(op: Operation) -> str:
    vault = await op.open()
    active = vault.keyring.active_dek
    report = await seams.recode(op.driver, seams.plan_reencryption(vault))
    _complete(report)
    op.oracle.judge_success(op.me, op.what, op.begun)
    op.world.judge_current(op.me, active, report)
    return f"changed={report.changed} of {report.scanned}"


async def _verify(op: Operation) -> str:
    report = await seams.verify(op.driver, await op.open())
    _complete(report)
    op.oracle.judge_success(op.me, op.what, op.begun)
    return f"scanned={report.scanned}"


async def _retire(op: Operation) -> str:
    vault = await op.open()
    kept = [dek for dek in vault.meta.deks if dek.state == "retired" and dek.wrapped is not None]
    candidates = [dek for dek in vault.meta.deks if dek.state == "readable"] or kept
    if not candidates:
        return "nothing to do"
    found = await seams.retire(op.driver, vault, candidates[0].number)
    if found.changed:
        op.world.judge_retired(op.me, found.dek, op.begun)
    return f"{'dropped' if found.dropped else 'retired' if found.changed else 'kept'} DEK {found.dek}"


async def _import_keys(op: Operation) -> str:
    done = await seams.import_keys(
        op.driver, [seams.OLD_LEGACY_KEY], secret=op.world.ways.current.secret, kdf=seams.CHEAP
    )
    view = op.oracle.view
    revision = 0 if done.vault is None else done.vault.revision
    holds = view is not None and (bool(view.legacy) or view.meta.revision > revision)
    # Another operator has finalized meanwhile, and the report says itself that no key is held any more.
    holds = holds or (op.oracle.legacy_end is not None and done.vault is not None and not done.vault.legacy)
    if not op.oracle.is_excused(op.me) and not holds:
        op.oracle.find("false_import_keys", f"import_keys of {op.me.name} succeeded: no such key is stored")
    return "the old key is held"


async def _migrate(op: Operation) -> str:
    done = await seams.migrate(
        op.driver,
        secret=op.world.ways.current.secret,
        kdf=seams.CHEAP,
        finalize=op.what == "finalize",
        plaintext=seams.PlaintextRule.REFUSE,
    )
    if done.report is None or (op.what == "finalize" and not done.finalized):
        raise Incomplete("not finalized")
    if op.what == "migrate":
        _complete(done.report)
        if set(done.report.expired or {}) - {"kvseal"}:
            raise Incomplete(f"expired={done.report.expired}")
    op.oracle.judge_success(op.me, op.what, op.begun)
    op.world.judge_migrated(op.me, op.what)
    return f"changed={done.report.changed} of {done.report.scanned}"


async def _backup(op: Operation) -> str:
    path = Path(_FOLDER.name) / f"{op.world.number()}.kvseal"
    before = op.world.snapshot()
    report = await seams.backup(op.driver, path)
    if report.exit_code:
        raise Incomplete(f"failed={report.failed}")
    op.world.judge_backup(op, path, before)
    return f"{report.saved} entries"


async def _restore(op: Operation) -> str:
    world = op.world
    if not world.backups:
        return "nothing to do"
    path, values = world.backups[-1]
    registers, overwrites = world.oracle.registers, op.what == "restore_over"
    writes = {
        key: Write(key, value, world.loop.now, op.me, ttl, seals_expiry=False)
        for key, (value, ttl) in values.items()
    }
    world.oracle.restoring.add(op.me)
    registers.begin_restore(writes, world.loop.now, overwrites=overwrites)
    try:
        report = await seams.restore(path, op.driver, overwrite=overwrites)
    finally:
        registers.end_restore(writes, world.loop.now)
    if report.exit_code:
        raise Incomplete(f"failed={report.failed} unchecked={report.unchecked}")
    view = op.oracle.view
    for key in values:
        name = f"{COLLECTION}{key}"
        seen = op.oracle.looker.look(name, view)
        if op.oracle.is_of_a_fault(name):
            continue
        if seen.is_lost and not op.oracle.is_excused(op.me):
            op.oracle.find("false_restore", f"{op.what} of {op.me.name} succeeded: {key}: {seen.reason}")
    op.oracle.judge_all(f"after {op.what} of {op.me.name}")
    return f"restored={report.restored} overwritten={report.overwritten}"


def _complete(report: Any) -> None:
    if report.failed or report.pending:
        raise Incomplete(f"failed={report.failed} pending={report.pending}")


COMMANDS: dict[str, Callable[[Operation], Awaitable[str]]] = {
    "rotate_dek": _rotate_dek,
    "rotate": _rotate,
    "rotate_secret": _rotate,
    "rotate_keep": _rotate,
    "rotate_back": _rotate,
    "rotate_root": _rotate_root,
    "slot_add": _slot_add,
    "slot_remove": _slot_remove,
    "reencrypt": _reencrypt,
    "verify": _verify,
    "retire": _retire,
    "import_keys": _import_keys,
    "migrate": _migrate,
    "finalize": _migrate,
    "backup": _backup,
    "restore": _restore,
    "restore_over": _restore,
}
"""By the name that a plan has for it.  `hold` and `policy seal` belong here once they exist."""


def remove_files() -> None:
    """Remove the backups of a run that is over."""
    for path in Path(_FOLDER.name).iterdir():
        path.unlink()
