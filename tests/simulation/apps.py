"""What users run: an application with a wrapper, and the one with the old wrapper that it replaces."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.simulation import seams
from tests.simulation.plan import OLD_APP
from tests.simulation.registers import Write
from tests.simulation.store import SimStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.simulation.loop import Process
    from tests.simulation.plan import Event
    from tests.simulation.server import Wire
    from tests.simulation.world import World


def _sealing(wire: Wire, secret: seams.Secret, *, doubled: bool) -> Any:
    wrapper = seams.EnvelopeEncryptionWrapper(SimStore(wire), secret=secret, kdf=seams.CHEAP)
    if doubled:
        return seams.EnvelopeEncryptionWrapper(wrapper, secret=secret, kdf=seams.CHEAP)
    return wrapper


def _fernet(wire: Wire, secret: seams.Secret, *, doubled: bool) -> Any:
    return seams.FernetEncryptionWrapper(SimStore(wire), fernet=seams.OLD_FERNET)


SOFTWARE: dict[str, Callable[..., Any]] = {"kvseal": _sealing, "fernet": _fernet}
"""What an application may run; a later release beside an earlier one belongs here."""


@dataclass
class App:
    """One running application."""

    process: Process
    wrapper: Any
    software: str

    @property
    def vault(self) -> seams.Vault | None:
        return seams.vault_of(self.wrapper) if self.software == "kvseal" else None


class Apps:
    """Every application, by its host: started when it is needed, and again after it has died."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._running: dict[str, App] = {}
        self._software = {OLD_APP: "fernet"}

    def running(self, who: str) -> App:
        app = self._running.get(who)
        if app is None or not app.process.is_alive:
            world, software = self._world, self._software.get(who, "kvseal")
            process = world.start(who)
            make, secret = SOFTWARE[software], world.ways.current.secret
            wrapper = process.context.run(make, world.wire, secret, doubled=world.plan.doubled)
            app = self._running[who] = App(process, wrapper, software)
        return app

    def deploy(self, who: str) -> None:
        """From now on *who* runs kvseal."""
        self._software[who] = "kvseal"
        app = self._running.get(who)
        if app is not None and app.process.is_alive:
            self._world.kill(app.process, "is stopped, and kvseal is deployed")

    def forget(self, who: str) -> None:
        """Start *who* anew next time: its secret opens no vault any more."""
        self._running.pop(who, None)

    def restart(self, who: str) -> None:
        app = self._running.get(who)
        if app is not None and app.process.is_alive:
            self._world.kill(app.process, "is restarted")

    def use(self, event: Event) -> None:
        if event.what in {"deploy", "restart"}:
            getattr(self, event.what)(event.who)
            return
        app = self.running(event.who)
        app.process.spawn(Use(self._world, app, event).run())


class Use:
    """One operation of an application, and what is known of it afterwards."""

    def __init__(self, world: World, app: App, event: Event) -> None:
        self._world, self._app, self._event = world, app, event
        self._me, self._args = app.process, event.args
        self._keys: list[str] = event.args["keys"]
        self._writes: list[Write] = []

    async def run(self) -> None:
        world, me, event = self._world, self._me, self._event
        work: Callable[[], Awaitable[None]] = getattr(self, f"_{event.what}")
        world.busy.add(self)
        try:
            await work()
            world.count("ok")
        except seams.WrongSecretError as exc:
            world.ways.try_another()
            world.apps.forget(event.who)
            self._failed(exc)
        except world.EXPECTED as exc:
            self._failed(exc)
        except Exception as exc:  # noqa: BLE001 - an error that is not kvseal's own is a finding
            world.oracle.find("raw_error", f"{event.what} of {me.name}: {type(exc).__name__}: {exc}")
            self._failed(exc)
        finally:
            world.busy.discard(self)
        if self._app.vault is not None:
            world.oracle.saw(me, self._app.vault)

    def __str__(self) -> str:
        return f"{self._event.what} {', '.join(self._keys)} of {self._me.name}"

    @property
    def process(self) -> Process:
        return self._me

    @property
    def begun(self) -> float:
        return self._event.at

    def _failed(self, exc: BaseException) -> None:
        world = self._world
        for write in self._writes:
            world.oracle.registers.fail(write, world.loop.now)
        world.count("failed")
        world.log(self._me.name, f"{self._event.what} {', '.join(self._keys)} fails: {world.said(exc)}")

    async def _within(self, work: Awaitable[Any]) -> Any:
        patience = self._args.get("patience")
        return await (work if patience is None else asyncio.wait_for(work, patience))

    def _begin(self, *, deletes: bool = False) -> list[dict[str, int]]:
        world, values = self._world, []
        for key in self._keys:
            number = world.number()
            write = Write(
                key,
                None if deletes else number,
                world.loop.now,
                self._me,
                self._args.get("ttl"),
                seals_expiry=self._app.software == "kvseal",
            )
            world.oracle.registers.begin(write)
            self._writes.append(write)
            values.append({"v": number})
        return values

    def _acknowledged(self) -> None:
        world = self._world
        vault = self._app.vault
        dek = "" if vault is None else f" under DEK {vault.meta.active_dek.number}"
        ttl = self._args.get("ttl")
        until = "" if ttl is None else f" for {ttl / 3600:.0f} h"
        for write in self._writes:
            what = "deleted" if write.value is None else f"put {write.value}{dek}{until}"
            world.log(self._me.name, f"{write.key}: {what}")
            world.oracle.registers.acknowledge(write, world.loop.now, self._me.host.wall())
            world.oracle.judge_put(write, self._me)

    async def _put(self) -> None:
        (value,) = self._begin()
        await self._within(self._app.wrapper.put(self._keys[0], value, ttl=self._args.get("ttl")))
        self._acknowledged()

    async def _put_many(self) -> None:
        values = self._begin()
        await self._within(self._app.wrapper.put_many(self._keys, values, ttl=self._args.get("ttl")))
        self._acknowledged()

    async def _delete(self) -> None:
        self._begin(deletes=True)
        await self._within(self._app.wrapper.delete(self._keys[0]))
        self._acknowledged()

    async def _get(self) -> None:
        await self._read(lambda: self._app.wrapper.get(self._keys[0]), many=False)

    async def _get_many(self) -> None:
        await self._read(lambda: self._app.wrapper.get_many(self._keys), many=True)

    async def _read(self, work: Callable[[], Awaitable[Any]], *, many: bool) -> None:
        world, oracle = self._world, self._world.oracle
        begun, wall = world.loop.now, self._me.host.wall()
        may_miss = {key: oracle.may_be_missing(key) for key in self._keys}
        got = await self._within(work())
        for key, found in zip(self._keys, got if many else [got], strict=True):
            value = None if found is None else found.get("v")
            world.log(self._me.name, f"{key}: read {value}")
            oracle.judge_read(self._me, key, value, begun, wall, may_be_missing=may_miss[key])
