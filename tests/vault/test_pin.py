"""The pin file: across restarts, no older vault meta is believed, and no other one of the same revision."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import HookedDriver, put_raw_meta, raw_meta
from tests.privileges import file_size_limit

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.errors import (
    ForkedMetaError,
    PinFileError,
    PinNotWrittenError,
    RolledBackMetaError,
    TamperedMetaError,
    VaultMetaError,
    VaultMetaLostError,
)
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.vault.seen import newest
from kvseal.vault.seen.pin import Pin, Pinned

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
SECRET = Secret(b"the secret of the vault")
DIED = 9


@pytest.fixture
def pin(tmp_path: Path) -> Path:
    """Return where a pin file may be."""
    directory = tmp_path / "pins"
    directory.mkdir()
    return directory / "vault.pin"


@pytest.fixture
async def vault(store: MemoryStore) -> Vault:
    """Return the vault in *store*, opened without a pin."""
    return await Vault.create(store, secret=SECRET, kdf=CHEAP)


def be_a_new_process() -> None:
    """Forget what this process has seen."""
    newest._newest.clear()


def pinned_in(pin: Path) -> Pinned:
    """Return what is pinned."""
    pinned = Pin(pin).load()
    assert pinned is not None
    return pinned


def content(pin: Path) -> bytes:
    """Return what the file holds."""
    return pin.read_bytes()


def mode(pin: Path) -> int:
    """Return who may do what with the file."""
    return stat.S_IMODE(pin.stat().st_mode)


def delete(pin: Path) -> None:
    """Do what an operator does who has restored the vault on purpose."""
    pin.unlink()


async def test_first_use_pins(store: MemoryStore, vault: Vault, pin: Path) -> None:
    """The first opening pins what is there, for the owner alone, and leaves nothing else but the lock."""
    await Vault.open(store, secret=SECRET, pin=pin)

    assert Pinned.of(vault.meta) == pinned_in(pin)
    assert 0o600 == mode(pin)
    assert [".vault.pin.lock", "vault.pin"] == sorted(path.name for path in pin.parent.iterdir())


@pytest.mark.parametrize("how", ["create", "open_or_create", "wrapper"])
async def test_creation_pins(store: MemoryStore, pin: Path, how: str) -> None:
    """Whoever creates the vault pins it, by whichever way."""
    if how == "wrapper":
        await EnvelopeEncryptionWrapper(store, secret=SECRET, kdf=CHEAP, pin=str(pin)).put("k", {})
    else:
        await getattr(Vault, how)(store, secret=SECRET, kdf=CHEAP, pin=pin)

    assert 1 == pinned_in(pin).revision


async def test_every_change_is_pinned(store: MemoryStore, pin: Path) -> None:
    """Own changes, and those of others that are read, raise the pin."""
    own = await Vault.create(store, secret=SECRET, kdf=CHEAP, pin=pin)
    other = await Vault.open(store, secret=SECRET)

    for change, revision in ((own.rotate_dek, 2), (other.rotate_dek, 3)):
        await change()
        await own.refresh()
        assert revision == pinned_in(pin).revision
    await own.rotate(new_secret=Secret(b"another"), kdf=CHEAP)

    assert Pinned.of(own.meta) == pinned_in(pin)


async def test_rolled_back(store: MemoryStore, vault: Vault, pin: Path) -> None:
    """After a restart an older meta is refused by the pin, and by nothing else; deleting it lets it in."""
    old = await raw_meta(store)
    await vault.rotate_dek()
    await Vault.open(store, secret=SECRET, pin=pin)
    before = content(pin)
    await put_raw_meta(store, old)
    be_a_new_process()

    with pytest.raises(RolledBackMetaError) as caught:
        await Vault.open(store, secret=SECRET, pin=pin)

    assert f"delete {pin}" in caught.value.hint
    assert before == content(pin)
    await Vault.open(store, secret=SECRET)
    delete(pin)
    assert 1 == (await Vault.open(store, secret=SECRET, pin=pin)).status().revision
    assert 1 == pinned_in(pin).revision


async def test_rolled_back_under_a_running_process(store: MemoryStore, vault: Vault, pin: Path) -> None:
    """A process that has not read the newer meta itself refuses, too, once another one has pinned it."""
    running = await Vault.open(store, secret=SECRET, pin=pin)
    old = await raw_meta(store)
    await vault.rotate_dek()
    await Vault.open(store, secret=SECRET, pin=pin)
    await put_raw_meta(store, old)
    be_a_new_process()

    with pytest.raises(RolledBackMetaError):
        await running.refresh()


async def forks(store: MemoryStore, vault: Vault) -> tuple[Any, Any]:
    """Return two genuine metas of the same revision, as a copied store makes them."""
    first = await raw_meta(store)
    await vault.rotate_dek()
    one = await raw_meta(store)
    be_a_new_process()
    await put_raw_meta(store, first)
    await (await Vault.open(store, secret=SECRET)).rotate_dek()
    return one, await raw_meta(store)


async def test_fork(store: MemoryStore, vault: Vault, pin: Path) -> None:
    """Of two metas with one revision, both genuine, the one that was not pinned is refused."""
    one, other = await forks(store, vault)
    be_a_new_process()
    await put_raw_meta(store, one)
    running = await Vault.open(store, secret=SECRET, pin=pin)
    before = content(pin)
    await put_raw_meta(store, other)

    with pytest.raises(ForkedMetaError, match="both revision 2"):
        await Vault.open(store, secret=SECRET, pin=pin)
    with pytest.raises(ForkedMetaError, match="another DEK 2 than this process"):
        await running.refresh()
    with pytest.raises(ForkedMetaError, match="both revision 2"):
        await running.rotate_dek()

    assert other == await raw_meta(store)
    assert before == content(pin)


async def test_another_vault(store: MemoryStore, pin: Path) -> None:
    """A vault that took the pinned one's place is refused, though its secret is the same."""
    await Vault.create(MemoryStore(), secret=SECRET, kdf=CHEAP, pin=pin)
    await Vault.create(store, secret=SECRET, kdf=CHEAP)

    with pytest.raises(ForkedMetaError, match="pins vault"):
        await Vault.open(store, secret=SECRET, pin=pin)


async def test_what_is_not_authenticated_is_not_pinned(store: MemoryStore, vault: Vault, pin: Path) -> None:
    """A higher revision that nobody with the root key wrote raises nothing: it would lock everybody out."""
    running = await Vault.open(store, secret=SECRET, pin=pin)
    await vault.rotate_dek()
    genuine = await raw_meta(store)
    before = content(pin)
    await put_raw_meta(store, {**genuine, "revision": 1_000_000})

    with pytest.raises(TamperedMetaError):
        await Vault.open(store, secret=SECRET, pin=pin)
    with pytest.raises(TamperedMetaError):
        await running.refresh()

    assert before == content(pin)
    await put_raw_meta(store, genuine)
    assert 2 == (await Vault.open(store, secret=SECRET, pin=pin)).status().revision


HARM: dict[str, Callable[[Path], object]] = {
    "empty": lambda pin: pin.write_bytes(b""),
    "cut": lambda pin: pin.write_bytes(pin.read_bytes()[:-5]),
    "longer": lambda pin: pin.write_bytes(pin.read_bytes() + b"\n"),
    "other spelling": lambda pin: pin.write_text(json.dumps(json.loads(pin.read_bytes()), indent=1)),
    "no revision": lambda pin: edit(pin, revision=None),
    "a revision that is true": lambda pin: edit(pin, revision=True),
    "revision 0": lambda pin: edit(pin, revision=0),
    "a short id": lambda pin: edit(pin, vault_id="00"),
    "a short digest": lambda pin: edit(pin, meta="00"),
    "a later version": lambda pin: edit(pin, kvseal_pin=2),
    "a list": lambda pin: pin.write_bytes(b"[]\n"),
    "binary": lambda pin: pin.write_bytes(b"\xff" * 10_000),
    "a directory": lambda pin: (pin.unlink(), pin.mkdir()),
    "a pipe": lambda pin: (pin.unlink(), os.mkfifo(pin)),
    "a link": lambda pin: (pin.rename(pin.with_name("real")), pin.symlink_to(pin.with_name("real"))),
    "writable by others": lambda pin: pin.chmod(0o622),
}


def edit(pin: Path, **fields: Any) -> None:
    """Change fields of a pin, in its own spelling."""
    pin.write_bytes(json.dumps({**json.loads(pin.read_bytes()), **fields}).encode() + b"\n")


@pytest.mark.parametrize("name", HARM)
async def test_damage_is_not_ignored(store: MemoryStore, vault: Vault, pin: Path, name: str) -> None:
    """A pin that cannot be read is an error, is not replaced, and leaves who holds the keys with them."""
    running = await Vault.open(store, secret=SECRET, pin=pin)
    HARM[name](pin)
    await vault.rotate_dek()

    for attempt in (Vault.open(store, secret=SECRET, pin=pin), running.refresh(), running.rotate_dek()):
        with pytest.raises(PinFileError):
            await attempt
    with pytest.raises(PinFileError):
        await Vault.create(MemoryStore(), secret=SECRET, kdf=CHEAP, pin=pin)

    with pytest.raises(PinFileError):
        Pin(pin).load()
    assert (1, 2) == (running.keyring.active_dek, (await raw_meta(store))["revision"])


async def test_no_directory(store: MemoryStore, vault: Vault, tmp_path: Path) -> None:
    """A directory that is missing may be a volume that is not mounted: nothing is trusted on first use."""
    with pytest.raises(PinFileError, match="no directory"):
        await Vault.open(store, secret=SECRET, pin=tmp_path / "missing" / "vault.pin")

    assert vault.meta.revision == 1
    assert not (tmp_path / "missing").exists()


def block(pin: Path) -> Path:
    """Keep a pin from being written, whoever the user is."""
    lock = pin.with_name(f".{pin.name}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    return lock


async def test_what_cannot_be_pinned_is_not_opened(store: MemoryStore, vault: Vault, pin: Path) -> None:
    """An opening that could not pin fails; one that has nothing to pin succeeds."""
    lock = block(pin)
    with pytest.raises(PinNotWrittenError):
        await Vault.open(store, secret=SECRET, pin=pin)
    lock.rmdir()
    await Vault.open(store, secret=SECRET, pin=pin)
    block(pin)

    assert vault.meta == (await Vault.open(store, secret=SECRET, pin=pin)).meta


async def test_what_cannot_be_pinned_is_not_created(store: MemoryStore, pin: Path) -> None:
    """Where the pin could not be written, no vault is created, and no secret generated."""
    block(pin)

    with pytest.raises(PinNotWrittenError):
        await Vault.create(store, secret=SECRET, kdf=CHEAP, pin=pin)

    assert await store.get(META_KEY, collection=META_COLLECTION) is None


async def test_a_running_process_goes_on(
    store: MemoryStore, vault: Vault, pin: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk does not stop who runs: it is logged, and the next look at the meta pins."""
    running = await Vault.open(store, secret=SECRET, pin=pin)
    lock = block(pin)
    await vault.rotate_dek()

    with caplog.at_level(logging.WARNING):
        assert await running.refresh()
        await running.rotate_dek()

    assert (1, 3) == (pinned_in(pin).revision, running.keyring.active_dek)
    assert "after a restart, an older vault meta would be believed" in caplog.text
    lock.rmdir()
    assert not await running.refresh()
    assert 3 == pinned_in(pin).revision


async def test_a_disk_that_takes_no_more_is_an_error(store: MemoryStore, pin: Path) -> None:
    """Where an empty file can be made but not be written, no vault is created without its pin."""
    with file_size_limit(0), pytest.raises(PinNotWrittenError, match="File too large") as caught:
        await Vault.create(store, secret=SECRET, kdf=CHEAP, pin=pin)

    assert "ulimit -f" in caught.value.hint
    assert Pin(pin).load() is None
    assert await store.get(META_KEY, collection=META_COLLECTION) is None


async def test_a_pinned_vault_is_not_created_anew(store: MemoryStore, pin: Path) -> None:
    """Where a vault was, an emptied store does not get another one, which nobody would notice."""
    kv = EnvelopeEncryptionWrapper(store, secret=SECRET, kdf=CHEAP, pin=pin)
    await kv.put("k", {"v": 1})
    emptied = MemoryStore()

    with pytest.raises(VaultMetaLostError, match="pins vault"):
        await EnvelopeEncryptionWrapper(emptied, secret=SECRET, kdf=CHEAP, pin=pin).put("k", {"v": 1})

    assert await emptied.get(META_KEY, collection=META_COLLECTION) is None
    delete(pin)
    await EnvelopeEncryptionWrapper(emptied, secret=SECRET, kdf=CHEAP, pin=pin).put("k", {"v": 1})


async def test_two_that_create_at_once(store: MemoryStore, pin: Path) -> None:
    """Who comes second finds the pin of the first before its meta, and opens it."""
    first: list[Vault] = []

    async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        found = await operation()
        if name == "get" and not first:
            first.append(await Vault.create(store, secret=SECRET, kdf=CHEAP, pin=pin))
        return found

    second = await Vault.open_or_create(
        HookedDriver(driver_for(store), around), secret=SECRET, kdf=CHEAP, pin=pin
    )

    assert [second.meta] == [one.meta for one in first]


async def test_what_is_pinned_meanwhile_is_no_rollback(store: MemoryStore, vault: Vault, pin: Path) -> None:
    """Another process may change the vault, and pin that, between this one's look and its belief."""
    running = await Vault.open(store, secret=SECRET, pin=pin)
    others = [running]

    async def around(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        found = await operation()
        if name == "get" and others:
            await others.pop().rotate_dek()
        return found

    opened = await Vault.open(HookedDriver(driver_for(store), around), secret=SECRET, pin=pin)

    assert (1, 2) == (opened.status().revision, pinned_in(pin).revision)
    assert vault.meta == opened.meta


OPEN = """
import asyncio, sys
from key_value.aio.stores.disk import DiskStore
from kvseal import Vault
from kvseal.errors import KvsealError

async def main(directory, *pins):
    vault = await Vault.open(DiskStore(directory=directory), secret="env:VAULT_SECRET", pin=(*pins, None)[0])
    print(vault.status().revision)

try:
    asyncio.run(main(*sys.argv[1:]))
except KvsealError as exc:
    print(type(exc).__name__)
"""


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run *script* in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "VAULT_SECRET": SECRET.reveal().decode()},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.processes
async def test_rolled_back_between_processes(tmp_path: Path, pin: Path) -> None:
    """A restarted process refuses the store that somebody put back, and believes it without the pin."""
    directory = tmp_path / "store"
    store = DiskStore(directory=directory)
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    store._cache.close()
    shutil.copytree(directory, tmp_path / "old")
    store = DiskStore(directory=directory)
    vault = await Vault.open(store, secret=SECRET)
    await vault.rotate_dek()
    store._cache.close()
    assert "2\n" == run(OPEN, directory, pin).stdout
    shutil.rmtree(directory)
    shutil.copytree(tmp_path / "old", directory)

    assert "RolledBackMetaError\n" == run(OPEN, directory, pin).stdout
    assert "1\n" == run(OPEN, directory).stdout


RAISE = """
import sys
from dataclasses import dataclass
from kvseal.vault.seen.pin import Pin

@dataclass
class Meta:
    vault_id: bytes
    revision: int
    mac: bytes = b""

pin = Pin(sys.argv[1])
sys.stdin.readline()
for revision in map(int, sys.argv[2:]):
    pin.accept(Meta(bytes(16), revision, b"%d" % revision))
    # Whoever comes later may have raised it, and nobody may have lowered it.
    assert pin.load().revision >= revision
"""


@pytest.mark.processes
def test_processes_that_pin_at_once(pin: Path) -> None:
    """However many processes write, with whatever they have seen, the pin never falls."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", RAISE, str(pin), *(str(n) for n in range(first, 400, 4))],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (1, 2, 3, 4)
    ]
    for writer in writers:
        assert writer.stdin is not None
        print(file=writer.stdin, flush=True)
    ends = [writer.communicate() for writer in writers]

    assert [("", 0)] * 4 == [(err, writer.returncode) for (_, err), writer in zip(ends, writers, strict=True)]
    assert 399 == pinned_in(pin).revision


DIE = """
import os, sys

step, calls, wanted = sys.argv.pop(1), 0, int(sys.argv.pop(1))
module = os
real = getattr(module, step)

def dying(*arguments, **options):
    global calls
    calls += 1
    if calls == wanted:
        os._exit(9)
    return real(*arguments, **options)

setattr(module, step, dying)
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("step", "call", "revision"),
    [("unlink", 1, 1), ("open", 4, 1), ("fsync", 1, 1), ("replace", 1, 1), ("fsync", 2, 2)],
    ids=["before all", "before the new file", "before it is durable", "before it counts", "after it counts"],
)
async def test_killed_in_the_middle(pin: Path, step: str, call: int, revision: int) -> None:
    """Whoever is killed leaves the older pin or the newer one, and keeps nobody from the next."""
    assert 0 == run("import io; import sys; sys.stdin = io.StringIO()\n" + RAISE, pin, "1").returncode

    died = run(DIE + "import io; sys.stdin = io.StringIO()\n" + RAISE, step, str(call), pin, "2")

    assert (DIED, revision) == (died.returncode, pinned_in(pin).revision)
    assert 0 == run("import io; import sys; sys.stdin = io.StringIO()\n" + RAISE, pin, "3").returncode
    assert 3 == pinned_in(pin).revision
    assert [".vault.pin.lock", "vault.pin"] == sorted(path.name for path in pin.parent.iterdir())


async def test_a_meta_that_is_no_vaults_is_its_own_error(store: MemoryStore, vault: Vault, pin: Path) -> None:
    """What is wrong with the meta itself is told as without a pin."""
    await Vault.open(store, secret=SECRET, pin=pin)
    await put_raw_meta(store, {"kvseal": 1})

    with pytest.raises(VaultMetaError) as caught:
        await Vault.open(store, secret=SECRET, pin=pin)

    assert VaultMetaError is type(caught.value)
    assert Pinned.of(vault.meta) == pinned_in(pin)


@pytest.mark.parametrize(
    "content", ["[" * 4000, '{"a":' * 800, '{"revision": 1e999}'], ids=["lists", "maps", "inf"]
)
def test_a_pin_that_no_parser_likes(content: str, tmp_path: Path) -> None:
    """A pin file of brackets inside brackets is damaged, as any other text that is no pin."""
    path = tmp_path / "pin"
    path.write_text(content)

    with pytest.raises(PinFileError, match="damaged"):
        Pin(path).load()
