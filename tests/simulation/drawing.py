"""From a seed to a plan: what users and operators do, and what befalls them meanwhile."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.plan import HOUR, HOURS, IDLE_APP, OLD_APP, OPS, Event, Plan

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = 6
CALLS = ("wire", "slow")
PROCESSES = ("crash", "cancel", "stopped", "asleep")
CLOCKS = ("skew",)
BACKEND = (
    "failover",
    "meta_deleted",
    "meta_older",
    "meta_foreign",
    "restored",
    "emptied",
    "evicted",
    "ttl_lost",
    "tampered",
    "forged",
    "write_dropped",
    "meta_silent",
)
USAGE = ("doubled", "restores")
KINDS = (*CALLS, *PROCESSES, *CLOCKS, *BACKEND, *USAGE)
"""Kinds of fault that a seed may have; each may be left out, and then what it finds is not found."""

_Playbook = tuple[str, ...]
_PLAYBOOKS: tuple[tuple[float, _Playbook], ...] = (
    (4, ("rotate_dek", "reencrypt", "retire")),
    (1, ("rotate_dek", "reencrypt", "verify", "retire")),
    (1, ("rotate_dek", "reencrypt")),
    (1, ("rotate_dek",)),
    (1, ("reencrypt",)),
    (1, ("retire",)),
    (1, ("rotate_dek", "reencrypt", "retire", "week", "retire")),
    (1, ("rotate",)),
    (1, ("rotate_secret",)),
    (1.5, ("rotate_keep",)),
    (0.5, ("rotate_keep", "rotate_back")),
    (1, ("rotate_root",)),
    (0.7, ("slot_add", "slot_remove")),
    (0.7, ("verify",)),
    (1, ("backup",)),
    (1.5, ("backup", "rotate_dek", "reencrypt")),
)
_MIGRATIONS: tuple[tuple[float, _Playbook], ...] = (
    (2, ("import_keys", "deploy", "finalize")),
    (2, ("import_keys", "deploy", "migrate", "finalize")),
    (1, ("deploy", "import_keys", "finalize", "verify")),
)
_RESTORES: tuple[tuple[float, _Playbook], ...] = (
    (2, ("backup", "rotate_dek", "reencrypt", "retire", "restore")),
    (2, ("backup", "rotate_dek", "reencrypt", "retire", "restore_over")),
    (1, ("backup", "restore_over")),
    (1, ("backup", "restore")),
)
_WALKS = ("reencrypt", "migrate", "finalize", "backup", "retire", "restore")
# `hold` and `policy seal` will be further commands here, and in `commands.COMMANDS`.
_TEMPOS = ((0.0, 0.3, 2.0), (1.0, 10.0, 60.0), (20.0, 600.0, 1.1 * HOUR), (1.1 * HOUR, 2 * HOUR))


class Drawing:
    """Draws the plan of one seed."""

    def __init__(self, seed: int, only: frozenset[str] | None) -> None:
        self.seed = seed
        self.draw = Random(f"{seed}/plan")
        self.on = self._kinds(frozenset(KINDS) if only is None else only)
        self.apps = ["app1", "app2", "app3"][: self.draw.randint(1, 3)]
        self.events: list[Event] = []
        self.weather = self._weather()
        self.legacy = self.draw.random() < 0.35
        self.race = not self.legacy and self.draw.random() < 0.15

    def _kinds(self, allowed: frozenset[str]) -> set[str]:
        """Draw which kinds this seed has: each in 40 % of seeds, but no crowd of backend faults at once."""
        on = {kind for kind in KINDS if kind in allowed and self.draw.random() < 0.4}
        backend = [kind for kind in BACKEND if kind in on]
        self.draw.shuffle(backend)
        return on - set(backend[self.draw.choice([0, 1, 1, 2]) :])

    def plan(self) -> Plan:
        draw = self.draw
        books = draw.randint(1, 4)
        for _ in range(books):
            self._playbook(_PLAYBOOKS)
        if self.legacy:
            self._playbook(_MIGRATIONS)
        if "restores" in self.on:
            self._playbook(_RESTORES)
        for app in [*self.apps, *([OLD_APP] if self.legacy else [])]:
            self._load(app)
        if draw.random() < 0.4:
            self._storm()
        if self.race:
            self._race()
        self.events.sort(key=lambda event: event.at)
        for kind in KINDS:
            if kind in self.on:
                self._faults(kind)
        self.events.sort(key=lambda event: event.at)
        hosts = [*self.apps, *OPS, OLD_APP, IDLE_APP]
        return Plan(
            self.seed,
            {host: self._skew() for host in hosts},
            {host: draw.choice([0.0, 0.0, 1e-5, -1e-5]) for host in hosts},
            self.weather,
            legacy=self.legacy,
            foreign=self.legacy and draw.random() < 0.2,
            race=self.race,
            doubled="doubled" in self.on,
            events=tuple(self.events),
        )

    def _weather(self) -> dict[str, float]:
        draw = self.draw
        weather = {"usual": draw.choice([0.002, 0.02, 0.02, 0.5])}
        if "wire" in self.on:
            weather |= {"lost": draw.choice([0.01, 0.05]), "refused": draw.choice([0.0, 0.01, 0.05])}
        if "slow" in self.on:
            weather |= {"slow": draw.choice([0.02, 0.1, 0.5]), "slowest": draw.choice([2.0, 4.0, 20.0])}
        return weather

    def _skew(self) -> float:
        far = [0.0, 24 * HOUR, -24 * HOUR, -2 * HOUR, 2 * HOUR, 300.0]
        return self.draw.choice(far) if "skew" in self.on else self.draw.choice([0.0, 0.2, -0.2])

    def _playbook(self, books: tuple[tuple[float, _Playbook], ...]) -> None:
        draw = self.draw
        begun = ended = at = draw.random() * HOURS * HOUR * 0.6
        usual = self.weather["usual"]  # As fast as answers come, so that commands overlap.
        who, tempo = draw.choice(OPS), draw.choice([*_TEMPOS, (usual, 4 * usual, 15 * usual)])
        steps = draw.choices([book for _, book in books], [weight for weight, _ in books])[0]
        for what in steps:
            who = who if draw.random() < 0.8 else draw.choice(OPS)
            if what == "week":
                at += 8 * 24 * HOUR
                continue
            if what == "deploy":
                self.events.append(Event(at, OLD_APP, "deploy"))
            else:
                args = {"keep": draw.choice([600.0, 2 * HOUR])} if what == "rotate_keep" else {}
                self.events.append(Event(at, who, what, args))
            if what == "backup" and "restores" in self.on:
                for _ in range(4):  # What a restore brings back.
                    self._use(draw.choice(self.apps), at + 1 + draw.random() * tempo[0], what="delete")
            if what == "import_keys":
                self._read_and_write_old(at + draw.random() * 60)
            ended = at
            if what == "backup" and draw.random() < 0.5:
                self._beside(at)
            at += draw.choice(tempo) * draw.uniform(0.5, 1.5)
        if "retire" in steps and draw.random() < (0.9 if "meta_silent" in self.on else 0.7):
            self._unaware(begun, ended)

    def _beside(self, at: float) -> None:
        """Let a new DEK be used while a backup is being taken: applications that start know it at once."""
        draw, usual = self.draw, self.weather["usual"]
        self.events.append(Event(max(0.0, at - draw.random() * 3 * usual), OPS[0], "rotate_dek"))
        app = draw.choice(self.apps)
        at += draw.random() * 5 * usual
        self.events.append(Event(at, app, "restart"))
        for _ in range(6):
            self._use(app, at, what="put")

    def _read_and_write_old(self, at: float) -> None:
        """Let old records be read, and so re-sealed, just when they are written."""
        draw, usual = self.draw, self.weather["usual"]
        for _ in range(draw.choice([0, 6])):
            at += draw.random() * 5
            args = {"keys": [f"old-{draw.randrange(KEYS)}"]}
            self.events.append(Event(at, draw.choice(self.apps), "get", args))
            when = at + draw.random() * 4 * usual
            self.events.append(Event(when, draw.choice(self.apps), "put", args))

    def _unaware(self, begun: float, ended: float) -> None:
        """Let an application write before and after some commands, and do nothing in between."""
        draw = self.draw
        app = draw.choice([*self.apps, IDLE_APP, IDLE_APP, IDLE_APP])
        self._use(app, max(0.0, begun - draw.random() * 10), what="put")
        self._use(app, ended + draw.random() * 20, what="put")

    def _load(self, app: str) -> None:
        """Let *app* be busy at times: some bursts are beside a command, where writers and tools meet."""
        draw = self.draw
        commands = [event.at for event in self.events if event.who in OPS]
        for _ in range(draw.randint(1, 5)):
            at, gap = draw.random() * HOURS * HOUR, draw.choice([0.01, 1.0, 15.0, 120.0])
            if draw.random() < 0.6:
                at = draw.choice(commands) - draw.random() * draw.choice([0.1, 5.0, 300.0])
            for _ in range(draw.randint(1, 8)):
                self._use(app, max(0.0, at))
                at += draw.random() * gap * 2

    def _storm(self) -> None:
        """Let applications write what a command that walks the store is just walking over."""
        draw = self.draw
        walks = [event.at for event in self.events if event.what in _WALKS]
        if not walks:
            return
        at, usual = draw.choice(walks), self.weather["usual"]
        gap = draw.choice([usual / 4, usual, self.weather.get("slowest", usual) / 10])
        for _ in range(draw.randint(8, 24)):
            at += draw.random() * gap * 2
            self._use(draw.choice(self.apps), at, what="put")

    def _use(self, app: str, at: float, *, what: str = "") -> None:
        draw = self.draw
        what = (
            what or draw.choices(["put", "get", "delete", "put_many", "get_many"], [6, 4, 0.5, 0.5, 0.3])[0]
        )
        args: dict[str, Any] = {"keys": [self._key(app)]}
        if what.endswith("many"):
            args["keys"] = sorted({self._key(app) for _ in range(3)})
        if what.startswith("put") and draw.random() < 0.35:
            args["ttl"] = draw.choice([HOUR, 12 * HOUR, 36 * HOUR])
        if draw.random() < 0.15:
            args["patience"] = draw.choice([0.01, 0.5, 2.0])
        self.events.append(Event(at, app, what, args))

    def _key(self, app: str) -> str:
        draw = self.draw
        whose = app if draw.random() < 0.7 else draw.choice([*self.apps, "shared"])
        if self.legacy and draw.random() < 0.4:
            whose = "old"
        return f"{whose}-{draw.randrange(KEYS)}"

    def _race(self) -> None:
        at = self.draw.random() * 60
        for app in self.apps:
            self._use(app, at + self.draw.random() * 0.01)

    def _faults(self, kind: str) -> None:
        if kind in _FAULTS:
            for _ in range(self.draw.randint(1, 2)):
                self.events.append(_FAULTS[kind](self, kind))

    def _near(self) -> tuple[float, str]:
        """Draw a moment and a host: most are just after an event, because faults in the quiet find little."""
        draw = self.draw
        is_ops = draw.random() < 0.6
        near = [e for e in self.events if e.who != "world" and (e.who in OPS) == is_ops]
        if near and draw.random() < 0.7:
            event = draw.choice(near)
            return event.at + draw.random() * draw.choice([0.05, 1.0, 10.0, 120.0]), event.who
        return draw.random() * HOURS * HOUR, draw.choice([*self.apps, *OPS])

    def _crash(self, kind: str) -> Event:
        at, whom = self._near()
        if self.draw.random() < 0.5:
            verb = self.draw.choice(["swap", "add", "set", "get", "scan"])
            return Event(at - 0.5, "world", "crash_at", {"whom": whom, "verb": verb})
        return Event(at, "world", "crash", {"whom": whom})

    def _suspended(self, kind: str) -> Event:
        draw = self.draw
        (at, whom), seconds = self._near(), draw.choice([20.0, 700.0, 2 * HOUR, 5 * HOUR])
        if draw.random() < 0.4:
            whom, (at, seconds) = IDLE_APP, self._through_a_rotation()
        return Event(at, "world", kind, {"whom": whom, "seconds": seconds})

    def _through_a_rotation(self) -> tuple[float, float]:
        """Draw a time that begins about when a DEK is replaced, and ends when one is retired."""
        draw = self.draw
        begins = [event.at for event in self.events if event.what == "rotate_dek"]
        ends = [event.at for event in self.events if event.what == "retire"]
        if not begins or not ends:
            return self._near()[0], 2 * HOUR
        at = max(0.0, draw.choice(begins) + draw.uniform(-1, 30))
        return at, max(60.0, draw.choice(ends) + 600 - at)

    def _cancelled(self, kind: str) -> Event:
        at, whom = self._near()
        return Event(at, "world", kind, {"whom": whom})

    def _struck(self, kind: str) -> Event:
        """Return a fault of the backend; some wait for a write of the vault meta, and come just after it."""
        draw = self.draw
        args: dict[str, Any] = {}
        if kind in {"failover", "meta_older", "restored"}:
            args["seconds"] = draw.choice([0.01, 0.5, 5.0, 120.0, 2 * HOUR])
        at, _ = self._near()
        if draw.random() < 0.2:
            args["after"] = "swap"
        elif draw.random() < 0.4:
            at = self._in_a_walk(args)
        if self.legacy and draw.random() < 0.4:
            for _ in range(4):
                keys = [f"old-{draw.randrange(KEYS)}"]
                when = at + draw.random() * 200
                self.events.append(Event(when, draw.choice(self.apps), "get", {"keys": keys}))
        return Event(at, "world", kind, args)

    def _in_a_walk(self, args: dict[str, Any]) -> float:
        """Draw a moment while a command walks over the store, and a copy from before the last new DEK."""
        draw = self.draw
        walks = [event.at for event in self.events if event.what in _WALKS]
        walk = draw.choice(walks) if walks else draw.random() * HOURS * HOUR
        at = walk + draw.random() * draw.choice([10, 25]) * self.weather["usual"]
        before = [event.at for event in self.events if event.what == "rotate_dek" and event.at < walk]
        if "seconds" in args and before:
            args["seconds"] = at - before[-1] + 0.001
        return at

    def _picked(self, kind: str) -> Event:
        return Event(self._near()[0], "world", kind, {"pick": self.draw.randrange(1000)})

    def _silenced(self, kind: str) -> Event:
        draw = self.draw
        at, seconds = self._near()[0] - 60, draw.choice([300.0, 3 * HOUR])
        if draw.random() < 0.8:
            at, seconds = self._through_a_rotation()
        return Event(
            at,
            "world",
            kind,
            {"whom": draw.choice([draw.choice(self.apps), IDLE_APP, IDLE_APP]), "seconds": seconds},
        )


_FAULTS: dict[str, Callable[[Drawing, str], Event]] = {
    "crash": Drawing._crash,
    "cancel": Drawing._cancelled,
    "stopped": Drawing._suspended,
    "asleep": Drawing._suspended,
    "failover": Drawing._struck,
    "meta_deleted": Drawing._struck,
    "meta_older": Drawing._struck,
    "meta_foreign": Drawing._struck,
    "restored": Drawing._struck,
    "emptied": Drawing._struck,
    "evicted": Drawing._picked,
    "ttl_lost": Drawing._picked,
    "tampered": Drawing._picked,
    "forged": Drawing._picked,
    "write_dropped": Drawing._cancelled,
    "meta_silent": Drawing._silenced,
}


def plan_of(seed: int, *, only: frozenset[str] | None = None) -> Plan:
    """Return the plan of *seed*; with *only* it has no other kinds of fault than these."""
    return Drawing(seed, only).plan()
