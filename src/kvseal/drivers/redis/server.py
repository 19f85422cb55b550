"""
One database of a Redis or Valkey server: the few commands that the drivers need.

Every call blocks and may come from any thread.  Nothing here is bound to an event loop, so
it serves applications that use several in a row or at once.  A call whose answer is lost is
not repeated: a compare-and-swap that was in fact done would come back as a lost one.

Needs Redis 6.0 or newer, or any Valkey.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from kvseal import clock
from kvseal.drivers.base import StoreTime
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kvseal.drivers.redis.address import Address

CONNECT_TIMEOUT: Final = 10.0
TIMEOUT: Final = 60.0
"""Seconds, unless the store's own client says otherwise; redis-py would wait for ever."""

# A hint to the server, which finishes the hash bucket it is in; so it is below `PAGE_SIZE`.
SCAN_COUNT: Final = 448

AT_ONCE: Final = 64
"""Keys in one step of the server, short enough that no client waits for it."""
_DONE: Final = ord("1")
_READ_SIZE: Final = 2**18

_HINTS: Final[dict[type[Exception], str]] = {
    AuthenticationError: "check the user name and the password",
    NoPermissionError: "grant the user this command and the store's keys",
    ReadOnlyError: "this is a replica; name the primary",
    OutOfMemoryError: "the server is full: raise maxmemory",
}


class Script(str):
    """A Lua script, which the server runs as one step."""

    __slots__ = ("sha",)

    def __init__(self, text: str) -> None:
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# `pcall` makes a key of another type unequal to every body, rather than an error.
# PEXPIREAT deletes a key when the time is in the past, so no expired entry is stored as a live one.
SWAP: Final = Script("""
local done = {}
for n, key in ipairs(KEYS) do
  local body, expiry = ARGV[3 * n - 1], ARGV[3 * n]
  if redis.pcall('GET', key) ~= ARGV[3 * n - 2] then
    done[n] = '0'
  else
    if expiry == 'keep' then
      redis.call('SET', key, body, 'KEEPTTL')
    else
      redis.call('SET', key, body)
      if expiry ~= '' then redis.call('PEXPIREAT', key, expiry) end
    end
    done[n] = '1'
  end
end
return table.concat(done)
""")
"""
Store a body at each key that still holds another one; the answer has a 1 or a 0 for each.

The arguments are, for each key, the body that is expected, the new one, and the expiry: Unix
milliseconds, `keep`, or empty for none.
"""

SIZES: Final = Script("""
local sizes = {}
for n, key in ipairs(KEYS) do
  local size = redis.pcall('STRLEN', key)
  sizes[n] = type(size) == 'number' and size or 0
end
return table.concat(sizes, ',')
""")
"""How many bytes each string has, 0 where there is no string: one answer instead of one for each key."""

PUT: Final = Script("""
local done = {}
for n, key in ipairs(KEYS) do
  local expiry = ARGV[2 * n]
  if not redis.call('SET', key, ARGV[2 * n - 1], 'NX') then
    done[n] = '0'
  else
    if expiry ~= '' then redis.call('PEXPIREAT', key, expiry) end
    done[n] = '1'
  end
end
return table.concat(done)
""")
"""
Store a body at each key that there is not; the answer has a 1 or a 0 for each.

The arguments are, for each key, the body, and the expiry: Unix milliseconds, or empty for none.
"""

DELETE: Final = Script("""
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")
"""If *key* holds the body, delete it."""


class OtherType(Enum):
    """What stands for the value of a key that is not a string."""

    OTHER_TYPE = "of another type"


@dataclass(frozen=True, slots=True)
class Batch:
    """
    What one SCAN found, where the next goes on (0: nowhere), and which run of the server it was.

    A cursor holds for one run of one server, for every client: the order of keys is drawn when it starts.
    """

    keys: Sequence[bytes]
    cursor: int
    run: str


class _Packer:
    """
    Packs a command as one string of bytes.

    redis-py's own cuts a large command into pieces and sends each by itself: for a batch of swaps, a
    hundred system calls, at each of which this thread may have to wait for another one.
    """

    def pack(self, *parts: str | bytes | int) -> list[bytes]:
        """Return the whole command."""
        texts = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
        pieces = [b"*%d\r\n" % len(texts)]
        for text in texts:
            pieces += (b"$%d\r\n" % len(text), text, b"\r\n")
        return [b"".join(pieces)]


_NOT_VERIFIED: Final = frozenset({"none", "0", "verifymode.cert_none"})


class RespServer:
    """
    The database at *location*, over connections of its own.

    They are made, when needed, from *options*, the keyword arguments of a redis-py connection.
    Every error is a `StoreError` with the location in it, and with neither a password nor a value.
    """

    def __init__(
        self,
        location: str,
        options: Mapping[str, Any],
        connection_class: type[redis.Connection | redis.UnixDomainSocketConnection] = redis.Connection,
    ) -> None:
        self.location = location
        limits = {"socket_timeout": TIMEOUT, "socket_connect_timeout": CONNECT_TIMEOUT}
        given = {name: value for name, value in options.items() if value is not None}
        if connection_class is redis.SSLConnection:
            # redis-py before 6 accepts a certificate for another host unless it is told not to.
            verifies = str(given.get("ssl_cert_reqs", "required")).lower() not in _NOT_VERIFIED
            given = {"ssl_check_hostname": verifies, **given}
        self._made_of = options, connection_class
        self.timeout: float = given.get("socket_timeout", TIMEOUT)
        """Seconds after which a connection gives up waiting for an answer."""
        self._pool: Any = redis.ConnectionPool(
            connection_class=connection_class,
            **{**limits, **given, "protocol": 2, "retry": Retry(NoBackoff(), 0)},
            command_packer=_Packer(),
            socket_read_size=_READ_SIZE,
        )
        self._client: Any = redis.Redis(connection_pool=self._pool)

    @classmethod
    def at(cls, address: Address, scheme: str) -> RespServer:
        """Return the database at *address*; nothing is connected yet."""
        if address.path is not None:
            return cls(address.location(scheme), address.options(), redis.UnixDomainSocketConnection)
        connection_class = redis.Connection if address.tls is None else redis.SSLConnection
        return cls(address.location(scheme), address.options(), connection_class)

    @contextmanager
    def on_one_connection(self) -> Iterator[RespServer]:
        """Yield this database over a single connection, which only this caller uses, and close it then."""
        alone = RespServer(self.location, *self._made_of)
        try:
            yield alone
        finally:
            alone.close()

    def get(self, key: bytes) -> bytes | OtherType | None:
        """Return the string at *key*, or `None` if there is nothing."""
        (value,) = self.get_many([key])
        return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | OtherType | None]:
        """Return what `get` does for each of *keys*, in one round trip."""
        return [self._string(answer) for answer in self._pipeline([("GET", key) for key in keys])]

    def scan(self, cursor: int, count: int = SCAN_COUNT) -> Batch:
        """Return about *count* keys with a `::`, of any type; a later call may return some of them again."""
        options = ("MATCH", "*::*", "COUNT", count)
        info, answer = self._pipeline([("INFO", "server"), ("SCAN", cursor, *options)])
        following, keys = self._checked(answer)
        # Where INFO is forbidden, a restart goes unnoticed and a cursor holds for one scan only.
        run = "" if isinstance(info, Exception) else str(info.get("run_id", ""))
        return Batch(list(dict.fromkeys(keys)), int(following), run)

    def values(self, keys: Sequence[bytes], most_bytes: int) -> list[bytes | None]:
        """
        Return the strings at the first of *keys*, `None` where there is none: gone, or of another type.

        There are at least one and as many as have together at most *most_bytes*.
        """
        total, fitting = 0, 0
        for size in self._sizes(keys):
            total += size
            if fitting and total > most_bytes:
                break
            fitting += 1
        (values,) = self._pipeline([("MGET", *keys[:fitting])])
        return list(self._checked(values))

    def swap(self, calls: Sequence[tuple[bytes, bytes, bytes, bytes]]) -> list[bool]:
        """
        Run `SWAP` for each key with its arguments, and return which were swapped.

        Raises:
            StoreError: one of them failed; any of the others may have been done.
        """
        return self._done(SWAP, calls)

    def put(self, calls: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
        """Run `PUT` for each key with its arguments, and return which were stored; raises like `swap`."""
        return self._done(PUT, calls)

    def run(self, script: Script, key: bytes, *arguments: bytes) -> bool:
        """Run *script* for one key and return what it answers; raises `StoreError` if it failed."""
        return bool(self._evaluate(script, [([key], arguments)])[0])

    def count(self) -> int:
        """Return how many keys the database has, those of other programs too."""
        (size,) = self._pipeline([("DBSIZE",)])
        return int(self._checked(size))

    def time(self) -> StoreTime | None:
        """Return what the server's clock says; `None` where the user may not ask it."""
        before = clock.monotonic()
        (answer,) = self._pipeline([("TIME",)])
        if isinstance(answer, NoPermissionError):
            return None
        seconds, microseconds = self._checked(answer)
        at = datetime.fromtimestamp(int(seconds), timezone.utc) + timedelta(microseconds=int(microseconds))
        return StoreTime(at, before, clock.monotonic())

    def command(self, *parts: str) -> Any:
        """Return what the server answers to one command; raises `StoreError` where it refuses."""
        (answer,) = self._pipeline([parts])
        return self._checked(answer)

    def evicts(self) -> bool | None:
        """
        Whether a full server drops keys that have no expiry, such as the vault meta; `None`: unknown.

        That is so with a memory limit and a policy `allkeys-…`.  The policies `volatile-…` drop only
        what expires anyway.
        """
        settings = self._memory_settings()
        limit, policy = settings.get("maxmemory"), settings.get("maxmemory_policy")
        if limit is None or policy is None:
            return None
        return int(limit) > 0 and not str(policy).startswith(("noeviction", "volatile-"))

    def close(self) -> None:
        """Close the connections; another call would open new ones."""
        self._pool.disconnect()

    def _memory_settings(self) -> dict[str, Any]:
        # Hosted servers forbid CONFIG more often than INFO.
        info, config = self._pipeline([("INFO", "memory"), ("CONFIG", "GET", "maxmemory*")])
        settings = _config(config)
        return settings if isinstance(info, Exception) else settings | info

    def _done(self, script: Script, calls: Sequence[tuple[bytes, ...]]) -> list[bool]:
        """Return which of *calls*, each a key and its arguments, *script* answers with a 1."""
        portions = [calls[n : n + AT_ONCE] for n in range(0, len(calls), AT_ONCE)]
        arguments = [
            ([key for key, *_ in few], [argument for _, *those in few for argument in those])
            for few in portions
        ]
        return [done == _DONE for answer in self._evaluate(script, arguments) for done in answer]

    def _evaluate(
        self, script: Script, calls: Sequence[tuple[Sequence[bytes], Sequence[bytes | int]]]
    ) -> list[Any]:
        """Return what *script* answers for each tuple of keys and arguments, which go in one round trip."""
        commands = [(script.sha, len(keys), *keys, *arguments) for keys, arguments in calls]
        answers = self._pipeline([("EVALSHA", *command) for command in commands])
        unknown = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        again = self._pipeline([("EVAL", script, *commands[n][1:]) for n in unknown])
        for n, answer in zip(unknown, again, strict=True):
            answers[n] = answer
        return [self._checked(answer) for answer in answers]

    def _sizes(self, keys: Sequence[bytes]) -> list[int]:
        try:
            (sizes,) = self._evaluate(SIZES, [(keys, ())])
        except StoreError as exc:
            if not isinstance(exc.__cause__, NoPermissionError):
                raise
            # A user who may read need not be one who may run scripts.
            answers = self._pipeline([("STRLEN", key) for key in keys])
            return [size if isinstance(size, int) else 0 for size in answers]
        return [int(size) for size in sizes.split(b",")]

    def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the answer to each command, which is an exception where the server refused it."""
        if not commands:
            return []
        with self._translated():
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            # Raised by redis-py, an error would quote the command, and with it the value.
            answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    def _string(self, answer: Any) -> bytes | OtherType | None:
        if isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE"):
            return OtherType.OTHER_TYPE
        value: bytes | None = self._checked(answer)
        return value

    def _checked(self, answer: Any) -> Any:
        if isinstance(answer, Exception):
            with self._translated():
                raise answer
        return answer

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as exc:
            raise _error(self.location, exc) from exc


def _error(location: str, exc: Exception) -> StoreError:
    # "unknown command 'X', with args beginning with: …" would quote a value.
    text = str(exc).partition(", with args")[0]
    exc.args = (text,)
    if "DB index" in text:
        return StoreNotFoundError(f"{location}: {text}", hint="check the number of the database")
    if isinstance(exc, ResponseError) or type(exc) in _HINTS:
        hint = _HINTS.get(type(exc), "look at the server's log and settings")
    else:
        hint = "check host and port, and that the server runs and can be reached from here"
    return StoreUnreachableError(f"{location}: {text}", hint=hint)


def _config(answer: Any) -> dict[str, Any]:
    text = [part.decode("utf-8", "replace") for part in answer] if isinstance(answer, list) else []
    return {name.replace("-", "_"): value for name, value in zip(text[::2], text[1::2], strict=False)}
