"""One run of a plan: the world, those who live in it, and what befalls them."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from key_value.aio.errors import BaseKeyValueError
from tests.simulation import seams
from tests.simulation.apps import Apps, Use
from tests.simulation.claims import Claims
from tests.simulation.commands import COMMANDS, Incomplete, Operation, remove_files
from tests.simulation.faults import Faults
from tests.simulation.loop import Host, Livelock, Process, SimLoop
from tests.simulation.oracle import Oracle
from tests.simulation.plan import HOUR, OLD_APP, OPS
from tests.simulation.registers import Write
from tests.simulation.server import Server, Weather, Wire
from tests.simulation.store import SimDriver, SimStore
from tests.simulation.ways import Ways

if TYPE_CHECKING:
    from tests.simulation.plan import Event, Plan

_SLACK = 120.0
"""Seconds by which an expiry may be seen otherwise, beside the error of the clocks."""
_RUNS_BETWEEN_COLLECTIONS = 8


@dataclass
class Outcome:
    """What came of one plan."""

    seed: int
    verdicts: list[tuple[str, str]]
    story: list[str]
    counts: Counter[str]
    steps: int
    digest: str

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.verdicts}


@dataclass
class World(Claims):
    """Everything of one run."""

    plan: Plan
    story: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    EXPECTED = (BaseKeyValueError, ConnectionError, asyncio.TimeoutError, asyncio.CancelledError)

    def __post_init__(self) -> None:
        plan = self.plan
        self.loop = SimLoop(plan.seed)
        self.server = Server(self.loop, seams.META)
        far = max([0.0, *(abs(skew) for skew in plan.skews.values())])
        self.oracle = Oracle(self.loop, self.server, self.log, clocks_agree=far < 1, doubled=plan.doubled)
        self.server.watcher = self.oracle
        self.wire = Wire(
            self.loop,
            self.server,
            Weather(),
            self.log,
            heard=self.oracle.heard,
            sent=self.oracle.sent,
            known=self.oracle.known,
        )
        self.ways = Ways(self.oracle, 2 * far + _SLACK)
        self.hosts: dict[str, Host] = {}
        self.apps = Apps(self)
        self.faults = Faults(self)
        self.busy: set[Use | Operation] = set()
        self.backups: list[Any] = []
        self._numbers = 0

    def log(self, who: str, text: str) -> None:
        self.story.append(f"{_time(self.loop.now)} {who:8} {text}")

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def said(self, exc: BaseException) -> str:
        text = str(exc).splitlines()[0] if str(exc) else ""
        return (
            f"{type(exc).__name__}: {text[:120]}" if "kvseal-simulation-" not in text else type(exc).__name__
        )

    def host(self, name: str) -> Host:
        if name not in self.hosts:
            plan = self.plan
            self.hosts[name] = Host(
                self.loop, name, skew=plan.skews.get(name, 0.0), drift=plan.drifts.get(name, 0.0)
            )
        return self.hosts[name]

    def start(self, who: str) -> Process:
        self.count("processes")
        return Process(self.loop, f"{who}#{self.number()}", self.host(who))

    def kill(self, process: Process, how: str) -> None:
        self.log("world", f"{process.name} {how}")
        process.kill()
        self.oracle.registers.killed(process, self.loop.now)
        self.ways.end(process)
        self.busy = {one for one in self.busy if _process_of(one) is not process}

    def run(self) -> Outcome:
        asyncio.set_event_loop(self.loop)
        gc.disable()
        try:
            self.loop.run_until_complete(self._all())
        except Livelock as exc:
            self.oracle.find("livelock", str(exc))
        finally:
            self.loop.close()
            asyncio.set_event_loop(None)
            remove_files()
            gc.enable()
        if self.loop.faults:
            raise self.loop.faults[0]
        self.counts["operations"] = self.server.operations
        data = sorted(self.server.data.items())
        digest = sha256(repr((self.story, data)).encode()).hexdigest()[:16]
        return Outcome(
            self.plan.seed, [*self.oracle.verdicts], [*self.story], self.counts, self.loop.steps, digest
        )

    async def _all(self) -> None:
        await self._begin()
        self.wire.weather = Weather(**self.plan.weather)
        for event in self.plan.events:
            await asyncio.sleep(max(0.0, event.at - self.loop.now))
            self.server.take_copy()
            self._happens(event)
        await asyncio.sleep(HOUR)
        self._end()

    async def _begin(self) -> None:
        if not self.plan.race:
            await self.start(OPS[0]).spawn(self._create())
        if self.plan.legacy:
            await self.start(OLD_APP).spawn(self._write_old())
        if self.plan.foreign:
            self.faults.lay_foreign()

    async def _create(self) -> None:
        secret = self.ways.current.secret
        await (await seams.Vault.create(SimDriver(self.wire), secret=secret, kdf=seams.CHEAP)).close()

    async def _write_old(self) -> None:
        old = seams.FernetEncryptionWrapper(SimStore(self.wire), fernet=seams.OLD_FERNET)
        for index in range(6):
            ttl = 12 * HOUR if index % 3 == 0 else None
            write = Write(f"old-{index}", self.number(), self.loop.now, ttl=ttl, seals_expiry=False)
            self.oracle.registers.begin(write)
            await old.put(write.key, {"v": write.value}, ttl=ttl)
            self.oracle.registers.acknowledge(write, self.loop.now, self.loop.world.host.wall())

    def _happens(self, event: Event) -> None:
        if event.who == "world":
            self.faults.strike(event)
        elif event.who in OPS:
            me = self.start(event.who)
            op = Operation(self, me, event.what, event.args, self.loop.now, SimDriver(self.wire))
            me.spawn(self._operate(op))
        else:
            self.apps.use(event)

    async def _operate(self, op: Operation) -> None:
        self.busy.add(op)
        self.log(op.me.name, f"begins {op.what}")
        try:
            done = await COMMANDS[op.what](op)
        except Incomplete as exc:
            self.log(op.me.name, f"{op.what} ends: {exc}")
            self.count(f"{op.what} incomplete")
        except self.EXPECTED as exc:
            self.log(op.me.name, f"{op.what} fails: {self.said(exc)}")
            self.count(f"{op.what} failed")
        except Exception as exc:  # noqa: BLE001 - an error that is not kvseal's own is a finding
            self.oracle.find("raw_error", f"{op.what} of {op.me.name}: {type(exc).__name__}: {exc}")
        else:
            self.log(op.me.name, f"{op.what} SUCCEEDS: {done}; {self.meta_text()}")
            self.count(op.what)
        finally:
            self.busy.discard(op)
        if op.vault is not None:
            self.oracle.saw(op.me, op.vault)
        op.me.kill()  # The command's process ends.

    def _end(self) -> None:
        self.oracle.judge_all("at the end")
        self.ways.judge("at the end")
        for one in self.busy:
            process = _process_of(one)
            if process.is_alive and not process.is_suspended:
                self.oracle.find("hangs", f"{one if isinstance(one, Use) else one.what} never ended")

    def meta_text(self) -> str:
        view = self.oracle.view
        if view is None:
            return "no vault meta that opens" if self.server.live(seams.META) else "no vault meta"
        deks = " ".join(f"{dek.number}{dek.state[0]}" for dek in view.meta.deks)
        return f"meta {view.meta.revision} [{deks}]" + (" legacy" if view.legacy else "")


def _process_of(one: Use | Operation) -> Process:
    return one.process if isinstance(one, Use) else one.me


def _time(seconds: float) -> str:
    return f"{int(seconds // 3600):02}:{int(seconds // 60) % 60:02}:{seconds % 60:06.3f}"


_runs = 0


def run(plan: Plan) -> Outcome:
    """Run *plan* in a world of its own."""
    global _runs  # noqa: PLW0603 - how many dead processes there are to be collected
    _runs += 1
    outcome = World(plan).run()
    if _runs % _RUNS_BETWEEN_COLLECTIONS == 0:
        # The coroutines of killed processes cannot be closed; what they say of it is of no use.
        sys.unraisablehook, hook = (lambda _: None), sys.unraisablehook
        gc.collect()
        sys.unraisablehook = hook
    return outcome
