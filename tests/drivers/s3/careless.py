"""An S3 server that ignores conditions, as several compatible ones do: every write succeeds."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tests.http_service import HTTPService

if TYPE_CHECKING:
    from collections.abc import Collection

_NOT_FOUND = b"<Error><Code>NoSuchKey</Code></Error>"
_NO_RULES = b"<Error><Code>NoSuchLifecycleConfiguration</Code></Error>"
REFUSALS = {
    412: (412, b"<Error><Code>PreconditionFailed</Code></Error>"),
    501: (501, b"<Error><Code>NotImplemented</Code></Error>"),
}
_EMPTY = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


class CarelessServer(HTTPService):
    """It honours the conditions in *honours* (`put-none`, `put-match`, `delete-match`), and keeps `objects`."""

    def __init__(self, honours: Collection[str] = (), *, refuses_with: int = 412) -> None:
        self.objects: dict[str, bytes] = {}
        self.writes = 0
        self.honours = honours
        self.refusal = REFUSALS[refuses_with]
        super().__init__(type("Handler", (_Handler,), {"careless": self}))


class _Handler(BaseHTTPRequestHandler):
    """Answers for `careless`."""

    protocol_version = "HTTP/1.1"
    careless: CarelessServer

    def do_PUT(self) -> None:
        self.careless.writes += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        there = self.careless.objects.get(self.key)
        honours = self.careless.honours
        is_there = there is not None and "If-None-Match" in self.headers
        if (is_there and "put-none" in honours) or (self.matches_other(there) and "put-match" in honours):
            self.answer(*self.careless.refusal)
        else:
            self.careless.objects[self.key] = body
            self.answer(200, b"", ETag=etag(body))

    def do_DELETE(self) -> None:
        self.careless.writes += 1
        if (
            self.matches_other(self.careless.objects.get(self.key))
            and "delete-match" in self.careless.honours
        ):
            self.answer(*self.careless.refusal)
        else:
            self.careless.objects.pop(self.key, None)
            self.answer(204, b"")

    def do_HEAD(self) -> None:
        self.answer(200, b"")

    def do_GET(self) -> None:
        query = urlsplit(self.path).query
        there = self.careless.objects.get(self.key)
        if "lifecycle" in query:
            self.answer(404, _NO_RULES)
        elif "list-type" in query:
            self.answer(200, _EMPTY)
        elif there is None:
            self.answer(404, _NOT_FOUND)
        else:
            self.answer(200, there, ETag=etag(there))

    @property
    def key(self) -> str:
        """The key of the object."""
        return unquote(urlsplit(self.path).path).split("/", 2)[-1]

    def matches_other(self, there: bytes | None) -> bool:
        """Whether the request is about another object than the one that is *there*."""
        wanted = self.headers.get("If-Match")
        return wanted is not None and (there is None or wanted != etag(there))

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """Answer with *body*."""
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def etag(body: bytes) -> str:
    """Return the ETag of an object."""
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
