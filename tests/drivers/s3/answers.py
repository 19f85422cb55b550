"""Answers that are lost or made up, put between botocore and a real server."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvseal.drivers.s3.driver import S3Driver

_ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>made up</Message></Error>'


class _Body:
    """The body of a made-up answer."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        """Yield it."""
        yield self._text

    def read(self, *_: Any) -> bytes:
        """Return it."""
        return self._text


def client_of(driver: S3Driver) -> Any:
    """Return botocore's client of a driver."""
    return driver._bucket._client.client()


@contextmanager
def between(driver: S3Driver, operation: str, meddle: Callable[[Any], AWSResponse | None]) -> Iterator[None]:
    """Let *meddle* see each request of *operation* before it is sent, and answer it if it will."""
    events = client_of(driver).meta.events
    name = f"before-send.s3.{operation}"

    def see(request: Any, **_: Any) -> AWSResponse | None:
        return meddle(request)

    events.register_first(name, see)
    yield
    events.unregister(name, see)


def answer(request: Any, status: int, code: str) -> AWSResponse:
    """Return an error in the form of S3."""
    return AWSResponse(request.url, status, {"Content-Type": "application/xml"}, _Body(_ERROR.format(code)))


def sent(driver: S3Driver, request: Any) -> AWSResponse:
    """Send *request*, and return what the server answers."""
    return client_of(driver)._endpoint.http_session.send(request)


@contextmanager
def lost_once(driver: S3Driver, operation: str) -> Iterator[None]:
    """Let the server do the next request of *operation*, and let its answer be an error that botocore repeats."""
    lost: list[int] = []

    def lose(request: Any) -> AWSResponse | None:
        if lost:
            return None
        lost.append(sent(driver, request).status_code)
        return answer(request, 503, "SlowDown")

    with between(driver, operation, lose):
        yield
    assert [True] == [status < 300 for status in lost]


@contextmanager
def busy_once(
    driver: S3Driver, operation: str, meanwhile: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Answer the next request of *operation* with 409, and let something happen meanwhile."""
    done: list[bool] = []

    def refuse(request: Any) -> AWSResponse | None:
        if done:
            return None
        done.append(True)
        meanwhile()
        return answer(request, 409, "ConditionalRequestConflict")

    with between(driver, operation, refuse):
        yield
    assert [True] == done
