"""One round: an old vault that is migrated under its applications, and all commands beside all faults, on one store."""

from __future__ import annotations

import asyncio
import contextlib
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos import oracle
from tests.chaos.applications import Applications
from tests.chaos.journal import COLLECTION, Journal, Record, value_of
from tests.chaos.operators import GRACE, Operator
from tests.recoding.worlds import KEY, old

from kvseal import EnvelopeEncryptionWrapper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from random import Random

    from tests.chaos.backends import Backend

LEGACY = [f"old-{number}" for number in range(60)]
_ATTEMPTS = 8


class RoundError(Exception):
    """The round could not be prepared, so it shows nothing."""


@dataclass
class Result:
    """What happened in a round, and what it showed."""

    kind: str
    record: Record
    verdict: oracle.Verdict
    faults: Counter[str]
    commands: Counter[str]
    complaints: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost without a word, and no process did what it must not."""
        return not self.verdict.lost and not self.complaints


class Round:
    """The applications, the operator and the faults of one round on *backend*."""

    def __init__(
        self, backend: Backend, directory: Path, rng: Random, *, writer: str = "", tool: str = ""
    ) -> None:
        self.backend = backend
        self.directory = directory
        self.rng = rng
        self._plant = writer or tool
        """A planted fault is alone: what is reported then is its work."""
        self.faults: Counter[str] = Counter()
        self.excused: dict[str, int] = {}
        self.operator = Operator(directory, backend.url, rng, plant=tool, calm=bool(self._plant))
        self.secret = directory / "app.key"
        self.secret.write_text("the secret of the applications\n")
        self.secret.chmod(0o600)
        self.applications = Applications.of(backend.place, directory, f"file:{self.secret}", rng, writer)
        self._is_over = False
        self._retired = 0
        self._numbers = 0

    async def run(self, seconds: float) -> Result:
        """Run for so many seconds, then let everything come to rest, and judge."""
        await self._prepare()
        self.backend.on_loss = self._excuse
        await self.applications.start()
        end = time.monotonic() + seconds
        self._is_over = bool(self._plant)
        befalling = asyncio.create_task(self._befall())
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._operate(), max(1.0, end - time.monotonic()))
        self._is_over = True
        # A fault that has begun comes to its end: half a failover would leave no server.
        await befalling
        await self.backend.heal()
        return await self._judged()

    async def _prepare(self) -> None:
        """Fill the store as the old application, make the vault, and give the applications a way in."""
        journal = Journal(self.directory / "old.journal")
        async with self.backend.place.opened() as store:
            for key in LEGACY:
                journal.note("try", key, 1)
                await old(store).put(key, value_of(key, 1), collection=COLLECTION)
                journal.acknowledged(key, 1, "ok")
        fernet = self.directory / "fernet.key"
        fernet.write_bytes(KEY)
        fernet.chmod(0o600)
        steps = (
            (
                "migrate-from-fernet",
                "--fernet-key",
                f"file:{fernet}",
                "--import-keys",
                "--argon2",
                "1,8,1",
                "--yes",
            ),
            (
                "slot",
                "add",
                "--label",
                "app",
                "--new-secret",
                f"file:{self.secret}",
                "--argon2",
                "1,8,1",
                "--yes",
            ),
        )
        for step in steps:
            code = await self.operator.run(*step, calm=True)
            if code:
                msg = f"vaultctl {' '.join(step)} exits with {code}: {self.operator.complaints}"
                raise RoundError(msg)

    async def _operate(self) -> None:
        """Run every command again and again; the old vault is finalized first."""
        for _ in range(_ATTEMPTS):
            if await self.operator.run("migrate-from-fernet", "--finalize", "--no-backup", "--yes") == 0:
                break
        while True:
            for step in self._cycle():
                await step()

    def _cycle(self) -> list[Callable[[], Awaitable[object]]]:
        run = self.operator.run
        self._numbers += 1
        label, key = f"spare-{self._numbers}", self.operator.new_secret(1000 + self._numbers)
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: run("backup", f"{self._numbers}.kvseal"),
            lambda: run("reencrypt", "--no-backup", "--yes"),
            self.operator.rotate,
            lambda: run(
                "slot", "add", "--label", label, "--new-secret", f"file:{key}", "--argon2", "1,8,1", "--yes"
            ),
            lambda: run("verify"),
            lambda: run("slot", "remove", label, "--yes"),
            lambda: run("purge", "--yes"),
        ]
        self.rng.shuffle(steps)
        # A stopped process keeps its lock on a store of files, and no tool gets anywhere.
        last = self._retire_in_a_lull if self.backend.proxies else self._retire
        return [lambda: run("rotate", "--dek", "--yes"), *steps[:4], self._retire, *steps[4:], last]

    async def _retire(self) -> None:
        """Retire the oldest DEK that is left; within the grace, or while it is needed, that is refused."""
        if (
            await self.operator.run("dek", "retire", str(self._retired + 1), "--grace", f"{GRACE}s", "--yes")
            == 0
        ):
            self._retired += 1

    async def _retire_in_a_lull(self) -> None:
        """Suspend every application, re-encrypt, retire, and let them go on: they must not believe their memory."""
        self.faults["lull"] += 1
        self.applications.hold(stopped=True)
        try:
            await self.operator.run("reencrypt", "--no-backup", "--yes", calm=True)
            await self._retire()
        finally:
            self.applications.hold(stopped=False)

    async def _befall(self) -> None:
        """Let one thing after another happen to the applications and the store."""
        while not self._is_over:
            await asyncio.sleep(self.rng.uniform(0.5, 2.5))
            name = self.rng.choice(["kill", "pause", *self.backend.faults()])
            owner: object = self.backend if name in self.backend.faults() else self.applications
            await getattr(owner, name)()
            self.faults[name] += 1

    def _excuse(self, names: set[str]) -> None:
        """Note of each key that the store has lost how far its writer had come."""
        # What is tried may be done, and its reply on the way.
        tried = self._record().tried
        for name in names:
            key = name.rpartition("::")[2]
            self.excused[key] = tried.get(key, 0)

    def _record(self) -> Record:
        return Record.of(sorted(self.directory.glob("*.journal")))

    async def _judged(self) -> Result:
        complaints = await self.applications.end()
        code = await self.operator.run("verify", calm=True)
        if code:
            complaints.append(f"the last verify exits with {code}")
        record = self._record()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            async with self.backend.place.opened() as store:
                kv = EnvelopeEncryptionWrapper(store, secret=f"file:{self.secret}", create=False)
                verdict = await oracle.judge(kv, record, self.excused)
        faults = self.faults + Counter(
            {f"vaultctl {name}": n for name, n in self.operator.faults.items() if name}
        )
        for proxy in self.backend.proxies[:1]:
            faults.update({f"cut {when}": n for when, n in proxy.cuts.items()})
        return Result(
            self.backend.kind,
            record,
            verdict,
            faults,
            self.operator.codes,
            [*self.operator.complaints, *complaints],
        )
