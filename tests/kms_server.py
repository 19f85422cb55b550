"""AWS KMS on this machine: moto's server in a process of its own, and one that answers with an error."""

from __future__ import annotations

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from tests.http_service import HTTPService

if TYPE_CHECKING:
    from typing_extensions import Self

REGION = "eu-central-1"
_MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class KmsServer:
    """moto's server, which ends with its standard input; `requests` counts what kvseal asked."""

    def __init__(self) -> None:
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MOTO],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            pytest.fail("moto's server does not start")
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def client(self, service: str = "kms", *, key: str = "testing", secret: str = "testing") -> Any:
        """Return a client of boto3 itself, to administer the service."""
        return boto3.session.Session().client(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def new_key(self) -> str:
        """Return the ARN of a new symmetric key."""
        arn: str = self.client().create_key()["KeyMetadata"]["Arn"]
        return arn


class ErringKms(HTTPService):
    """A service that answers every request with one error, in the form of AWS' JSON protocol."""

    def __init__(self, code: str, *, status: int = 400, words: str = "what the service says") -> None:
        self.asked = 0
        body = json.dumps({"__type": code, "message": words}).encode()
        erring = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                erring.asked += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(Handler)
