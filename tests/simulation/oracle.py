"""
The judge: it knows what was acknowledged and what was promised, and looks after each answer.

A verdict is a kind and a sentence.  What no client can know is no verdict: a process may seal for a while
with a vault meta that the backend has lost since, until it hears of it.  From then on nothing is excused.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation import seams
from tests.simulation.registers import Registers, Write
from tests.simulation.views import COLLECTION, MISSING, Looker, Seen, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.simulation.loop import Process, SimLoop
    from tests.simulation.server import Call, Server

PATIENCE = seams.REFRESH_AFTER * seams.LIMIT + 60.0
"""Seconds after which a process that hears nothing of the vault meta has to stop sealing, with some slack."""


@dataclass(slots=True)
class Activity:
    """What a process has done at the backend, as far as its successes rest on it."""

    look: float = -1.0
    """When it last looked at the vault meta, and got the answer."""
    mark: int = -1
    """How often the vault meta had changed by then."""
    work: float = -1.0
    """When its last call arrived that was none of those looks."""
    scan: float = -1.0
    """When it last began to scan."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who laid an entry there as it is, and when: a call, or a fault."""

    call: Call | None
    at: float


@dataclass
class Oracle:
    """Watches the backend, and judges."""

    loop: SimLoop
    server: Server
    log: Callable[[str, str], None]
    clocks_agree: bool
    doubled: bool = False
    """Applications have two wrappers, each with a vault of its own, one of which may know more than the other."""
    verdicts: list[tuple[str, str]] = field(default_factory=list)
    forged: set[bytes] = field(default_factory=set)
    """MACs that nobody who holds the root key has made."""

    restoring: set[Process] = field(default_factory=set)
    """Who runs a restore."""

    def __post_init__(self) -> None:
        self.registers = Registers(clocks_agree=self.clocks_agree)
        self.looker = Looker(self.server)
        self.activity: defaultdict[Process, Activity] = defaultdict(Activity)
        self.metas: list[bytes | None] = [None]
        self.struck: list[int] = []
        """Which changes of the vault meta were faults."""
        self.struck_at: list[float] = []
        """When they were."""
        self.authors: dict[str, Author] = {}
        self.bodies: dict[str, bytes] = {}
        self.laid: set[bytes] = set()
        """Bodies that no client has written."""
        self.hopeless: set[str] = set()
        """Values in backups that the vault meta in them does not open: no restore can know that."""
        self.legacy_end: float | None = None
        self._accepted: dict[Process, dict[tuple[bytes, int], bytes]] = defaultdict(dict)
        self._newest: dict[tuple[Process, bytes], int] = {}
        self._said: set[tuple[str, str]] = set()

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.verdicts}

    @property
    def view(self) -> View | None:
        """What a new process would find of the vault now."""
        return self.looker.view(self.server.live(seams.META))

    def find(self, kind: str, text: str, *, about: str = "") -> None:
        if (kind, about) not in self._said or not about:
            self._said.add((kind, about))
            self.verdicts.append((kind, text))
            self.log("ORACLE", f"{kind}: {text}")

    # What the wire reports.

    def sent(self, call: Call) -> None:
        activity = self.activity[call.process]
        if call.verb == "scan" and call.names == ("",):
            activity.scan = self.loop.now

    def known(self, process: Process) -> tuple[float | None, int]:
        activity = self.activity.get(process)
        return (None, 0) if activity is None or activity.look < 0 else (activity.look, activity.mark)

    def heard(self, call: Call) -> None:
        activity = self.activity[call.process]
        arrived = call.arrived if call.arrived is not None else self.loop.now
        if call.verb == "get" and call.names == (seams.META,):
            activity.look, activity.mark = arrived, call.mark
        elif call.verb != "time" and call.names not in ((seams.CHECKPOINT,), (seams.FIRST_PART,)):
            activity.work = arrived

    def wrote(self, name: str, call: Call | None) -> None:
        before, raw = self.bodies.get(name), self.server.live(name)
        if raw is None:
            self.bodies.pop(name, None)
        else:
            self.bodies[name] = raw
        self.authors[name] = Author(call, self.loop.now)
        if name == seams.META:
            self._meta_changed(call)
        elif name.startswith(COLLECTION):
            key = name[len(COLLECTION) :]
            if call is None:
                self.laid.add(raw or b"")
                self.registers[key].strike(self.loop.now)
            elif call.verb == "swap" and before is not None and raw is not None:
                self._judge_swap(name, key, before, raw, call)

    def _meta_changed(self, call: Call | None) -> None:
        old, raw = self.metas[-1], self.server.live(seams.META)
        self.metas.append(raw)
        if call is None:
            self.struck.append(len(self.metas) - 1)
            self.struck_at.append(self.loop.now)
            return
        view, before = self.looker.view(raw), self.looker.view(old)
        if before is not None and before.legacy and view is not None and not view.legacy:
            self.legacy_end = self.activity[call.process].scan
        if call.verb == "add" and view is not None:
            self._judge_creation(view, call)

    # Judgements.

    def _judge_creation(self, view: View, call: Call) -> None:
        """A vault that is made over sealed records buries them."""
        since = self.activity[call.process].scan
        for name in self.looker.names():
            seen = self.looker.look(name, view)
            if seen.state == "lost" and seen.dek is not None and self.authors[name].at < since:
                text = f"{call.process.name} makes a vault where {_key(name)} is sealed under another"
                self.find("buried", text)
                return

    def _judge_swap(self, name: str, key: str, before: bytes, raw: bytes, call: Call) -> None:
        """Re-sealing, lazily or by a recode, never turns what opens into what does not."""
        view = self.view
        seen, was = (self._seen(name, self.looker.look_at(name, body, view)) for body in (raw, before))
        if call.process in self.restoring and self.is_hopeless(raw):
            return
        if (
            seen.is_lost
            and was.state in {"opens", "old"}
            and not was.is_dying
            and not self.is_blind(call, name)
        ):
            text = f"{call.process.name} re-seals {key}: {seen.reason}; until then it was readable"
            self.find("swap_destroys", text, about=call.process.name)
        if call.process in self.restoring:
            return  # To bring back what was there before is what an operator asks for.
        if seen.state == "opens" and seen.value != was.value and was.state in {"opens", "old"}:
            self.find("swap_changes", f"{call.process.name} turns {key} from {was.value} into {seen.value}")
        if seen.state == was.state == "opens" and was.dek is not None and seen.expires != was.expires:
            text = f"{call.process.name} re-seals {key}, which ended {was.expires} and now {seen.expires}"
            self.find("expiry_changed", text)

    def is_blind(self, call: Call, name: str) -> bool:
        """Whether the writer of *name* could not have heard that the vault meta which it uses is gone."""
        if self.doubled and any(call.sent - at < PATIENCE for at in self.struck_at):
            return True
        if call.known is None or call.sent - call.known > PATIENCE:
            return False
        mark = call.known_mark
        if not any(fault > mark for fault in self.struck):
            return False
        raw = self.server.live(name)
        view = self.looker.view(self.metas[mark])
        return raw is not None and self.looker.look_at(name, raw, view).state == "opens"

    def _seen(self, name: str, seen: Seen) -> Seen:
        """Return *seen* as it counts: an old record, once its key was dropped, is lost."""
        if seen.state == "old" and self.legacy_end is not None:
            author = self.authors.get(name)
            if author is None or author.at < self.legacy_end:
                return Seen("lost", reason="an old record whose key was dropped")
        return seen

    def look(self, name: str) -> Seen:
        """Return what a new process would find under *name* now: what has ended by the true clock is missing."""
        seen = self._seen(name, self.looker.look(name, self.view))
        if seen.expires is not None and seen.expires <= self.server.loop.world.host.wall():
            return MISSING
        return seen

    def judge_key(self, key: str, when: str) -> Seen:
        """Judge what lies under *key*; what does not open is judged by the caller."""
        seen = self.look(f"{COLLECTION}{key}")
        if seen.state in {"opens", "old", "missing"}:
            register = self.registers[key]
            if not register.allows(seen.value, self.loop.now, clocks_agree=self.clocks_agree):
                may = sorted({str(write.value) for write in register.possible})
                self.find(
                    "lost_update", f"{when}: {key} is {seen.value}, and may be {', '.join(may)}", about=key
                )
        return seen

    def judge_put(self, write: Write, me: Process) -> None:
        """An acknowledged value opens in a new process, or its writer could not know better."""
        seen, name = self.judge_key(write.key, f"after a put of {me.name}"), f"{COLLECTION}{write.key}"
        author = self.authors.get(name)
        if not seen.is_lost or author is None or author.call is None:
            return
        if not self.is_blind(author.call, name):
            self.find(
                "lost_put", f"{me.name} was told that {write.key} is stored: {seen.reason}", about=me.name
            )

    def judge_all(self, when: str) -> None:
        """Judge every key; while no fault has touched the vault meta, everything opens at any time."""
        for key in self.registers.names():
            seen = self.judge_key(key, when)
            if seen.state == "lost" and not self.struck and not self.is_of_a_fault(f"{COLLECTION}{key}"):
                self.find("unreadable", f"{when}: {key}: {seen.reason}", about=key)

    def is_of_a_fault(self, name: str) -> bool:
        """Whether no client has laid *name* there as it is, or only a restore that could know no better."""
        author = self.authors.get(name)
        return author is None or author.call is None or self.is_hopeless(self.bodies.get(name))

    def is_hopeless(self, raw: bytes | None) -> bool:
        """Whether *raw* is an entry of a backup that the vault meta in that does not open."""
        return bool(self.hopeless) and raw is not None and value_text(raw) in self.hopeless

    def look_by_any(self, name: str, raw: bytes) -> Seen:
        """Look at *raw* with each vault meta that there ever was, the newest first, until one opens it."""
        seen = Seen("lost")
        for meta in reversed(self.metas):
            seen = self.looker.look_at(name, raw, self.looker.view(meta))
            if seen.state != "lost":
                break
        return seen

    def lost_since(self, begun: float) -> list[str]:
        """Return what does not open although it was there at *begun*, or was written knowingly since."""
        lost = []
        for name in self.looker.names():
            seen, author = self.look(name), self.authors[name]
            if seen.state in {"lost", "foreign"} and not self._is_later(author, begun, name):
                lost.append(f"{_key(name)} ({seen.reason})")
        return lost

    def _is_later(self, author: Author, begun: float, name: str) -> bool:
        if author.at < begun:
            return False
        return author.call is None or self.is_blind(author.call, name)

    def is_excused(self, me: Process) -> bool:
        """Whether the vault meta was struck after the last look of *me*, which came after all its work."""
        activity = self.activity[me]
        return activity.look >= activity.work and any(fault > activity.mark for fault in self.struck)

    def judge_success(self, me: Process, what: str, begun: float) -> None:
        """A run that says it has left nothing behind: everything opens that was there when it began."""
        lost = self.lost_since(begun)
        if lost and not self.is_excused(me):
            self.find(f"false_{what}", f"{what} of {me.name} succeeded: {_list(lost)}")
        self.judge_all(f"after {what} of {me.name}")

    def judge_change(self, me: Process, what: str, vault: Any) -> None:
        """A change of the vault meta that succeeded is in the backend, or a later one is."""
        view = self.view
        if not self.is_excused(me) and not (view is not None and _holds(view, vault)):
            there = "no vault meta" if view is None else f"revision {view.meta.revision}"
            self.find(f"false_{what}", f"{what} of {me.name} succeeded: stored is {there}")
        self.judge_all(f"after {what} of {me.name}")

    def saw(self, me: Process, vault: Any) -> None:
        """Judge which vault meta *me* believes in."""
        meta = vault.meta
        if meta.mac in self.forged:
            self.find("forged", f"{me.name} believes a vault meta that was forged", about=me.name)
            return
        first = self._accepted[me].setdefault((meta.vault_id, meta.revision), meta.mac)
        if first != meta.mac:
            self.find("fork", f"{me.name} took a second meta of revision {meta.revision}", about=me.name)
        newest = self._newest.get((me, meta.vault_id), 0)
        if meta.revision < newest:
            self.find(
                "rollback", f"{me.name} went back from revision {newest} to {meta.revision}", about=me.name
            )
        self._newest[me, meta.vault_id] = max(newest, meta.revision)

    def may_be_missing(self, key: str) -> bool:
        return self.registers[key].allows(None, self.loop.now, clocks_agree=self.clocks_agree)

    def judge_read(
        self, me: Process, key: str, value: int | None, begun: float, wall: float, *, may_be_missing: bool
    ) -> None:
        """A read returns what lay there at some moment of it, and nothing that has ended."""
        register = self.registers[key]
        if value is None:
            if (
                not may_be_missing
                and not self.may_be_missing(key)
                and not register.gone_since(begun, self.loop.now)
            ):
                self.find("missing_value", f"{me.name} reads nothing under {key}")
            return
        write = register.ever.get(value)
        if write is None:
            self.find("foreign_value", f"{me.name} reads {value} under {key}, where it never was put")
        elif write.has_ended(wall):
            ago = wall - write.latest_expiry
            self.find("expired_value", f"{me.name} reads {key}, which ended {ago:.0f} s ago")
        elif not register.is_unsure and register.is_replaced(write, begun):
            self.find("stale_value", f"{me.name} reads {value} under {key}, which was replaced before")


def value_text(raw: bytes) -> str:
    """Return the value in *raw*, whatever lies around it."""
    return json.dumps(seams.meta_value(raw), sort_keys=True)


def _holds(view: View, vault: Any) -> bool:
    meta = vault.meta
    if view.meta.vault_id != meta.vault_id or view.meta.revision < meta.revision:
        return False
    mine = seams.deks_of(vault.keyring)
    return all(view.deks.get(number, key) == key for number, key in mine.items()) and (
        view.meta.revision > meta.revision or set(mine) == set(view.deks)
    )


def _key(name: str) -> str:
    return name.partition("::")[2]


def _list(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
