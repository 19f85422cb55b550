"""
A RocksDB database as rocksdict opens it, read without executing what is in it.

rocksdict marks every key and value with its type, and unpickles a value that is marked as a
pickle; so a value that an attacker planted would run as code.  All reading here goes through handles
of the driver's own that refuse, and leave the application's object as it is.  A handle keeps the
database open, so none is kept.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from rocksdict import (
    BottommostLevelCompaction,
    CompactOptions,
    DbClosedError,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from kvseal.errors import StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATISTICS: Final = "rocksdb.cfstats-no-file-histogram"
_COLUMN_FAMILY: Final = re.compile(r"\*\* Compaction Stats \[(.*)\] \*\*")
_CONFIG: Final = "rocksdict-config.json"
_WAY_OUT: Final = (
    "RocksDB admits one process at a time: run it in the application's own process"
    " (await kvseal.recoding… on its store object), or stop the application"
)


class NotBytesError(ValueError):
    """The value is not one that the store writes; the message is the problem of an entry."""


class Handle:
    """The column family that *db* stands for; each method works on a handle for that moment alone."""

    def __init__(self, db: Rdict, *, location: str) -> None:
        self._db = db
        self._location = location
        self._column_family: str | None = None

    def get(self, key: str) -> bytes | None:
        """Return the value; raises `NotBytesError` if it is none of the store's."""
        with translated(self._location):
            return _bytes(lambda: self._opened().get(key))

    def entries(self, after: str | None) -> Iterator[tuple[str, bytes | NotBytesError]]:
        """
        Yield the text keys behind *after* and their values, as all were when this was called for.

        The database stays open until the iterator is exhausted or thrown away.
        """
        with translated(self._location):
            rows = self._opened().iter()
            rows.seek_to_first() if after is None else rows.seek(after)
            while rows.valid():
                key = _text_key(rows)
                if key is not None and key != after:
                    yield key, _value(rows)
                rows.next()
            # An iterator that cannot read on says so here alone.
            rows.status()

    def write(self, changes: dict[str, bytes | None]) -> None:
        """Put each key's new value, or delete it where that is `None`; after a crash, all or none."""
        with translated(self._location):
            handle = self._opened()
            batch = WriteBatch()
            # Without this a batch goes to the default column family, whichever handle writes it.
            batch.set_default_column_family(handle.get_column_family_handle(self._column_family or ""))
            for key, value in changes.items():
                batch.delete(key) if value is None else batch.put(key, value)
            handle.write(batch, WriteOptions())

    def sync(self) -> None:
        """Return when what was written is on the disk."""
        with translated(self._location):
            self._opened().flush_wal(sync=True)

    def compact(self) -> bool:
        """
        Write every file anew without what was overwritten, and return whether none of the old ones stays.

        An iteration under way and a snapshot that the application holds keep theirs.
        """
        with translated(self._location):
            for name in Rdict.list_cf(self._db.path()):
                # A log file stays until all that is in it, of whichever column family, is elsewhere.
                self._db.get_column_family(name).flush()
            handle, options = self._opened(), CompactOptions()
            # Files of the last level, too, in which there may be nothing to drop but what was overwritten.
            options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
            handle.compact_range(None, None, options)
            return not handle.property_int_value("rocksdb.num-snapshots") and (
                handle.property_int_value("rocksdb.num-live-versions") == 1
            )

    def _opened(self) -> Rdict:
        if self._column_family is None:
            self._column_family = self._name()
        handle = self._db.get_column_family(self._column_family)
        handle.set_loads(_refuse)
        return handle

    def _name(self) -> str:
        found = _COLUMN_FAMILY.search(self._db.property_value(_STATISTICS) or "")
        if found is None:
            msg = f"{self._location} does not say which column family it is"
            raise UnsupportedStoreError(msg, hint="give the vault a meta_store=")
        try:
            self._db.get("")
        except KeyError as exc:
            msg = f"{self._location} was opened in rocksdict's raw mode, in which the store cannot work"
            raise UnsupportedStoreError(msg, hint="open it without raw_mode") from exc
        return found.group(1)


def open_existing(path: Path) -> Rdict:
    """
    Open the database in *path*, with the options that it was last opened with.

    Raises:
        StoreNotFoundError: there is none.
        UnsupportedStoreError: it is not one of rocksdict's, or was opened in its raw mode; such a
            one is not touched, because opening it in another mode can spoil it for good.
        StoreUnreachableError: another process has it open.
    """
    if not (path / "CURRENT").is_file():
        kind = "no CURRENT in it" if path.is_dir() else "no such directory"
        msg = f"no RocksDB store at {path}: {kind}"
        raise StoreNotFoundError(msg, hint="check the path; nothing was created")
    try:
        config = json.loads((path / _CONFIG).read_bytes())
        ours = config["raw_mode"] is False
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        ours = False
    if not ours:
        msg = f"the RocksDB at {path} is not one that a RocksDBStore uses"
        raise UnsupportedStoreError(msg, hint="check the path; nothing was changed")
    with translated(f"rocksdb:{path}"):
        return Rdict(str(path))


def create(path: Path) -> None:
    """Let RocksDBStore make an empty database in *path*, for its owner alone, unless there is one."""
    if (path / "CURRENT").is_file():
        return
    if path.is_dir() and any(path.iterdir()):
        msg = f"{path} is not empty and holds no RocksDB store"
        raise StoreNotFoundError(msg, hint="name an empty or a new directory")
    from key_value.aio.stores.rocksdb import RocksDBStore  # noqa: PLC0415 - needed here alone

    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with translated(f"rocksdb:{path}"), warnings.catch_warnings():
        # It warns that its class is not stable yet.
        warnings.simplefilter("ignore")
        RocksDBStore(path=path)._db.close()  # noqa: SLF001 - it closes nothing before its first use


def close(db: Rdict) -> None:
    """Close what `open_existing` opened; what root has written belongs to the owner of the directory."""
    path = Path(db.path())
    with translated(f"rocksdb:{path}"):
        db.close()
    if os.geteuid() == 0:
        owner = path.stat()
        for file in path.iterdir():
            os.lchown(file, owner.st_uid, owner.st_gid)


@contextmanager
def translated(location: str) -> Iterator[None]:
    """Raise what rocksdict raises in kvseal's words."""
    try:
        yield
    except DbClosedError as exc:
        msg = f"{location}: the application has closed the database"
        raise StoreUnreachableError(msg, hint="open the store again") from exc
    except Exception as exc:
        # rocksdict has no class of its own for RocksDB's errors; any other class is another's.
        if type(exc) is not Exception:
            raise
        msg = f"{location}: {exc}"
        raise StoreUnreachableError(msg, hint=_WAY_OUT if "lock" in str(exc).lower() else "") from exc


def _text_key(rows: Any) -> str | None:
    """Return the key if it is text; any other was not written by the store."""
    try:
        key = rows.key()
    except Exception as exc:
        if type(exc) not in {Exception, NotBytesError}:
            raise
        return None
    return key if isinstance(key, str) else None


def _value(rows: Any) -> bytes | NotBytesError:
    try:
        return _bytes(rows.value) or b""
    except NotBytesError as exc:
        return exc


def _bytes(read: Any) -> bytes | None:
    try:
        value = read()
    except Exception as exc:
        if type(exc) is not Exception or "type" not in str(exc):
            raise
        msg = "the value is of an unknown kind"
        raise NotBytesError(msg) from exc
    if value is None or isinstance(value, bytes):
        return value
    msg = "the value is not bytes"
    raise NotBytesError(msg)


def _refuse(_: bytes) -> NoReturn:
    msg = "the value is a pickle, which kvseal never loads"
    raise NotBytesError(msg)
