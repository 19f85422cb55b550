"""
Crashes: whatever is interrupted at whichever store operation, the vault opens and nothing is lost.

The table `tests.crash.commands` says what each command does.  Here it dies before and after every one of
its store operations, none left out: the deaths go on until the command outlives the next one.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
from collections import Counter
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from itertools import count, product
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.backends import UNSTABLE, Place, place
from tests.crash.commands import COMMANDS, Command
from tests.crash.ends import World
from tests.crash.outcome import assert_done, assert_nothing_is_lost, be_a_new_process
from tests.fakes import Death, HookedDriver, Killed, PagedDriver, raise_killed, raw_meta
from tests.processes import CHEAP, ENTRIES_IN_A_PAGE, NEVER, NEW, OLD, SPARE, Moment, never_renewed, vaultctl
from tests.recoding.worlds import KEY as FERNET_KEY
from tests.recoding.worlds import entries_of

from kvseal import Vault
from kvseal.drivers import driver_for, memory
from kvseal.drivers.disk import driver as disk
from kvseal.drivers.postgresql import table
from kvseal.drivers.redis import driver as resp
from kvseal.errors import (
    KvsealError,
    SlotExistsError,
    SlotNotFoundError,
    StoreUnreachableError,
    VaultExistsError,
    VaultNotFoundError,
    WrongSecretError,
)
from kvseal.keys.meta import META_COLLECTION as META
from kvseal.keys.meta import META_KEY
from kvseal.recoding.progress.lease import Lease
from kvseal.recoding.progress.lease_holder import LeaseHolder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from kvseal.drivers.base import Driver, Entry

pytestmark = pytest.mark.filterwarnings(UNSTABLE)

DONE_BEFORE = (VaultExistsError, WrongSecretError, SlotExistsError, SlotNotFoundError)
"""What a command answers that has come to its end unseen."""
WRITES = {"put_if_absent", "replace_many", "delete"}


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few records be several pages."""
    for module in (memory, disk, resp, table):
        monkeypatch.setattr(module, "PAGE_SIZE", ENTRIES_IN_A_PAGE)


@pytest.fixture(autouse=True)
def _dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who dies in this process count as gone, although the process goes on, and nothing be renewed."""
    monkeypatch.setattr(LeaseHolder, "is_gone", lambda _: True)
    monkeypatch.setattr(Lease, "renew_for_ever", never_renewed())


@pytest.fixture(
    scope="module",
    params=[
        "memory",
        "disk",
        pytest.param("redis", marks=pytest.mark.long),
        pytest.param("postgresql", marks=pytest.mark.long),
    ],
)
def where(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Yield a backend; servers are started once for the whole table."""
    yield from place(request.param, request, tmp_path_factory.mktemp("crash"))


class Stage:
    """One store on which a command is performed again and again, each time from the same beginning."""

    def __init__(self, command: Command, store: Any, driver: Driver, directory: Path) -> None:
        self.command = command
        self.world = World(store, driver, directory)
        self._beginning: list[Entry] = []

    async def begin(self) -> None:
        """Make the beginning."""
        await self._put([])
        be_a_new_process()
        await self.command.begin(self.world.store)
        self._beginning = await stored(self.world.driver)
        self.world.original = await entries_of(self.world.driver)
        self.world.meta = await self.world.driver.get(META, META_KEY)

    async def again(self) -> None:
        """Go back to the beginning."""
        await self._put(self._beginning)
        shutil.rmtree(self.world.directory, ignore_errors=True)
        self.world.directory.mkdir()
        self.world.result = None
        be_a_new_process()

    async def run(self, death: Death) -> None:
        """Run the command until it dies."""
        self.world.result = await self.command.run(
            PagedDriver(self.world.driver, death), self.world.directory
        )

    async def check(self) -> None:
        """Nothing is lost; run again, the command finishes; and then nothing is lost either."""
        be_a_new_process()
        await assert_nothing_is_lost(self.command, self.world)
        be_a_new_process()
        with suppress(*DONE_BEFORE):
            await self.run(Death())
        be_a_new_process()
        await assert_nothing_is_lost(self.command, self.world)
        await assert_done(self.command, self.world)

    async def _put(self, entries: list[Entry]) -> None:
        driver = self.world.driver
        for entry in await stored(driver):
            assert await driver.delete_if_unchanged(entry)
        for entry in entries:
            assert await driver.put_if_absent(entry)


async def stored(driver: Driver) -> list[Entry]:
    """Return everything that lies in a store."""
    return [entry async for page in driver.scan() for entry in page.entries]


@pytest.fixture
async def stage(
    where: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[str], Stage]]:
    """Yield what returns the stage of a command."""
    async with where.opened() as store:
        driver = driver_for(store)
        yield lambda name: Stage(COMMANDS[name], store, driver, beside(tmp_path, monkeypatch))
        await driver.close()


@pytest.fixture
def in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Stage]:
    """Return what returns the stage of a command in memory."""
    store = MemoryStore()
    return lambda name: Stage(COMMANDS[name], store, driver_for(store), beside(tmp_path, monkeypatch))


def beside(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory for what a command keeps beside the store, such as a secret that it generates."""
    monkeypatch.setenv("XDG_DATA_HOME", str(directory / "beside"))
    return directory / "beside"


async def operations_of(stage: Stage) -> list[str]:
    """Return the store operations of a whole run."""
    await stage.again()
    whole = Death()
    await stage.run(whole)
    return whole.operations


async def every_end(
    stage: Stage,
    *,
    die: Callable[[], NoReturn] = raise_killed,
    after: bool = False,
    of_reads: bool = True,
) -> None:
    """Let the command end at each of its operations, and check what that leaves."""
    await stage.begin()
    operations = await operations_of(stage)
    expected = Counter(operation for operation in operations if of_reads or operation in WRITES)
    ends: Counter[str] = Counter()
    for of in expected:
        for at in count(1):
            await stage.again()
            death = Death(at, of=of, after=after, die=die)
            with suppress(Killed, asyncio.CancelledError, StoreUnreachableError):
                await stage.run(death)
            if not death.came:
                break
            print(f"{'after' if after else 'before'} {of} {at}")  # noqa: T201 - shown where it fails
            ends[of] += 1
            await stage.check()
    assert stage.command.varies or expected == ends


@pytest.mark.parametrize("name", [name for name in COMMANDS if not COMMANDS[name].varies])
async def test_the_table_is_complete(name: str, in_memory: Callable[[str], Stage]) -> None:
    """Each command makes exactly the store operations that the table says."""
    stage = in_memory(name)
    await stage.begin()

    operations = await operations_of(stage)

    steps = COMMANDS[name].steps.split()
    # Pages are swapped in any order while the next ones are read.
    assert sorted(steps) == sorted(operations)
    assert "page" in steps or steps == operations


@pytest.mark.exhaustive
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", COMMANDS)
async def test_death(name: str, after: bool, stage: Callable[[str], Stage], where: Place) -> None:
    """
    Wherever a command dies, the vault opens, every record reads, and the same command then finishes.

    Who dies after a read leaves what is left by who dies before it, so that is tried in memory alone.
    """
    await every_end(stage(name), after=after, of_reads=not after or where.kind == "memory")


def cancel() -> NoReturn:
    """End this task, as its cancellation would here."""
    raise asyncio.CancelledError


def fail() -> NoReturn:
    """Fail, as a backend does."""
    msg = "the disk is full"
    raise StoreUnreachableError(msg)


@pytest.mark.exhaustive
@pytest.mark.parametrize("die", [cancel, fail])
@pytest.mark.parametrize("name", COMMANDS)
async def test_other_ends(name: str, die: Callable[[], NoReturn], in_memory: Callable[[str], Stage]) -> None:
    """A command that is cancelled, or whose backend fails, leaves no more than one that dies."""
    await every_end(in_memory(name), die=die)


SECRETS = {
    "OLD": OLD.reveal().decode(),
    "NEW": NEW.reveal().decode(),
    "SPARE": SPARE.reveal().decode(),
    "FERNET": FERNET_KEY.decode(),
}


@pytest.mark.processes
@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=[pytest.mark.long])], ids=["writes", "every operation"]
)
@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.vaultctl])
async def test_killed_process(
    name: str, every: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vaultctl that is killed from one instant to the next loses nothing, and finishes when run again."""
    command, work = COMMANDS[name], tmp_path / "beside"
    beside(tmp_path, monkeypatch)
    environment = {**SECRETS, "VAULTCTL_STORE": "disk:store", "XDG_DATA_HOME": str(work)}
    begun = await begun_on_disk(command, tmp_path / "original")

    def run(moment: Moment = NEVER) -> list[str] | None:
        return vaultctl(shlex.split(command.vaultctl), moment, work, environment)

    def restore() -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(tmp_path / "original", work / "store")

    restore()
    _, *operations = run() or []
    counted = Counter(operation for operation in operations if every or operation in WRITES)
    assert counted
    for of, times in counted.items():
        for at, after in product(range(1, times + 1), (False, True)):
            print(f"{'after' if after else 'before'} {of} {at}")  # noqa: T201 - shown where it fails
            restore()
            assert run(Moment(of, at, after)) is None
            async with disk_world(work, begun) as world:
                await assert_nothing_is_lost(command, world)
                code, *_ = run() or []
                be_a_new_process()
                assert int(code) in command.exits
                await assert_nothing_is_lost(command, world)
                await assert_done(command, world)


async def begun_on_disk(command: Command, directory: Path) -> World:
    """Make the beginning of *command* in a new disk store, and return what lay in it."""
    with closing(DiskStore(directory=directory)._cache) as cache:
        store = DiskStore(disk_cache=cache)
        driver = driver_for(store)
        stage = Stage(command, store, driver, directory)
        await stage.begin()
        await driver.close()
    return stage.world


@asynccontextmanager
async def disk_world(work: Path, begun: World) -> AsyncIterator[World]:
    """Yield what a process has left in *work*, which began as *begun*."""
    be_a_new_process()
    with closing(DiskStore(directory=work / "store")._cache) as cache:
        store = DiskStore(disk_cache=cache)
        driver = driver_for(store)
        yield replace(begun, store=store, driver=driver, directory=work)
        await driver.close()


class LossyDriver(HookedDriver):
    """A driver whose backend acknowledges writes and keeps the old bytes, as a stale replica does."""

    def __init__(self, driver: Any, *, lost: str) -> None:
        async def around(name: str, operation: Any) -> Any:
            if name == lost:
                return True if name == "put_if_absent" else [True]
            return await operation()

        super().__init__(driver, around)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, one in COMMANDS.items()
        if "get replace_many get" in one.steps and "put" not in one.steps
    ],
)
async def test_what_was_written_is_read_back(
    name: str, in_memory: Callable[[str], Stage], tmp_path: Path
) -> None:
    """A backend that acknowledges a change and loses it is found out before anybody relies on it."""
    stage = in_memory(name)
    await stage.begin()
    driver = LossyDriver(stage.world.driver, lost="replace_many")

    with pytest.raises(KvsealError, match="does not give back"):
        await stage.command.run(driver, tmp_path)

    await assert_nothing_is_lost(stage.command, stage.world)


async def test_a_created_vault_is_read_back() -> None:
    """Creation on a backend that loses the write fails, and so seals nothing under a lost key."""
    driver = LossyDriver(driver_for(MemoryStore()), lost="put_if_absent")

    with pytest.raises(VaultNotFoundError):
        await Vault.create(driver, secret=OLD, kdf=CHEAP)


async def test_the_old_slot_goes_after_the_new_one_is_there(
    in_memory: Callable[[str], Stage], tmp_path: Path
) -> None:
    """Between the two writes of a rotation both secrets open; at no moment does neither."""
    stage = in_memory("rotate both")
    await stage.begin()
    slots = []

    async def watched(_: str, operation: Any) -> Any:
        result = await operation()
        slots.append(len((await raw_meta(stage.world.store))["slots"]))
        return result

    await stage.command.run(HookedDriver(stage.world.driver, watched), tmp_path)

    assert [1, 1, 2, 2, 1, 1] == slots
