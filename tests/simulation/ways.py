"""The ways in: which secrets have to open the vault, which must not, and which may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tests.simulation import seams

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle

State = Literal["opens", "shut", "maybe", "until"]


@dataclass(slots=True)
class Way:
    """One secret and what was promised of it; `until` is a true time, up to the error of clocks."""

    secret: seams.Secret
    label: str
    state: State = "maybe"
    until: float = 0.0


class Ways:
    """All secrets that were ever given to the vault."""

    def __init__(self, oracle: Oracle, slack: float) -> None:
        self._oracle, self._slack = oracle, slack
        self._ways: list[Way] = []
        self._changing: set[object] = set()
        self._overlapped = False
        self.current = self.make("primary")
        self.current.state = "opens"

    def make(self, label: str) -> Way:
        way = Way(seams.Secret(f"secret {len(self._ways)} of the simulation".encode()), label)
        self._ways.append(way)
        self._oracle.looker.secrets.append(way.secret)
        return way

    def spares(self) -> list[Way]:
        return [way for way in self._ways if way.label != "primary"]

    def previous(self) -> Way:
        """Return the primary way before this one, or a new one where there is none."""
        older = [way for way in self.primaries() if way is not self.current and way.state != "maybe"]
        return older[-1] if older else self.make("primary")

    def primaries(self) -> list[Way]:
        return [way for way in self._ways if way.label == "primary"]

    def try_another(self) -> None:
        """Somebody was refused with the current secret: an interrupted rotation may have replaced it."""
        others = [way for way in self.primaries() if way is not self.current and way.state == "maybe"]
        if self.current.state != "opens" and others:
            self.current = others[-1]

    def begin(self, process: object) -> None:
        self._overlapped = self._overlapped or bool(self._changing)
        self._changing.add(process)

    def end(self, process: object) -> None:
        """*process* changes nothing more: it is done, or dead."""
        self._changing.discard(process)
        if not self._changing:
            self._overlapped = False

    def unsure(self, *ways: Way) -> None:
        """A change of these was begun, and nobody knows what came of it."""
        for way in ways or self._ways:
            way.state = "maybe"

    def rotated(self, new: Way, keep: float | None, begun: float, now: float) -> None:
        """
        *new* took the place of every other primary way, at once or after *keep* seconds.

        They are counted from some moment between *begun* and *now*.
        """
        self.current = new
        for way in self.primaries():
            if way is new:
                self._settle(way, "opens")
            elif keep is None:
                self._settle(way, "shut")
            elif way.state != "shut":
                way.until = min(now + keep, way.until if way.state == "until" else now + keep)
                is_unsure = way.state == "maybe" or now - begun > self._slack / 2
                self._settle(way, "maybe" if is_unsure else "until")

    def only(self, *kept: Way) -> None:
        """Of all ways these are left."""
        for way in self._ways:
            self._settle(way, "opens" if way in kept else "shut")

    def set(self, way: Way, state: State) -> None:
        self._settle(way, state)

    def _settle(self, way: Way, state: State) -> None:
        way.state = "maybe" if self._overlapped else state

    def judge(self, when: str) -> None:
        """Try every secret on what is stored, unless the backend has lost it."""
        raw = self._oracle.server.live(seams.META)
        if self._oracle.struck or len(self._changing) > 1 or raw is None:
            return
        meta, now = seams.VaultMeta.from_value(seams.meta_value(raw) or {}), self._oracle.loop.now
        wall = self._oracle.loop.world.host.wall()
        opens = {id(way): seams.root_of(meta, way.secret, wall) is not None for way in self._ways}
        for number, way in enumerate(self._ways):
            state = way.state
            if state == "until" and abs(now - way.until) > self._slack:
                state = "opens" if now < way.until else "shut"
            if state == "opens" and not opens[id(way)]:
                self._oracle.find(
                    "locked_out", f"{when}: secret {number} has to open the vault, and does not"
                )
            if state == "shut" and opens[id(way)]:
                self._oracle.find(
                    "shut_out_opens", f"{when}: secret {number} was shut out, and opens the vault"
                )
        if not any(opens.values()):
            self._oracle.find("locked_out", f"{when}: no secret opens the vault")
