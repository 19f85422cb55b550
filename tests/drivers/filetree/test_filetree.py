# ruff: noqa: ASYNC240 - tests may block
"""The file tree driver: the contract over real directories, names, hostile files, and writers that do not stop."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio._utils.sanitization import AlwaysHashStrategy, PassthroughStrategy
from key_value.aio._utils.serialization import BasicSerializationAdapter
from key_value.aio.stores.filetree import (
    FileTreeStore,
    FileTreeV1CollectionSanitizationStrategy,
    FileTreeV1KeySanitizationStrategy,
)
from key_value.aio.stores.filetree import store as upstream
from tests.drivers.contract import (
    FUTURE,
    ODD_NAMES,
    PAST,
    SMALL,
    Backend,
    DriverContract,
    entry,
    fetched,
    numbers,
    scanned,
)

from kvseal.drivers import base, driver_for, driver_from_url
from kvseal.drivers.base import PAGE_SIZE, Entry, Replacement
from kvseal.drivers.filetree import swaps
from kvseal.drivers.filetree.driver import FileTreeDriver
from kvseal.drivers.filetree.names import StrategyRule
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from datetime import datetime

    from typing_extensions import Self

TOO_LONG_OR_NO_FILE = frozenset(
    {("plain", "https://host/path?q=1#f"), ("pl/ain", "a/../b"), ("plain", "k" * 300), ("c" * 260, "key")}
)

PLAIN = StrategyRule(PassthroughStrategy())


def v1_store(directory: Path, **options: Any) -> FileTreeStore:
    """Return a store with py-key-value's V1 strategies, as FastMCP makes it."""
    directory.mkdir(exist_ok=True)
    return FileTreeStore(
        data_directory=directory,
        key_sanitization_strategy=FileTreeV1KeySanitizationStrategy(directory),
        collection_sanitization_strategy=FileTreeV1CollectionSanitizationStrategy(directory),
        **options,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return where the store is."""
    return tmp_path / "store"


@pytest.fixture
def store(directory: Path) -> FileTreeStore:
    """Return an empty store that keeps names as they are."""
    return FileTreeStore(data_directory=directory)


@pytest.fixture
def driver(store: FileTreeStore) -> FileTreeDriver:
    """Return the driver of the store."""
    driver = driver_for(store)
    assert isinstance(driver, FileTreeDriver)
    return driver


async def write_in_one_thread(file: Any, text: str) -> None:
    """Do what the store's own `write_file_atomic` does, without its threads and its wait for the disk."""
    handle, temporary = tempfile.mkstemp(dir=str(file.parent), suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as writer:
        writer.write(text)
    Path(temporary).replace(Path(file))


async def trust(*, path: Any, root_directory: Any) -> None:
    """Do not look, in yet another thread, for links that lead out of a store of one's own."""


def put_raw(directory: Path, n: int | str, *, name: str = "key", collection: str = "coll") -> None:
    """Replace one file as the store does."""
    text = json.dumps({"created_at": f"2024-01-01T00:00:00.{n:0>6}+00:00", "value": {"n": n}, "version": 1})
    asyncio.run(write_in_one_thread(directory / collection / f"{name}.json", text))


def value_of(directory: Path, name: str = "key", collection: str = "coll") -> Any:
    """Return the value that lies in one file, or `None` if there is no file."""
    file = directory / collection / f"{name}.json"
    return json.loads(file.read_text())["value"] if file.exists() else None


def temporaries(directory: Path) -> list[str]:
    """Return the names of all temporary files, the store's and kvseal's."""
    return sorted(p.name for p in directory.rglob("*.tmp"))


def python(script: str, *args: object) -> subprocess.Popen[str]:
    """Start a script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Wait for the end of *process*; return what it has printed and its exit code."""
    return process.communicate()[0], process.returncode


class TestFileTreeDriver(DriverContract):
    """Every promise of a driver, found from a store object without strategies."""

    many = 3 * PAGE_SIZE  # `TestScan` goes past 10,000, without a temporary file for each.
    unsupported_names = TOO_LONG_OR_NO_FILE

    @pytest.fixture(autouse=True)
    def _fast_store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Spare the threads and the disk: the contract puts some ten thousand entries through the store."""
        monkeypatch.setattr(upstream, "write_file_atomic", write_in_one_thread)
        monkeypatch.setattr(upstream, "validate_path_within_directory", trust)
        monkeypatch.setattr(os, "fsync", lambda _: None)

    @pytest.fixture
    async def backend(self, store: FileTreeStore, driver: FileTreeDriver, directory: Path) -> Backend:
        """Return an empty file tree store."""

        async def write_raw(collection: str, key: str, text: str, _: datetime | None) -> None:
            await store.put("other", {}, collection=collection)
            await store.delete("other", collection=collection)
            (directory / collection / f"{key}.json").write_text(text)

        return Backend(store, driver, write_raw)


@pytest.mark.long
class TestFileTreeDriverV1(TestFileTreeDriver):
    """Every promise of a driver, found from a store object with the V1 strategies."""

    many = 2 * PAGE_SIZE

    @pytest.fixture
    def store(self, directory: Path) -> FileTreeStore:
        """Return an empty store that sanitizes names."""
        return v1_store(directory)

    async def test_odd_names(self) -> None:
        """See `TestNames.test_odd_names_in_v1`: a scan gives most of these names not back."""


@pytest.mark.long
class TestFileTreeDriverFromURL(TestFileTreeDriver):
    """Every promise of a driver, found from the URL of a store in which nothing shows its rule."""

    many = 2 * PAGE_SIZE
    unsupported_names = TOO_LONG_OR_NO_FILE

    @pytest.fixture
    async def driver(self, store: FileTreeStore, directory: Path) -> FileTreeDriver:
        """Return the driver of the directory."""
        driver = await driver_from_url(f"filetree:{directory}?names=plain", create=True)
        assert isinstance(driver, FileTreeDriver)
        return driver


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
        for name in ("read", "remove", "write_temporary", "exchange"):
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


class TestProcesses:
    """Other processes: some write without end, some die."""

    @pytest.mark.processes
    async def test_live_writers(
        self,
        store: FileTreeStore,
        driver: FileTreeDriver,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Of 5,100 writes of three processes, the last one of each key is there, however much is replaced meanwhile."""
        script = """
import asyncio, os, sys
from key_value.aio.stores.filetree import FileTreeStore, store as upstream
directory, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.fsync = lambda _: None
if name != "real":
    from tests.drivers.filetree.test_filetree import trust, write_in_one_thread
    upstream.write_file_atomic, upstream.validate_path_within_directory = write_in_one_thread, trust

async def main():
    store = FileTreeStore(data_directory=directory)
    for n in range(count):
        await store.put(f"{name}-{n % 3}", {"n": n}, collection="coll")

asyncio.run(main())
"""
        monkeypatch.setattr(os, "fsync", lambda _: None)
        await store.put("first", SMALL, collection="coll")
        counts = {"real": 300, "one": 2400, "two": 2400}
        writers = [python(script, directory, name, count) for name, count in counts.items()]
        swapped = conflicts = 0
        while None in {writer.poll() for writer in writers}:
            async for page in driver.scan():
                batch = [Replacement(e, {**(e.value or {}), "seen": True}) for e in page.entries]
                done = await driver.replace_many(batch)
                swapped += sum(done)
                conflicts += len(done) - sum(done)

        assert [("", 0)] * 3 == [ended(writer) for writer in writers]
        for name, count in counts.items():
            for n in range(count - 3, count):
                assert n == value_of(directory, f"{name}-{n % 3}")["n"]
        assert min(swapped, conflicts) > 100
        assert [] == temporaries(directory)

    @pytest.mark.exhaustive
    async def test_live_writer_at_every_exchange(
        self, driver: FileTreeDriver, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A writer whose every write falls between compare and exchange loses none, nor reads one lost for good."""
        await driver.put_if_absent(entry())
        written, stop, exchange = [0], threading.Event(), swaps.exchange

        def write() -> None:
            while not stop.is_set():
                put_raw(directory, written[0] + 1)
                written[0] += 1

        def exchange_behind_a_write(folder: int, one: str, other: str) -> None:
            before = written[0]
            while written[0] == before and writer.is_alive():
                os.sched_yield()
            exchange(folder, one, other)

        assert driver.capabilities.atomic_replace
        monkeypatch.setattr(swaps, "exchange", exchange_behind_a_write)
        monkeypatch.setattr(os, "fsync", lambda _: None)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(100):
                found = await fetched(driver)
                await driver.replace_many([Replacement(found, {"n": -1})])
        finally:
            stop.set()
            writer.join()

        found = await fetched(driver)
        assert found.value in ({"n": written[0]}, {"n": -1})
        assert found.created_at is not None
        assert written[0] % 1_000_000 == found.created_at.microsecond
        assert written[0] > 100

    @pytest.mark.processes
    async def test_swappers_take_turns(self, driver: FileTreeDriver, directory: Path) -> None:
        """Of processes and threads that count one entry up, each success is counted."""
        script = """
import asyncio, os, sys
from kvseal.drivers import driver_from_url
from kvseal.drivers.base import Replacement

os.fsync = lambda _: None

async def main():
    driver, done = await driver_from_url("filetree:" + sys.argv[1]), 0
    while done < 50:
        entry = await driver.get("coll", "key")
        done += sum(await driver.replace_many([Replacement(entry, {"n": entry.value["n"] + 1})]))

asyncio.run(main())
"""
        await driver.put_if_absent(entry())
        counters = [python(script, directory) for _ in range(3)]

        assert [("", 0)] * 3 == [ended(counter) for counter in counters]
        assert {"n": 150} == value_of(directory)

    @pytest.mark.processes
    async def test_kill_in_the_middle_of_replace_many(self, driver: FileTreeDriver, directory: Path) -> None:
        """However a process dies, each entry is old or new and readable, and the next run finishes and cleans up."""
        script = """
import asyncio, os, sys
from kvseal.drivers import driver_from_url, tree_swaps
from kvseal.drivers.base import Replacement

name, at = sys.argv[2], int(sys.argv[3])
function, calls = getattr(tree_swaps, name), 0

def die_late(*args, **kwargs):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), 9)
    return function(*args, **kwargs)

async def main():
    driver = await driver_from_url("filetree:" + sys.argv[1])
    assert driver.capabilities.atomic_replace
    setattr(tree_swaps, name, die_late)
    async for page in driver.scan():
        await driver.replace_many([Replacement(e, {**e.value, "by": name}) for e in page.entries])

asyncio.run(main())
"""
        count = 12
        for n in range(count):
            await driver.put_if_absent(entry(f"key-{n}", {"n": n}))
        for name, at, new in (
            ("write_temporary", 3, 2),
            ("exchange", 5, 4),
            ("read", 9, 3),
            ("remove", 2, 12),
        ):
            killed = python(script, directory, name, at)

            assert ("", -9) == ended(killed), name
            found = await scanned(driver)
            assert dict.fromkeys(range(count), 1) == numbers(found)
            assert new == sum((e.value or {}).get("by") == name for e in found)
            assert [] == temporaries(directory)

    @pytest.mark.processes
    async def test_put_if_absent_race(
        self, driver: FileTreeDriver, store: FileTreeStore, directory: Path
    ) -> None:
        """Of several processes that put the same name at once, exactly one succeeds, for every name."""
        script = """
import asyncio, sys
from kvseal.drivers import driver_from_url
from kvseal.drivers.base import Entry

async def main():
    driver = await driver_from_url("filetree:" + sys.argv[1], create=True)
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(30):
        if await driver.put_if_absent(Entry("coll", f"key{n}", {"by": sys.argv[2]})):
            print(n, flush=True)

asyncio.run(main())
"""
        racers = [python(script, directory, name) for name in ("a", "b")]
        for racer in racers:
            assert racer.stdout is not None
            assert "ready\n" == racer.stdout.readline()
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        won = [{int(n) for n in ended(racer)[0].split()} for racer in racers]

        assert set(range(30)) == won[0] | won[1]
        assert set() == won[0] & won[1]
        for name, mine in zip(("a", "b"), won, strict=True):
            assert all([(await store.get(f"key{n}", collection="coll")) == {"by": name} for n in mine])


class TestNames:
    """Which names come back, and which can only be proven."""

    @pytest.mark.parametrize(("collection", "key"), ODD_NAMES)
    @pytest.mark.parametrize("by_url", [False, True])
    async def test_odd_names_in_v1(self, directory: Path, collection: str, key: str, by_url: bool) -> None:
        """Odd names reach the same entry both ways; a scan gives back only what V1 left alone; all can be proven."""
        store = v1_store(directory)
        await store.put(key, {"by": "store"}, collection=collection)
        driver: Any = await driver_from_url(f"filetree:{directory}?names=v1") if by_url else driver_for(store)

        (seen,) = await scanned(driver)

        assert (collection, {"by": "store"}, "") == (seen.collection, seen.value, seen.problem)
        assert seen.key == (key if key.isalnum() and key.isascii() and len(key) < 250 else None)
        assert [True, True] == [driver.proves(seen, key), driver.proves(replace(seen, collection=None), key)]
        assert [False, False] == [
            driver.proves(seen, "x" + key[1:] + "y"),
            driver.proves(replace(seen, collection="x"), key),
        ]
        await base.replace(driver, seen, {"by": "replace"})
        assert {"by": "replace"} == await store.get(key, collection=collection)
        found = await fetched(driver, key, collection)
        assert (collection, key) == (found.collection, found.key)
        assert await driver.delete_if_unchanged(found)
        assert await store.get(key, collection=collection) is None
        assert await driver.put_if_absent(replace(found, value={"by": "driver"}))
        assert {"by": "driver"} == await store.get(key, collection=collection)

    async def test_prefix_of_v1(self, directory: Path) -> None:
        """A key that looks like a sanitized one is not given back, because another may have become it."""
        store = v1_store(directory)
        await store.put("S_key", SMALL, collection="coll")

        (seen,) = await scanned(driver_for(store))

        assert (None, "") == (seen.key, seen.problem)

    async def test_unknown_strategy(self, directory: Path) -> None:
        """Of a strategy that cannot be undone no name is given back, though `get` finds the entry."""
        store = FileTreeStore(data_directory=directory, key_sanitization_strategy=AlwaysHashStrategy())
        await store.put("key", SMALL, collection="coll")
        driver: Any = driver_for(store)

        (seen,) = await scanned(driver)

        assert ("coll", None) == (seen.collection, seen.key)
        assert [True, False] == [driver.proves(seen, "key"), driver.proves(seen, "other")]
        assert SMALL == (await fetched(driver)).value

    @pytest.mark.parametrize("names", ["plain", "v1"])
    async def test_rule_is_detected(self, directory: Path, names: str) -> None:
        """What lies in the store shows its rule, for the names of both kinds."""
        store = v1_store(directory) if names == "v1" else FileTreeStore(data_directory=directory)
        await store.put("with-dash", SMALL, collection="a-b")
        driver = await driver_from_url(f"filetree:{directory}")

        await driver.put_if_absent(entry("other-key", collection="other-coll"))

        assert {"n": 0} == await store.get("other-key", collection="other-coll")
        assert SMALL == (await fetched(driver, "with-dash", "a-b")).value

    async def test_nothing_shows_the_rule(self, store: FileTreeStore, directory: Path) -> None:
        """Where nothing shows the rule, names that it matters for are refused, and the others work."""
        await store.put("key", SMALL, collection="coll")
        driver = await driver_from_url(f"filetree:{directory}")

        assert await driver.put_if_absent(entry("__dek__", collection="__vault_meta__"))
        with pytest.raises(StoreError, match="nothing in the store shows") as caught:
            await driver.put_if_absent(entry("with-dash"))
        assert "?names=" in caught.value.hint
        assert ["__dek__", "key"] == [e.key for e in await scanned(driver)]

    async def test_both_rules_at_once(self, store: FileTreeStore, directory: Path) -> None:
        """Sanitized names beside others are refused rather than guessed at, until the URL says which."""
        await store.put("with-dash", SMALL, collection="coll")
        await store.put("S_a_b-01234567", SMALL, collection="coll")

        with pytest.raises(UnsupportedStoreError, match="some keys"):
            await driver_from_url(f"filetree:{directory}")

        driver = await driver_from_url(f"filetree:{directory}?names=plain")
        assert ["S_a_b-01234567", "with-dash"] == [e.key for e in await scanned(driver)]

    async def test_nested_collections(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """Collections with a slash are folders in folders, and their info files are no entries."""
        for n, collection in enumerate(["tools", "tools/list", "tools/list/all"]):
            await store.put("key", {"n": n}, collection=collection)

        found = await scanned(driver)

        assert [("tools", 0), ("tools/list", 1), ("tools/list/all", 2)] == [
            (e.collection, e.value["n"]) for e in found if e.value
        ]
        assert 3 == len(found) == (await driver.count()).entries

    async def test_folder_without_info(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """Entries of a folder whose info file is lost are found, under the name that the folder proves."""
        await store.put("key", SMALL, collection="coll")
        (directory / "coll-info.json").unlink()

        assert [("coll", "key", "")] == [(e.collection, e.key, e.problem) for e in await scanned(driver)]

    @pytest.mark.parametrize("info", ['{"collection": "other", "directory": "/"}', "{", '{"directory": "/"}'])
    async def test_pasted_info(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path, info: str
    ) -> None:
        """An info file that names another collection, or none, is a problem of each entry, not their new name."""
        await store.put("key", SMALL, collection="coll")
        (directory / "coll-info.json").write_text(info)

        (found,) = await scanned(driver)

        assert (None, None) == (found.collection, found.value)
        assert "info file" in found.problem
        with pytest.raises(StoreError, match="info file"):
            await driver.put_if_absent(entry("new"))

    async def test_colliding_collections(self, directory: Path) -> None:
        """Collections that V1 cannot tell apart: the folder is the first one's, and the second puts nothing there."""
        store = v1_store(directory)
        await store.put("key", SMALL, collection="c" * 300)
        driver = driver_for(store)

        assert "c" * 300 == (await fetched(driver, "key", "c" * 301)).collection
        with pytest.raises(StoreError, match="is that of"):
            await driver.put_if_absent(entry("new", collection="c" * 301))

    @pytest.mark.parametrize("key", ["a/b", "a\0b", "k" * 251, "\ud800"])
    async def test_impossible_key(self, driver: FileTreeDriver, key: str) -> None:
        """A key that is no file name is refused in kvseal's own words, and never leads elsewhere."""
        for call in (driver.get("coll", key), driver.put_if_absent(entry(key))):
            with pytest.raises(StoreError, match="cannot hold"):
                await call

    @pytest.mark.parametrize("collection", ["..", "../x", "/etc", "a//b", "."])
    async def test_impossible_collection(
        self, driver: FileTreeDriver, directory: Path, collection: str
    ) -> None:
        """A collection that would lead out of the store is refused, and nothing is created."""
        with pytest.raises(StoreError, match="cannot hold"):
            await driver.put_if_absent(entry(collection=collection))

        assert [] == list(directory.iterdir())


class TestNamesInBodies:
    """Names that kvseal writes into the bodies, and who may not say them."""

    KEY = "https://host/path"

    @pytest.fixture
    def store(self, directory: Path) -> FileTreeStore:
        """Return an empty store that sanitizes names."""
        return v1_store(directory)

    async def test_put_names_its_entry(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """What the driver put comes back from a scan with names that no file name holds; the store reads it."""
        await driver.put_if_absent(entry(self.KEY, collection="c-1"))

        assert [("c-1", self.KEY, "")] == [(e.collection, e.key, e.problem) for e in await scanned(driver)]
        assert {"n": 0} == await store.get(self.KEY, collection="c-1")

    async def test_proven_key_in_a_replacement(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """An entry without a key is replaced under one that its caller has proven, which then comes back."""
        await store.put(self.KEY, SMALL, collection="c-1", ttl=1000)
        (seen,) = await scanned(driver)
        files = sorted(directory.rglob("*.json"))
        assert (None, True) == (seen.key, driver.proves(seen, self.KEY))

        await base.replace(driver, replace(seen, key=self.KEY), {"n": 1})

        (found,) = await scanned(await driver_from_url(f"filetree:{directory}"))
        assert ("c-1", self.KEY, {"n": 1}) == (found.collection, found.key, found.value)
        assert (seen.created_at, seen.expires_at) == (found.created_at, found.expires_at)
        assert files == sorted(directory.rglob("*.json"))
        assert {"n": 1} == await store.get(self.KEY, collection="c-1")

    async def test_unknown_key_stays_unknown(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """A replacement by somebody who does not know the key writes no names."""
        await store.put(self.KEY, SMALL, collection="coll")
        (seen,) = await scanned(driver)

        await base.replace(driver, seen, {"n": 1})

        (found,) = await scanned(driver)
        assert (None, {"n": 1}) == (found.key, found.value)
        assert b"collection" not in found.stored

    async def test_wrong_key_in_a_replacement(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """A key that is not stored there is refused, and so is all that is to be written with it."""
        await store.put("key", SMALL, collection="coll")
        await store.put(self.KEY, SMALL, collection="coll")
        seen = sorted(await scanned(driver), key=lambda e: e.key is None)
        wrong = replace(seen[1], key="another")

        with pytest.raises(StoreError, match="is not stored in"):
            await driver.replace_many([Replacement(seen[0], {"n": 1}), Replacement(wrong, {"n": 1})])

        assert [SMALL, SMALL] == await store.get_many(["key", self.KEY], collection="coll")

    async def test_the_store_takes_the_names_away(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """What the application writes over the file has no names, as nothing in it has."""
        await driver.put_if_absent(entry(self.KEY))

        await store.put(self.KEY, SMALL, collection="coll")

        assert [(None, SMALL)] == [(e.key, e.value) for e in await scanned(driver)]

    @pytest.mark.parametrize(("collection", "file"), [("coll", "other"), ("other", None), ("c-2", None)])
    async def test_copied_file(
        self, driver: FileTreeDriver, directory: Path, collection: str, file: str | None
    ) -> None:
        """A copy in another file, or in another collection, is a problem of its entry, and takes no name."""
        await driver.put_if_absent(entry(self.KEY))
        await driver.put_if_absent(entry("own", collection=collection))
        (original,) = [e for e in await scanned(driver) if e.key == self.KEY]
        (own,) = [e for e in await scanned(driver) if (e.collection, e.key) == (collection, "own")]
        copy = directory / own.locator.folder / (f"{file}.json" if file else original.locator.file)
        shutil.copy(directory / "coll" / original.locator.file, copy)

        (odd,) = [e for e in await scanned(driver) if e.problem]

        assert (collection, file, None) == (odd.collection, odd.key, odd.value)
        assert f"it holds the body of 'coll'/'{self.KEY}'" in odd.problem
        got = await fetched(driver, file or self.KEY, collection)
        assert (odd.problem, file or self.KEY) == (got.problem, got.key)
        assert await driver.put_if_absent(entry(file or self.KEY, collection=collection)) is False
        with pytest.raises(StoreError, match="cannot be read"):
            await base.replace(driver, odd, SMALL)

    async def test_claim_that_nothing_shows(self, store: FileTreeStore, directory: Path) -> None:
        """Where nothing shows the rule, a name that it matters for is neither believed nor held against a file."""
        await store.put("key", SMALL, collection="coll")
        undecided = await driver_from_url(f"filetree:{directory}")
        await driver_for(store).put_if_absent(entry(self.KEY))

        found = {e.key: e for e in await scanned(undecided)}

        assert {"key": "", None: ""} == {key: e.problem for key, e in found.items()}
        assert undecided.proves(found[None], self.KEY) is False
        assert {"key", self.KEY} == {
            e.key for e in await scanned(await driver_from_url(f"filetree:{directory}"))
        }

    async def test_body_names_the_collection(self, driver: FileTreeDriver, directory: Path) -> None:
        """Where the info file is lost, a body still proves a collection that the folder's name does not hold."""
        await driver.put_if_absent(entry("key", collection="c-1"))
        (info,) = directory.glob("*-info.json")
        info.unlink()

        assert [("c-1", "key")] == [(e.collection, e.key) for e in await scanned(driver)]

    async def test_expired_copy(self, driver: FileTreeDriver, directory: Path) -> None:
        """An expired file is absent, whatever it says."""
        await driver.put_if_absent(entry(expires_at=PAST))
        shutil.copy(directory / "coll" / "key.json", directory / "coll" / "other.json")

        assert [] == await scanned(driver)
        assert await driver.put_if_absent(entry("other"))

    async def test_colliding_keys(self, store: FileTreeStore, driver: FileTreeDriver) -> None:
        """Keys that V1 cannot tell apart: whichever is asked for, the entry has the name it was stored with."""
        await driver.put_if_absent(entry("k" * 300))

        assert "k" * 300 == (await fetched(driver, "k" * 301)).key

    async def test_deletion_adds_no_names(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """What is left of a deleted entry says nothing that was not there before."""
        await store.put("key", SMALL, collection="coll")

        assert await driver.delete_if_unchanged(await fetched(driver))
        assert {"created_at", "expires_at", "value", "version"} == set(
            json.loads((directory / "coll" / "key.json").read_text())
        )


class TestPlaces:
    """Moved stores, links, and paths with no store."""

    async def test_moved_store(self, store: FileTreeStore, directory: Path, tmp_path: Path) -> None:
        """A store that was moved is read and written where it lies; the path it came from stays untouched."""
        await store.put("key", SMALL, collection="coll")
        moved = tmp_path / "moved"
        shutil.move(directory, moved)
        driver = await driver_from_url(f"filetree:{moved}")

        await base.replace(driver, await fetched(driver), {"n": 2})

        assert {"n": 2} == value_of(moved)
        assert not directory.exists()
        shutil.move(moved, directory)
        assert {"n": 2} == await FileTreeStore(data_directory=directory).get("key", collection="coll")

    async def test_metadata_elsewhere(self, directory: Path, tmp_path: Path) -> None:
        """A store with a metadata directory of its own is served, and new info files go there."""
        store = FileTreeStore(data_directory=directory, metadata_directory=tmp_path / "meta")
        await store.put("key", SMALL, collection="coll")
        driver = driver_for(store)

        assert await driver.put_if_absent(entry(collection="new"))

        assert {("coll", "key"), ("new", "key")} == {(e.collection, e.key) for e in await scanned(driver)}
        assert ["coll-info.json", "new-info.json"] == sorted(p.name for p in (tmp_path / "meta").iterdir())
        assert {"n": 0} == await FileTreeStore(
            data_directory=directory, metadata_directory=tmp_path / "meta"
        ).get("key", collection="new")

    @pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
    async def test_links_are_not_followed(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path, tmp_path: Path, kind: str
    ) -> None:
        """A link to a file, a link to a folder, and a pipe, are problems that are seen, and are never opened."""
        await store.put("key", SMALL, collection="coll")
        shutil.copytree(directory, tmp_path / "outside")
        match kind:
            case "file":
                (directory / "coll" / "link.json").symlink_to(tmp_path / "outside" / "coll" / "key.json")
            case "folder":
                (directory / "linked").symlink_to(tmp_path / "outside" / "coll")
            case "pipe":
                os.mkfifo(directory / "coll" / "pipe.json")

        (odd,) = [e for e in await scanned(driver) if e.key != "key"]

        assert odd.value is None
        assert "link" in odd.problem or "not a regular file" in odd.problem
        with pytest.raises(StoreError):
            await driver.replace_many([Replacement(odd, SMALL)])
        if kind == "folder":
            with pytest.raises(StoreError, match="symbolic link"):
                await driver.put_if_absent(entry(collection="linked"))
        assert SMALL == value_of(tmp_path / "outside")

    async def test_file_name_that_is_not_text(self, driver: FileTreeDriver, directory: Path) -> None:
        """A file name that is not UTF-8 is a problem, because no record can be bound to it."""
        await driver.put_if_absent(entry())
        shutil.copy(directory / "coll" / "key.json", os.fsencode(directory / "coll") + b"/\xff.json")

        assert ["", "not text"] == [e.problem[-8:] for e in await scanned(driver)]

    async def test_temporary_files_are_no_entries(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """What a crash of the store left behind is ignored and left alone."""
        await store.put("key", SMALL, collection="coll")
        (directory / "coll" / "tmpabc.tmp").write_text("half")

        assert ["key"] == [e.key for e in await scanned(driver)]
        assert ["tmpabc.tmp"] == temporaries(directory)

    @pytest.mark.parametrize("content", [None, [], ["something"], ["config-info.json"]])
    async def test_typo_creates_nothing(self, tmp_path: Path, content: list[str] | None) -> None:
        """A path without a store is an error that names it, and the path is as it was."""
        path = tmp_path / "typo"
        if content is not None:
            path.mkdir()
        for name in content or []:
            (path / name).write_text("{}")

        with pytest.raises(StoreNotFoundError, match="typo"):
            await driver_from_url(f"filetree:{path}")

        assert (content is not None) == path.exists()
        assert (content or []) == [p.name for p in path.glob("*")]

    async def test_parent_of_a_store(self, tmp_path: Path) -> None:
        """The parent of a store's directory is not a store whose collections are one folder deeper."""
        await v1_store(tmp_path / "store").put("key", SMALL, collection="a-b")

        with pytest.raises(StoreNotFoundError):
            await driver_from_url(f"filetree:{tmp_path}")

    async def test_create(self, tmp_path: Path) -> None:
        """`create` makes a directory for its owner alone, which the store reads, and refuses one in use."""
        path = tmp_path / "new" / "store"
        driver = await driver_from_url(f"filetree:{path}", create=True)
        assert await driver.put_if_absent(entry())
        assert await (await driver_from_url(f"filetree:{path}", create=True)).put_if_absent(entry()) is False
        (tmp_path / "new" / "file").touch()

        assert 0o700 == stat.S_IMODE(path.stat().st_mode)
        assert {"n": 0} == await FileTreeStore(data_directory=path).get("key", collection="coll")
        with pytest.raises(StoreNotFoundError):
            await driver_from_url(f"filetree:{tmp_path / 'new'}", create=True)

    @pytest.mark.parametrize("url", ["filetree:", "filetree:x?names=v2"])
    async def test_wrong_url(self, url: str) -> None:
        """A URL without a path, or with an unknown rule, says what to write."""
        with pytest.raises(UnsupportedStoreError) as caught:
            await driver_from_url(url)

        assert caught.value.hint

    async def test_store_goes_away(self, driver: FileTreeDriver, directory: Path) -> None:
        """A store whose directory is gone is an error, not a store in which everything is missing."""
        shutil.rmtree(directory)

        with pytest.raises(StoreNotFoundError):
            await driver.get("coll", "key")
        with pytest.raises(StoreError):
            await scanned(driver)

    async def test_closed(self, driver: FileTreeDriver) -> None:
        """A closed driver says so."""
        await driver.close()

        with pytest.raises(StoreError, match="closed"):
            await driver.count()

    async def test_other_adapter(self, directory: Path) -> None:
        """A store that writes other bodies has no driver."""

        class Adapter(BasicSerializationAdapter):
            pass

        with pytest.raises(UnsupportedStoreError, match="Adapter"):
            driver_for(FileTreeStore(data_directory=directory, serialization_adapter=Adapter()))


class TestScan:
    """What is particular to scans of folders."""

    @pytest.mark.exhaustive
    async def test_more_than_10_000(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """A scan of more files than any `keys()` gives back is complete."""
        await store.put("first", {"n": 0}, collection="coll")
        for n in range(1, 10_050):
            (directory / "coll" / f"{n}.json").write_text(f'{{"value": {{"n": {n}}}}}')

        assert dict.fromkeys(range(10_050), 1) == numbers(await scanned(driver))

    async def test_page_of_large_values_ends_early(
        self, driver: FileTreeDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pages are bounded in bytes, not only in entries."""
        monkeypatch.setattr("kvseal.drivers.filetree.driver.PAGE_BYTES", 100_000)
        for n in range(5):
            await driver.put_if_absent(entry(f"key-{n}", {"large": "x" * 50_000}))

        assert [2, 2, 1] == [len(page.entries) async for page in driver.scan()]

    async def test_deleted_meanwhile(self, driver: FileTreeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files and folders that go away between listing and reading are skipped."""
        for n in range(4):
            await driver.put_if_absent(entry(f"key-{n}"))
            await driver.put_if_absent(entry(collection=f"coll-{n}"))
        monkeypatch.setattr("kvseal.drivers.filetree.driver.PAGE_SIZE", 1)
        scan = driver.scan()
        first = await anext(scan)
        shutil.rmtree(Path(driver.location.removeprefix("filetree:")) / "coll-2")
        (Path(driver.location.removeprefix("filetree:")) / "coll" / "key-3.json").unlink()

        rest = [e async for page in scan for e in page.entries]

        assert ["coll/key-0", "coll/key-1", "coll/key-2", "coll-0/key", "coll-1/key", "coll-3/key"] == [
            f"{e.collection}/{e.key}" for e in (*first.entries, *rest)
        ]

    async def test_body_stays_byte_for_byte(
        self, store: FileTreeStore, driver: FileTreeDriver, directory: Path
    ) -> None:
        """What the store wrote around the value is unchanged to the byte, but for the names that are added."""
        await store.put("key", {"a": "old"}, collection="coll", ttl=60)
        before = (directory / "coll" / "key.json").read_text()

        await base.replace(driver, await fetched(driver), {"a": "new"})

        named = before.replace("{", '{"collection": "coll", ', 1).replace('"value"', '"key": "key", "value"')
        assert named.replace('"old"', '"new"') == (directory / "coll" / "key.json").read_text()

    async def test_deleted_is_expired(self, driver: FileTreeDriver, directory: Path) -> None:
        """A deletion leaves a body without a value that expired long ago, so the store's `cull` removes it."""
        await driver.put_if_absent(entry(value={"secret": 1}, expires_at=FUTURE))
        assert await driver.delete_if_unchanged(await fetched(driver))
        assert {} == value_of(directory)

        store = FileTreeStore(data_directory=directory)
        if hasattr(store, "cull"):  # Not before py-key-value-aio 0.5.
            await store.cull()
            assert not (directory / "coll" / "key.json").exists()

    async def test_loop_is_not_blocked(self, driver: FileTreeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        """No operation opens a file in the thread of the event loop."""
        users: set[int] = set()
        opened = os.open

        def note(*args: Any, **options: Any) -> int:
            users.add(threading.get_ident())
            return opened(*args, **options)

        monkeypatch.setattr(os, "open", note)
        await driver.put_if_absent(entry())
        await driver.replace_many([Replacement(await fetched(driver), SMALL)])
        await scanned(driver)
        await driver.count()
        await driver.delete_if_unchanged(await fetched(driver))

        assert users
        assert threading.get_ident() not in users
