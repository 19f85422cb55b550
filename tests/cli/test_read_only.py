"""A store on a read-only mount, as a snapshot is after a disaster: read by every reader, named where writing is meant."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest
from tests.privileges import needs_root, remount_read_only, tmpfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.harness import Terminalless

READERS = [
    "status --count",
    "verify",
    "backup out.kvseal",
    "list",
    "get c k",
    "inspect c k",
    "slot list",
    "dek list",
]
WRITERS = [
    "rotate --dek",
    "reencrypt --no-backup --yes --offline",
    "delete c k --yes --offline",
    "restore sealed.kvseal --offline",
]

pytestmark = [needs_root, pytest.mark.processes]


@pytest.fixture(params=["disk:{}/kv", "filetree:{}/kv?names=v1"], ids=["disk", "filetree"])
def snapshot(
    request: pytest.FixtureRequest, vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminalless]:
    """Yield vaultctl beside a vault with one record that was mounted read-only, and a backup with two."""
    with tmpfs(vaultctl.directory / "snapshot", size="16m") as mount:
        monkeypatch.setenv("VAULTCTL_STORE", request.param.format(mount))
        assert vaultctl("init --create-store --argon2 1,8,1").code == 0
        for name in ("k", "gone"):
            assert vaultctl(f"put c {name} --offline", stdin='{"v": 1}').code == 0
        assert vaultctl("backup sealed.kvseal").code == 0
        assert vaultctl("delete c gone --yes --offline").code == 0
        remount_read_only(mount)
        yield vaultctl


@pytest.mark.parametrize("command", READERS)
def test_readers(snapshot: Terminalless, command: str) -> None:
    """Whatever only reads works on the snapshot itself."""
    done = snapshot(command)

    assert (0, "") == (done.code, "".join(line for line in done.err.splitlines() if "error" in line))


@pytest.mark.parametrize("command", WRITERS)
def test_writers(snapshot: Terminalless, command: str) -> None:
    """Whatever writes says that the mount is read-only, and is no fault of vaultctl."""
    done = snapshot(command)

    assert done.code not in {0, 1}
    assert "read-only" in done.err.lower()
    assert "fault of vaultctl" not in done.err


def test_a_log_that_cannot_be_read(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot of a running process may have newer writes in its log: they are not silently left out."""
    assert vaultctl("init --create-store --argon2 1,8,1").code == 0
    with tmpfs(vaultctl.directory / "snapshot", size="16m") as mount:
        writer = sqlite3.connect(vaultctl.directory / "kv" / "cache.db")
        writer.execute("UPDATE Cache SET access_count = access_count + 1")
        writer.commit()
        shutil.copytree(vaultctl.directory / "kv", mount / "kv", ignore=shutil.ignore_patterns("*-shm"))
        writer.close()
        remount_read_only(mount)

        done = vaultctl(f"list --store disk:{mount}/kv")

    assert done.code != 0
    assert "cache.db-wal holds writes that cannot be read" in done.err
