"""A new key file is whole, durable and never written over another."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from kvseal.errors import UsageError
from kvseal.secrets.key_file import write_key_file

if TYPE_CHECKING:
    from pathlib import Path


def test_written_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    """The file has its content and mode 0600, and nothing else is left in the directory."""
    path = tmp_path / "master.key"
    write_key_file(path, b"secret\n")

    assert b"secret\n" == path.read_bytes()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(tmp_path.iterdir())


def test_never_over_another(tmp_path: Path) -> None:
    """A file of that name stays as it is, and no trace of the attempt is left."""
    path = tmp_path / "master.key"
    path.write_bytes(b"old")

    with pytest.raises(UsageError, match="exists already"):
        write_key_file(path, b"new")
    assert b"old" == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


def test_file_and_directory_are_synchronised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are on the medium before the caller goes on: the file before it has its name, then the name."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_key_file(tmp_path / "master.key", b"secret")

    assert ["file", "directory"] == synced
