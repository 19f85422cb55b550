"""
A blocking client of the driver's own, and its errors as kvseal's.

pymongo's client is one for all threads and belongs to no event loop.  It is made at the first use, and once
more in a forked child: its threads stayed in the parent, and its sockets are the parent's.

Reads go to the primary, whatever the URL says.  They are not held back until a majority has what they
read: a compare-and-swap needs the newest value, and what a scan did not see yet would count as absent.
Writes are confirmed by a majority of the replica set, so a failover takes none of them back.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from pymongo import MongoClient, ReadPreference
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    InvalidName,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from kvseal import clock
from kvseal.drivers.base import StoreTime, closed
from kvseal.drivers.mongodb.address import HINT
from kvseal.drivers.mongodb.documents import RAW
from kvseal.errors import EntryTooLargeError, StoreError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bson.raw_bson import RawBSONDocument
    from pymongo.collection import Collection
    from pymongo.database import Database

    from kvseal.drivers.mongodb.address import Address

CONFIRMED_WITHIN: Final = 30.0
"""Seconds that a write waits for a majority of the replica set."""

_UNAUTHORIZED: Final = 13
_WRONG_PASSWORD: Final = 18
_INVALID_NAME: Final = 73
_TOO_LARGE: Final = frozenset({10334, 17419, 17420})


class Connection:
    """The client for one address, which connects when it is first used, from any thread."""

    def __init__(self, address: Address) -> None:
        self.location = address.location
        self._address = address
        self._lock = threading.Lock()
        self._client: MongoClient[Any] | None = None
        self._pid = 0
        self._of_parents: list[object] = []
        self._is_closed = False

    def database(self) -> Database[dict[str, Any]]:
        """Return the database, for commands; raises `StoreError` once it is closed."""
        client = self._opened()
        return client.get_database(self._address.database, read_preference=ReadPreference.PRIMARY)

    def collection(
        self, name: str, confirmed_within: float = CONFIRMED_WITHIN
    ) -> Collection[RawBSONDocument]:
        """Return a collection of raw documents, whose writes wait so many seconds for a majority."""
        concern = WriteConcern("majority", wtimeout=int(confirmed_within * 1000))
        database: Database[Any] = self.database()
        return database.get_collection(
            name, codec_options=RAW, write_concern=concern, read_concern=ReadConcern("local")
        )

    def time(self) -> StoreTime:
        """Return what the server's clock says, without the time that connecting takes."""
        with translated(self.location):
            database = self.database()
            database.command("ping")
            before = clock.monotonic()
            at: datetime = database.command("hello")["localTime"]
            return StoreTime(at.replace(tzinfo=timezone.utc), before, clock.monotonic(), step=0.001)

    def close(self) -> None:
        """Close the client, if this process has one."""
        with self._lock:
            self._is_closed = True
            client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            client.close()

    def _opened(self) -> MongoClient[Any]:
        with self._lock:
            if self._is_closed:
                raise closed(self.location)
            if self._client is None or self._pid != os.getpid():
                # The parent's is kept unused: if it were dropped, it would write to the parent's sockets.
                self._of_parents.append(self._client)
                self._client = self._made()
                self._pid = os.getpid()
                weakref.finalize(self, _close, self._client, self._pid).atexit = False
            return self._client

    def _made(self) -> MongoClient[Any]:
        try:
            return MongoClient(**{**self._address.arguments, "connect": False})
        except (ConfigurationError, ValueError, TypeError):
            # Their messages quote the argument that they cannot take, and of a URL perhaps the password.
            msg = f"{self.location}: pymongo cannot use these connection parameters"
            raise UnsupportedStoreError(msg, hint=HINT) from None


def _close(client: MongoClient[Any], pid: int) -> None:
    """Close the client of a driver that nothing refers to any longer."""
    if pid == os.getpid():
        client.close()


@contextmanager
def translated(location: str) -> Iterator[None]:
    """
    Raise what pymongo raises as `StoreError`.

    Raises:
        StoreUnreachableError: there is no server, it refuses the user, or no majority confirmed a write.
        EntryTooLargeError: the server refuses a document as too large.
    """
    try:
        yield
    except BulkWriteError as exc:
        # Its text has the whole operation in it, and so the value.
        raise _refused(location, *_first_error(exc)) from None
    except OperationFailure as exc:
        raise _refused(location, exc.code, str(exc).partition(", full error")[0]) from None
    except InvalidName as exc:
        raise StoreError(f"{location}: {exc}", hint="MongoDB has no collection of this name") from None
    except PyMongoError as exc:
        text = str(exc).partition(", Timeout:")[0] or type(exc).__name__
        hint = "check host and port, and that the server runs, has a primary and can be reached from here"
        raise StoreUnreachableError(f"{location}: {text}", hint=hint) from exc


def _first_error(exc: BulkWriteError) -> tuple[int | None, str]:
    details: Any = exc.details
    errors = details.get("writeErrors") or details.get("writeConcernErrors") or [{}]
    return errors[0].get("code"), str(errors[0].get("errmsg", "the server refused a write"))


def _refused(location: str, code: int | None, text: str) -> StoreError | EntryTooLargeError:
    msg = f"{location}: {text}"
    if code in _TOO_LARGE:
        return EntryTooLargeError(msg, hint="split the value, or keep it in another store")
    if code == _INVALID_NAME:
        return StoreError(msg, hint="MongoDB has no collection of this name")
    if code == _UNAUTHORIZED:
        return StoreUnreachableError(msg, hint="grant the user the role readWrite on the database")
    if code == _WRONG_PASSWORD:
        return StoreUnreachableError(msg, hint="check user, password and authSource")
    return StoreUnreachableError(msg, hint="look at the server's log")
