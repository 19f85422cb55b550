"""`rediss://`: a Redis database over TLS, otherwise as `redis://`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.drivers.redis.driver import open_url

if TYPE_CHECKING:
    from kvseal.drivers.redis.driver import RespDriver


async def from_location(location: str, *, create: bool = False) -> RespDriver:  # noqa: ARG001 - see `kvseal.drivers.redis.redis`
    """Return the driver of the database that the URL `rediss:`*location* names."""
    return await open_url("rediss", location)
