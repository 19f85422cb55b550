"""A restore into a MongoDB database, by vaultctl."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.backends import UNSTABLE, Place, place
from tests.processes import NEW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.harness import Terminalless

pytestmark = [pytest.mark.processes, pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]


@pytest.fixture
def database(
    request: pytest.FixtureRequest, tmp_path: Path, vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """Yield an empty database, named in the environment with the secret."""
    for found in place("mongodb", request, tmp_path):
        monkeypatch.setenv("VAULTCTL_STORE", found.where)
        monkeypatch.setenv("KVSEAL_MASTER_KEY", NEW.reveal().decode())
        yield found


def test_a_restore_says_that_times_are_rounded(database: Place, vaultctl: Terminalless) -> None:
    """A backup of a disk store is restored into MongoDB, and the operator is told how exactly times are kept there."""
    assert 0 == vaultctl("init --store disk:kv --create-store --argon2 1,8,1").code
    assert 0 == vaultctl("backup kv.kvseal --store disk:kv").code

    restored = vaultctl("restore kv.kvseal --create-store")
    back = vaultctl("restore kv.kvseal --create-store --store disk:other")

    assert [0, 0] == [restored.code, back.code]
    assert [True, False] == [
        "times and expiries to the millisecond" in one.out + one.err for one in (restored, back)
    ]
