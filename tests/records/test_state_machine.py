"""A wrapped store is equal to a dict, whatever is done to it and to its vault meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.strategies import json_objects, same
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
COSTLIER = Argon2idParams(time_cost=2, memory_cost=16, parallelism=1)
LONG = 1_000_000.0

keys = st.sampled_from(["k", "", "größe", "a/b", "a b", "K", "k" * 100, "__dek__"])
collections = st.sampled_from([None, "", "default_collection", "c", "C", "ключ", "__vault_meta"])
some_keys = st.lists(keys, max_size=4)
ttls = st.none() | st.just(LONG)


class WrappedStore(RuleBasedStateMachine):
    """The machine: `model` is the dict, from names at the base store to value and ttl."""

    def make_store(self) -> Any:
        """Return the store, opened anew where it outlives its object."""
        raise NotImplementedError

    def close_store(self, store: Any) -> None:
        """Close the store object."""

    @initialize()
    def create(self) -> None:
        """Start with an empty store and no vault."""
        self.loop = asyncio.new_event_loop()
        self.model: dict[tuple[str, str], tuple[dict[str, Any], float | None]] = {}
        self.secret, self.rotations = Secret(b"secret number 0"), 0
        self.store = self.make_store()
        self.kv = EnvelopeEncryptionWrapper(key_value=self.store, secret=self.secret, kdf=CHEAP)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* in the machine's event loop."""
        return self.loop.run_until_complete(work)

    def expected(self, key: str, collection: str | None) -> tuple[dict[str, Any] | None, float | None]:
        """Return value and ttl according to the model."""
        return self.model.get((collection or "default_collection", key), (None, None))

    @rule(key=keys, collection=collections, value=json_objects, ttl=ttls)
    def put(self, key: str, collection: str | None, value: dict[str, Any], ttl: float | None) -> None:
        """Put one value."""
        self.run(self.kv.put(key, value, collection=collection, ttl=ttl))
        self.model[collection or "default_collection", key] = value, ttl

    @rule(names=some_keys, collection=collections, data=st.data(), ttl=ttls)
    def put_many(
        self, names: list[str], collection: str | None, data: st.DataObject, ttl: float | None
    ) -> None:
        """Put several values, sometimes two under one key."""
        values = [data.draw(json_objects) for _ in names]
        self.run(self.kv.put_many(names, values, collection=collection, ttl=ttl))
        for key, value in zip(names, values, strict=True):
            self.model[collection or "default_collection", key] = value, ttl

    @rule(key=keys, collection=collections)
    def get(self, key: str, collection: str | None) -> None:
        """Get one value."""
        expected, _ = self.expected(key, collection)
        assert same(expected, self.run(self.kv.get(key, collection=collection)))

    @rule(names=some_keys, collection=collections)
    def get_many(self, names: list[str], collection: str | None) -> None:
        """Get several values."""
        expected = [self.expected(key, collection)[0] for key in names]
        assert same(expected, self.run(self.kv.get_many(names, collection=collection)))

    @rule(key=keys, collection=collections)
    def ttl(self, key: str, collection: str | None) -> None:
        """Get one value and what is left of its time."""
        self.check_ttl(key, collection, self.run(self.kv.ttl(key, collection=collection)))

    @rule(names=some_keys, collection=collections)
    def ttl_many(self, names: list[str], collection: str | None) -> None:
        """Get several values and what is left of their time."""
        got = self.run(self.kv.ttl_many(names, collection=collection))
        assert len(names) == len(got)
        for key, pair in zip(names, got, strict=True):
            self.check_ttl(key, collection, pair)

    def check_ttl(
        self, key: str, collection: str | None, got: tuple[dict[str, Any] | None, float | None]
    ) -> None:
        """The value is the model's, and the remaining time is no more than was put."""
        value, ttl = self.expected(key, collection)
        assert same(value, got[0])
        assert (ttl is None) == (got[1] is None)
        assert ttl is None or got[1] is None or 0 < got[1] <= ttl

    @rule(key=keys, collection=collections)
    def delete(self, key: str, collection: str | None) -> None:
        """Delete one entry."""
        existed = self.model.pop((collection or "default_collection", key), None) is not None
        assert existed == self.run(self.kv.delete(key, collection=collection))

    @rule(names=some_keys, collection=collections)
    def delete_many(self, names: list[str], collection: str | None) -> None:
        """Delete several entries."""
        existed = [
            self.model.pop((collection or "default_collection", key), None) is not None for key in names
        ]
        assert sum(existed) == self.run(self.kv.delete_many(names, collection=collection))

    @rule(kdf=st.sampled_from([None, CHEAP, COSTLIER]))
    def rotate_the_secret(self, kdf: Argon2idParams | None) -> None:
        """Rotate to a new secret, through the wrapper's own vault."""
        self.rotations += 1
        new = Secret(f"secret number {self.rotations}".encode())
        self.run(self.run(self.kv.vault()).rotate(new_secret=new, kdf=kdf))
        self.secret = new

    @rule()
    def rotate_the_dek(self) -> None:
        """Add a DEK, through the wrapper's own vault."""
        self.run(self.run(self.kv.vault()).rotate_dek())

    @rule(key=keys, collection=collections, value=json_objects)
    def write_elsewhere(self, key: str, collection: str | None, value: dict[str, Any]) -> None:
        """Another process adds a DEK and writes with it."""
        self.run(self.kv.unlock())
        other = self.run(Vault.open(self.store, secret=self.secret))
        self.run(other.rotate_dek())
        self.run(wrapped(other).put(key, value, collection=collection))
        self.run(other.close())
        self.run(self.run(self.kv.vault()).refresh())
        self.model[collection or "default_collection", key] = value, None

    @rule(key=keys, collection=collections, value=json_objects)
    def read_what_was_written_elsewhere(
        self, key: str, collection: str | None, value: dict[str, Any]
    ) -> None:
        """Another process adds a DEK and writes with it; this one only reads."""
        self.run(self.kv.unlock())
        other = self.run(Vault.open(self.store, secret=self.secret))
        self.run(other.rotate_dek())
        self.run(wrapped(other).put(key, value, collection=collection))
        self.run(other.close())
        self.model[collection or "default_collection", key] = value, None
        self.get(key, collection)

    @rule()
    def reopen(self) -> None:
        """Close everything and start again with what lies there."""
        self.run(self.kv.unlock())
        self.run(self.kv.release())
        self.close_store(self.store)
        self.store = self.make_store()
        self.kv = EnvelopeEncryptionWrapper(key_value=self.store, secret=self.secret, create=False)

    @invariant()
    def one_slot(self) -> None:
        """Rotations leave one way in."""
        if self.rotations:
            assert 1 == len(self.run(self.kv.vault()).status().slots)

    def teardown(self) -> None:
        """Everything in the model is there, nothing else is, and no secret but the last one opens."""
        if not hasattr(self, "loop"):
            return
        for (collection, key), (value, _) in self.model.items():
            assert same(value, self.run(self.kv.get(key, collection=collection)))
        self.run(self.kv.release())
        self.close_store(self.store)
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()


class WrappedMemoryStore(WrappedStore):
    """The machine over a `MemoryStore`, which lives as long as its object."""

    def make_store(self) -> MemoryStore:
        """Return the one store object."""
        return getattr(self, "store", None) or MemoryStore()


class WrappedDiskStore(WrappedStore):
    """The machine over a `DiskStore` in a directory of its own."""

    def make_store(self) -> DiskStore:
        """Return a new store object on the machine's directory."""
        if not hasattr(self, "directory"):
            self.directory = Path(tempfile.mkdtemp())
        return DiskStore(directory=self.directory)

    def close_store(self, store: DiskStore) -> None:
        """Close the store's own connections."""
        store._cache.close()

    def teardown(self) -> None:
        """Remove the directory."""
        super().teardown()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory, ignore_errors=True)


_SETTINGS = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

TestWrappedMemoryStore = pytest.mark.exhaustive(WrappedMemoryStore.TestCase)
TestWrappedMemoryStore.settings = _SETTINGS
TestWrappedDiskStore = pytest.mark.exhaustive(WrappedDiskStore.TestCase)
TestWrappedDiskStore.settings = settings(_SETTINGS, max_examples=15)
