"""What befalls the world: processes die, hosts sleep, the backend loses or changes what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.simulation import seams
from tests.simulation.loop import Process
from tests.simulation.server import Aim
from tests.simulation.store import without_expiry
from tests.simulation.views import COLLECTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.plan import Event
    from tests.simulation.server import Call
    from tests.simulation.world import World

_REMOVED_AFTER = 120.0
"""Seconds after which a forged vault meta is found and the genuine one put back."""


class Faults:
    """Does to the world what a plan says."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._server = world.server
        self._foreign: dict[bytes, bytes] = {}

    def strike(self, event: Event) -> None:
        args = dict(event.args)
        self._world.count(event.what)
        if args.pop("after", None) is not None:
            self._aim("swap", seams.META, None, lambda _: self._named(event.what)(args))
        else:
            self._named(event.what)(args)

    def _named(self, kind: str) -> Callable[[dict[str, Any]], None]:
        fault: Callable[[dict[str, Any]], None] = getattr(self, f"_{kind}")
        return fault

    def _aim(
        self, verb: str, prefix: str, whom: str | None, action: Callable[[Call], None], **more: Any
    ) -> None:
        self._world.wire.aims.append(Aim(verb, prefix, whom, action, **more))

    def _log(self, text: str) -> None:
        self._world.log("server", f"{text}; now {self._world.meta_text()}")

    # Processes and hosts.

    def _alive(self, whom: str) -> list[Process]:
        processes = self._world.loop.processes
        return [p for p in processes if p.is_alive and not p.is_suspended and p.host.name == whom]

    def _crash(self, args: dict[str, Any]) -> None:
        for process in self._alive(args["whom"]):
            self._world.kill(process, "is killed")

    def _crash_at(self, args: dict[str, Any]) -> None:
        def kill(call: Call) -> None:
            if call.process.is_alive:
                self._world.count("crash")
                self._world.kill(call.process, f"is killed, when its {call.verb} has had its effect")

        self._aim(args["verb"], "", args["whom"], kill)

    def _cancel(self, args: dict[str, Any]) -> None:
        for process in self._alive(args["whom"]):
            for task in process.tasks:
                if not task.done():
                    self._world.log("world", f"{process.name} is interrupted")
                    task.cancel()

    def _stopped(self, args: dict[str, Any]) -> None:
        for process in self._alive(args["whom"]):
            self._world.log("world", f"{process.name} is stopped for {args['seconds']:.0f} s")
            process.suspend(args["seconds"], asleep=False)

    def _asleep(self, args: dict[str, Any]) -> None:
        for process in self._alive(args["whom"]):
            self._world.log("world", f"{process.name} sleeps for {args['seconds']:.0f} s")
            process.suspend(args["seconds"], asleep=True)

    def _meta_silent(self, args: dict[str, Any]) -> None:
        whom, seconds = args["whom"], args["seconds"]
        self._world.log("world", f"{whom} hears nothing of the vault meta for {seconds:.0f} s")
        self._world.wire.silent[whom] = self._world.loop.now + seconds

    # The backend.

    def _failover(self, args: dict[str, Any]) -> None:
        lost = self._server.fail_over(args["seconds"])
        self._log(f"fails over: the last {lost} writes ({args['seconds']:g} s) are gone")

    def _meta_deleted(self, args: dict[str, Any]) -> None:
        if seams.META in self._server.data:
            self._server.strike(seams.META, None)
            self._log("loses the vault meta")

    def _meta_older(self, args: dict[str, Any]) -> None:
        copy = self._server.copy_of(args["seconds"])
        if copy is not None and copy.get(seams.META) != self._server.data.get(seams.META):
            self._server.strike(seams.META, copy.get(seams.META))
            self._log("has an older vault meta")

    def _meta_foreign(self, args: dict[str, Any]) -> None:
        secret = self._world.ways.current.secret
        name = secret.reveal()
        if name not in self._foreign:
            other = Process(self._world.loop, "other", self._world.loop.world.host)
            self._foreign[name] = other.context.run(seams.foreign_meta, secret)
        self._server.strike(seams.META, (self._foreign[name], None))
        self._log("has the vault meta of another vault")

    def _restored(self, args: dict[str, Any]) -> None:
        copy = self._server.copy_of(args["seconds"])
        if copy is not None:
            self._server.become(copy)
            self._log(f"is an old copy, of {args['seconds']:g} s ago")

    def _emptied(self, args: dict[str, Any]) -> None:
        self._server.become({})
        self._log("is empty")

    def _users(self) -> list[str]:
        return [name for name in sorted(self._server.data) if name.startswith(COLLECTION)]

    def _evicted(self, args: dict[str, Any]) -> None:
        names = [*self._users(), seams.CHECKPOINT, seams.FIRST_PART]
        for step in range(3):
            name = names[(args["pick"] + step * 7) % len(names)]
            if name in self._server.data:
                self._server.strike(name, None)
        self._log("has evicted three entries")

    def _ttl_lost(self, args: dict[str, Any]) -> None:
        for name in self._users():
            body, ends = self._server.data[name]
            if ends is not None:
                self._server.strike(name, without_expiry((body, ends)))
        self._log("has lost every time to live")

    def _tampered(self, args: dict[str, Any]) -> None:
        names = [name for name in self._users() if self._server.live(name)]
        if len(names) < 2:
            return
        pick = args["pick"]
        name, other = names[pick % len(names)], names[(pick + 1) % len(names)]
        body = seams.tampered(self._server.data[name][0], self._server.data[other][0], pick)
        if body is not None:
            self._server.strike(name, (body, self._server.data[name][1]))
            self._log(f"holds a changed record under {name[len(COLLECTION) :]}")

    def _forged(self, args: dict[str, Any]) -> None:
        if args["pick"] % 2:
            for name, body in seams.forged_checkpoint().items():
                self._server.strike(name, (body, None))
            self._log("holds a forged checkpoint")
            return
        genuine = self._server.data.get(seams.META)
        if genuine is None:
            return
        body, mac = seams.forged_meta(genuine[0])
        self._world.oracle.forged.add(mac)
        self._server.strike(seams.META, (body, None))
        self._log("holds a forged vault meta")

        def put_back() -> None:
            if self._server.data.get(seams.META) == (body, None):
                self._server.strike(seams.META, genuine)
                self._log("has the genuine vault meta again")

        self._world.loop.call_world(_REMOVED_AFTER, put_back)

    def _write_dropped(self, args: dict[str, Any]) -> None:
        def drop(call: Call) -> None:
            self._world.log("server", "acknowledges a write of the vault meta, and drops it")

        self._aim("swap", seams.META, None, drop, instead=True)

    def lay_foreign(self) -> None:
        """Lay down an entry of a program that nobody knows."""
        name = f"{COLLECTION}foreign"
        self._server.strike(name, (seams.foreign_record(name), None))
