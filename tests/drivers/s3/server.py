"""
An S3 server on this machine, a pytest plugin: SeaweedFS, one for all tests of a process.

A bucket takes space of its own, of which there is some for four hundred, so tests share a few and empty them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.servers import free_port, required

if TYPE_CHECKING:
    from collections.abc import Iterator

    from key_value.aio.stores.s3 import S3Store
    from typing_extensions import Self

REGION = "us-east-1"
KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
_SECONDS = 90
_ATTEMPTS = 5
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
)

_numbers = count()


@cache
def read_once() -> None:
    """Let the tests of a process read the megabyte of JSON that describes the service once, and not each client."""
    from botocore.loaders import JSONFileLoader

    load = cache(partial(JSONFileLoader.load_file, JSONFileLoader()))
    JSONFileLoader.load_file = lambda _, path: load(path)


class S3Server:
    """An S3 server at `url`, and a client of botocore's own to look at it from outside."""

    def __init__(self, url: str = "") -> None:
        self.url = url
        self._client: Any = None
        self._free: list[str] = []

    @property
    def raw(self) -> Any:
        """The client."""
        if self._client is None:
            # Imported late, as below: this module is a plugin of every run, and most have no server.
            import botocore.session
            from botocore.config import Config

            read_once()
            config = Config(retries={"total_max_attempts": 1}, max_pool_connections=32)
            self._client = botocore.session.get_session().create_client(
                "s3", region_name=REGION, endpoint_url=self.url, config=config, **KEYS
            )
        return self._client

    def settings(self) -> dict[str, str]:
        """Return what a store or a client is given to connect here."""
        return {"region_name": REGION, "endpoint_url": self.url, **KEYS}

    def location(self, bucket: str) -> str:
        """Return the URL of a bucket; the credentials are in the environment."""
        return f"s3://{bucket}?region={REGION}&endpoint={self.url}"

    @contextmanager
    def bucket(self, versioning: str = "") -> Iterator[str]:
        """Yield the name of an empty bucket, which no other test has meanwhile; one with versions is new."""
        name = self._free.pop() if self._free and not versioning else f"test-{os.getpid()}-{next(_numbers)}"
        with suppress(self.raw.exceptions.BucketAlreadyOwnedByYou):
            self.raw.create_bucket(Bucket=name)
        if versioning:
            self.raw.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": versioning})
        yield name
        if not versioning:
            self.empty(name)
            self._free.append(name)

    def keys(self, bucket: str) -> list[str]:
        """Return the keys of all objects."""
        pages = self.raw.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def empty(self, bucket: str) -> None:
        """Delete every object."""
        while keys := self.keys(bucket):
            objects = [{"Key": key} for key in keys[:1000]]
            self.raw.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})


class SeaweedServer(S3Server):
    """`weed server`, with its data in *directory*."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process of the server."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        # It takes seconds to bind its eight ports, in which a connection of another test may be given one of them.
        for attempt in range(_ATTEMPTS):
            self._start(self._directory / str(attempt))
            if self._is_ready():
                return self
            self.__exit__()
        pytest.fail("weed does not start")

    def _start(self, directory: Path) -> None:
        directory.mkdir()
        port = free_port()
        ports = {name: free_port() for name in ("s3.port.grpc", *_PORTS)}
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [
                _weed(),
                *("server", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                *("-s3", f"-s3.port={port}", "-volume.max=400", "-master.volumeSizeLimitMB=64"),
                # Two more services of it listen at ports of their own, and end a second server on this machine.
                *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                *(f"-{name}={number}" for name, number in ports.items()),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        """Wait until an object can be written, which takes some seconds; false if the server has ended."""
        from botocore.exceptions import BotoCoreError, ClientError

        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            assert self._process is not None
            if self._process.poll() is not None:
                return False
            with suppress(ClientError, BotoCoreError), self.bucket() as name:
                self.raw.put_object(Bucket=name, Key="ready/now", Body=b"")
                return True
            time.sleep(0.1)
        return False


def store_at(location: str) -> S3Store:
    """Return the store at a URL of `S3Server.location`."""
    from key_value.aio.stores.s3 import S3Store

    url = urlsplit(location)
    endpoint = parse_qs(url.query)["endpoint"][0]
    return S3Store(bucket_name=url.netloc, **S3Server(endpoint).settings())


def empty_at(location: str) -> None:
    """Delete every object at a URL of `S3Server.location`."""
    url = urlsplit(location)
    server = S3Server(parse_qs(url.query)["endpoint"][0])
    server.empty(url.netloc)
    server.raw.close()


def metadata_at(location: str) -> dict[str, Any]:
    """Return the metadata of every object at a URL of `S3Server.location`, by the key of its entry."""
    url = urlsplit(location)
    server = S3Server(parse_qs(url.query)["endpoint"][0])
    found = {
        key.rpartition("/")[2]: server.raw.head_object(Bucket=url.netloc, Key=key)["Metadata"]
        for key in server.keys(url.netloc)
    }
    server.raw.close()
    return found


def _weed() -> str:
    """Return the program, which its package installs beside Python."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else required("weed")


@pytest.fixture(scope="session")
def shared_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """Yield one server for all tests of this process."""
    with SeaweedServer(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_server(shared_s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> SeaweedServer:
    """Return the server, for which this process and its children have credentials."""
    for name, text in KEYS.items():
        monkeypatch.setenv(name.upper(), text)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return shared_s3


@pytest.fixture
def s3_bucket(s3_server: SeaweedServer) -> Iterator[str]:
    """Yield the name of an empty bucket."""
    with s3_server.bucket() as name:
        yield name
