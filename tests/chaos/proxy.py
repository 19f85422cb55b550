"""A TCP proxy between processes and their server, which cuts connections before and after the reply."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from typing import Literal

Cut = Literal["before", "after"]
_PIECE = 65536


class Proxy:
    """
    Listens on `port` of this machine and leads to the server at *target*.

    A cut meets the next request of any connection.  One "before" drops it unsent; one "after" lets the server do
    it and drops the reply.  While `is_dark`, no client is let in; after `hold`, nothing is passed on.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.cuts: Counter[str] = Counter()
        self._passes = asyncio.Event()
        self._passes.set()
        self.is_dark = False
        self._due: deque[Cut] = deque()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more, and drop every connection."""
        self.darken()
        self._passes.set()
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def hold(self) -> None:
        """Pass on nothing from now on, until the end."""
        self._passes.clear()

    async def passing(self) -> None:
        """Wait while nothing is passed on."""
        await self._passes.wait()

    def cut(self, when: Cut) -> None:
        """Cut the next connection on which a request comes, *when* that says."""
        self._due.append(when)

    def darken(self) -> None:
        """Drop every connection, and let no client in until `lighten`."""
        self.is_dark = True
        for writer in list(self._writers):
            writer.transport.abort()

    def lighten(self) -> None:
        """Let everybody in again, and forget the cuts that met no request."""
        self.is_dark = False
        self._due.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_dark:
            writer.transport.abort()
            return
        try:
            up, upper = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError):
            both = {writer, upper}
            self._writers |= both
            connection = _Connection(self, both)
            try:
                await asyncio.gather(
                    connection.pump(reader, upper, asks=True), connection.pump(up, writer, asks=False)
                )
            finally:
                self._writers -= both
                await connection.end()

    def next_cut(self) -> Cut | None:
        """Take the cut that is due, if one is."""
        return self._due.popleft() if self._due else None


class _Connection:
    def __init__(self, proxy: Proxy, writers: set[asyncio.StreamWriter]) -> None:
        self._proxy = proxy
        self._writers = writers
        self._loses_reply = False

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def end(self) -> None:
        """Drop both sides, and wait until they are gone."""
        self.abort()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asks: bool) -> None:
        """Pass on what comes, until either side ends or a cut does."""
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                await self._proxy.passing()
                if self._is_cut(asks=asks):
                    break
                writer.write(data)
                await writer.drain()
        self.abort()

    def _is_cut(self, *, asks: bool) -> bool:
        if not asks:
            return self._loses_reply
        cut = self._proxy.next_cut()
        if cut is not None:
            self._proxy.cuts[cut] += 1
        self._loses_reply = self._loses_reply or cut == "after"
        return cut == "before"
