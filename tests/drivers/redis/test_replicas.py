"""A change of the vault meta waits for the replicas of its server, and says when none has it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.redis import RedisStore
from tests.servers import RedisServer

from kvseal import Argon2idParams, Secret, Vault
from kvseal.drivers import driver_from_url
from kvseal.drivers.abilities import replace_confirmed
from kvseal.drivers.base import Replacement
from kvseal.drivers.redis import replicas
from kvseal.errors import StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

pytest_plugins = ["tests.drivers.redis.server"]
pytestmark = [pytest.mark.servers, pytest.mark.processes]

SECRET = Secret(b"the secret of the vault")
META = "__vault_meta__::__dek__"
_SYNCED_WITHIN = 30_000


class Pair:
    """A primary and its replica, which has everything that the primary has by now."""

    def __init__(self, primary: RedisServer, replica: RedisServer) -> None:
        self.primary, self.replica = primary, replica
        with primary.client() as client:
            client.set("first", "1")
            assert 1 == client.wait(1, _SYNCED_WITHIN)

    def freeze(self) -> None:
        """Let the replica keep its connection, and take nothing any more."""
        assert self.replica._process is not None
        os.kill(self.replica._process.pid, signal.SIGSTOP)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Yield a primary with one replica."""
    for name in ("primary", "replica"):
        (tmp_path / name).mkdir()
    with RedisServer(tmp_path / "primary", "--repl-diskless-sync-delay", "0") as primary:
        options = ("--replicaof", f"127.0.0.1 {primary.port}")
        with RedisServer(tmp_path / "replica", *options) as replica:
            yield Pair(primary, replica)


async def test_the_replica_has_it(
    pair: Pair, cheap: Argon2idParams, caplog: pytest.LogCaptureFixture
) -> None:
    """When a change has succeeded, the replica has the new vault meta, and nothing is said."""
    async with RedisStore(url=pair.primary.url) as store:
        vault = await Vault.create(store, secret=SECRET, kdf=cheap)
        await vault.rotate_dek()
        await vault.close()

    with pair.replica.client() as client:
        body = client.get(META)
    assert b'"revision":2' in body.replace(b" ", b"")
    assert "replica" not in caplog.text


async def test_no_replica_has_confirmed(
    pair: Pair, cheap: Argon2idParams, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that does not answer makes no error, for the change is made; it is said that it may be lost."""
    monkeypatch.setattr(replicas, "PATIENCE", 0.1)
    async with RedisStore(url=pair.primary.url) as store:
        vault = await Vault.create(store, secret=SECRET, kdf=cheap)
        pair.freeze()

        assert 2 == (await vault.rotate_dek()).active_dek

        await vault.close()
    expected = f"the change of the vault meta in redis://127.0.0.1:{pair.primary.port}/0: the replica has not"
    assert expected in caplog.text
    assert "so a failover may lose it" in caplog.text


async def test_without_replicas(redis_url: str, raw: redis.Redis) -> None:
    """A server without replicas is not waited for, and a swap that is lost is lost as ever."""
    driver: Any = await driver_from_url(redis_url)
    async with RedisStore(url=redis_url) as store:
        await store.put("k", {"n": 1}, collection="c")
        entry = await driver.get("c", "k")
        await store.put("k", {"n": 2}, collection="c")

    written = await replace_confirmed(driver, Replacement(entry, {"n": 3}))

    assert (False, "") == (written.done, written.doubt)
    fresh = await driver.get("c", "k")
    written = await replace_confirmed(driver, Replacement(fresh, {"n": 3}))
    assert (True, "") == (written.done, written.doubt)
    assert {"n": 3} == (await driver.get("c", "k")).value
    await driver.close()


class Answers:
    """A server that answers from a table; an error there is raised."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[tuple[str, ...]] = []
        self._answers = answers

    def __call__(self, *parts: str) -> Any:
        self.asked.append(parts)
        name = parts[1] if parts[0] == "INFO" else parts[0]
        answer = self._answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer


NO_REPLICA = {"connected_slaves": 0}


@pytest.mark.parametrize(
    ("answers", "doubt"),
    [
        ({"replication": {"connected_slaves": 3}, "WAIT": 1, "persistence": {"aof_enabled": 0}}, ""),
        ({"replication": {"connected_slaves": 3}, "WAIT": 0}, "none of 3 replicas has confirmed it"),
        ({"replication": NO_REPLICA, "persistence": {"aof_enabled": 1}, "WAITAOF": [1, 0]}, ""),
        ({"replication": NO_REPLICA, "persistence": {"aof_enabled": 1}, "WAITAOF": [0, 0]}, "append-only"),
        (
            {
                "replication": NO_REPLICA,
                "persistence": {"aof_enabled": 1},
                "WAITAOF": StoreUnreachableError("redis: unknown command 'WAITAOF'"),
            },
            "",
        ),
        ({"replication": StoreUnreachableError("redis: gone")}, "the server did not say: redis: gone"),
    ],
    ids=["some", "none", "on disk", "not on disk", "older server", "no answer"],
)
def test_what_is_said(answers: dict[str, Any], doubt: str) -> None:
    """What speaks against the lasting of a change, by what the server answers."""
    said = replicas.unconfirmed(Answers(**answers), timeout=60)

    assert doubt in said
    assert bool(doubt) is bool(said)


def test_a_bound_below_the_timeout() -> None:
    """A connection that gives up early is asked for less, so that the answer comes before that."""
    server = Answers(replication={"connected_slaves": 1}, WAIT=1, persistence={"aof_enabled": 0})

    replicas.unconfirmed(server, timeout=1)

    assert ("WAIT", "1", "500") in server.asked
