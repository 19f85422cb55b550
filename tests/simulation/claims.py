"""What single commands promise beyond that everything opens, held against the backend."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.simulation import seams
from tests.simulation.oracle import value_text
from tests.simulation.views import COLLECTION

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulation.commands import Operation
    from tests.simulation.loop import Process
    from tests.simulation.oracle import Oracle
    from tests.simulation.server import Server

_SOON = 120.0
"""Seconds before its end in which an entry may be left out of a backup."""

_PASSES = 3
"""How often a recode may count a record that writers keep changing."""


class Claims:
    """Part of the world: what it knows beyond the oracle."""

    oracle: Oracle
    server: Server
    backups: list[Any]

    def judge_current(self, me: Process, active: int, report: Any) -> None:
        """After a re-encryption nothing that its last scan could see is under an older DEK."""
        oracle = self.oracle
        since = oracle.activity[me].scan
        if not oracle.struck:
            for name in oracle.looker.names():
                seen = oracle.look(name)
                if seen.dek is not None and seen.dek < active and oracle.authors[name].at < since:
                    text = (
                        f"reencrypt of {me.name} succeeded: {name[len(COLLECTION) :]} is under DEK {seen.dek}"
                    )
                    oracle.find("false_reencrypt", text)
        ever = sum(name.startswith(COLLECTION) for name in oracle.authors)
        if report.scanned > _PASSES * ever:
            oracle.find(
                "false_report", f"reencrypt of {me.name} says it scanned {report.scanned} of {ever} records"
            )

    def judge_retired(self, me: Process, dek: int, begun: float) -> None:
        """After a DEK was retired nothing needs it that the scan could see."""
        oracle = self.oracle
        lost = [
            name[len(COLLECTION) :]
            for name in oracle.looker.names()
            if (seen := oracle.look(name)).is_lost and seen.dek == dek and oracle.authors[name].at < begun
        ]
        if lost and not oracle.is_excused(me):
            oracle.find(
                "false_retire", f"retire of {me.name} dropped DEK {dek}, which {', '.join(lost)} need"
            )
        oracle.judge_all(f"after retire of {me.name}")

    def judge_migrated(self, me: Process, what: str) -> None:
        """After a migration nothing old is left that its last scan could see."""
        oracle = self.oracle
        since = oracle.activity[me].scan
        for name in oracle.looker.names():
            seen = oracle.look(name)
            if not oracle.struck and seen.state in {"opens", "old"} and seen.dek is None:
                author = oracle.authors[name]
                if author.at < since and author.call is not None:
                    text = f"{what} of {me.name} succeeded: {name[len(COLLECTION) :]} is an old record"
                    oracle.find(f"false_{what}", text)

    def snapshot(self) -> dict[str, bytes]:
        """Return the users' entries that live, and go on living for a while."""
        soon = self.server.clock() + _SOON
        return {
            name: body
            for name, (body, ends) in self.server.data.items()
            if name.startswith(COLLECTION) and (ends is None or ends > soon)
        }

    def judge_backup(self, op: Operation, path: Path, before: dict[str, bytes]) -> None:
        """A backup holds what was there all the time, and the vault meta in it opens what is sealed."""
        oracle, me, saved, values = self.oracle, op.me, {}, {}
        with path.open("rb") as file:
            entries = [entry for batch in seams.BackupReader(file).batches() for entry in batch]
        meta = next((entry for entry in entries if seams.is_meta(entry)), None)
        view = None if meta is None else oracle.looker.view(seams.body_of(meta))
        laid = {value_text(body) for body in oracle.laid}
        for entry in entries:
            name = f"{entry.collection}::{entry.key}"
            if not name.startswith(COLLECTION):
                continue
            saved[name] = json.dumps(dict(entry.value or {}), sort_keys=True)
            seen = oracle.looker.look_at(name, seams.body_of(entry), view)
            best = oracle.look_by_any(name, seams.body_of(entry)) if seen.state == "lost" else seen
            ends = best.expires is not None or entry.expires_at is not None
            values[entry.key] = (best.value, 0.0 if ends else None)
            if best.state in {"lost", "foreign"}:
                oracle.hopeless.add(saved[name])
            if seen.state == "lost" and not oracle.struck and saved[name] not in laid:
                text = (
                    f"backup of {me.name} succeeded: the meta in it does not open {entry.key}: {seen.reason}"
                )
                oracle.find("false_backup", text)
        after = self.snapshot()
        missing = [
            name[len(COLLECTION) :]
            for name, body in sorted(before.items())
            # A value that a failover took back again may be in the file in place of the one before it.
            if after.get(name) == body
            and (name not in saved or (saved[name] != value_text(body) and not oracle.struck))
        ]
        if missing:
            oracle.find("false_backup", f"backup of {me.name} succeeded without {', '.join(missing)}")
        self.backups.append((path, values))
