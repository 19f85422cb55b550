"""Races: of many who start at once one creates and all open; of changes that meet, each happens whole or not."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.backends import UNSTABLE, Place, place
from tests.fakes import HookedDriver, dump
from tests.processes import CHEAP, MANY, NEW, OLD, SHARED, crowd, store_of_round
from tests.servers import RedisServer
from tests.turns import Turns
from tests.wrapping import wrapped

from kvseal import EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.errors import Conflict, WrongSecretError
from kvseal.keys.meta import META_COLLECTION as META
from kvseal.observe import counters
from kvseal.secrets.defaults import default_key_file

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

AnyStore = MemoryStore | DiskStore

ROUNDS = 4
LONG = 200


def in_threads(work: Callable[[int], Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run *work* in many threads at once, each with an event loop of its own, and return what they return."""
    start = threading.Barrier(MANY)
    results: list[Any] = [None] * MANY

    def run(number: int) -> None:
        start.wait()
        try:
            results[number] = asyncio.run(work(number))
        except BaseException as exc:  # noqa: BLE001 - it is asserted on
            results[number] = exc

    threads = [threading.Thread(target=run, args=(number,)) for number in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("attempt", range(5))
def test_threads_that_start_at_once_share_one_vault(attempt: int, any_store: AnyStore) -> None:
    """One of eight threads creates, all open what it created, and all read what each wrote."""
    asyncio.run(any_store.setup())

    async def join(number: int) -> Vault:
        return await Vault.open_or_create(any_store, secret=OLD, kdf=CHEAP)

    vaults = in_threads(join)

    async def exchange() -> list[Any]:
        for number, vault in enumerate(vaults):
            await wrapped(vault).put(str(number), {"n": number})
        names = [str(number) for number in range(MANY)]
        return [await wrapped(vault).get_many(names) for vault in vaults]

    assert [Vault] * MANY == [type(vault) for vault in vaults]
    assert 1 == len({vault.keyring.vault_id for vault in vaults})
    assert [[{"n": n} for n in range(MANY)]] * MANY == asyncio.run(exchange())
    for vault in vaults:
        asyncio.run(vault.close())


def test_threads_that_generate_share_one_secret(tmp_path: Path) -> None:
    """With no secret anywhere, eight threads generate one, and a new process finds it."""
    store = DiskStore(directory=tmp_path)
    asyncio.run(store.setup())

    async def join(number: int) -> bytes:
        vault = await Vault.open_or_create(store, kdf=CHEAP)
        try:
            return vault.keyring.vault_id
        finally:
            await vault.close()

    identities = in_threads(join)

    secret = Secret(default_key_file().read_bytes().strip())
    vault = asyncio.run(Vault.open(store, secret=secret))
    assert {vault.keyring.vault_id} == set(identities)
    asyncio.run(vault.close())
    store._cache.close()


@pytest.mark.exhaustive
@given(st.lists(st.sampled_from("abc"), min_size=20, max_size=20))
@settings(max_examples=60, deadline=None)
def test_creation_in_any_order(schedule: list[str]) -> None:
    """Whatever the order of their store operations, three who open or create end with one vault."""

    async def race() -> None:
        store = MemoryStore()
        turns = Turns(schedule)
        turns.start("abc")

        async def join(player: str) -> Vault:
            # A driver is what stays the same through open, create and open again.
            driver = HookedDriver(driver_for(store), turns.player(player))
            vault = await Vault.open_or_create(driver, secret=OLD, kdf=CHEAP)
            await EnvelopeEncryptionWrapper(store, vault=vault).put(player, {"from": player})
            return vault

        vaults = await asyncio.gather(*(turns.run(player, join(player)) for player in "abc"))

        assert 1 == len({vault.keyring.vault_id for vault in vaults})
        for vault in vaults:
            assert [{"from": player} for player in "abc"] == await EnvelopeEncryptionWrapper(
                store, vault=vault
            ).get_many(list("abc"))

    asyncio.run(race())


@pytest.fixture(params=SHARED)
def somewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Yield a place that many processes reach."""
    if request.param != "redis":
        yield from place(request.param, request, tmp_path)
        return
    with RedisServer(tmp_path, "--databases", str(LONG)) as server:
        yield Place("redis", server.url)


@pytest.mark.servers
@pytest.mark.filterwarnings(UNSTABLE)
@pytest.mark.parametrize(
    "rounds", [ROUNDS, pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)
def test_processes_that_start_at_once_share_one_vault(rounds: int, somewhere: Place) -> None:
    """
    Eight processes create one vault, again and again: one comes into being, and each reads all records.

    Half of them ask for the vault, the others put through a wrapper, which creates it by the way; in half of
    the rounds the store itself is new to all of them.
    """
    with crowd(somewhere.kind, somewhere.where) as many:
        for number in range(rounds):
            if somewhere.kind == "postgresql":
                # Of stores that create their table at the same moment, PostgreSQL lets some fail.
                asyncio.run(entries_of_round(somewhere, number))
            told = many.round(number, warm=number % 4 < 2)

            (identity,) = {identity for identity, _, _ in told}
            assert [[{"from": n} for n in range(MANY)]] * MANY == [values for _, _, values in told]
            assert {"vault": MANY // 2, "wrapper": MANY // 2} == Counter(way for _, way, _ in told)
            stored = asyncio.run(entries_of_round(somewhere, number))
            assert [identity.hex()] == [value["vault_id"] for value in stored.pop(META).values()]
            assert {"c": {str(n) for n in range(MANY)}} == {name: set(keys) for name, keys in stored.items()}
    print(f"{somewhere.kind}: {rounds} rounds")  # noqa: T201 - what a long run is for


async def entries_of_round(where: Place, number: int) -> dict[str, dict[str, Any]]:
    """Return every value that a round has left, by collection and key."""
    found: dict[str, dict[str, Any]] = {}
    async with store_of_round(where.kind, where.where, number) as store:
        driver = driver_for(store)
        async for page in driver.scan():
            for entry in page.entries:
                assert entry.key not in found.setdefault(entry.collection or "", {})
                found[entry.collection or ""][entry.key or ""] = entry.value
        await driver.close()
    return found


def test_fifty_wrappers_in_many_threads_derive_once(any_store: AnyStore) -> None:
    """Fifty wrappers that unlock at once, in as many tasks of eight event loops, share one derivation."""
    asyncio.run(any_store.setup())
    asyncio.run((asyncio.run(Vault.create(any_store, secret=OLD, kdf=CHEAP))).close())
    before = counters.derivations.number
    wrappers = [EnvelopeEncryptionWrapper(any_store, secret=Secret(OLD.reveal())) for _ in range(50)]

    async def read(number: int) -> list[Any]:
        return await asyncio.gather(*(wrapper.get("k") for wrapper in wrappers[number::MANY]))

    values = in_threads(read)

    assert [None] * 50 == [value for some in values for value in some]
    assert 1 == counters.derivations.number - before
    for wrapper in wrappers:
        asyncio.run(wrapper.release())


async def test_two_rotations_at_once(any_store: AnyStore) -> None:
    """Both read the same meta; one wins, the other gets `Conflict`, and only the winner's secret opens."""
    await wrapped(await Vault.create(any_store, secret=OLD, kdf=CHEAP)).put("k", {"v": 1})
    both, arrived = asyncio.Event(), count(1)

    async def meeting(name: str, operation: Any) -> Any:
        if name == "replace_many" and not both.is_set():
            if next(arrived) == 2:
                both.set()
            await both.wait()
        return await operation()

    secrets = [Secret(b"one new secret"), Secret(b"another new secret")]
    drivers = [driver_for(any_store) for _ in secrets]
    vaults = [await Vault.open(HookedDriver(driver, meeting), secret=OLD) for driver in drivers]

    results = await asyncio.gather(
        *(vault.rotate(new_secret=new) for vault, new in zip(vaults, secrets, strict=True)),
        return_exceptions=True,
    )

    (lost,) = [index for index, result in enumerate(results) if isinstance(result, BaseException)]
    assert Conflict is type(results[lost])
    winner = await Vault.open(any_store, secret=secrets[1 - lost])
    assert 1 == len(winner.status().slots)
    assert {"v": 1} == await wrapped(winner).get("k")
    for shut_out in (OLD, secrets[lost]):
        with pytest.raises(WrongSecretError):
            await Vault.open(any_store, secret=shut_out)
    for vault in (*vaults, winner):
        await vault.close()
    for driver in drivers:
        await driver.close()


def test_many_threads_rotate_the_dek(any_store: AnyStore) -> None:
    """Of many who add a DEK at once each succeeds or gets `Conflict`, and no number is given twice."""
    asyncio.run(any_store.setup())
    asyncio.run(Vault.create(any_store, secret=OLD, kdf=CHEAP))

    async def add(_: int) -> int:
        vault = await Vault.open(any_store, secret=OLD)
        try:
            return (await vault.rotate_dek()).active_dek
        finally:
            await vault.close()

    results = in_threads(add)

    assert [] == [r for r in results if not isinstance(r, int | Conflict)]
    numbers = [result for result in results if isinstance(result, int)]
    conflicts = [result for result in results if isinstance(result, Conflict)]
    status = asyncio.run(Vault.open(any_store, secret=OLD)).status()
    assert MANY == len(numbers) + len(conflicts)
    # What one returns is the vault after its change, which may show a change after it, too.
    assert list(range(1, len(numbers) + 2)) == [dek.id for dek in status.deks]
    assert set(numbers) <= {dek.id for dek in status.deks[1:]}
    assert len(numbers) + 1 == status.active_dek == status.revision


async def test_rotation_beside_readers_and_writers(any_store: AnyStore) -> None:
    """While secret and DEK are rotated many times, no read or write of any process fails or is lost."""
    operator = await Vault.create(any_store, secret=OLD, kdf=CHEAP)
    wrappers = [EnvelopeEncryptionWrapper(key_value=any_store, secret=OLD) for _ in range(4)]
    for wrapper in wrappers:
        await wrapper.unlock()
    finished = False
    written: dict[str, int] = {}

    async def write(number: int) -> None:
        while not finished:
            name = f"{number}"
            written[name] = written.get(name, 0) + 1
            await wrappers[number].put(name, {"n": written[name]})
            assert {"n": written[name]} == await wrappers[number].get(name)
            await asyncio.sleep(0)

    async def read(number: int) -> None:
        while not finished:
            await wrappers[number].get_many([str(n) for n in range(4)])
            await wrappers[number].ttl(str(number))
            await asyncio.sleep(0)

    async def rotate() -> None:
        nonlocal finished
        try:
            for new in (NEW, OLD, NEW, OLD, NEW):
                await operator.rotate(new_secret=new)
                await operator.rotate_dek()
        finally:
            finished = True

    await asyncio.gather(rotate(), *(write(n) for n in range(4)), *(read(n) for n in range(4)))

    last = wrapped(await Vault.open(any_store, secret=NEW))
    assert [{"n": written[str(n)]} for n in range(4)] == await last.get_many([str(n) for n in range(4)])
    assert 6 == (await last.vault()).keyring.active_dek
    assert len(dump(any_store) if isinstance(any_store, MemoryStore) else dump(any_store)[0]) == 5
    for wrapper in wrappers:
        await wrapper.release()
    await operator.close()


async def test_a_creator_that_is_cancelled_leaves_the_field_to_the_others(any_store: AnyStore) -> None:
    """Of wrappers that share an opening, the one that does the work may be cancelled; the rest go on."""
    kv = EnvelopeEncryptionWrapper(key_value=any_store, secret=OLD, kdf=CHEAP)
    tasks = [asyncio.create_task(kv.put(str(n), {"n": n})) for n in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert asyncio.CancelledError is type(results[0])
    assert [None] * 4 == results[1:]
    assert [{"n": n} for n in range(1, 5)] == await kv.get_many([str(n) for n in range(1, 5)])
    await kv.release()
