"""
Which MongoDB collection a name leads to, by the store's own rule.

By default that is the collection of the same name.  A store with a sanitization strategy replaces
characters, hashes and cuts, so two names may lead to one MongoDB collection; the documents have the names
as they were given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from key_value.aio.errors import KeyValueOperationError
from key_value.aio.stores.mongodb.store import MongoDBV1CollectionSanitizationStrategy

from kvseal.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_RESERVED: Final = "system."


@dataclass(frozen=True, slots=True)
class Names:
    """The rule of one store: *sanitize* returns the name of a MongoDB collection, or raises."""

    sanitize: Callable[[str], str]

    def stored(self, collection: str) -> str:
        """
        Return the MongoDB collection of *collection*.

        Raises:
            StoreError: the store has none for it.
        """
        try:
            name = self.sanitize(collection)
        except (KeyValueOperationError, UnicodeEncodeError):
            name = ""
        if not _is_name(name):
            msg = f"MongoDBStore has no collection for the name {collection!r}"
            raise StoreError(msg, hint="use another name")
        return name

    def leads_to(self, collection: str, stored: str) -> bool:
        """Whether the store looks for *collection* in the MongoDB collection *stored*."""
        try:
            return self.stored(collection) == stored
        except StoreError:
            return False


def _is_name(name: str) -> bool:
    """Whether MongoDB has collections of that name, as pymongo will have it too."""
    is_odd = "$" in name or "\0" in name or ".." in name or name[:1] == "." or name[-1:] == "."
    return name != "" and not is_odd and not name.startswith(_RESERVED) and _is_text(name)


def checked_key(key: str) -> str:
    """Return *key*; raises `StoreError` if it is no text that MongoDB can hold."""
    if not _is_text(key):
        msg = f"MongoDB cannot hold the key {key!r}"
        raise StoreError(msg, hint="use names without lone surrogates")
    return key


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _v1(collection: str) -> str:
    strategy = MongoDBV1CollectionSanitizationStrategy()
    strategy.validate(collection)
    return strategy.sanitize(collection)


BY_OPTION: Final[Mapping[str, Names]] = {"plain": Names(str), "v1": Names(_v1)}
"""The rules that a URL can ask for, by `?names=`."""
