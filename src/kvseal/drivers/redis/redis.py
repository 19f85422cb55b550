"""
The driver of `RedisStore`, and of `redis://host:port/database`, with TLS `rediss://`.

From a store it takes where its client connects to and how it is let in, not the client: an
asynchronous client belongs to the event loop that first used it, and the driver is used from
any.  So a client that connects in a way of its own (through a sentinel, or to a fake) has no
driver, rather than one that would talk to another server.

A store whose client does not decode what it reads has no driver either: such a store reads nothing but
`None`, whatever is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import redis
from redis.asyncio import connection as aio

from kvseal.drivers.redis.address import Address
from kvseal.drivers.redis.driver import RespDriver, from_url
from kvseal.drivers.redis.server import RespServer
from kvseal.errors import UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from key_value.aio.stores.redis import RedisStore

__all__ = ["for_store", "from_url"]

_CONNECTIONS: Final[dict[Any, type[redis.Connection | redis.UnixDomainSocketConnection]]] = {
    aio.Connection: redis.Connection,
    aio.SSLConnection: redis.SSLConnection,
    aio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
}
"""Exactly these classes: a class derived from one may lead anywhere."""

_OPTIONS: Final = frozenset(
    {
        "credential_provider",
        "db",
        "host",
        "password",
        "path",
        "port",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_timeout",
        "socket_type",
        "username",
    }
)
"""What a connection of either kind takes and means the same by, beside `ssl_…`."""


def for_store(store: RedisStore) -> RespDriver:
    """
    Return the driver of *store*, with connections of its own to the same database.

    Raises:
        UnsupportedStoreError: the store's client does not connect straight to one server, or does not decode.
    """
    pool: Any = store._client.connection_pool  # noqa: SLF001
    given: Mapping[str, Any] = pool.connection_kwargs
    connection_class = _CONNECTIONS.get(pool.connection_class)
    if connection_class is None or given.get("redis_connect_func") is not None:
        msg = f"no driver for a RedisStore whose client connects through {pool.connection_class.__qualname__}"
        raise UnsupportedStoreError(
            msg, hint="name the server itself with redis://, or give the vault a meta_store="
        )
    if not given.get("decode_responses"):
        msg = "no driver for a RedisStore whose client does not decode: it reads every value as missing"
        raise UnsupportedStoreError(msg, hint="make the client with decode_responses=True, or give url=")
    options = {k: v for k, v in given.items() if k in _OPTIONS or k.startswith("ssl_")}
    server = RespServer(_location(options, connection_class), options, connection_class)
    return RespDriver(server)


def _location(options: Mapping[str, Any], connection_class: type) -> str:
    db = int(options.get("db") or 0)
    if connection_class is redis.UnixDomainSocketConnection:
        return f"unix://{options.get('path')}?db={db}"
    scheme = "rediss" if connection_class is redis.SSLConnection else "redis"
    return Address(options.get("host") or "localhost", int(options.get("port") or 6379), db).location(scheme)
