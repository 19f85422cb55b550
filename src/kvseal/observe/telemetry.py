"""
The counters of `kvseal.observe.counters`, through OpenTelemetry's API if that is installed.

The instruments are observable: their numbers are read when a collector asks, so an
operation costs the same with OpenTelemetry, without an SDK, and without OpenTelemetry.

| instrument | unit | attributes |
|---|---|---|
| `kvseal.operations` | `{operation}` | `kvseal.operation` (`seal`, `open`), `kvseal.dek`, `kvseal.vault.id` |
| `kvseal.retired_deks.opens` | `{record}` | `kvseal.dek`, `kvseal.vault.id` |
| `kvseal.failures` | `{failure}` | `kvseal.operation` (`seal`, `open`, `unlock`), `error.type` |
| `kvseal.derivations` | `{derivation}` | |
| `kvseal.key_service.requests` | `{request}` | |
| `kvseal.cache.hits` | `{hit}` | `kvseal.cache` (`root_key`) |

There is one series for each DEK and for each class of error.  No series has the name of a record.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from kvseal.concurrency import in_thread
from kvseal.observe import counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.metrics import Meter, MeterProvider, Observation

    Attributes = dict[str, str | int]
    Numbers = Callable[[], Iterator[tuple[int, Attributes]]]

_lock = threading.Lock()
_is_offered = False


async def offer() -> None:
    """Call `instrument` in a thread, once; importing OpenTelemetry takes a while."""
    if not _is_offered:
        await in_thread(instrument)


def instrument(provider: MeterProvider | None = None) -> bool:
    """
    Offer the counters to *provider*, by default OpenTelemetry's global one, which may be set later.

    Opening a vault does this, so an application calls it only to name a *provider*, and before that.
    Only the first call has an effect, so that no number is reported twice.  Returns whether it was this one.
    """
    global _is_offered  # noqa: PLW0603 - once in each process
    with _lock:
        if _is_offered:
            return False
        _is_offered = True
    try:
        from opentelemetry.metrics import get_meter_provider  # noqa: PLC0415 - an extra
    except ImportError:
        return False
    meter = (provider or get_meter_provider()).get_meter("kvseal")
    for name, (unit, description, numbers) in _INSTRUMENTS.items():
        _observe(meter, name, unit, description, numbers)
    return True


def _observe(meter: Meter, name: str, unit: str, description: str, numbers: Numbers) -> None:
    from opentelemetry.metrics import Observation  # noqa: PLC0415 - an extra

    def observed(_: object) -> Iterator[Observation]:
        return (Observation(number, attributes) for number, attributes in numbers())

    meter.create_observable_counter(name, [observed], unit=unit, description=description)


def _operations() -> Iterator[tuple[int, Attributes]]:
    # Copied in one step: another thread may add a new DEK meanwhile.
    for (vault_id, dek, operation), count in tuple(counters.operations.items()):
        if number := count.number:
            yield (
                number,
                {"kvseal.operation": operation, "kvseal.dek": dek, "kvseal.vault.id": vault_id.hex()},
            )


def _of_retired_deks() -> Iterator[tuple[int, Attributes]]:
    for (vault_id, dek), count in tuple(counters.of_retired_deks.items()):
        if number := count.number:
            yield number, {"kvseal.dek": dek, "kvseal.vault.id": vault_id.hex()}


def _failures() -> Iterator[tuple[int, Attributes]]:
    for (operation, error), number in tuple(counters.failures.items()):
        yield number, {"kvseal.operation": operation, "error.type": error}


def _derivations() -> Iterator[tuple[int, Attributes]]:
    yield counters.derivations.number, {}


def _requests() -> Iterator[tuple[int, Attributes]]:
    yield counters.unwrappings.number, {}


def _hits() -> Iterator[tuple[int, Attributes]]:
    yield counters.hits.number, {"kvseal.cache": "root_key"}


_INSTRUMENTS: Final[dict[str, tuple[str, str, Numbers]]] = {
    "kvseal.operations": ("{operation}", "Records sealed and opened.", _operations),
    "kvseal.retired_deks.opens": ("{record}", "Records that a retired DEK opened.", _of_retired_deks),
    "kvseal.failures": ("{failure}", "Operations that failed to seal, open or unlock.", _failures),
    "kvseal.derivations": ("{derivation}", "Argon2id derivations for unlocking.", _derivations),
    "kvseal.key_service.requests": ("{request}", "Root keys that a key service unwrapped.", _requests),
    "kvseal.cache.hits": ("{hit}", "Unlockings that neither derived nor asked.", _hits),
}
