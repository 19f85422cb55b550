"""
What tests do in processes of their own: vaultctl that dies at a store operation, and crowds that create a vault.

They are forked from a server that has imported everything: to start Python for each would take most
of the time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import warnings
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partialmethod
from typing import TYPE_CHECKING, Any, NoReturn

from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.postgresql import PostgreSQLStore
from key_value.aio.stores.redis import RedisStore
from tests.fakes import Death, PagedDriver
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.cli import connect
from kvseal.cli.app import run
from kvseal.drivers.disk import driver
from kvseal.recoding.progress.lease import Lease

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    from kvseal.drivers.base import Driver

OLD = Secret(b"the old secret")
NEW = Secret(b"the new secret")
SPARE = Secret(b"the spare secret")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
COSTLIER = Argon2idParams(time_cost=2, memory_cost=16, parallelism=1)
ENTRIES_IN_A_PAGE = 2
PATIENCE = 60
"""Seconds that the last of a crowd is waited for."""


def never_renewed() -> Any:
    """Return what takes the place of a lease's renewals, which a slow machine has, where operations are counted."""
    return partialmethod(Lease.renew_for_ever, 3600)


def forking() -> ForkServerContext:
    """Return what forks processes that have imported this module, the hammer, and all these import, already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "tests.hammer"])
    return context


@dataclass(frozen=True)
class Moment:
    """When a process dies: around the *at*-th operation *of* a name."""

    of: str | None
    at: int | None
    after: bool


NEVER = Moment(None, None, after=False)


def vaultctl(
    arguments: Sequence[str], moment: Moment, directory: Path, environment: Mapping[str, str]
) -> list[str] | None:
    """Run vaultctl in *directory*, and return its exit code and its store operations, or `None` if it died."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    # The server that forks has the environment of the test that needed it first.
    child = forking().Process(
        target=_vaultctl, args=(arguments, moment, directory, {**os.environ, **environment}, theirs)
    )
    child.start()
    theirs.close()
    try:
        said: list[str] | None = ours.recv()
    except EOFError:
        said = None
    child.join()
    expected = -signal.SIGKILL if said is None else 0
    assert expected == child.exitcode, (directory / "errors").read_text()
    child.close()
    ours.close()
    return said


def _vaultctl(
    arguments: Sequence[str], moment: Moment, directory: Path, environment: dict[str, str], pipe: Connection
) -> None:
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    Lease.renew_for_ever = never_renewed()  # type: ignore[method-assign]
    for name, stream in (("printed", sys.stdout), ("errors", sys.stderr)):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, stream.fileno())
    driver.PAGE_SIZE = ENTRIES_IN_A_PAGE  # type: ignore[misc]
    death = Death(moment.at, of=moment.of, after=moment.after, die=kill_myself)
    open_driver = connect._opened

    async def opened(*names: Any, **options: Any) -> Driver:
        return PagedDriver(await open_driver(*names, **options), death)

    connect._opened = opened
    code = run(list(arguments))
    sys.stdout.flush()
    pipe.send([str(code), *death.operations])


def kill_myself() -> NoReturn:
    """End this process at once, by the signal that nobody can catch."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


MANY = 8
SHARED = ("disk", "redis", "postgresql")


@asynccontextmanager
async def store_of_round(kind: str, where: str, round_: int) -> AsyncIterator[Any]:
    """Yield a store at a place that no other round uses: a directory, a database or a table of its own."""
    if kind == "disk":
        store: Any = DiskStore(directory=f"{where}/{round_}")
    elif kind == "redis":
        store = RedisStore(url=f"{where.rpartition('/')[0]}/{round_}")
    else:
        store = PostgreSQLStore(url=where, table_name=f"round_{round_}")
    async with store:
        yield store


@dataclass
class Crowd:
    """Processes that live for many rounds, and in each create one vault, all at the same moment."""

    pipes: list[Connection]

    def round(self, number: int, *, warm: bool) -> list[tuple[bytes, str, list[Any]]]:
        """
        Return of each process the vault's id, how it came to it, and everybody's records as it reads them.

        If they are *warm*, each has reached its store before it waits for the others.
        """
        for pipe in self.pipes:
            pipe.send((number, warm))
        told = [pipe.recv() for pipe in self.pipes]
        failures = [one for one in told if isinstance(one, str)]
        assert not failures, failures
        return told


@contextmanager
def crowd(kind: str, where: str) -> Iterator[Crowd]:
    """Yield a crowd, of whose rounds each has a store of its own below the place *where*."""
    context = forking()
    barrier = context.Barrier(MANY, timeout=PATIENCE)
    pipes, children = [], []
    for number in range(MANY):
        ours, theirs = multiprocessing.Pipe()
        child = context.Process(target=_join_rounds, args=(number, kind, where, barrier, theirs))
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    try:
        yield Crowd(pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        for child in children:
            child.join()
    assert [0] * MANY == [child.exitcode for child in children]


def _join_rounds(number: int, kind: str, where: str, barrier: Barrier, pipe: Connection) -> None:
    warnings.filterwarnings("ignore", "A configured store is unstable")
    while True:
        try:
            round_, warm = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(asyncio.run(_join(number, kind, where, round_, barrier, warm=warm)))
        except BaseException as exc:  # noqa: BLE001 - it is asserted on
            barrier.abort()
            pipe.send(f"{number}: {exc!r}")


async def _join(
    number: int, kind: str, where: str, round_: int, barrier: Barrier, *, warm: bool
) -> tuple[bytes, str, list[Any]]:
    if not warm:
        barrier.wait()
    async with store_of_round(kind, where, round_) as store:
        if warm:
            await store.get("k", collection="c")
            barrier.wait()
        # In each round another half of them comes by the wrapper, which opens or creates when it is used.
        if (number + round_) % 2:
            way = "vault"
            vault = await Vault.open_or_create(store, secret=OLD, kdf=CHEAP)
            kv = wrapped(vault)
        else:
            way = "wrapper"
            kv = EnvelopeEncryptionWrapper(store, secret=OLD, kdf=CHEAP)
        await kv.put(str(number), {"from": number}, collection="c")
        vault = await kv.vault()
        barrier.wait()
        values = await kv.get_many([str(n) for n in range(MANY)], collection="c")
        identity = vault.keyring.vault_id
        await vault.close()
    return identity, way, values
