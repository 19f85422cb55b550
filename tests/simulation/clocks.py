"""
The clocks and the randomness of this interpreter, replaced by those of the simulated process that runs.

Import this before kvseal, some of which binds its clocks at import, and only in an interpreter of its own.
Outside every simulated process the clocks are the real ones.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, MutableMapping
from datetime import datetime
from typing import Any

from tests.simulation.loop import CURRENT, Host

_BILLION = 1_000_000_000
_REAL = {name: getattr(time, name) for name in ("time", "monotonic", "perf_counter", "clock_gettime")}
_urandom = os.urandom
real_clock: Callable[[], float] = _REAL["perf_counter"]


def _clock(name: str, ask: Callable[[Host], float]) -> Callable[[], float]:
    real = _REAL[name]

    def read() -> float:
        process = CURRENT.get()
        return real() if process is None else ask(process.host)

    return read


def _clock_gettime(clock: int) -> float:
    process = CURRENT.get()
    if process is None:
        return _REAL["clock_gettime"](clock)
    if clock == getattr(time, "CLOCK_BOOTTIME", -1):
        return process.host.boottime()
    return process.host.wall() if clock == time.CLOCK_REALTIME else process.host.monotonic()


def _random_bytes(size: int) -> bytes:
    process = CURRENT.get()
    return _urandom(size) if process is None else process.random.randbytes(size)


def _asleep(_: float) -> None:
    msg = "time.sleep in a simulated process"
    raise AssertionError(msg)


def _nanoseconds(read: Callable[..., float]) -> Callable[..., int]:
    return lambda *args: int(read(*args) * _BILLION)


for _name, _ask in (("time", Host.wall), ("monotonic", Host.monotonic), ("perf_counter", Host.monotonic)):
    setattr(time, _name, _clock(_name, _ask))
    setattr(time, f"{_name}_ns", _nanoseconds(getattr(time, _name)))
time.clock_gettime = _clock_gettime
time.clock_gettime_ns = _nanoseconds(_clock_gettime)
time.sleep = _asleep
os.urandom = _random_bytes
random._urandom = _random_bytes  # type: ignore[attr-defined]
os.fsync = lambda _: None


class PerProcess(MutableMapping[Any, Any]):
    """Stands for a dictionary in a module's globals: each simulated process has its own."""

    def __init__(self, name: str, outside: Any) -> None:
        self._name, self._outside = name, outside

    def _mine(self) -> Any:
        process = CURRENT.get()
        if process is None:
            return self._outside
        if self._name not in process.state:
            process.state[self._name] = type(self._outside)()
        return process.state[self._name]

    def __getitem__(self, key: Any) -> Any:
        return self._mine()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._mine()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._mine()[key]

    def __iter__(self) -> Any:
        return iter(self._mine())

    def __len__(self) -> int:
        return len(self._mine())

    def copy(self) -> Any:
        return self._mine().copy()


class _SimDatetimeType(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


class _SimDatetime(metaclass=_SimDatetimeType):
    """`datetime`, as far as clocks use it, whose present is that of the simulated process."""

    fromtimestamp, fromisoformat = datetime.fromtimestamp, datetime.fromisoformat

    @staticmethod
    def now(tz: Any = None) -> datetime:
        return datetime.fromtimestamp(time.time(), tz)


def replace_datetime(*modules: Any) -> None:
    """Let *modules*, which read the clock through `datetime`, ask the simulated process for the present."""
    for module in modules:
        module.datetime = _SimDatetime
