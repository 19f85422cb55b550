"""The backup before the first change: taken, or adopted from a run that was stopped after it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from os import urandom
from pathlib import Path
from typing import TYPE_CHECKING

from kvseal import backup as backups
from kvseal import clock
from kvseal.concurrency import in_thread
from kvseal.observe.events import Failure
from kvseal.recoding.engine import WHOLE

if TYPE_CHECKING:
    from kvseal.backup import BackupReport
    from kvseal.cli.migration.recoding import Recoding
    from kvseal.cli.output import Output
    from kvseal.drivers.base import Driver
    from kvseal.observe.events import Event


@dataclass(slots=True)
class BackupBefore:
    """The backup of one run, in the file *path* unless an earlier backup of the store has that name."""

    output: Output
    path: Path
    _earlier: Path | None = field(default=None, init=False)
    _adopted: BackupReport | None = field(default=None, init=False)

    async def look(self, driver: Driver) -> None:
        """
        Look at what has the name of the backup already, before the run does anything that takes long.

        Raises:
            BackupFileError: it is no finished backup of this store.
        """
        if not await in_thread(os.path.lexists, self.path):
            return
        self._adopted = await backups.matching_backup(driver, self.path, listener=self._without_failures)
        if self._adopted is None:
            self._earlier = self.path
            self.path = await in_thread(_next_free, self.path)

    async def take(self, driver: Driver) -> None:
        """Write the backup, unless `look` has found it."""
        report, verb = self._adopted, "adopted, "
        if report is None:
            report, verb = await backups.backup(driver, self.path, listener=self._without_failures), ""
        but = f"; {report.failed:,} more cannot be restored from it" if report.failed else ""
        if self.output.as_json:
            self.output.report({**report.as_dict(), "type": "backup"})
        if self._earlier is not None:
            self.output.note(f"{self._earlier} is a backup from before the store's last changes, and stays")
        self.output.note(f"backup: {verb}{report.saved:,} entries are in {self.path}{but}")

    async def look_and_take(self, driver: Driver) -> None:
        """Do both, where nothing comes between."""
        await self.look(driver)
        await self.take(driver)

    def _without_failures(self, event: Event) -> None:
        # The recode itself is about to name what cannot be read.
        if not isinstance(event, Failure):
            self.output.event(event)


def backing_up(output: Output, options: Recoding) -> BackupBefore | None:
    """Return the backup before the first change, or `None` where none is wanted."""
    if options.to is not None or options.no_backup or options.part != WHOLE or not options.writes:
        return None
    name = f"before-{clock.utc_now():%Y%m%dT%H%M%SZ}-{urandom(2).hex()}.kvseal"
    return BackupBefore(output, options.backup or Path(name))


def _next_free(path: Path) -> Path:
    """Return *path* with the first number from 2 on behind its stem that no file has."""
    number = 2
    while os.path.lexists(path.with_stem(f"{path.stem}-{number}")):
        number += 1
    return path.with_stem(f"{path.stem}-{number}")
