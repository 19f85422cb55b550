"""
Faults that are planted on purpose: the oracle is trusted because it reports what they lose.

* `unchecked-retire`: `dek retire` drops a DEK without a look at records and grace
* `stale-keyring`: a wrapper never reads the vault meta again, and goes on sealing
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from kvseal.cli.app import main
from kvseal.recoding import retirement
from kvseal.vault.freshness import Freshness

if TYPE_CHECKING:
    from collections.abc import Iterator

UNCHECKED_RETIRE = "unchecked-retire"
STALE_KEYRING = "stale-keyring"
FAULTS = (UNCHECKED_RETIRE, STALE_KEYRING)


@contextmanager
def writer(plant: str) -> Iterator[None]:
    """Plant what belongs into an application."""
    if plant != STALE_KEYRING:
        yield
        return

    async def renew(self: Freshness, _: Any) -> None:
        self.confirm(self.clock())

    with patch.object(Freshness, "renew", renew):
        yield


@contextmanager
def operator(plant: str) -> Iterator[None]:
    """Plant what belongs into vaultctl."""
    if plant != UNCHECKED_RETIRE:
        yield
        return
    with (
        patch.object(retirement, "_check_needs", _nothing),
        patch.object(retirement, "_check_grace", _nothing),
    ):
        yield


def _nothing(*_: Any, **__: Any) -> None:
    """Take the place of a check."""


if __name__ == "__main__":
    # vaultctl, with the fault that the first argument names.
    with operator(sys.argv.pop(1)):
        main()
