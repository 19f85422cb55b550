"""
Joined names: stores that keep an entry under one text key, `collection::key`.

The names in a body must join to its key, because a value that an attacker moved under another key
would otherwise be taken for what it is not.  Bodies from before py-key-value-aio 0.3 have no names;
theirs come from the key where it can be split in one way only.

Redis, Valkey and RocksDB databases are often shared.  A key without `::` and a key that is not text
belong to another program: the store can have written neither, nothing in them can need a DEK, and no
scan mentions them.  Every other key is an entry, with a `problem` if it cannot be read.

An entry lives as long as its body says, which is what these stores go by.  A time to live of the
backend's own is kept as it is, and not interpreted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from kvseal.drivers.base import Entry, content
from kvseal.drivers.body import UnreadableBodyError, patch_body, read_body, write_body
from kvseal.drivers.landing import SEPARATOR, JoinedPlaces
from kvseal.errors import StoreError

if TYPE_CHECKING:
    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Replacement
    from kvseal.drivers.body import Body

_TWO_SEPARATORS: Final = ":::"


class NameRule(Protocol):
    """How a store makes the stored key of an entry from its names, and what such a key says of them."""

    def stored_key(self, collection: str, key: str) -> str:
        """Return the key under which the store keeps this entry."""
        ...

    def lead_to(self, stored_key: str, *, collection: str, key: str) -> bool:
        """Whether the store keeps this entry under *stored_key*."""
        ...

    def only(self, stored_key: str) -> tuple[str, str] | None:
        """Return the only names that lead to *stored_key*, `None` where there may be others."""
        ...

    def shown(self, stored_key: str) -> tuple[str, str] | None:
        """Return names for messages about an entry that does not say its own."""
        ...


class JoinedNames:
    """The rule of most stores: one stored key of both names, `collection::key`."""

    def stored_key(self, collection: str, key: str) -> str:
        """Return both names, joined."""
        return encodable(f"{collection}{SEPARATOR}{key}")

    def lead_to(self, stored_key: str, *, collection: str, key: str) -> bool:
        """Whether the names, joined, are *stored_key*."""
        return f"{collection}{SEPARATOR}{key}" == stored_key

    def only(self, stored_key: str) -> tuple[str, str] | None:
        """Return the two parts of a stored key that has one separator."""
        # A third colon beside them makes a second separator, which overlaps the first.
        if stored_key.count(SEPARATOR) != 1 or _TWO_SEPARATORS in stored_key:
            return None
        collection, _, key = stored_key.partition(SEPARATOR)
        return collection, key

    def shown(self, stored_key: str) -> tuple[str, str] | None:
        """Return what `only` does."""
        return self.only(stored_key)


JOINED: Final = JoinedNames()


def landing(store: AsyncKeyValue) -> JoinedPlaces:  # noqa: ARG001 - every store has the same rule
    """Return where names land: in one key of both."""
    return JoinedPlaces()


def encodable(name: str) -> str:
    """Return *name*; raises `StoreError` if it is no UTF-8 text, which is all that these stores can hold."""
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        msg = f"this store cannot hold the name {name!r}: it has a lone surrogate"
        raise StoreError(msg) from exc
    return name


def stated_names(
    stored_key: str, body: Body, asked: tuple[str, str] | None, rule: NameRule = JOINED
) -> tuple[str, str]:
    """
    Return the names of the entry with this *body* under *stored_key*.

    *asked* are names that a caller looked for and that led to this key by the *rule*; they count only
    for a body without names.

    Raises:
        UnreadableBodyError: the body says other names, or no names and the key can be split in several ways.
    """
    if body.collection is not None and body.key is not None:
        if not rule.lead_to(stored_key, collection=body.collection, key=body.key):
            msg = f"it holds the body of {body.collection!r}/{body.key!r}"
            raise UnreadableBodyError(msg)
        return body.collection, body.key
    found = asked or rule.only(stored_key)
    if found is None:
        msg = "the body has no names and its key can be split in several ways or in none"
        raise UnreadableBodyError(msg)
    return found


def names_to_write(entry: Entry, *, rule: NameRule = JOINED) -> tuple[str, str] | None:
    """
    Return the names that a new body of *entry* has to say, `None` where its stored key says them.

    Only a caller who knew the names can have read a nameless body whose stored key can be split in
    several ways.  From then on the body says them, so that a scan finds it, too.
    """
    if entry.collection is None or entry.key is None:
        return None
    names = entry.collection, entry.key
    return None if rule.only(rule.stored_key(*names)) else names


def entry_of(key: bytes, stored: bytes, asked: tuple[str, str] | None = None) -> Entry:
    """
    Return the entry with the body *stored* under the joined *key*, with a `problem` if it cannot be read.

    *asked* is as in `stated_names`.
    """
    try:
        body = read_body(stored)
        collection, name = stated_names(key.decode(), body, asked)
    except UnicodeDecodeError:
        return problem_entry(key, "the key is not UTF-8", stored)
    except UnreadableBodyError as exc:
        return problem_entry(key, str(exc), stored)
    return Entry(collection, name, body.value, body.created_at, body.expires_at, locator=key, stored=stored)


def problem_entry(key: bytes, problem: str, stored: bytes = b"") -> Entry:
    """Return an entry that says why *key* cannot be read, under the only names that it can mean."""
    text = key.decode("utf-8", "backslashreplace")
    collection, name = JOINED.only(text) or (None, None)
    return Entry(collection, name, None, locator=key, stored=stored, problem=f"{text!r}: {problem}")


def written(entry: Entry, rule: NameRule = JOINED) -> tuple[str, str]:
    """Return the stored key and the body of a new *entry*; raises `StoreError` as `content` does."""
    collection, key, value = content(entry)
    names = (collection, key)
    body = write_body(value, created_at=entry.created_at, expires_at=entry.expires_at, names=names)
    return rule.stored_key(*names), body


def patched(replacement: Replacement, rule: NameRule = JOINED) -> str:
    """Return the body that takes the place of the one that *replacement*'s entry has."""
    entry = replacement.entry
    names = names_to_write(entry, rule=rule)
    return patch_body(entry.stored, replacement.value, replacement.expires_at, names=names)
