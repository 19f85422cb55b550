"""
Rows of diskcache's `Cache` table as entries.

A row comes out of a file that others can write, so each column is looked at before
it is believed.  What diskcache would unpickle, what is not text, and what does not
say consistently whose entry it is becomes an entry with a `problem`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, Protocol

from kvseal.drivers.base import Entry
from kvseal.drivers.body import Body, UnreadableBodyError, read_body
from kvseal.errors import StoreError

SEPARATOR: Final = "::"
RAW_MODE: Final = 1
TEXT_FILE_MODE: Final = 3

# The look-ahead finds separators that overlap: `:::` can be split in two ways.
_SEPARATORS: Final = re.compile(f"(?={SEPARATOR})")
_MODES: Final = {0: "nothing", 2: "bytes", 4: "a pickle"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it is stored, text as bytes; any column may hold what diskcache would never write."""

    rowid: int
    key: bytes | None
    key_is_text: int
    raw: Any
    expire_time: Any
    size: Any
    mode: Any
    filename: bytes | None
    value: bytes | None
    value_is_text: int

    @property
    def value_file(self) -> str | None:
        """The name of the file that holds the body, if one does."""
        return os.fsdecode(self.filename) if self.mode == TEXT_FILE_MODE and self.filename else None

    def has_expired(self, now: float) -> bool:
        """Whether diskcache would drop the row, which it decides by SQLite's order: text is never past."""
        return isinstance(self.expire_time, int | float) and self.expire_time <= now


class RowNames(Protocol):
    """How a store makes the key of a row from the names of an entry, and what such a key says of them."""

    def row_key(self, collection: str, key: str) -> str:
        """Return the key of the row in which the store keeps this entry."""
        ...

    def lead_to(self, row_key: str, *, collection: str, key: str) -> bool:
        """Whether the row with *row_key* is where the store keeps this entry."""
        ...

    def only(self, row_key: str) -> tuple[str, str] | None:
        """Return the only names that lead to the row, `None` where there may be others."""
        ...

    def shown(self, row_key: str) -> tuple[str, str] | None:
        """Return names for messages about a row that does not say its own."""
        ...


class JoinedNames:
    """The rule of `DiskStore`: one row key of both names, `collection::key`."""

    def row_key(self, collection: str, key: str) -> str:
        """Return both names, joined."""
        return encodable(f"{collection}{SEPARATOR}{key}")

    def lead_to(self, row_key: str, *, collection: str, key: str) -> bool:
        """Whether the names, joined, are *row_key*."""
        return f"{collection}{SEPARATOR}{key}" == row_key

    def only(self, row_key: str) -> tuple[str, str] | None:
        """Return the two parts of a row key that has one separator."""
        if len(_SEPARATORS.findall(row_key)) != 1:
            return None
        collection, _, key = row_key.partition(SEPARATOR)
        return collection, key

    def shown(self, row_key: str) -> tuple[str, str] | None:
        """Return what `only` does."""
        return self.only(row_key)


JOINED: Final = JoinedNames()


def encodable(name: str) -> str:
    """Return *name*; raises `StoreError` if SQLite cannot hold it."""
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        msg = f"a disk store cannot hold the name {name!r}: it has a lone surrogate"
        raise StoreError(msg) from exc
    return name


def row_problem(row: Row) -> str:
    """Say why *row* cannot be one of the store's, or return nothing."""
    if row.raw != 1:
        return "the key is a pickle, which kvseal never loads"
    if not row.key_is_text or not _is_utf8(row.key):
        return "the key is not text"
    if row.mode not in {RAW_MODE, TEXT_FILE_MODE}:
        return f"the value is {_MODES.get(row.mode, 'of an unknown kind')}, which kvseal never loads"
    if row.mode == RAW_MODE and not row.value_is_text:
        return "the value is not text"
    if not _is_utf8(row.filename) or (row.mode == TEXT_FILE_MODE and not row.filename):
        return "the row does not name its value file"
    return ""


def entry_of(
    row: Row, stored: bytes, names: tuple[str, str] | None = None, *, rule: RowNames = JOINED
) -> Entry:
    """
    Return the entry of a *row* without a problem of its own and the body *stored* for it.

    *names* are those that somebody looked for and that led to this row by the *rule*; they
    count only for a body without names.
    """
    try:
        body = read_body(stored)
        collection, key = _names(row, body, names, rule)
        expires_at = _expiry(row, body)
    except UnreadableBodyError as exc:
        return problem_entry(row, str(exc), stored, rule=rule)
    return Entry(collection, key, body.value, body.created_at, expires_at, locator=row, stored=stored)


def problem_entry(row: Row, problem: str, stored: bytes = b"", *, rule: RowNames = JOINED) -> Entry:
    """Return an entry that says why *row* cannot be read, under names that its key can mean."""
    text = row.key.decode() if row.key_is_text and row.key and _is_utf8(row.key) else ""
    collection, key = rule.shown(text) or (None, None)
    return Entry(collection, key, None, locator=row, stored=stored, problem=f"row {row.rowid}: {problem}")


def names_to_write(entry: Entry, *, rule: RowNames = JOINED) -> tuple[str, str] | None:
    """
    Return the names that a new body of *entry* has to say, `None` where its row key says them.

    Only somebody who knew the names can have read a nameless body whose row key can be split in
    several ways.  From then on the body says them, so that a scan finds it, too.
    """
    if entry.collection is None or entry.key is None:
        return None
    names = entry.collection, entry.key
    return None if rule.only(rule.row_key(*names)) else names


def _names(row: Row, body: Body, names: tuple[str, str] | None, rule: RowNames) -> tuple[str, str]:
    text = (row.key or b"").decode()
    if body.collection is not None and body.key is not None:
        if not rule.lead_to(text, collection=body.collection, key=body.key):
            msg = f"the row of {text!r} holds the body of {body.collection!r}/{body.key!r}"
            raise UnreadableBodyError(msg)
        return body.collection, body.key
    found = names or rule.only(text)
    if found is None:
        msg = f"the body has no names and {text!r} can be split in several ways or in none"
        raise UnreadableBodyError(msg)
    return found


def _expiry(row: Row, body: Body) -> datetime | None:
    # The store prefers the column, too; the two differ by the time that the put took.
    if row.expire_time is None:
        return body.expires_at
    try:
        return datetime.fromtimestamp(row.expire_time, tz=timezone.utc)
    except (TypeError, ValueError, OverflowError, OSError):
        msg = "the expiry of the row is not a time"
        raise UnreadableBodyError(msg) from None


def _is_utf8(text: bytes | None) -> bool:
    try:
        return text is None or bool(text.decode() or True)
    except UnicodeDecodeError:
        return False
