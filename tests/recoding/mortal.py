"""
Migrations that can be killed: `python -m tests.recoding.mortal` starts one for each line `KIND WHERE`.

Each is a process of its own, forked from one that has imported everything and has no thread: to
start Python for each would take most of the time.  Its number is told first, as `pid N`.  It prints
a line before each store operation and at each page of the verify pass, and at its end the report
as JSON.  `ended` says that it is gone, in whichever way.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any

from tests.backends import Place
from tests.drivers.dynamodb.server import warm
from tests.fakes import HookedDriver
from tests.processes import CHEAP, NEW
from tests.recoding.worlds import KEY

from kvseal.drivers import base, driver_for
from kvseal.drivers.mongodb import collections
from kvseal.legacy import FastMCPCodec
from kvseal.legacy.fernet import parse_key
from kvseal.recoding import Progress, migrate
from kvseal.recoding.progress.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kvseal.recoding import Event

COLLECTION = "mcp-upstream-tokens"
"""One of FastMCP's, whose values prove their keys where a file tree hashes them."""
CODEC = FastMCPCodec([parse_key(KEY)])


async def around(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
    """Tell what is about to be done, and do it."""
    say(name)
    return await do()


def listener(event: Event) -> None:
    """Tell when the verify pass has come further."""
    if isinstance(event, Progress) and event.phase == "verify":
        say("verify")


async def main(kind: str, where: str) -> None:
    """Migrate the store at that place."""
    async with Place(kind, where).opened() as store:
        driver = HookedDriver(driver_for(store), around)
        done = await migrate(driver, [CODEC], secret=NEW, kdf=CHEAP, listener=listener)
        assert done.report is not None
        say(json.dumps(done.report.as_dict()))


def say(line: str) -> None:
    """Print *line* at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def child(kind: str, where: str) -> None:
    """Be one migration, and end without what a fork must not do."""
    code = 1
    try:
        say(f"pid {os.getpid()}")
        asyncio.run(main(kind, where))
        code = 0
    except BaseException:  # noqa: BLE001 - the process ends here
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "A configured store is unstable")
    # A file tree and SecantusDB take as long for so many as the others take for a whole page.
    base.PAGE_SIZE = collections.PAGE_SIZE = 32  # type: ignore[misc]
    # So that also what a checkpoint says is met: a small migration ends before its first renewal.
    Lease.renew_for_ever.__defaults__ = (0.02,)
    warm()
    for request in sys.stdin:
        if not (pid := os.fork()):
            child(*request.split())
        # Its number is not given out again before the next line comes, so nobody else is killed.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        say("ended")
        sys.stdin.readline()
        os.waitpid(pid, 0)
