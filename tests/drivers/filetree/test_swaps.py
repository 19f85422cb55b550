# ruff: noqa: ASYNC240 - tests may block
"""Compare-and-swap of one file, beside an application that renames files."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.drivers.entries import PAST, SMALL, entry, fetched, scanned
from tests.drivers.filetree.trees import PLAIN, put_raw, temporaries, value_of

from kvseal.drivers import base
from kvseal.drivers.base import Entry, Replacement
from kvseal.drivers.filetree import swaps
from kvseal.drivers.filetree.driver import FileTreeDriver
from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self


class Dying:
    """A context in which every step on the disk fails from the *death*-th on; *before* each exchange, one writes."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, death: int, before: Callable[[int], None] = lambda _: None
    ) -> None:
        self.is_dead = False
        self.exchanges = 0
        self._left = death
        self._before = before
        self._patches = monkeypatch.context()

    def __enter__(self) -> Self:
        patches = self._patches.__enter__()
        for name in ("read", "remove", "write_temporary", "write_temporaries", "exchange"):
            patches.setattr(swaps, name, self._step(getattr(swaps, name), name == "exchange"))
        patches.setattr(swaps.Swaps, "_mark", self._step(swaps.Swaps._mark))
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        self._patches.__exit__(None, None, None)
        return kind is StoreUnreachableError and self.is_dead

    def _step(self, function: Callable[..., Any], is_exchange: bool = False) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left <= 0:
                self.is_dead = True
                raise OSError(5, "the process is dead")
            if is_exchange:
                self.exchanges += 1
                self._before(self.exchanges)
            return function(*args, **options)

        return step


class TestSwaps:
    """What a live application writes in the worst moment, moment by moment."""

    Moment = Callable[[int], None]

    @pytest.fixture
    async def found(self, driver: FileTreeDriver) -> Entry:
        """Return an entry to replace."""
        await driver.put_if_absent(entry())
        return await fetched(driver)

    @staticmethod
    def around_exchanges(
        monkeypatch: pytest.MonkeyPatch, before: Moment, after: Moment = lambda _: None
    ) -> list[int]:
        """Call *before* and *after* around the first, second, … exchange; return a list that grows with each."""
        exchange, made = swaps.exchange, list[int]()

        def hooked(folder: int, one: str, other: str) -> None:
            made.append(1)
            n = len(made)
            before(n)
            exchange(folder, one, other)
            after(n)

        monkeypatch.setattr(swaps, "exchange", hooked)
        return made

    @pytest.mark.parametrize("writes", [1, 2, 3, 6])
    async def test_newer_writes_win(
        self,
        driver: FileTreeDriver,
        directory: Path,
        found: Entry,
        monkeypatch: pytest.MonkeyPatch,
        writes: int,
    ) -> None:
        """However often the application writes while its writes are put back, its last one is what stays."""
        made = self.around_exchanges(monkeypatch, lambda n: put_raw(directory, n) if n <= writes else None)

        done = await driver.replace_many([Replacement(found, {"lost": True})])

        assert [False] == list(done)
        assert {"n": writes} == value_of(directory)
        assert writes + 1 == len(made)
        assert [] == temporaries(directory)

    @pytest.mark.parametrize("writes", [1, 2, 3])
    async def test_newer_writes_win_after_an_exchange(
        self,
        driver: FileTreeDriver,
        directory: Path,
        found: Entry,
        monkeypatch: pytest.MonkeyPatch,
        writes: int,
    ) -> None:
        """The same where the application writes just before and just behind each exchange."""

        def before(n: int) -> None:
            if n <= writes:
                put_raw(directory, 2 * n)

        def after(n: int) -> None:
            if n <= writes:
                put_raw(directory, 2 * n + 1)

        self.around_exchanges(monkeypatch, before, after)

        done = await driver.replace_many([Replacement(found, {"lost": True})])

        assert [False] == list(done)
        assert {"n": 3} == value_of(directory)
        assert [] == temporaries(directory)

    async def test_write_behind_a_swap(
        self, driver: FileTreeDriver, directory: Path, found: Entry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A write right behind the exchange is newer than the swap, which succeeded nevertheless."""
        self.around_exchanges(monkeypatch, lambda _: None, lambda _: put_raw(directory, 1))

        assert [True] == list(await driver.replace_many([Replacement(found, SMALL)]))
        assert {"n": 1} == value_of(directory)

    @pytest.mark.parametrize("at", [1, 2, 3])
    @pytest.mark.parametrize("behind", [False, True])
    async def test_deletion_stays(
        self,
        driver: FileTreeDriver,
        directory: Path,
        found: Entry,
        monkeypatch: pytest.MonkeyPatch,
        at: int,
        behind: bool,
    ) -> None:
        """What the application deletes, at any moment of a swap that is put back, is not there again."""
        file = directory / "coll" / "key.json"

        def before(n: int) -> None:
            if n < at or (n == at and behind):
                put_raw(directory, n)
            elif n == at:
                file.unlink()

        def after(n: int) -> None:
            if n == at and behind:
                file.unlink()

        self.around_exchanges(monkeypatch, before, after)

        done = await driver.replace_many([Replacement(found, {"lost": True})])

        assert [False] == list(done)
        assert not file.exists()
        assert [] == temporaries(directory)

    async def test_deletion_is_put_back_too(
        self, driver: FileTreeDriver, directory: Path, found: Entry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An entry that the application wrote in the midst of its deletion by kvseal stays."""
        self.around_exchanges(monkeypatch, lambda n: put_raw(directory, n) if n == 1 else None)

        assert await driver.delete_if_unchanged(found) is False
        assert {"n": 1} == value_of(directory)

    @pytest.mark.parametrize("writes", [0, 1, 2, 3])
    async def test_death_at_every_step(
        self, driver: FileTreeDriver, directory: Path, monkeypatch: pytest.MonkeyPatch, writes: int
    ) -> None:
        """
        Whatever step of a swap a process dies before, the next scan has the application's last write.

        So it does if that scan, too, dies before its first step, and the one after it before its second.
        """
        outcomes = set()
        for death in range(1, 60):
            shutil.rmtree(directory / "coll", ignore_errors=True)
            await driver.put_if_absent(entry())
            found = await fetched(driver)
            dying = Dying(monkeypatch, death, lambda n: put_raw(directory, n) if n <= writes else None)
            with dying:
                done = await driver.replace_many([Replacement(found, {"new": True})])
            for later in range(1, 20):
                with Dying(monkeypatch, later) as recovering:
                    await scanned(driver)
                if not recovering.is_dead:
                    break

            (after,) = await scanned(driver)

            written = min(dying.exchanges, writes)
            assert after.value in ([{"n": written}] if written else [{"n": 0}, {"new": True}])
            assert [] == temporaries(directory)
            outcomes.add(dying.is_dead or done[0])
            if not dying.is_dead:
                break

        assert {True, writes == 0} == outcomes

    async def test_swappers_wait(
        self, driver: FileTreeDriver, directory: Path, found: Entry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While one swaps in a folder, nobody else gets its lock, so nobody reads what may be put back."""
        refused: list[int] = []

        def try_lock(n: int) -> None:
            folder = os.open(directory / "coll", os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(n)
            finally:
                os.close(folder)

        assert driver.capabilities.atomic_replace
        self.around_exchanges(monkeypatch, try_lock)
        await base.replace(driver, found, SMALL)
        try_lock(2)

        assert [1] == refused

    async def test_a_page_that_does_not_fit(
        self, driver: FileTreeDriver, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If one of the new files of a page cannot be written, no file is replaced and none is left."""
        for n in range(9):
            await driver.put_if_absent(entry(f"key-{n}", {"n": n}))
        page = await scanned(driver)
        fsync, left = os.fsync, iter([True] * 4)

        def fill_up(descriptor: int) -> None:
            if not next(left, False):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        with monkeypatch.context() as patches:
            patches.setattr(os, "fsync", fill_up)
            with pytest.raises(StoreUnreachableError, match="No space left"):
                await driver.replace_many([Replacement(one, {"n": -1}) for one in page])

        assert [{"n": n} for n in range(9)] == [value_of(directory, f"key-{n}") for n in range(9)]
        assert [] == temporaries(directory)

    async def test_a_page_with_one_entry_twice(
        self, driver: FileTreeDriver, directory: Path, found: Entry
    ) -> None:
        """Of two replacements of one entry in a page the first is made, and the second one finds it changed."""
        done = await driver.replace_many([Replacement(found, {"n": 1}), Replacement(found, {"n": 2})])

        assert [True, False] == list(done)
        assert {"n": 1} == value_of(directory)
        assert [] == temporaries(directory)

    async def test_identical_body(self, driver: FileTreeDriver, directory: Path, found: Entry) -> None:
        """A replacement by just what is there succeeds, and writes nothing."""
        inode = (directory / "coll" / "key.json").stat().st_ino

        assert [True] == list(await driver.replace_many([Replacement(found, dict(found.value or {}))]))
        assert inode == (directory / "coll" / "key.json").stat().st_ino

    async def test_mode_is_kept(self, driver: FileTreeDriver, directory: Path, found: Entry) -> None:
        """A file that was readable for a group stays so, and a new one is its owner's alone."""
        file = directory / "coll" / "key.json"
        assert 0o600 == stat.S_IMODE(file.stat().st_mode)
        file.chmod(0o640)

        await base.replace(driver, found, SMALL)

        assert 0o640 == stat.S_IMODE(file.stat().st_mode)

    async def test_new_file_is_on_the_disk(
        self, driver: FileTreeDriver, directory: Path, found: Entry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The new file is synced before it takes the name, and the folder before the old one is removed."""
        events: list[Any] = []
        fsync, exchange, unlink = os.fsync, swaps.exchange, os.unlink

        def note(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def noting(*args: Any, **kwargs: Any) -> Any:
                is_folder = name == "sync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
                events.append(f"{name} folder" if is_folder else name)
                return function(*args, **kwargs)

            return noting

        assert driver.capabilities.atomic_replace
        monkeypatch.setattr(os, "fsync", note("sync", fsync))
        monkeypatch.setattr(swaps, "exchange", note("exchange", exchange))
        monkeypatch.setattr(os, "unlink", note("unlink", unlink))

        await base.replace(driver, found, SMALL)

        assert ["sync", "exchange", "sync folder", "unlink"] == events

    async def test_written_while_a_page_is_written(
        self, driver: FileTreeDriver, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the kernel cannot exchange, what an application wrote while the new files were written stays."""

        def refuse(*_: Any) -> None:
            raise OSError(22, "Invalid argument")

        def written_late(*args: Any) -> Any:
            done = write_temporaries(*args)
            put_raw(directory, 7)
            return done

        monkeypatch.setattr(swaps, "exchange", refuse)
        await driver.put_if_absent(entry())
        found = await fetched(driver)
        write_temporaries = swaps.write_temporaries
        monkeypatch.setattr(swaps, "write_temporaries", written_late)

        assert [False] == list(await driver.replace_many([Replacement(found, SMALL)]))
        assert {"n": 7} == value_of(directory)
        assert [] == temporaries(directory)

    async def test_without_exchange(
        self, driver: FileTreeDriver, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the kernel cannot exchange, the capabilities say so, and what is unchanged is replaced."""

        def refuse(*_: Any) -> None:
            raise OSError(22, "Invalid argument")

        monkeypatch.setattr(swaps, "exchange", refuse)
        await driver.put_if_absent(entry())
        found = await fetched(driver)

        assert driver.capabilities.atomic_replace is False
        assert [True] == list(await driver.replace_many([Replacement(found, SMALL)]))
        assert [False] == list(await driver.replace_many([Replacement(found, {"n": 2})]))
        assert SMALL == value_of(directory)
        assert [] == temporaries(directory)

    async def test_never_silently_weaker(
        self, driver: FileTreeDriver, directory: Path, found: Entry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An exchange that fails after it was promised is an error, not a plain replacement."""

        def refuse(*_: Any) -> None:
            raise OSError(22, "Invalid argument")

        assert driver.capabilities.atomic_replace is True
        monkeypatch.setattr(swaps, "exchange", refuse)

        with pytest.raises(StoreUnreachableError, match="Invalid argument"):
            await driver.replace_many([Replacement(found, SMALL)])

        assert {"n": 0} == value_of(directory)

    async def test_capabilities_leave_nothing(self, driver: FileTreeDriver, directory: Path) -> None:
        """Trying out the file system leaves it as it was, and a directory that is gone promises nothing."""
        assert driver.capabilities.atomic_replace is True
        assert [] == list(directory.iterdir())
        gone = FileTreeDriver(directory / "x", collection_rule=PLAIN, key_rule=PLAIN)
        assert gone.capabilities.atomic_replace is False

    async def test_expired_entry_is_rewritten_meanwhile(
        self, driver: FileTreeDriver, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`put_if_absent` over an expired entry that the application writes again in that moment puts nothing."""
        await driver.put_if_absent(entry(expires_at=PAST))
        self.around_exchanges(monkeypatch, lambda n: put_raw(directory, n) if n == 1 else None)

        assert await driver.put_if_absent(entry(value=SMALL)) is False
        assert {"n": 1} == value_of(directory)
