"""One simulated backend of raw entries, what can happen to it, and the wire that leads there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tests.simulation.loop import CURRENT

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tests.simulation.loop import Process, SimLoop

PAGE = 4
KEEP = "keep"
GIVES_UP = 5.0
"""Seconds after which a client that never hears the answer gives up."""

Raw = tuple[bytes, "float | None"]
"""A body, and when the backend drops it by its own clock."""


@dataclass(slots=True)
class Call:
    """One call of one process: when it left, what its process had heard by then, when it arrived."""

    process: Process
    verb: str
    names: tuple[str, ...]
    sent: float
    known: float | None
    """When the backend gave the newest answer about the vault meta that the process had heard."""
    known_mark: int = 0
    """How often the vault meta had changed by then."""
    arrived: float | None = None
    mark: int = 0
    """How often the vault meta had changed when it arrived."""


class Watcher(Protocol):
    """Who is told of everything that changes in the backend."""

    def wrote(self, name: str, call: Call | None) -> None:
        """*name* has another body, or none, by *call* or else by a fault."""


@dataclass(slots=True)
class Aim:
    """A fault that waits for a call: *verb* on a name that begins with *prefix*, of *whom* if that is set."""

    verb: str
    prefix: str
    whom: str | None
    action: Callable[[Call], None]
    instead: bool = False
    """The effect does not happen; it is acknowledged all the same."""

    def fits(self, call: Call) -> bool:
        return (
            call.verb == self.verb
            and any(name.startswith(self.prefix) for name in call.names)
            and self.whom in {None, call.process.host.name}
        )


class Server:
    """Entries with an expiry by the server's own clock; every operation is one instant."""

    def __init__(self, loop: SimLoop, meta: str, *, skew: float = 0.0) -> None:
        self.loop, self.skew = loop, skew
        self.meta, self.marks = meta, 0
        self.data: dict[str, Raw] = {}
        self.journal: list[tuple[float, str, Raw | None]] = []
        self.copies: list[tuple[float, dict[str, Raw]]] = []
        self.watcher: Watcher | None = None
        self.call: Call | None = None
        self.operations = 0

    def clock(self) -> float:
        return self.loop.now + self.skew

    def live(self, name: str) -> bytes | None:
        raw = self.data.get(name)
        return None if raw is None or (raw[1] is not None and raw[1] <= self.clock()) else raw[0]

    def set(self, name: str, body: bytes | None, ends: float | None = None) -> bool:
        there = self.live(name) is not None
        self.journal.append((self.loop.now, name, self.data.get(name)))
        self._lay(name, None if body is None else (body, ends))
        return there

    def add(self, name: str, body: bytes, ends: float | None) -> bool:
        return self.live(name) is None and not self.set(name, body, ends)

    def swap(self, swaps: list[tuple[str, bytes, bytes | None, Any]]) -> list[bool]:
        """Replace, or with no new body delete, each entry that still is what its caller has read."""
        done = []
        for name, old, new, ends in swaps:
            done.append(self.live(name) == old)
            if done[-1]:
                self.set(name, new, self.data[name][1] if ends == KEEP else ends)
        return done

    def page(self, after: str) -> list[tuple[str, bytes]]:
        names = sorted(name for name in self.data if name > after and self.live(name) is not None)
        return [(name, self.data[name][0]) for name in names[:PAGE]]

    def _lay(self, name: str, raw: Raw | None) -> None:
        if raw is None:
            self.data.pop(name, None)
        else:
            self.data[name] = raw
        self.marks += name == self.meta
        if self.watcher is not None:
            self.watcher.wrote(name, self.call)

    # What happens to a backend that no client did.

    def take_copy(self) -> None:
        self.copies.append((self.loop.now, dict(self.data)))

    def copy_of(self, seconds_ago: float) -> dict[str, Raw] | None:
        old = [copy for at, copy in self.copies if at <= self.loop.now - seconds_ago]
        return old[-1] if old else None

    def fail_over(self, seconds: float) -> int:
        """The replica that takes over never got what was written in the last *seconds*."""
        lost = 0
        while self.journal and self.journal[-1][0] >= self.loop.now - seconds:
            _, name, before = self.journal.pop()
            self.strike(name, before)
            lost += 1
        return lost

    def become(self, copy: dict[str, Raw]) -> None:
        """All of it is another state: an old copy, or nothing."""
        for name in sorted(self.data.keys() | copy.keys()):
            if self.data.get(name) != copy.get(name):
                self.strike(name, copy.get(name))

    def strike(self, name: str, raw: Raw | None) -> None:
        call, self.call = self.call, None
        self._lay(name, raw)
        self.call = call


@dataclass(slots=True)
class Weather:
    """What the wire does, as chances for each call: drawn for each seed."""

    lost: float = 0.0
    refused: float = 0.0
    slow: float = 0.0
    usual: float = 0.02
    """The longest of usual delays, one way, in seconds."""
    slowest: float = 20.0


@dataclass
class Wire:
    """Between a call and its answer: it may be late, refused, or have an effect that nobody hears of."""

    loop: SimLoop
    server: Server
    weather: Weather
    log: Callable[[str, str], None]
    heard: Callable[[Call], None]
    sent: Callable[[Call], None]
    known: Callable[[Process], tuple[float | None, int]]
    aims: list[Aim] = field(default_factory=list)
    silent: dict[str, float] = field(default_factory=dict)
    """Hosts that until then hear no answer about names that begin with the reserved collection."""

    async def call(self, verb: str, names: tuple[str, ...], effect: Callable[[], Any]) -> Any:
        me = CURRENT.get()
        assert me is not None
        call = Call(me, verb, names, self.loop.now, *self.known(me))
        self.sent(call)
        draw, weather = me.random.random, self.weather
        there, back, fate = self._delay(draw), self._delay(draw), draw()
        answer: asyncio.Future[Any] = self.loop.create_future()

        def deliver(result: Any, error: Exception | None) -> None:
            if answer.done() or not me.is_alive:
                return
            if error is None:
                self.heard(call)
                answer.set_result(result)
            else:
                answer.set_exception(error)

        def arrive() -> None:
            result, error, late = self._effect(call, effect), None, back
            is_silent = self.server.meta in names and self.silent.get(me.host.name, 0.0) > self.loop.now
            if fate < weather.refused + weather.lost or is_silent:
                result, error, late = None, ConnectionError("no answer"), back + GIVES_UP
                self.log(me.name, f"never hears the answer to {verb} {_names(names)}")
            self.loop.call_at(self.loop.now + late, deliver, result, error, context=me.context)

        if fate < weather.refused:
            self.loop.call_later(there, deliver, None, ConnectionError("refused"), context=me.context)
        else:
            self.loop.call_world(there, arrive)
        return await answer

    def _effect(self, call: Call, effect: Callable[[], Any]) -> Any:
        self.server.operations += 1
        call.arrived = self.loop.now
        aim = next((aim for aim in self.aims if aim.fits(call)), None)
        if aim is not None:
            self.aims.remove(aim)
            if aim.instead:
                aim.action(call)
                return [True] * len(call.names)
        self.server.call = call
        result = effect()
        self.server.call, call.mark = None, self.server.marks
        if aim is not None:
            aim.action(call)
        return result

    def _delay(self, draw: Callable[[], float]) -> float:
        weather = self.weather
        longest = weather.slowest if weather.slow and draw() < weather.slow else weather.usual
        return draw() * longest


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(name.partition("::")[2] or name for name in names)
