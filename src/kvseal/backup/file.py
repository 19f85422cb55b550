"""
The backup file: lines, compressed with zstd, checked while they are read and not trusted before.

A reader holds one line, what it says, and one piece of the file in memory, however hostile the file is.
A zstd block that expands at all has at least four bytes and expands to at most 128 KiB, so a piece
expands to at most `_PIECE` / 4 times that.  A line that is too long is refused before it is complete.

The checksum detects damage.  It is not a signature: an attacker who can write the file can also
write a matching checksum.  Sealed records are protected from changes by their own seal.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from zstandard import FLUSH_FRAME, ZstdCompressor, ZstdDecompressor, ZstdError

from kvseal.backup.lines import MAX_LINE, Header, Trailer, entry_line, parse_line
from kvseal.errors import BackupFileError, MalformedBackupError, TruncatedBackupError
from kvseal.errors.operating_system import reason_of
from kvseal.keys.meta import META_COLLECTION, META_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import BufferedRandom

    from kvseal.drivers.base import Entry

BATCH_ENTRIES: Final = 512
BATCH_BYTES: Final = 8 * 2**20
"""A batch ends with the line that takes it past this many bytes."""

_LEVEL: Final = 3
_PIECE: Final = 512
_MAX_WINDOW: Final = 2**23
"""Bytes of output that zstd may refer back to: RFC 8878 asks every reader to support this many."""
_OTHER_COPY: Final = "use another copy of it"


class BackupWriter:
    """Writes header, entries and trailer into *file*.  Every method blocks."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        compressor = ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._zstd = compressor.stream_writer(file, closefd=False)
        self._digest = sha256()
        self._entries = 0
        self._write(header.line())

    def add(self, entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
        """Write *entries*; return those that cannot be restored, each with its problem."""
        failed = []
        for entry in entries:
            line, problem = entry_line(entry)
            self._write(line)
            self._entries += 1
            if problem:
                failed.append((entry, problem))
        return failed

    def finish(self) -> Trailer:
        """Write the trailer and return it."""
        trailer = Trailer(self._entries, self._digest.hexdigest())
        self._write(trailer.line())
        self._zstd.flush(FLUSH_FRAME)
        return trailer

    def _write(self, line: bytes) -> None:
        self._digest.update(line + b"\n")
        self._zstd.write(line + b"\n")


class BackupReader:
    """
    Reads *file* from its current position.  Every method blocks.

    A caller must not trust what `batches` yields until it has ended without an error.

    Raises:
        UnknownBackupVersionError: a later kvseal wrote it.
        TruncatedBackupError: it ends too early.
        MalformedBackupError: it is not a backup, it is damaged, or data follows its end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._lines = _lines(file)
        self._digest = sha256()
        self.entries = 0
        self.trailer: Trailer | None = None
        line = self._next()
        self.header = Header.parse(line)
        self._count(line)

    def batches(self) -> Iterator[list[Entry]]:
        """Yield the entries in order, no more than `BATCH_ENTRIES` at a time."""
        batch: list[Entry] = []
        held = 0
        while True:
            line = self._next()
            found = parse_line(line)
            if isinstance(found, Trailer):
                self._end(found)
                if batch:
                    yield batch
                return
            self._refuse_second_meta(found)
            self._count(line)
            self.entries += 1
            batch.append(found)
            held += len(line)
            if len(batch) >= BATCH_ENTRIES or held >= BATCH_BYTES:
                yield batch
                batch, held = [], 0

    def _next(self) -> bytearray:
        line = next(self._lines, None)
        if line is None:
            msg = "the backup ends too early: it has no trailer"
            raise TruncatedBackupError(msg, hint=_OTHER_COPY)
        return line

    def _count(self, line: bytearray) -> None:
        self._digest.update(line)
        self._digest.update(b"\n")

    def _end(self, trailer: Trailer) -> None:
        if next(self._lines, None) is not None:
            msg = "data follows the backup's trailer"
            raise MalformedBackupError(msg, hint=_OTHER_COPY)
        if trailer != Trailer(self.entries, self._digest.hexdigest()):
            msg = "the backup is damaged: its entries do not match its checksum"
            raise MalformedBackupError(msg, hint=_OTHER_COPY)
        self.trailer = trailer

    def _refuse_second_meta(self, entry: Entry) -> None:
        # A restore checks the vault meta before it writes records, so the meta has to be first.
        if self.entries and is_meta(entry):
            msg = "the backup is malformed: the vault meta is not its first entry"
            raise MalformedBackupError(msg, hint=_OTHER_COPY)


def is_meta(entry: Entry) -> bool:
    """Whether *entry* has the names of the vault meta."""
    return (entry.collection, entry.key) == (META_COLLECTION, META_KEY)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """
    Yield a file that appears at *path*, whole and durable, when the context ends without an error.

    Until then, and after an error, there is nothing at *path*.  An existing file is never replaced.
    Only the owner can read the file.

    Raises:
        BackupFileError: *path* exists already, or the file cannot be written.
    """
    if os.path.lexists(path):
        raise _exists(path)
    with writing(path):
        # mkstemp creates the file with mode 0600, so it is never readable by others.
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with _closing(os.fdopen(descriptor, "w+b")) as file:
            yield cast("BinaryIO", file)
            with writing(path):
                file.flush()
                os.fsync(descriptor)
                _publish(Path(beside), path)
    finally:
        with suppress(FileNotFoundError):
            Path(beside).unlink()


@contextmanager
def _closing(file: BufferedRandom) -> Iterator[BufferedRandom]:
    """Close *file* and ignore errors: closing retries a failed write, which has been reported already."""
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `BackupFileError` if the file that becomes *path* cannot be written."""
    try:
        yield
    except OSError as exc:
        raise _unwritable(path, exc) from exc


def open_file(path: Path) -> BinaryIO:
    """Open the backup *path*; raises `BackupFileError`."""
    try:
        return path.open("rb")
    except OSError as exc:
        raise _unreadable(exc) from exc


def _publish(beside: Path, path: Path) -> None:
    try:
        # Unlike a rename, a link never replaces an existing file.
        os.link(beside, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        # The file system has no links: create the name exclusively, then rename over it.
        try:
            path.touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            raise _exists(path) from None
        beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _lines(file: BinaryIO) -> Iterator[bytearray]:
    line = bytearray()
    for chunk in _chunks(file):
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            line += chunk[start:end]
            _refuse_length(line)
            yield line
            line = bytearray()
            start = end + 1
        line += chunk[start:]
        _refuse_length(line)
    if line:
        msg = "the backup ends too early: its last line is cut off"
        raise TruncatedBackupError(msg, hint=_OTHER_COPY)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the decompressed content of *file*, which must be exactly one frame."""
    zstd = ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()
    while piece := _read(file):
        if not zstd.eof:
            try:
                chunk = zstd.decompress(piece)
            except ZstdError:
                msg = "the file is not a kvseal backup, or is damaged: it cannot be decompressed"
                raise MalformedBackupError(msg, hint=_OTHER_COPY) from None
            yield chunk
            piece = zstd.unused_data
        if zstd.eof and piece:
            msg = "data follows the backup's end"
            raise MalformedBackupError(msg, hint=_OTHER_COPY)
    if not zstd.eof:
        msg = "the backup ends too early: the file is cut off"
        raise TruncatedBackupError(msg, hint=_OTHER_COPY)


def _read(file: BinaryIO) -> bytes:
    try:
        return file.read(_PIECE)
    except OSError as exc:
        raise _unreadable(exc) from exc


def _refuse_length(line: bytearray) -> None:
    if len(line) > MAX_LINE:
        msg = f"the backup is malformed: a line is longer than {MAX_LINE:,} bytes"
        raise MalformedBackupError(msg, hint=_OTHER_COPY)


def _exists(path: Path) -> BackupFileError:
    return BackupFileError(
        f"{path} exists already, and a backup never replaces a file", hint="choose another name"
    )


def _unwritable(path: Path, error: OSError) -> BackupFileError:
    msg = f"the backup {path} cannot be written: {reason_of(error)}"
    return BackupFileError(msg, hint="check the directory, its free space and its permissions")


def _unreadable(error: OSError) -> BackupFileError:
    msg = f"the backup cannot be read: {reason_of(error)}"
    return BackupFileError(msg, hint="check its name, its permissions and the disk that it is on")
