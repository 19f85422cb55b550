"""Entries for tests of drivers: names, values and times that are hard to keep, and how they are read back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import strategies as st

from kvseal import clock
from kvseal.drivers.base import Driver, Entry

CREATED = datetime(2024, 2, 29, 23, 59, 59, 123457, tzinfo=timezone.utc)
PAST = datetime(2024, 3, 1, tzinfo=timezone.utc)
FUTURE = datetime(2099, 12, 31, 1, 2, 3, 456789, tzinfo=timezone.utc)
LARGE = {"large": "x" * 40_000}
SMALL = {"small": "y"}

ODD_NAMES = [
    pytest.param("plain", "b::c", id="separator in key"),
    pytest.param("a::b", "c", id="separator in collection"),
    pytest.param("plain", "https://host/path?q=1#f", id="url"),
    pytest.param("pl/ain", "a/../b", id="slashes"),
    pytest.param("glob*[z]?", "k*[a-z]?", id="glob"),
    pytest.param("größe", "ключ-鍵-🔑", id="unicode"),
    pytest.param("plain", "k" * 300, id="300 characters"),
    pytest.param("c" * 260, "key", id="collection of 260 characters"),
    pytest.param("with space", " key with spaces ", id="spaces"),
    pytest.param("plain", "line\nbreak\ttab", id="newline"),
    pytest.param("plain", ".", id="dot"),
    pytest.param("plain", "%2e%2E%00", id="percent"),
    pytest.param("plain", 'it\'s "quoted" \\ back', id="quotes"),
]

VALUES = [
    pytest.param({}, id="empty"),
    pytest.param({"a": {"b": [1, 2.5, None, True, {"c": []}]}}, id="nested"),
    pytest.param({"ключ": "värde \u2028 🔑 \x00"}, id="unicode"),
    pytest.param({"max": 2**63 - 1, "beyond": 2**70, "tiny": 5e-324}, id="numbers"),
    pytest.param({"__encrypted_data__": "AAEC/+==", "__encryption_version__": 2}, id="record"),
    pytest.param(LARGE, id="over 32 KiB"),
]

META_COLLECTION, META_KEY = "__vault_meta__", "__dek__"

TRESPASSES = [
    pytest.param("other", "../__vault_meta__/__dek__", id="key climbs"),
    pytest.param("other", "./../__vault_meta__/./__dek__", id="key climbs with dots"),
    pytest.param("a/b", "../../__vault_meta__/__dek__", id="key climbs twice"),
    pytest.param("./__vault_meta__", "__dek__", id="dot segment"),
    pytest.param("x/../__vault_meta__", "__dek__", id="collection climbs back"),
    pytest.param(".", "__vault_meta__/__dek__", id="root"),
    pytest.param("__vault_meta__:", "__dek__", id="colon"),
    pytest.param("/__vault_meta__", "__dek__", id="slash before"),
    pytest.param("__vault_meta__/", "__dek__", id="slash behind"),
    pytest.param("__vault_meta__\0", "__dek__", id="nul"),
    pytest.param("__vault_meta__ ", "__dek__", id="space"),
    pytest.param("__VAULT_META__", "__DEK__", id="case"),
    pytest.param("__vault_meta__", "__dek__", id="itself"),
    pytest.param("a::b", "c", id="another split"),
]
"""Collections and keys by which some store has led to the vault meta, or would on some file system."""

_FOLDED = st.sampled_from(
    ["../", "./", "x/../", "/", "::", ":", "\\", "%2e%2e%2F", " ", "\u200d", "A", "*", ".."]
)
_AROUND = st.one_of(st.just(""), _FOLDED, st.tuples(_FOLDED, _FOLDED).map("".join))
COLLECTIONS = st.tuples(_AROUND, st.sampled_from(["__vault_meta__", "a", "a::b"]), _AROUND).map("".join)
KEYS = st.tuples(_AROUND, st.sampled_from(["__dek__", "__vault_meta__/__dek__", "c"]), _AROUND).map("".join)

RawWriter = Callable[[str, str, str, "datetime | None"], Awaitable[None]]


@dataclass(frozen=True)
class Backend:
    """A real store and the driver under test, which serves it."""

    store: Any
    driver: Driver
    write_raw: RawWriter | None = None
    """Stores a body as text, past every check, under collection and key and with a native expiry."""


def entry(key: str = "key", value: Mapping[str, Any] | None = None, **fields: Any) -> Entry:
    """Return an entry to put."""
    made = Entry("coll", key, {"n": 0} if value is None else value, CREATED, None)
    return replace(made, **fields)


async def scanned(driver: Driver, **options: Any) -> list[Entry]:
    """Return all entries of one scan."""
    return [found async for page in driver.scan(**options) for found in page.entries]


async def fetched(driver: Driver, key: str = "key", collection: str = "coll") -> Entry:
    """Return the entry, which must be there."""
    found = await driver.get(collection, key)
    assert found is not None
    return found


def numbers(entries: list[Entry]) -> Counter[int]:
    """Return how often each numbered value of `fill` is among the entries."""
    return Counter(found.value["n"] for found in entries if found.value is not None)


def clock_is_ahead(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Let this process's wall clock be *by* ahead; the backend's own stays, and so does the store's."""
    monkeypatch.setattr(clock, "wall", lambda: time.time() + by.total_seconds())
    monkeypatch.setattr(clock, "utc_now", lambda: datetime.now(timezone.utc) + by)


async def fill(store: Any, count: int) -> None:
    """Put *count* numbered values into one collection through the store."""
    keys = [f"key-{n}" for n in range(count)]
    await store.put_many(keys, [{"n": n} for n in range(count)], collection="coll")
