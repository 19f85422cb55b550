"""
Rows of diskcache's `Cache` table as entries.

A row comes out of a file that others can write, so each column is looked at before
it is believed.  What diskcache would unpickle, what is not text, and what does not
say consistently whose entry it is becomes an entry with a `problem`.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from typing import Any, Final, NamedTuple

from kvseal.drivers.base import Entry
from kvseal.drivers.body import Body, UnreadableBodyError, read_body
from kvseal.drivers.joined import JOINED, NameRule, stated_names

RAW_MODE: Final = 1
TEXT_FILE_MODE: Final = 3

_MODES: Final = {0: "nothing", 2: "bytes", 4: "a pickle"}


class Row(NamedTuple):
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
    row: Row, stored: bytes, names: tuple[str, str] | None = None, *, rule: NameRule = JOINED
) -> Entry:
    """
    Return the entry of a *row* without a problem of its own and the body *stored* for it.

    *names* are those that a caller looked for and that led to this row by the *rule*; they
    count only for a body without names.
    """
    try:
        body = read_body(stored)
        collection, key = stated_names((row.key or b"").decode(), body, names, rule)
        expires_at = _expiry(row, body)
    except UnreadableBodyError as exc:
        return problem_entry(row, str(exc), stored, rule=rule)
    return Entry(collection, key, body.value, body.created_at, expires_at, locator=row, stored=stored)


def problem_entry(row: Row, problem: str, stored: bytes = b"", *, rule: NameRule = JOINED) -> Entry:
    """Return an entry that says why *row* cannot be read, under names that its key can mean."""
    text = row.key.decode() if row.key_is_text and row.key and _is_utf8(row.key) else ""
    collection, key = rule.shown(text) or (None, None)
    return Entry(collection, key, None, locator=row, stored=stored, problem=f"row {row.rowid}: {problem}")


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
