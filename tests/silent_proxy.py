"""A TCP proxy that hangs when it is told: it accepts, it takes, and it never answers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class SilentProxy:
    """Passes everything on to *port* of this machine until it is `silent`."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self.silent = False
        self.silent_after_login = False
        self._pipes: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what one client says, and what the server answers."""
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._to)
        for source, sink in ((reader, ours), (theirs, writer)):
            task = asyncio.create_task(self._pipe(source, sink))
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while part := await source.read(65536):
                # PostgreSQL's first statement: Parse or Query.
                self.silent |= self.silent_after_login and part[:1] in {b"P", b"Q"}
                if not self.silent:
                    sink.write(part)
                    await sink.drain()
        sink.close()

    def end(self) -> None:
        """Give up every connection."""
        for task in self._pipes:
            task.cancel()


@asynccontextmanager
async def silent_proxy(port: int) -> AsyncIterator[SilentProxy]:
    """Yield a proxy in front of *port*, in the running event loop."""
    proxy = SilentProxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.end()
