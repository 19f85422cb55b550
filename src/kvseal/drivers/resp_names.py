"""
Keys of a Redis or Valkey database as entries: what belongs to the store, and whose entry it is.

A database is often shared.  The store keeps an entry in a string under `collection::key`,
so a key without `::` and a key that is not a string belong to somebody else: the store can
have written neither, nothing in them can need a DEK, and no scan mentions them.  Every other
key is an entry, with a `problem` if nobody can read it.  Asked for by name, a key of another
type is a problem as well, for its name is taken.

The names in a body must join to its key, because a value that somebody moved under another
key would otherwise be taken for what it is not.  Bodies from before py-key-value-aio 0.3 have
no names; theirs come from the key where it can be split in one way only.

An entry lives as long as its body says, which is what the store goes by.  The key's own time
to live is the server's: kept to the millisecond, and not interpreted.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from kvseal.drivers.base import Entry
from kvseal.drivers.body import UnreadableBodyError, read_body
from kvseal.errors import StoreError

if TYPE_CHECKING:
    from kvseal.drivers.body import Body

SEPARATOR: Final = "::"

# The look-ahead finds separators that overlap: `:::` can be split in two ways.
_SEPARATORS: Final = re.compile(f"(?={SEPARATOR})")


def stored_key(collection: str, key: str) -> bytes:
    """
    Return the key under which the store keeps this entry.

    Raises:
        StoreError: the server's keys are bytes, and a lone surrogate has none.
    """
    try:
        return f"{collection}{SEPARATOR}{key}".encode()
    except UnicodeEncodeError as exc:
        msg = f"the server cannot hold the name {collection!r}/{key!r}: it has a lone surrogate"
        raise StoreError(msg) from exc


def entry_of(key: bytes, stored: bytes, names: tuple[str, str] | None = None) -> Entry:
    """
    Return the entry with the body *stored* under *key*, with a `problem` if it cannot be read.

    *names* are those that somebody looked for and that led to this key; they count only for a
    body without names.
    """
    try:
        body = read_body(stored)
        collection, name = _names(key.decode(), body, names)
    except UnicodeDecodeError:
        return problem_entry(key, "the key is not UTF-8", stored)
    except UnreadableBodyError as exc:
        return problem_entry(key, str(exc), stored)
    return Entry(collection, name, body.value, body.created_at, body.expires_at, locator=key, stored=stored)


def problem_entry(key: bytes, problem: str, stored: bytes = b"") -> Entry:
    """Return an entry that says why *key* cannot be read, under the only names that it can mean."""
    text = key.decode("utf-8", "backslashreplace")
    collection, name = _split(text) or (None, None)
    return Entry(collection, name, None, locator=key, stored=stored, problem=f"{text!r}: {problem}")


def has_expired(entry: Entry) -> bool:
    """Whether the store reads *entry* as missing, though the server may still hold it for a moment."""
    return entry.expires_at is not None and entry.expires_at <= datetime.now(timezone.utc)


def _names(text: str, body: Body, names: tuple[str, str] | None) -> tuple[str, str]:
    if body.collection is not None and body.key is not None:
        if f"{body.collection}{SEPARATOR}{body.key}" != text:
            msg = f"it holds the body of {body.collection!r}/{body.key!r}"
            raise UnreadableBodyError(msg)
        return body.collection, body.key
    found = names or _split(text)
    if found is None:
        msg = "the body has no names and the key can be split in several ways"
        raise UnreadableBodyError(msg)
    return found


def _split(text: str) -> tuple[str, str] | None:
    if len(_SEPARATORS.findall(text)) != 1:
        return None
    collection, _, key = text.partition(SEPARATOR)
    return collection, key
