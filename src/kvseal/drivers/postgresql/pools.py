"""
Connections to PostgreSQL: the driver's own where the store's parameters are known, else the store's pool.

asyncpg's connections belong to the event loop that opened them.  Where the driver knows how to
connect it therefore keeps one small pool for every loop that uses it, apart from the application's,
and opens it at the first use.  Where the application brought a pool there is nothing else to connect
with: the driver borrows it, in the loop that it belongs to and in no other.

A server may hang, or what stands between: it accepts and never answers.  So connecting, each statement and
closing have an end, and a connection that is given up is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncpg

from kvseal.drivers.base import closed
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from typing import TypeAlias

    Opener: TypeAlias = "Callable[[], Awaitable[asyncpg.Pool]]"

_SIZE: Final = 4
"""Connections of one pool at most: a recode has a few pages in flight, and servers have few connections."""
_CONNECTING_SECONDS: Final = 10
LONGEST: Final = 600
"""Seconds for a statement about many rows."""
ANSWER_SECONDS: Final = 30
"""For a statement about single entries, which may have to wait for another writer of them."""
_CLOSING_SECONDS: Final = 3
_NO_STATEMENT: Final = "26000"
_TWO_STATEMENTS: Final = "42P05"
_BOUNCED: Final = "behind PgBouncer in transaction mode, add ?pgbouncer=true to the URL"
_FAILURES: Final = (asyncpg.InterfaceError, OSError, asyncio.TimeoutError)


class Pools(Protocol):
    """Where the driver gets the pool for the running event loop."""

    async def pool(self) -> asyncpg.Pool:
        """Return the pool for the running event loop; raises `StoreError` if there can be none."""
        ...

    async def reads_text(self) -> bool:
        """Whether the store can read a value only if it is JSON text in a JSON string."""
        ...

    async def close(self) -> None:
        """Close what the driver opened."""
        ...


class OwnPools:
    """
    A pool of the driver's own for every event loop that uses it; it holds no connection before its first use.

    A pool is closed by `close`, or when its loop ends, or when nothing refers to the driver any longer.
    A child process that was forked off works in a loop of its own, and so on connections of its own.
    """

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._held: dict[asyncio.AbstractEventLoop, _Held] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    async def pool(self) -> asyncpg.Pool:
        """Return the running loop's pool, which is opened now if it is new."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._is_closed:
                raise closed("this PostgreSQL table")
            if loop not in self._held:
                self._held = {old: held for old, held in self._held.items() if not old.is_closed()}
                self._held[loop] = _Held()
            held = self._held[loop]
        return await held.opened(self._opener)

    async def reads_text(self) -> bool:
        """A store that connects by itself has no codec, and reads objects."""
        return False

    async def close(self) -> None:
        """Close the running loop's pool, and let loops in other threads close theirs."""
        with self._lock:
            self._is_closed = True
            held, self._held = self._held, {}
        for loop, one in held.items():
            if loop is asyncio.get_running_loop():
                await one.close()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(one.close(), loop)


@dataclass(slots=True)
class _Held:
    """The pool of one loop, and the generator that closes it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    pool: asyncpg.Pool | None = None
    keeper: AsyncGenerator[asyncpg.Pool, None] | None = None

    async def opened(self, opener: Opener) -> asyncpg.Pool:
        async with self.lock:
            if self.pool is None:
                self.keeper = _kept(opener)
                self.pool = await anext(self.keeper)
        return self.pool

    async def close(self) -> None:
        async with self.lock:
            if self.keeper is not None:
                await self.keeper.aclose()


async def _kept(opener: Opener) -> AsyncGenerator[asyncpg.Pool, None]:
    """
    Yield a pool and close it at the end.

    It is a generator because asyncio closes those that are still open when their loop ends, or when
    they are garbage.  Nothing else closes connections in time when `asyncio.run` returns.
    """
    pool = await opener()
    try:
        yield pool
    finally:
        # A pool that does not close in time is cancelled, and cancelled it drops its connections.
        with contextlib.suppress(*_FAILURES, asyncpg.PostgresError):
            await asyncio.wait_for(pool.close(), _CLOSING_SECONDS)


class BorrowedPool:
    """The application's own pool: usable where the application uses it, and never closed here."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._reads_text: bool | None = None

    async def pool(self) -> asyncpg.Pool:
        """Return the pool; raises `StoreError` in another loop, where its use would break its connections."""
        home = getattr(self._pool, "_loop", None)
        if home is not None and home is not asyncio.get_running_loop():
            msg = "the store's pool belongs to another event loop"
            raise StoreError(
                msg,
                hint="use kvseal in the loop that made the pool, or give the store a url= instead of a pool=",
            )
        return self._pool

    async def reads_text(self) -> bool:
        """
        Whether the pool decodes JSON columns by a codec of its own.

        PostgreSQLStore encodes and decodes nevertheless, so that what it writes through such a pool is
        JSON text in a JSON string, and what it reads must be the same.
        """
        if self._reads_text is None:
            async with connection(await self.pool()) as held:
                empty = await held.fetchval("SELECT '{}'::jsonb", timeout=ANSWER_SECONDS)
            self._reads_text = not isinstance(empty, str)
        return self._reads_text

    async def close(self) -> None:
        """There is nothing to close: the pool is the application's."""


async def open_pool(*dsn: str, **parameters: Any) -> asyncpg.Pool:
    """Return a small pool that connects when it is first used, by what `asyncpg.connect` takes."""
    parameters = {"timeout": _CONNECTING_SECONDS, **parameters}
    return await asyncpg.create_pool(*dsn, min_size=0, max_size=_SIZE, **parameters)


@contextlib.asynccontextmanager
async def connection(pool: asyncpg.Pool) -> AsyncGenerator[Any, None]:
    """
    Yield a connection of *pool*, and drop it if its caller gives up in the middle of a statement.

    asyncpg would ask the server to cancel the statement, and await the answer of a server that gives none.
    """
    held = await pool.acquire(timeout=_CONNECTING_SECONDS)
    try:
        yield held
    except (asyncio.CancelledError, asyncio.TimeoutError):
        held.terminate()
        raise
    finally:
        await pool.release(held)


def is_behind_bouncer(pool: Any) -> bool:
    """Whether *pool* prepares no statement for later, as one must behind PgBouncer in transaction mode."""
    return getattr(pool, "_connect_kwargs", {}).get("statement_cache_size") == 0


@contextlib.contextmanager
def translated(location: str) -> Generator[None, None, None]:
    """
    Raise what asyncpg raises as `StoreError`, all but a missing table and what can be tried again.

    Raises:
        StoreNotFoundError: there is no such database.
        StoreUnreachableError: there is no server, it refuses the user, or it stopped.
        UnsupportedStoreError: the parameters make no sense, or the table is not PostgreSQLStore's.
    """
    try:
        yield
    except (asyncpg.UndefinedTableError, *RETRIABLE):
        raise
    except asyncpg.PostgresError as exc:
        # What follows the first line, the DETAIL, may quote the value.
        raise _translation(exc, location) from (None if _may_quote_values(exc) else exc)
    except (ValueError, IndexError):
        # asyncpg's parser of URLs takes the first character of a host that is not there; and its messages
        # quote the argument that it cannot take, and of a URL perhaps the password.
        msg = f"{location}: asyncpg cannot use these connection parameters"
        hint = "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE and percent-encode what is special in it"
        raise UnsupportedStoreError(msg, hint=hint) from None
    except asyncio.TimeoutError as exc:
        msg = f"{location}: no answer in time"
        raise StoreUnreachableError(msg, hint="check the server, and what stands between") from exc
    except _FAILURES as exc:
        msg = f"{location}: {str(exc) or type(exc).__name__}"
        raise StoreUnreachableError(msg, hint="check that the server runs, and its address") from exc


RETRIABLE: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""The statement did nothing, because another one came between; it may well succeed if tried again."""


def _may_quote_values(exc: asyncpg.PostgresError) -> bool:
    """Whether it is about the data: malformed, against a constraint, or past a limit."""
    return (exc.sqlstate or "")[:2] in {"22", "23", "54"}


def _translation(exc: asyncpg.PostgresError, location: str) -> StoreError:
    msg = f"{location}: {exc.args[0] if exc.args else type(exc).__name__}"
    state = exc.sqlstate or ""
    if state == "3D000":
        return StoreNotFoundError(msg, hint="check the name of the database; kvseal never creates one")
    if state.startswith("28"):
        return StoreUnreachableError(msg, hint="check the user, the password and the server's pg_hba.conf")
    if state == "42501":
        return StoreUnreachableError(msg, hint="grant SELECT, INSERT, UPDATE and DELETE on the table")
    if state.startswith("42") or state == _NO_STATEMENT:
        is_bounced = state in {_NO_STATEMENT, _TWO_STATEMENTS}
        return UnsupportedStoreError(
            msg, hint=_BOUNCED if is_bounced else "name a table that PostgreSQLStore made"
        )
    if _may_quote_values(exc):
        return StoreError(msg, hint="PostgreSQL cannot hold this name or value; nothing was written")
    return StoreUnreachableError(msg, hint="check the server and its log")
