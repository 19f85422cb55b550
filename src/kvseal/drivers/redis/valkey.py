"""
The driver of `ValkeyStore`, and of `valkey://host:port/database`.

Valkey speaks Redis' protocol, so the driver reaches the server through redis-py and is the same
as Redis'.  From a store it takes the address and the credentials in the configuration of its GLIDE
client, which itself belongs to the event loop that made it and is not touched.  A configuration
that says more about where or how the values are kept has no driver, rather than one that would
read another server or other bytes than the store does.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, Final

from kvseal.drivers.redis.address import Address
from kvseal.drivers.redis.driver import RespDriver, from_url
from kvseal.drivers.redis.server import RespServer
from kvseal.errors import UnsupportedStoreError

if TYPE_CHECKING:
    from key_value.aio.stores.valkey import ValkeyStore

__all__ = ["for_store", "from_url"]

_UNSUPPORTED: Final = {
    "compression": "compresses values",
    "rdma": "connects by RDMA",
    "address_resolver": "resolves addresses in a way of its own",
    "credentials.iam_config": "authenticates with IAM",
    "advanced_config.tls_config": "has TLS settings of its own",
}
"""What the driver could not follow, by the field of the configuration that asks for it."""


def for_store(store: ValkeyStore) -> RespDriver:
    """
    Return the driver of *store*, with connections of its own to the same database.

    Raises:
        UnsupportedStoreError: the store is a cluster, has replicas, or connects in a way of its own.
    """
    client: Any = store._connected_client  # noqa: SLF001
    config: Any = store._client_config if client is None else client.config  # noqa: SLF001
    if problem := _problem(config):
        msg = f"no driver for a ValkeyStore whose client {problem}"
        raise UnsupportedStoreError(
            msg, hint="name the server itself with valkey://, or give the vault a meta_store="
        )
    server = RespServer.at(_address(config), "valkey")
    return RespDriver(server)


def _problem(config: Any) -> str:
    """Say what in *config* the driver could not follow, or return nothing."""
    if type(config).__name__ != "GlideClientConfiguration":
        return f"is configured by {type(config).__name__}"
    # A client with several addresses finds out which of them is the primary.
    if len(config.addresses) != 1 or getattr(config.addresses[0], "unix_socket_path", None):
        return "has several addresses, or a socket file for one"
    problems = (problem for path, problem in _UNSUPPORTED.items() if _field(config, path) is not None)
    return next(problems, "")


def _field(config: Any, path: str) -> Any:
    """Return what is set at *path*; fields that an older GLIDE does not have are not set."""
    return reduce(lambda value, name: getattr(value, name, None), path.split("."), config)


def _address(config: Any) -> Address:
    node, credentials = config.addresses[0], config.credentials
    return Address(
        host=node.host,
        port=node.port,
        db=config.database_id or 0,
        username=getattr(credentials, "username", None),
        password=getattr(credentials, "password", None),
        tls={} if config.use_tls else None,
    )
