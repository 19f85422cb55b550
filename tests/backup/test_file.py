"""The file: damaged, cut off, continued, or made to be too much for a reader; and a new one."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from tests.backup.made import HEADER, backup_bytes, entry, frame, read
from tests.fakes import Killed
from zstandard import ZstdCompressionParameters

from kvseal.backup import file as module
from kvseal.backup.file import BATCH_ENTRIES, BackupReader, new_file
from kvseal.backup.lines import Trailer, entry_line
from kvseal.drivers.base import Entry
from kvseal.errors import BackupFileError, MalformedBackupError, TruncatedBackupError
from kvseal.keys.meta import META_COLLECTION, META_KEY

if TYPE_CHECKING:
    from pathlib import Path

ENTRIES = [entry(f"k{n}", {"n": n}) for n in range(3)]
WHOLE = backup_bytes(*ENTRIES)
LINE = entry_line(entry())[0]
META_LINE = entry_line(Entry(META_COLLECTION, META_KEY, {}))[0]


def digest(*lines: bytes, more: int = 0) -> bytes:
    """Return the trailer of these lines, with a count that is wrong by *more*."""
    import hashlib

    text = b"".join(line + b"\n" for line in (HEADER.line(), *lines))
    return Trailer(len(lines) + more, hashlib.sha256(text).hexdigest()).line()


def test_a_whole_file() -> None:
    """What was written is read."""
    assert ENTRIES == read(WHOLE)


@pytest.mark.parametrize("size", range(len(WHOLE)))
def test_cut_off_anywhere(size: int) -> None:
    """A file without its end is found to be cut off, wherever that is."""
    with pytest.raises(TruncatedBackupError):
        read(WHOLE[:size])


@pytest.mark.parametrize("lines", [[HEADER.line()], [HEADER.line(), LINE], []])
def test_no_trailer(lines: list[bytes]) -> None:
    """A file that is compressed well but has no trailer is cut off, too."""
    with pytest.raises(TruncatedBackupError):
        read(frame(*lines))


def test_every_flipped_bit() -> None:
    """Wherever a bit flips, the file is refused, or the bit meant nothing and all entries are the same."""
    for position in range(len(WHOLE) * 8):
        flipped = bytearray(WHOLE)
        flipped[position // 8] ^= 1 << position % 8
        with suppress(MalformedBackupError):
            assert ENTRIES == read(bytes(flipped)), position


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([LINE, digest()], id="one entry too many"),
        pytest.param([digest(LINE)], id="one too few"),
        pytest.param([LINE, digest(LINE, more=1)], id="another count"),
        pytest.param([entry_line(entry("x"))[0], digest(LINE)], id="another entry"),
        pytest.param([digest(), LINE], id="an entry behind the trailer"),
        pytest.param([digest(), digest()], id="two trailers"),
        pytest.param([digest(), b""], id="an empty line behind the trailer"),
        pytest.param([LINE, b"", digest(LINE)], id="an empty line"),
        pytest.param([LINE, META_LINE, digest(LINE, META_LINE)], id="the vault meta not first"),
        pytest.param([META_LINE, META_LINE, digest(META_LINE, META_LINE)], id="two vault metas"),
    ],
)
def test_lines_that_do_not_fit(lines: list[bytes]) -> None:
    """Lines that the trailer does not speak of, or that stand in the wrong place, are refused."""
    with pytest.raises(MalformedBackupError) as caught:
        read(frame(HEADER.line(), *lines))

    assert MalformedBackupError is type(caught.value)


@pytest.mark.parametrize(
    "behind", [b"\0", b"garbage", WHOLE, struct.pack("<II", 0x184D2A50, 0), b"\n" * 5000]
)
def test_garbage_behind_the_end(behind: bytes) -> None:
    """Nothing may follow the end, not even what zstd would skip."""
    with pytest.raises(MalformedBackupError, match="follows"):
        read(WHOLE + behind)


@pytest.mark.parametrize(
    "content", [b"hello", b'{"format":"kvseal-backup"}\n', b"\x1f\x8b\x08", b"PK\x03\x04zip"]
)
def test_no_backup(content: bytes) -> None:
    """Another file is refused as that."""
    with pytest.raises(MalformedBackupError):
        read(content)


class TestTooMuch:
    """A hostile file costs a reader no more memory than an honest one may."""

    @pytest.mark.exhaustive
    def test_a_line_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line is refused when it becomes too long, not when it ends."""
        monkeypatch.setattr(module, "MAX_LINE", 2**20)
        bomb = io.BytesIO(frame(HEADER.line(), b"x" * 2**28, level=19))

        with pytest.raises(MalformedBackupError, match="longer than"):
            list(BackupReader(bomb).batches())
        assert bomb.tell() < 2**11

    def test_pieces_stay_small(self) -> None:
        """However well it is compressed, a piece of the file becomes no more than 16 MiB."""
        bomb = io.BytesIO(frame(b"\0" * 2**28))

        assert 2**24 >= max(map(len, module._chunks(bomb)))

    def test_a_window_too_large(self) -> None:
        """A file that asks to keep more than 8 MiB at hand is refused."""
        parameters = ZstdCompressionParameters(window_log=27, enable_ldm=True, write_content_size=0)
        content = frame(HEADER.line(), os.urandom(2**24).hex().encode(), compression_params=parameters)

        with pytest.raises(MalformedBackupError, match="cannot be decompressed"):
            read(content)

    def test_batches_are_bounded(self) -> None:
        """Entries come in batches, and the first one long before the end is read."""
        count = 10 * BATCH_ENTRIES + 1
        file = io.BytesIO(backup_bytes(*(entry(os.urandom(40).hex()) for _ in range(count))))
        batches = BackupReader(file).batches()

        first = next(batches)
        position = file.tell()
        sizes = [len(first), *map(len, batches)]

        assert [BATCH_ENTRIES] * 10 + [1] == sizes
        assert position < file.tell() / 5

    def test_batches_are_bounded_in_bytes(self) -> None:
        """Large entries make small batches."""
        large = [entry(str(n), {"v": os.urandom(2**20).hex()}) for n in range(10)]

        batches = BackupReader(io.BytesIO(backup_bytes(*large))).batches()

        assert [4, 4, 2] == [len(batch) for batch in batches]


class TestNewFile:
    """A file appears whole or not at all."""

    def test_it_is_its_owners(self, tmp_path: Path) -> None:
        """Only its owner can read it, from the moment that it exists."""
        path = tmp_path / "new"

        with new_file(path) as file:
            file.write(b"content")
            (beside,) = tmp_path.iterdir()
            modes = [stat.S_IMODE(beside.stat().st_mode)]

        assert [path] == list(tmp_path.iterdir())
        assert ([0o600] * 2, b"content") == ([*modes, stat.S_IMODE(path.stat().st_mode)], path.read_bytes())

    @pytest.mark.parametrize("death", [Killed, KeyboardInterrupt, ValueError])
    def test_nothing_is_left_of_half_a_file(self, tmp_path: Path, death: type[BaseException]) -> None:
        """Interrupted, it leaves nothing."""

        def die() -> None:
            with new_file(tmp_path / "new") as file:
                file.write(b"half")
                raise death

        with pytest.raises(death):
            die()
        assert [] == list(tmp_path.iterdir())

    @pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
    def test_nothing_is_replaced(self, tmp_path: Path, kind: str) -> None:
        """What is there stays, and nothing is begun."""
        path = tmp_path / "there"
        {"file": path.touch, "directory": path.mkdir, "dangling link": lambda: path.symlink_to("x")}[kind]()

        with pytest.raises(BackupFileError, match="exists already"), new_file(path):
            raise AssertionError
        assert [path] == list(tmp_path.iterdir())

    @pytest.mark.parametrize("has_links", [True, False])
    def test_nothing_is_replaced_that_comes_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
    ) -> None:
        """A file that somebody else puts there during the backup stays."""
        if not has_links:
            monkeypatch.setattr(os, "link", without_links)
        path = tmp_path / "new"

        with pytest.raises(BackupFileError, match="exists already"), new_file(path):
            path.write_bytes(b"theirs")

        assert ([path], b"theirs") == (list(tmp_path.iterdir()), path.read_bytes())

    def test_a_file_system_without_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It works on such a file system, too."""
        monkeypatch.setattr(os, "link", without_links)
        path = tmp_path / "new"

        with new_file(path) as file:
            file.write(b"content")

        assert ([path], b"content") == (list(tmp_path.iterdir()), path.read_bytes())

    def test_no_such_directory(self, tmp_path: Path) -> None:
        """A path that leads nowhere is a usage error."""
        with pytest.raises(BackupFileError, match="No such file") as caught, new_file(tmp_path / "a" / "b"):
            raise AssertionError
        assert 2 == caught.value.exit_code


def without_links(*_: Any, **__: Any) -> None:
    """Fail as a file system without hard links does."""
    raise PermissionError(errno.EPERM, "Operation not permitted")
