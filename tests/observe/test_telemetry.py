"""What is counted, and what OpenTelemetry's SDK collects of it."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from tests.fakes import dump
from tests.keys.made import CHEAP, OTHER_SECRET, SECRET
from tests.watched import Watched
from tests.wrapping import wrapped

from kvseal import EnvelopeEncryptionWrapper, Vault
from kvseal.errors import (
    LegacyRecordError,
    MalformedRecordError,
    PlaintextRecordError,
    RecordError,
    StaleKeyringError,
    TamperedRecordError,
    UnknownDEKError,
    UnknownRecordVersionError,
    UnreadableRecordsError,
    WrongSecretError,
)
from kvseal.observe import counters, telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from key_value.aio.stores.memory import MemoryStore

Attributes = frozenset[tuple[str, Any]]
Collected = dict[str, dict[Attributes, int]]


class Collector:
    """An application's own SDK, and what it has collected since the test began."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)
        assert telemetry.instrument(self.provider)
        self._before = self.numbers()

    def numbers(self) -> Collected:
        """Return every number by instrument and attributes."""
        data = self._reader.get_metrics_data()
        return {
            metric.name: {
                frozenset((point.attributes or {}).items()): point.value for point in metric.data.data_points
            }
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def grown(self, name: str, **attributes: Any) -> int:
        """Return by how much one series has grown."""
        wanted = frozenset((key.replace("__", "."), value) for key, value in attributes.items())
        return self.numbers()[name].get(wanted, 0) - self._before.get(name, {}).get(wanted, 0)

    def operations(self, vault: Vault, operation: str, dek: int) -> int:
        """Return how many records were sealed or opened under one DEK."""
        named = {
            "kvseal.operation": operation,
            "kvseal.dek": dek,
            "kvseal.vault.id": vault.meta.vault_id.hex(),
        }
        return self.numbers().get("kvseal.operations", {}).get(frozenset(named.items()), 0)

    def failures(self, operation: str, error: type[Exception]) -> int:
        """Return how many operations have failed for this cause."""
        return self.grown("kvseal.failures", kvseal__operation=operation, error__type=error.__name__)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Yield an SDK that the counters are offered to, as in a process that has not offered them yet."""
    monkeypatch.setattr(telemetry, "_is_offered", False)
    # An SDK keeps some thousand series for each instrument, and other tests make a vault each.
    counters.operations.clear()
    collector = Collector()
    yield collector
    collector.provider.shutdown()


async def test_operations_per_dek(store: MemoryStore, collector: Collector) -> None:
    """Each record that is sealed or opened counts for its DEK, with and without an expiry, one or many."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    kv = wrapped(vault)
    await kv.put("a", {"v": 1})
    await kv.put("b", {"v": 1}, ttl=60)
    await vault.rotate_dek()
    await kv.put_many(["c", "d", "e"], [{"v": 1}] * 3)
    await kv.get("a")
    await kv.get_many(["b", "c", "missing"])

    assert (2, 3) == (collector.operations(vault, "seal", 1), collector.operations(vault, "seal", 2))
    assert (2, 1) == (collector.operations(vault, "open", 1), collector.operations(vault, "open", 2))


async def test_counts_outlive_the_keyring(store: MemoryStore, collector: Collector) -> None:
    """Opening the vault again goes on counting, and so do wrappers of another context."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await wrapped(vault).put("a", {"v": 1})
    await vault.close()
    again = await Vault.open(store, secret=SECRET)
    await wrapped(again).put("a", {"v": 1})
    await wrapped(again, context="tenant").put("b", {"v": 1})

    assert 3 == collector.operations(again, "seal", 1)


def broken(stored: dict[str, Any], error: type[RecordError]) -> dict[str, Any]:
    """Return what is stored, changed so that it fails by *error*."""
    text = stored["__encrypted_data__"]
    changed = {
        MalformedRecordError: "A",
        UnknownRecordVersionError: "/" + text[1:],
        UnknownDEKError: text[:8] + "BBB" + text[11:],
        TamperedRecordError: text[:-8] + ("AAAA" if text[-8:-4] != "AAAA" else "BBBB") + text[-4:],
    }
    if error is PlaintextRecordError:
        return {"v": 1}
    if error is LegacyRecordError:
        return {"__encrypted_data__": "gAAAAABnAAAA", "__encryption_version__": 1}
    return {**stored, "__encrypted_data__": changed[error]}


CAUSES = (
    MalformedRecordError,
    UnknownRecordVersionError,
    UnknownDEKError,
    TamperedRecordError,
    LegacyRecordError,
    PlaintextRecordError,
)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
@pytest.mark.parametrize("raises", [True, False], ids=["strict", "lenient"])
async def test_failures_by_cause(
    store: MemoryStore, collector: Collector, cause: type[RecordError], *, raises: bool
) -> None:
    """A record that does not open counts for its cause, once for each read, raised or not."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    kv = wrapped(vault, raise_on_decryption_error=raises)
    await kv.put("a", {"v": 1})
    await store.put("a", broken(dict(await store.get("a") or {}), cause))
    opened = collector.operations(vault, "open", 1)

    if raises:
        with pytest.raises(cause):
            await kv.get("a")
        with pytest.raises(UnreadableRecordsError):
            await kv.get_many(["a"])
    else:
        assert [None, None] == [await kv.get("a"), *await kv.get_many(["a"])]

    assert 2 == collector.failures("open", cause)
    assert opened == collector.operations(vault, "open", 1)


async def test_missing_is_no_failure(store: MemoryStore, collector: Collector) -> None:
    """A record that is not there is neither an operation nor a failure."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    before = collector.numbers().get("kvseal.failures")
    await wrapped(vault).get("nothing")

    assert 0 == collector.operations(vault, "open", 1)
    assert before == collector.numbers().get("kvseal.failures")


async def test_a_dek_that_is_new_here_is_no_failure(store: MemoryStore, collector: Collector) -> None:
    """A record of a DEK that another process has made opens after a look at the vault meta."""
    reader = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    writer = await Vault.open(store, secret=SECRET)
    await writer.rotate_dek()
    await wrapped(writer).put("a", {"v": 1})

    assert {"v": 1} == await wrapped(reader).get("a")
    assert 0 == collector.failures("open", UnknownDEKError)
    assert 1 == collector.operations(reader, "open", 2)


async def test_derivations_and_cache_hits(store: MemoryStore, collector: Collector) -> None:
    """The first opening derives, the second one finds the root key."""
    await (await Vault.create(store, secret=SECRET, kdf=CHEAP)).close()
    await asyncio.sleep(0)  # The future that woke this task holds the root key, too.
    gc.collect()
    derived, hit = (
        collector.grown("kvseal.derivations"),
        collector.grown("kvseal.cache.hits", kvseal__cache="root_key"),
    )
    first = await Vault.open(store, secret=SECRET)
    second = await Vault.open(store, secret=SECRET)

    assert 1 == collector.grown("kvseal.derivations") - derived
    assert 1 == collector.grown("kvseal.cache.hits", kvseal__cache="root_key") - hit
    assert first.status() == second.status()


async def test_failed_unlock(store: MemoryStore, collector: Collector) -> None:
    """A secret that opens nothing counts."""
    await Vault.create(store, secret=SECRET, kdf=CHEAP)
    with pytest.raises(WrongSecretError):
        await Vault.open(store, secret=OTHER_SECRET)

    assert 1 == collector.failures("unlock", WrongSecretError)


async def test_stale(collector: Collector) -> None:
    """A write that is refused because the vault meta is out of reach counts."""
    watched = Watched()
    vault = await watched.opened()
    watched.is_cut = True
    watched.let_pass()
    with pytest.raises(StaleKeyringError):
        await EnvelopeEncryptionWrapper(watched.data, vault=vault).put("a", {"v": 1})

    assert 1 == collector.failures("seal", StaleKeyringError)


async def test_no_names(store: MemoryStore, collector: Collector) -> None:
    """No attribute holds the name or the collection of a record, whatever becomes of it."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await wrapped(vault).put("user-of-a-kind", {"v": 1}, collection="sessions-of-a-kind")
    await store.put("user-of-a-kind", {"v": 1}, collection="sessions-of-a-kind")
    with pytest.raises(PlaintextRecordError):
        await wrapped(vault).get("user-of-a-kind", collection="sessions-of-a-kind")

    assert "of-a-kind" not in str(collector.numbers())
    assert 2 == len(dump(store))


async def test_instruments_have_units(store: MemoryStore, collector: Collector) -> None:
    """The instruments are these, monotonic sums with a unit and a description."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    await wrapped(vault).put("a", {"v": 1})
    data = collector._reader.get_metrics_data()
    assert data is not None
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]

    units = {metric.name: metric.unit for metric in metrics if metric.name != "kvseal.failures"}
    assert {
        "kvseal.operations": "{operation}",
        "kvseal.derivations": "{derivation}",
        "kvseal.key_service.requests": "{request}",
        "kvseal.cache.hits": "{hit}",
    } == units
    assert all(metric.description and metric.data.is_monotonic for metric in metrics)


def test_offered_once(collector: Collector) -> None:
    """A second provider is told nothing, or everything would be counted twice."""
    assert not telemetry.instrument(MeterProvider(shutdown_on_exit=False))


def run(script: str) -> str:
    """Run *script* in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )

    assert "" == done.stderr
    return done.stdout


USE = """
import asyncio, sys
from key_value.aio.stores.memory import MemoryStore
from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret

async def main():
    kv = EnvelopeEncryptionWrapper(MemoryStore(), secret=Secret(b"hunter2"), kdf=Argon2idParams(1, 8, 1))
    await kv.put("k", {"a": 1})
    return await kv.get("k")

assert "opentelemetry" not in sys.modules or sys.modules["opentelemetry"] is None
value = asyncio.run(main())
"""


@pytest.mark.processes
def test_without_opentelemetry() -> None:
    """Where OpenTelemetry is not installed, everything works and nothing is loaded."""
    blocked = "import sys, importlib.abc\n"
    blocked += "class Blocked(importlib.abc.MetaPathFinder):\n"
    blocked += "    def find_spec(self, name, path=None, target=None):\n"
    blocked += "        if name.partition('.')[0] == 'opentelemetry': raise ModuleNotFoundError(name=name)\n"
    blocked += "sys.meta_path.insert(0, Blocked())\n"
    found = "print(value, [name for name in sys.modules if name.startswith('opentelemetry')])"

    assert "{'a': 1} []\n" == run(blocked + USE + found)


@pytest.mark.processes
def test_the_global_provider() -> None:
    """Opening a vault offers the counters to the global provider, even one that is set afterwards."""
    script = (
        USE
        + """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
found = [m for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics]
points = [p for m in found if m.name == "kvseal.operations" for p in m.data.data_points]
print(sorted((p.attributes["kvseal.operation"], p.attributes["kvseal.dek"], p.value) for p in points))
"""
    )

    assert "[('open', 1, 1), ('seal', 1, 1)]\n" == run(script)
