"""The real stores of a round, and what can befall each: proxies, failover, restarts, disks that are full."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tests.backends import Place
from tests.chaos.proxy import Proxy
from tests.drivers.postgresql.server import drain, running
from tests.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from typing_extensions import Self

_ROOM = 64 * 2**20
"""Bytes of the file system on which a store of files is."""
_FULL_MEMORY = 1
"""Bytes that a Redis server which is full may use."""


class Backend:
    """One store, with processes that reach it by `place` and tools that do by `url`."""

    kind = ""

    def __init__(self, directory: Path, rng: Random) -> None:
        self.directory = directory
        self.rng = rng
        self.on_loss: Callable[[set[str]], None] = lambda _: None
        """Called with the names of which the store itself has lost a write, before anybody reaches it again."""
        self.missing: list[str] = []
        """What could not be tried on this machine."""
        self.proxies: list[Proxy] = []
        self._exits = ExitStack()

    @property
    def place(self) -> Place:
        """Where an application finds the store."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where vaultctl finds it."""
        raise NotImplementedError

    def faults(self) -> list[str]:
        """Return the names of the methods that are this backend's own faults."""
        raise NotImplementedError

    async def start(self) -> Self:
        """Make the empty store."""
        return self

    async def stop(self) -> None:
        """End every server, and remove what was made."""
        for proxy in self.proxies:
            await proxy.stop()
        await asyncio.to_thread(self._exits.close)

    async def heal(self) -> None:
        """End every fault that lasts."""
        for proxy in self.proxies:
            proxy.lighten()

    async def cut(self) -> None:
        """Cut a few connections, before or after the reply."""
        for _ in range(self.rng.randint(1, 4)):
            self.proxies[0].cut(self.rng.choice(("before", "after")))

    async def darkness(self) -> None:
        """Let no client reach the server for a while."""
        self.proxies[0].darken()
        await asyncio.sleep(self.rng.uniform(0.2, 2.5))
        self.proxies[0].lighten()


class _Files(Backend):
    """A store of files on a small file system of its own, where this process may mount one."""

    async def start(self) -> Self:
        self._folder = self.directory / "small"
        self._folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", str(self._folder)]
        mounted = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
        if mounted.returncode == 0:
            self._exits.callback(subprocess.run, ["umount", "--lazy", str(self._folder)], check=False)
            self._can_fill = True
        else:
            self._can_fill = False
            self.missing.append("a full disk (no mount)")
        (self._folder / "store").mkdir()
        return self

    @property
    def place(self) -> Place:
        return Place(self.kind, str(self._folder / "store"))

    @property
    def url(self) -> str:
        return f"{self.kind}:{self._folder / 'store'}" + ("?names=plain" if self.kind == "filetree" else "")

    def faults(self) -> list[str]:
        return ["full"] * self._can_fill

    async def full(self) -> None:
        """Leave no room on the file system for a while."""
        await asyncio.to_thread(self._fill)
        await asyncio.sleep(self.rng.uniform(0.3, 2.0))
        await self.heal()

    def _fill(self) -> None:
        size = shutil.disk_usage(self._folder).free
        with (self._folder / "filler").open("wb", buffering=0) as file:
            try:
                while size > 0:
                    size -= file.write(bytes(min(size, 2**20)))
                while True:
                    file.write(b"x")
            except OSError:
                return

    async def heal(self) -> None:
        (self._folder / "filler").unlink(missing_ok=True)


class Disk(_Files):
    kind = "disk"


class FileTree(_Files):
    kind = "filetree"


class Redis(Backend):
    """A master, a replica behind a link that can lag, and a proxy that leads to the server that is the master."""

    kind = "redis"

    async def start(self) -> Self:
        self._number = 0
        self._master = await asyncio.to_thread(self._server)
        self._proxy = Proxy(self._master.port)
        await self._proxy.start()
        self.proxies = [self._proxy]
        await self._replicate()
        return self

    @property
    def place(self) -> Place:
        return Place("redis", f"redis://127.0.0.1:{self._proxy.port}/0")

    @property
    def url(self) -> str:
        return self.place.where

    def faults(self) -> list[str]:
        return ["cut", "cut", "cut", "darkness", "failover", "full"]

    async def full(self) -> None:
        """Let the server refuse every write for a while, because its memory is used up."""
        with self._master.client() as client:
            client.config_set("maxmemory", _FULL_MEMORY)
            await asyncio.sleep(self.rng.uniform(0.3, 1.5))
            client.config_set("maxmemory", 0)

    async def failover(self) -> None:
        """Let the replica lag, kill the master, make the replica the master, and note what that lost."""
        self._link.hold()
        await asyncio.sleep(self.rng.uniform(0.2, 1.5))
        self._proxy.darken()
        await asyncio.sleep(0.2)
        before, after = await asyncio.gather(
            *(asyncio.to_thread(_content, one) for one in (self._master, self._replica))
        )
        await asyncio.to_thread(_end, self._master)
        await self._link.stop()
        with self._replica.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        lost = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        self.on_loss(lost)
        self._master = self._replica
        self._proxy.target = self._master.port
        self._proxy.lighten()
        await self._replicate()

    async def _replicate(self) -> None:
        self._link = Proxy(self._master.port)
        await self._link.start()
        self.proxies = [self._proxy, self._link]
        options = ("--replicaof", f"127.0.0.1 {self._link.port}", "--repl-diskless-sync-delay", "0")
        self._replica = await asyncio.to_thread(self._server, *options)
        await asyncio.to_thread(_wait_for_link, self._replica)

    def _server(self, *options: str) -> RedisServer:
        self._number += 1
        folder = self.directory / f"redis-{self._number}"
        folder.mkdir()
        server = RedisServer(folder, *options).start()
        self._exits.callback(_end, server)
        assert server._process is not None
        threading.Thread(target=drain, args=[server._process.stdout], daemon=True).start()
        return server


def _wait_for_link(replica: RedisServer) -> None:
    with replica.client() as client:
        while client.info("replication")["master_link_status"] != "up":
            time.sleep(0.05)


def _end(server: RedisServer) -> None:
    """Kill the server; its pipe has a reader of its own, so nothing is left to be read."""
    process, server._process = server._process, None
    if process is not None:
        process.kill()
        process.wait()


def _content(server: RedisServer) -> dict[str, Any]:
    with server.client() as client:
        names = list(client.scan_iter(count=1000))
        return {
            name.decode(): value
            for name, value in zip(names, client.mget(names) if names else [], strict=True)
        }


class PostgreSQL(Backend):
    """A server that ends as if its plug were pulled, and comes back."""

    kind = "postgresql"

    async def start(self) -> Self:
        self._server = await asyncio.to_thread(self._exits.enter_context, running())
        self._proxy = Proxy(self._server.port)
        await self._proxy.start()
        self.proxies = [self._proxy]
        return self

    @property
    def place(self) -> Place:
        return Place("postgresql", f"postgresql://postgres@127.0.0.1:{self._proxy.port}/postgres")

    @property
    def url(self) -> str:
        return self.place.where

    def faults(self) -> list[str]:
        return ["cut", "cut", "cut", "darkness", "restart"]

    async def restart(self) -> None:
        """End the server at once, with every session, and start it again after a while."""
        await asyncio.to_thread(self._server.stop)
        await asyncio.sleep(self.rng.uniform(0.1, 1.0))
        await asyncio.to_thread(self._server.start)


BACKENDS: dict[str, type[Backend]] = {one.kind: one for one in (Disk, Redis, PostgreSQL, FileTree)}

__all__ = ["BACKENDS", "Backend"]
