"""Files that people hand over: backups, recipes, settings, manifests."""

from __future__ import annotations

import os
from io import BytesIO

from tests.fuzz.target import MIGRATIONS, Target, a_file
from tests.fuzz.targets.legacy import bodies
from zstandard import ZstdCompressor

from kvseal.backup.file import BackupReader, BackupWriter
from kvseal.backup.lines import Header, Trailer, entry_line, parse_line
from kvseal.cli.migration.recipe import read_recipe
from kvseal.cli.settings import Settings, read_toml
from kvseal.drivers.base import Entry
from kvseal.drivers.body import read_body
from kvseal.drivers.manifest import Manifest


def _entries() -> list[Entry]:
    read = [read_body(body) for body in bodies()]
    found = [
        Entry(body.collection or "c", body.key or "k", body.value, body.created_at, body.expires_at)
        for body in read
    ]
    found.append(Entry(None, None, {"a": 1}, path="folder/file.json"))
    found.append(Entry("c", "k", None, stored=b"\xff\x00", problem="it is damaged"))
    return found


def _header() -> Header:
    created = next(entry.created_at for entry in _entries() if entry.created_at is not None)
    return Header("kvseal 1", "disk:/x", created)


def _backup(entries: list[Entry]) -> bytes:
    file = BytesIO()
    writer = BackupWriter(file, _header())
    writer.add(entries)
    writer.finish()
    return file.getvalue()


def _backups() -> list[bytes]:
    return [_backup(_entries()), _backup(_entries()[:1]), _backup([])]


def _read_backup(data: bytes) -> None:
    reader = BackupReader(BytesIO(data))
    for _ in reader.batches():
        pass


def _lines() -> list[bytes]:
    lines = [entry_line(entry)[0] for entry in _entries()]
    return [_header().line(), *lines, Trailer(3, "0" * 64).line()]


def _line(data: bytes) -> None:
    """Read one line of a backup, alone and as the first and the second one of a compressed file."""
    read = Header.parse if data.startswith(b'{"format"') else parse_line
    try:
        read(data)
    finally:
        text = (b"" if read is Header.parse else _header().line() + b"\n") + data + b"\n"
        _read_backup(ZstdCompressor(level=1).compress(text))


def _recipes() -> list[bytes]:
    return [path.read_bytes() for path in sorted(MIGRATIONS.glob("*/recipe.toml"))]


def _recipe(data: bytes) -> None:
    read_recipe(a_file(data, "recipe.toml"))


def _settings() -> list[bytes]:
    return [b'store = "disk:x"\nsecret = "env:X"\n', b'meta_store = "disk:m"\nmanifest = "m"\npin = "p"\n']


def _config(data: bytes) -> None:
    os.chdir(a_file(data, "vaultctl.toml").parent)
    Settings().completed()
    read_toml(a_file(data, "vaultctl.toml"))


def _manifests() -> list[bytes]:
    return [
        b'{"collection": "c", "key": "k"}\n{"collection": null, "key": "k", "more": 1}\n',
        b'{"key": "\\ud800", "collection": ""}',
    ]


def _manifest(data: bytes) -> None:
    Manifest.checked(a_file(data, "manifest"))


TARGETS = (
    Target("backup-file", (), _backups, _read_backup),
    Target(
        "backup-line", ("backup.lines.Header.parse", "backup.lines.parse_line"), _lines, _line, is_json=True
    ),
    Target("recipe", ("cli.migration.recipe.read_recipe",), _recipes, _recipe),
    Target("settings", ("cli.settings.read_toml",), _settings, _config),
    Target("manifest", (), _manifests, _manifest, is_json=True),
)
