"""
Applications that never rest: what each has written and read, in tasks or in processes of their own.

Every key has one writer, whose values count up, so the writer knows "the latest write" as a number: it finds
exactly what it put or deleted, at once and once more before it writes there again, and no reader ever
reads an older number after a newer one.

A process starts its `Job` at once, and then obeys what comes through its pipe: `finish` waits until all writes
are done, `read KEY` answers what a read gives, and `stop`, or the end of the pipe, ends it with its `Board`.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import warnings
from collections import Counter
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.backends import Place
from tests.processes import NEW, forking
from tests.recoding.worlds import old

from kvseal import EnvelopeEncryptionWrapper
from kvseal.errors import RecordError
from kvseal.records.legacy_window import MAX_AGE, LegacyWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess

COLLECTION = "c"
TASKS = 2
DELETE_EVERY = 40
SOON = 0.1
"""Seconds after which a holding application looks at the vault meta again."""
LARGE = "x" * 40_000
"""More than diskcache keeps in a row."""


@dataclass(frozen=True)
class Job:
    """
    What one application does: it writes its own *keys* *writes* times each, or until it is stopped.

    *audited*, what an old application wrote is read by a new one, for others may have sealed it meanwhile:
    before the next write alone, because this read would seal it, too.
    """

    place: dict[str, str]
    role: str
    keys: list[str]
    others: list[str] = field(default_factory=list)
    writes: int | None = None
    start: dict[str, int] = field(default_factory=dict)
    audited: bool = False


@dataclass
class Board:
    """What one application knows: the last number it put or read, by key, and what should not have been."""

    put: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    writes: int = 0
    reads: int = 0
    flashes: list[str] = field(default_factory=list)
    """Keys whose read was older than an earlier one, or none, where the same read a moment later was not."""
    lost: list[str] = field(default_factory=list)
    resealed: dict[str, int] = field(default_factory=dict)


class Application:
    """
    One deployed application: `old` seals with upstream's Fernet wrapper, `new` with kvseal's.

    `holding` is a new one that goes on writing the old format while the vault's policy says so.
    """

    def __init__(self, job: Job, store: Any) -> None:
        self.board = Board(put=dict(job.start), seen=dict(job.start))
        self.kv: Any = VIEWS[job.role](store)
        self._reader: Any = new(store) if job.audited else self.kv
        self._store = store
        self._job = job
        self._is_stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to write and to read what is of others, everything once before anybody migrates it."""
        if self._job.others:
            await self._check_many(self._job.others, with_ttl=False)
        for number in range(TASKS):
            if mine := self._job.keys[number::TASKS]:
                self._tasks.append(asyncio.create_task(self._write(mine)))
        self._writers = list(self._tasks)
        if self._job.others:
            self._tasks.append(asyncio.create_task(self._read_all_the_time()))

    async def finish(self) -> None:
        """Wait until all is written."""
        await asyncio.gather(*self._writers)

    async def stop(self) -> Board:
        """End after the writes and reads that are under way, and return what is known."""
        self._is_stopped = True
        await asyncio.gather(*self._tasks)
        if isinstance(self._reader, EnvelopeEncryptionWrapper):
            self.board.resealed = dict(self._reader.resealed)
            await self._reader.release()
        return self.board

    async def outcome(self, key: str) -> str:
        """Return the value at *key*, or the name of the error."""
        try:
            return json.dumps(await self.kv.get(key, collection=COLLECTION))
        except RecordError as exc:
            return type(exc).__name__

    async def _write(self, keys: Sequence[str]) -> None:
        turns = count() if self._job.writes is None else range(self._job.writes)
        for turn in turns:
            for key in keys:
                if self._is_stopped:
                    return
                await self._put(key, turn)
                await asyncio.sleep(0)

    async def _put(self, key: str, turn: int) -> None:
        before = self.board.put.get(key, 0)
        await self._check(key, at_least=before, at_most=before)
        number = before + 1
        value = {"n": number, "pad": LARGE} if key.endswith("large") else {"n": number}
        ttl = 3600.5 if turn % 3 == 1 else None
        if turn % DELETE_EVERY == DELETE_EVERY - 1:
            await self.kv.delete(key, collection=COLLECTION)
            await self._expect_nothing(key)
        await self.kv.put(key, value, collection=COLLECTION, ttl=ttl)
        self.board.put[key] = number
        self.board.writes += 1
        if not self._job.audited:
            await self._check(key, at_least=number, at_most=number)

    async def _expect_nothing(self, key: str) -> None:
        for _ in range(2):
            if await self._store.get(key, collection=COLLECTION) is None:
                return
            self.board.flashes.append(key)
        self.board.lost.append(f"{key} is there after it was deleted")

    async def _read_all_the_time(self) -> None:
        others = cycle(self._job.others)
        for turn in count():
            keys = [next(others) for _ in range(8)]
            if self._is_stopped:
                return
            if turn % 2:
                await self._check(keys[0])
            else:
                await self._check_many(keys, with_ttl=turn % 4 == 0)
            await asyncio.sleep(0)

    async def _check_many(self, keys: Sequence[str], *, with_ttl: bool) -> None:
        floors = [self._floor(key) for key in keys]
        if with_ttl:
            values = [value for value, _ in await self._reader.ttl_many(keys, collection=COLLECTION)]
        else:
            values = await self._reader.get_many(keys, collection=COLLECTION)
        self.board.reads += len(keys)
        for key, floor, value in zip(keys, floors, values, strict=True):
            if value is not None and value["n"] < floor:
                self.board.flashes.append(key)
                await self._check(key, at_least=floor)
            elif value is not None:
                self._see(key, value["n"])

    async def _check(self, key: str, *, at_least: int = 0, at_most: int | None = None) -> None:
        floor = max(at_least, self._floor(key))
        for attempt in range(3):
            value = await self._reader.get(key, collection=COLLECTION)
            self.board.reads += 1
            # Between a deletion and the next put, others read nothing.
            number = floor if value is None and at_most is None else (value or {"n": 0})["n"]
            if floor <= number and (at_most is None or number <= at_most):
                self.board.flashes += [key] * (attempt > 0)
                self._see(key, number)
                return
        self.board.lost.append(f"{key} reads as {number}, and was {floor} before")

    def _floor(self, key: str) -> int:
        return max(self.board.seen.get(key, 0), self.board.put.get(key, 0))

    def _see(self, key: str, number: int) -> None:
        self.board.seen[key] = max(number, self.board.seen.get(key, 0))


class Fast:
    """A clock on which the time between two looks at it is long."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        self._now += MAX_AGE
        return self._now


def new(store: Any) -> EnvelopeEncryptionWrapper:
    """Return the new application's view of *store*, for which every old record is long after the last."""
    kv = EnvelopeEncryptionWrapper(key_value=store, secret=NEW, create=False)
    kv._reader._legacy_window = LegacyWindow(clock=Fast())
    return kv


def holding(store: Any) -> EnvelopeEncryptionWrapper:
    """Return the view of a new application that may hold, and looks at the vault meta all the time."""
    return EnvelopeEncryptionWrapper(
        key_value=store, secret=NEW, create=False, hold="fernet", refresh_after=SOON
    )


VIEWS: Final[dict[str, Callable[[Any], Any]]] = {"old": old, "new": new, "holding": holding}


def deploy(job: Job, pipe: Connection) -> None:
    """Be the application of *job* in a process of its own."""
    warnings.filterwarnings("ignore", "A configured store is unstable")
    asyncio.run(_obey(job, pipe))


async def _obey(job: Job, pipe: Connection) -> None:
    async with Place(**job.place).opened() as store:
        application = Application(job, store)
        await application.start()
        pipe.send("started")
        while (line := await asyncio.to_thread(_received, pipe)) != "stop":
            verb, *names = line.split()
            if verb == "finish":
                await application.finish()
                pipe.send("finished")
            else:
                pipe.send(await application.outcome(names[0]))
        pipe.send(await application.stop())


def _received(pipe: Connection) -> str:
    try:
        line: str = pipe.recv()
    except EOFError:
        return "stop"
    return line


class Deployed:
    """An application in a process of its own, as its parent sees it."""

    def __init__(self, process: ForkServerProcess, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe

    @classmethod
    def start(cls, job: Job) -> Deployed:
        """Fork the process of *job*, which has imported everything."""
        ours, theirs = multiprocessing.Pipe()
        process = forking().Process(target=deploy, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours)

    async def started(self) -> None:
        """Wait until it writes."""
        assert "started" == await self._answer()

    async def finish(self) -> None:
        """Wait until all is written."""
        assert "finished" == await self._asked("finish")

    async def outcome(self, key: str) -> str:
        """Return what it reads at *key*."""
        outcome: str = await self._asked(f"read {key}")
        return outcome

    async def stop(self) -> Board:
        """End it, and return what it knows."""
        board: Board = await self._asked("stop")
        await asyncio.to_thread(self._process.join)
        assert 0 == self._process.exitcode
        return board

    async def kill(self) -> None:
        """End it in any case."""
        self._process.kill()
        await asyncio.to_thread(self._process.join)
        self._pipe.close()

    async def _asked(self, line: str) -> Any:
        self._pipe.send(line)
        return await self._answer()

    async def _answer(self) -> Any:
        try:
            return await asyncio.to_thread(self._pipe.recv)
        except EOFError:
            pytest.fail("the application died; its error is above")


def summed(boards: Sequence[Board]) -> dict[str, Any]:
    """Return the numbers of all *boards* together."""
    resealed: Counter[str] = Counter()
    for board in boards:
        resealed.update(board.resealed)
    numbers = {name: sum(getattr(b, name) for b in boards) for name in ("writes", "reads")}
    flashes = sorted(key for board in boards for key in board.flashes)
    return {
        **numbers,
        "flashes": flashes,
        "lost": [line for board in boards for line in board.lost],
        **resealed,
    }
