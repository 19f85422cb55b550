"""Faults between a driver and the server: lost answers, refusals, throttling; each request is counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSResponse
from botocore.httpsession import URLLib3Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvseal.drivers.dynamodb.driver import DynamoDBDriver

THROTTLED = "ProvisionedThroughputExceededException"


@dataclass
class Faults:
    """What happens to the next requests of a driver, by operation: each fault once, in order."""

    planned: dict[str, list[Callable[[Any], Any]]] = field(default_factory=dict)
    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @classmethod
    def of(cls, driver: DynamoDBDriver) -> Faults:
        """Stand between *driver* and the server."""
        faults = cls()
        driver._client.client().meta.events.register_first("before-send.dynamodb", faults._on)
        return faults

    @property
    def requests(self) -> Counter[str]:
        """How many requests there were of each operation."""
        return Counter(operation for operation, _ in self.sent)

    def plan(self, operation: str, *faults: Callable[[Any], Any]) -> None:
        """Let *faults* happen to the next requests of *operation*."""
        self.planned.setdefault(operation, []).extend(faults)

    def _on(self, request: Any, **_: Any) -> Any:
        operation = request.headers["X-Amz-Target"].decode().rpartition(".")[2]
        self.sent.append((operation, json.loads(request.body)))
        waiting = self.planned.get(operation)
        return waiting.pop(0)(request) if waiting else None


def answered(request: Any, status: int, body: Any) -> AWSResponse:
    """Return an answer to *request* that no server gave."""
    raw = _Raw(json.dumps(body).encode())
    return AWSResponse(request.url, status, {"content-type": "application/x-amz-json-1.0"}, raw)


class _Raw(BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()


def really(request: Any) -> Any:
    """Send *request*, and return what the server answers."""
    session = URLLib3Session()
    response = session.send(request)
    assert response.content is not None
    session.close()
    return response


def lost(request: Any) -> AWSResponse:
    """Let the server do what *request* says, and lose its answer."""
    assert really(request).status_code == 200
    return answered(request, 500, {"__type": "InternalServerError", "message": "lost"})


def refused(code: str, status: int = 400, message: str = "no") -> Callable[[Any], AWSResponse]:
    """Refuse a request with *code*; nothing is done."""
    return lambda request: answered(request, status, {"__type": f"x#{code}", "message": message})


def throttling(*numbers: int, code: str = "ThrottlingError") -> Callable[[Any], AWSResponse]:
    """Throttle the statements of these *numbers*, and let the server do the others."""

    def throttle(request: Any) -> AWSResponse:
        statements = json.loads(request.body)["Statements"]
        rest = [one for number, one in enumerate(statements) if number not in numbers]
        request.body = json.dumps({"Statements": rest}).encode()
        request.headers["Content-Length"] = str(len(request.body))
        done = iter(json.loads(really(request).content)["Responses"] if rest else [])
        error = {"Error": {"Code": code, "Message": "slower"}}
        every = range(len(statements))
        return answered(
            request, 200, {"Responses": [error if number in numbers else next(done) for number in every]}
        )

    return throttle
