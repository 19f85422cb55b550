"""
A `vaultctl` for a PATH that starts in a tenth of the time, as a fork of a server that has imported everything.

The shell, the pipes, the files and the processes are real. Only the start of Python and the imports, 0.6 s of CPU
for each command, are done once for all. Tests of the start itself use the installed program.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

import kvseal
from kvseal.cli.app import run
from kvseal.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER_BYTES = 4
STREAMS = 3

# -I and -S: what the program imports is all that its start costs.
PROGRAM = """#!{python} -IS
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    streams = array.array("i", [0, 1, 2])
    server.sendmsg([len(call).to_bytes({header}, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    server.sendall(call)
    sys.exit(int(server.recv(4) or 1))
"""


@pytest.fixture(scope="session")
def quick_vaultctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder for the PATH in which `vaultctl` is the quick one."""
    directory = tmp_path_factory.mktemp("bin")
    address = str(directory / "vaultctl.sock")
    program = directory / "vaultctl"
    program.write_text(PROGRAM.format(python=sys.executable, address=address, header=HEADER_BYTES))
    program.chmod(0o700)
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, address],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert b"ready\n" == server.stdout.readline()
    yield directory
    server.kill()
    server.communicate()


def serve(address: str) -> None:
    """Fork for every call."""
    for module in pkgutil.walk_packages(kvseal.__path__, "kvseal."):
        importlib.import_module(module.name)
    # The kernel buries the children.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        os.write(1, b"ready\n")
        while True:
            caller, _ = door.accept()
            if not os.fork():
                door.close()
                _run(caller)
            caller.close()


def _run(caller: socket.socket) -> NoReturn:
    code = int(ExitCode.FAILED)
    try:
        header, streams, _, _ = socket.recv_fds(caller, HEADER_BYTES, STREAMS)
        arguments, directory, environment = json.loads(_received(caller, int.from_bytes(header, "big")))
        _become(streams, directory, environment)
        code = run(arguments)
    finally:
        for stream in (sys.stdout, sys.stderr):
            # The reader of a pipe may have gone, as `head` does.
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        caller.sendall(str(code).encode())
        os._exit(0)


def _become(streams: list[int], directory: str, environment: dict[str, str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)


def _received(caller: socket.socket, size: int) -> bytes:
    """Return the next *size* bytes."""
    call = b""
    while len(call) < size:
        call += caller.recv(size - len(call))
    return call


if __name__ == "__main__":
    serve(sys.argv[1])
