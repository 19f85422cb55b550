"""Short texts of operators and applications: URLs of stores, and the values of options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from tests.fuzz.target import Target, loop, now, scratch

from kvseal.calibration import cgroups
from kvseal.cli.bench.bench import Memory
from kvseal.cli.migration.migrate import FernetKdf
from kvseal.cli.migration.partition import Partition
from kvseal.cli.values import Argon2Cost, Duration
from kvseal.drivers import driver_from_url, strip_password
from kvseal.drivers.aws import shown, split_url
from kvseal.drivers.backends import SCHEMES, backend_of_url
from kvseal.drivers.dynamodb.table import checked_name
from kvseal.drivers.mongodb.address import Address as MongoDBAddress
from kvseal.drivers.redis.address import Address
from kvseal.drivers.s3 import driver as s3_driver
from kvseal.drivers.urls import StoreUrl
from kvseal.errors import KvsealError

if TYPE_CHECKING:
    from typing import NoReturn

_PASSWORD = "p4ssw0rd"


def _urls() -> list[bytes]:
    texts = (
        *(
            "disk:/tmp/x",
            "disk:///tmp/x",
            "filetree:x?names=v1",
            "multi-disk:x",
            "duckdb:x.db?table=t",
            "rocksdb:x",
        ),
        *(
            "redis://user:p4ssw0rd@host:6379/0",
            "rediss://host/1?ssl_cert_reqs=none",
            "valkey://[::1]:6379",
            "memory:",
        ),
        *(
            "postgresql://user:p4ssw0rd@host:5432/db?table=kv&sslmode=require",
            "postgresql:///db?host=/tmp",
            "mongodb://user:p4ssw0rd@a:1,b/admin?db_name=kv&names=v1&tls=true",
            "mongodb+srv://user@host/?retryWrites=false",
            "/tmp/x",
            "",
        ),
        "postgresql://u@a:1,b:2/db?target_session_attrs=any&passfile=/dev/null",
        "dynamodb://sessions?region=eu-central-1&endpoint=http://127.0.0.1:8000",
        "dynamodb://arn:aws:dynamodb:eu-central-1:123456789012:table/sessions",
        "s3://bucket?region=eu-central-1&endpoint=http://127.0.0.1:8000",
        "s3://bucket?names=hashed&collections=a,b",
    )
    return [text.encode() for text in texts]


def _url(data: bytes) -> None:
    """Take a URL apart, and go where it leads on this machine: nothing is there, and no server is asked."""
    text = data.decode("utf-8", "surrogateescape")
    strip_password(text)
    backend, url = backend_of_url(text)
    assert StoreUrl.parse(text, schemes=SCHEMES) == url
    assert backend is not None
    if url.scheme in {"redis", "rediss", "valkey", "valkeys"}:
        address = Address.of_url(url.scheme, url.location)
        assert (
            address.password is None
            or address.password not in address.location("redis")
            or len(address.password) < 9
        )
        address.options()
    elif url.scheme == "dynamodb":
        name, reach, _ = split_url(url.scheme, url.location)
        checked_name(name)
        again = shown(url.scheme, name, reach).removeprefix("dynamodb:")
        assert (name, reach) == split_url(url.scheme, again)[:2]
    elif url.scheme == "s3":
        s3_driver.parse_url(url)
    elif url.scheme in {"mongodb", "mongodb+srv"}:
        # Opened, it would ask for names and servers.
        MongoDBAddress.of_url(url)
    elif url.scheme in {"postgresql", "postgres"}:
        loop().create_connection = loop().create_unix_connection = _refuse  # type: ignore[method-assign]
        now(_opened(text))
    elif url.scheme != "python":
        os.chdir(scratch())
        now(_opened(text))


async def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ConnectionRefusedError(111, "refused")


async def _opened(url: str) -> None:
    driver = await driver_from_url(url)
    await driver.close()


def _options() -> list[bytes]:
    return [
        b"1,8,1",
        b"owasp",
        b"90s",
        b"1.5h",
        b"30d",
        b"2/4",
        b"512M",
        b"2GiB",
        b"3,65536,4",
        b"pbkdf2:sha1,1000",
        b"scrypt:16384,8,1",
        b"hkdf:info",
        b"sha256",
    ]


def _option(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for kind in (Argon2Cost(), Duration(), Duration(zero=True), Partition(), Memory(), FernetKdf()):
        try:
            kind.convert(text, None, None)
        except (click.BadParameter, KvsealError):
            continue


def _mounts() -> list[bytes]:
    return [
        b"31 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
        b"0::/user.slice\n4:memory:/a/b\n",
        b"max\n",
        b"1024\n",
    ]


def _cgroup(data: bytes) -> None:
    """Read the limits of a machine whose files say anything: a container may show a strange /proc."""
    root = scratch() / "root"
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    for name in ("mountinfo", "cgroup"):
        (root / "proc/self" / name).write_bytes(data)
    list(cgroups.levels("memory", root=root))
    cgroups.read(root / "proc/self/cgroup")


_DRIVERS = (
    "disk.multi",
    "duckdb.driver",
    "dynamodb.driver",
    "postgresql.driver",
    "redis.driver",
    "rocksdb.driver",
    "factory",
)
TARGETS = (
    Target(
        "url",
        (
            *(
                "drivers.urls.StoreUrl.parse",
                "drivers.urls.strip_password",
                "drivers.mongodb.address.Address.of_url",
                "drivers.redis.address.Address.of_url",
                "drivers.s3.driver.parse_url",
            ),
            *(f"drivers.{name}.from_url" for name in _DRIVERS),
        ),
        _urls,
        _url,
    ),
    Target(
        "option",
        (
            *(f"cli.values.{name}.convert" for name in ("Argon2Cost", "Duration")),
            "cli.migration.partition.Partition.convert",
            "cli.migration.migrate.FernetKdf.convert",
            "legacy.fernet_keys.parse_kdf",
            "cli.bench.bench.Memory.convert",
        ),
        _options,
        _option,
    ),
    Target("cgroup", ("calibration.cgroups.read", "calibration.cgroups._Mount.parsed"), _mounts, _cgroup),
)
