"""What pytest-benchmark writes down: the statistics of every case, and nothing about whose machine it was."""

from __future__ import annotations

from typing import Any

from benchmarks.gate import machine

_KEPT = ("group", "name", "params", "extra_info")
_STATISTICS = ("min", "median", "iqr", "rounds", "iterations")


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Replace the plugin's record, which has the host's name in it, by what a reader needs."""
    rows = [
        {key: row[key] for key in _KEPT} | {"stats": {key: row["stats"][key] for key in _STATISTICS}}
        for row in output_json["benchmarks"]
    ]
    output_json.clear()
    output_json.update(machine=machine(), benchmarks=rows)
