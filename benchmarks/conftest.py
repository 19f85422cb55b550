"""
One event loop and one set of servers for the whole suite, and what pytest-benchmark writes down.

A round of a benchmark is a coroutine that does the work many times, so that what it takes to
enter and to leave an event loop is not in the figure.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import backends
from benchmarks.machine import machine
from benchmarks.turns import COMPARISON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KEPT = ("group", "name", "params", "extra_info")
_STATISTICS = ("min", "median", "iqr", "rounds", "iterations")


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Yield an event loop that the whole suite runs in, since a store's connections belong to one."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="session")
def backend() -> Iterator[Callable[[str], Any]]:
    """Yield what starts a backend at its first use, and skips where its server is missing."""
    opened: dict[str, Any] = {}
    with ExitStack() as stack:

        def get(name: str) -> Any:
            if name not in opened:
                try:
                    opened[name] = stack.enter_context(backends.backend(name))
                except backends.MissingServerError as exc:
                    pytest.skip(str(exc))
            return opened[name]

        yield get


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Replace the plugin's record, which has the host's name in it, by what a reader needs."""
    comparisons: dict[tuple[str, ...], dict[str, Any]] = {}
    rows = []
    for row in output_json["benchmarks"]:
        if COMPARISON in row["extra_info"]:
            _compare(comparisons, row)
        else:
            statistics = {key: row["stats"][key] for key in _STATISTICS}
            rows.append({key: row[key] for key in _KEPT} | {"stats": statistics})
    output_json.clear()
    output_json.update(machine=machine(), comparisons=list(comparisons.values()), benchmarks=rows)


def _compare(comparisons: dict[tuple[str, ...], dict[str, Any]], row: dict[str, Any]) -> None:
    """Put the figures of one peer, in microseconds for one value, beside those of the others."""
    facts = row["extra_info"][COMPARISON]
    place = {name: facts[name] for name in ("store", "operation", "size")}
    line = comparisons.setdefault(
        tuple(place.values()), {**place, "batch": facts["batch"], "microseconds": {}, "iqr": {}}
    )
    for statistic, name in (("median", "microseconds"), ("iqr", "iqr")):
        line[name][facts["peer"]] = round(row["stats"][statistic] / facts["values"] * 1e6, 3)
