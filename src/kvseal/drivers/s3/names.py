"""
How an `S3Store` makes one object key of two names, and when an object key gives them back.

    COLLECTION/KEY

An object key with two slashes or more can be split in several ways, and a record that is sealed for the wrong
names can never be opened under its true ones.  So such names are not given back, unless the operator has
named the collections that there are.  The store's own strategies for long names put eight digits of a hash at
the end, and such a name is not given back either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from key_value.aio._utils.sanitization import (
    HashExcessLengthStrategy,
    HybridSanitizationStrategy,
    PassthroughStrategy,
)
from key_value.aio.stores.s3 import S3CollectionSanitizationStrategy, S3KeySanitizationStrategy

from kvseal.drivers.joined import encodable
from kvseal.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SEPARATOR: Final = "/"
LONGEST: Final = 1024
"""Bytes of an object key, S3's own limit."""

RESERVED: Final = "__vault_meta__"
"""Where kvseal keeps entries of its own; `S3Places` lets no other collection begin with it and a slash."""

# A hash of eight digits takes the place of the end, and a character of up to four bytes is not divided.
_CUT: Final = 3
_HASHED: Final = re.compile(r"[0-9a-f]{8}\Z")
# What these strategies change gets a prefix, so what has none is what it was.
_PREFIXES: Final = ("S_", "H_")
_MARKING: Final = (HybridSanitizationStrategy.sanitize, HashExcessLengthStrategy.sanitize)


class Rule(Protocol):
    """How names of one kind, keys or collections, are stored."""

    def stored(self, name: str) -> str:
        """Return what becomes of *name*; raises `StoreError` if that is not known."""
        ...

    def name(self, stored: str) -> str | None:
        """Return the one name that becomes *stored*, or `None` where there may be several."""
        ...


@dataclass(frozen=True, slots=True)
class StrategyRule:
    """The rule of a sanitization strategy; of one that kvseal does not know, no name is given back."""

    strategy: Any

    def stored(self, name: str) -> str:
        """Let the strategy itself sanitize *name*."""
        return str(self.strategy.sanitize(encodable(name)))

    def name(self, stored: str) -> str | None:
        """Give back what the strategy has certainly left alone."""
        sanitize = type(self.strategy).sanitize
        if sanitize is PassthroughStrategy.sanitize:
            return stored
        if sanitize is S3KeySanitizationStrategy.sanitize:
            return None if _may_be_cut(stored, self.strategy.max_bytes) else stored
        is_untouched = sanitize in _MARKING and not stored.startswith(_PREFIXES)
        return stored if is_untouched and self.stored(stored) == stored else None


@dataclass(frozen=True, slots=True)
class UndecidedRule:
    """Plain, or cut by the store's own strategy: what a URL leaves open, and matters for long names alone."""

    cut: Any

    def stored(self, name: str) -> str:
        """Return what both say, or raise `StoreError`."""
        if self.cut.sanitize(encodable(name)) != name:
            msg = f"nothing shows whether the store shortens a name of {len(name.encode()):,} bytes"
            raise StoreError(msg, hint="add names=plain or names=hashed to the options of the URL")
        return name

    def name(self, stored: str) -> str | None:
        """Return what both say, or nothing."""
        return None if _may_be_cut(stored, self.cut.max_bytes) else stored


def rules_of(names: str | None) -> tuple[Rule, Rule]:
    """Return the rules for collections and keys that the option *names* of a URL means."""
    if names == "plain":
        return StrategyRule(PassthroughStrategy()), StrategyRule(PassthroughStrategy())
    cuts = S3CollectionSanitizationStrategy(), S3KeySanitizationStrategy()
    if names == "hashed":
        return StrategyRule(cuts[0]), StrategyRule(cuts[1])
    return UndecidedRule(cuts[0]), UndecidedRule(cuts[1])


@dataclass(frozen=True, slots=True)
class ObjectNames:
    """
    The names of the objects of one store.

    *given* are all the collections that there are, in the operator's word, by what is stored of them; empty
    where the operator gave none.
    """

    collections: Rule
    keys: Rule
    given: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, rules: tuple[Rule, Rule], collections: Iterable[str] = ()) -> ObjectNames:
        """Return the names by two rules, for keys and for collections, of which all may be given."""
        return cls(*rules, {rules[0].stored(name): name for name in collections})

    def object_key(self, collection: str, key: str) -> str:
        """Return where the names lead; raises `StoreError` if S3 cannot hold them."""
        stored = f"{self.collections.stored(collection)}{SEPARATOR}{self.keys.stored(key)}"
        size = len(stored.encode())
        if size > LONGEST:
            msg = (
                f"the object key of {collection!r}/{key[:40]!r}… has {size:,} bytes, and S3 takes {LONGEST:,}"
            )
            raise StoreError(msg, hint="use shorter names, or a store with S3KeySanitizationStrategy")
        return stored

    def lead_to(self, collection: str | None, key: str, object_key: str) -> bool:
        """Whether the names lead to *object_key*; without a collection, whether those of any could."""
        try:
            if collection is not None:
                return self.object_key(collection, key) == object_key
            behind = f"{SEPARATOR}{self.keys.stored(key)}"
        except StoreError:
            return False
        return object_key.endswith(behind) and len(object_key) > len(behind)

    def names(self, object_key: str) -> tuple[str | None, str | None]:
        """Return the only names that lead to *object_key*, `None` for each where there may be others."""
        splits = self._splits(object_key)
        if self.given:
            named = [(collection, key) for collection, key in splits if collection in self.given]
            if len(named) == 1:
                ((collection, key),) = named
                return self.given[collection], self.keys.name(key)
        if len(splits) != 1:
            return None, None
        ((collection, key),) = splits
        return self.collections.name(collection), self.keys.name(key)

    def _splits(self, object_key: str) -> list[tuple[str, str]]:
        """Return the ways to split *object_key* into a collection, which is never empty, and a key."""
        if object_key.startswith(f"{RESERVED}{SEPARATOR}"):
            return [(RESERVED, object_key[len(RESERVED) + 1 :])]
        parts = object_key.split(SEPARATOR)
        splits = ((SEPARATOR.join(parts[:n]), SEPARATOR.join(parts[n:])) for n in range(1, len(parts)))
        return [split for split in splits if split[0]]


def is_entry(object_key: str, size: int) -> bool:
    """Whether the store can have written an object: not without a slash, and not the mark of a folder."""
    before, separator, behind = object_key.partition(SEPARATOR)
    has_collection = bool(separator) and (before != "" or SEPARATOR in behind)
    return has_collection and not (size == 0 and object_key.endswith(SEPARATOR))


def _may_be_cut(stored: str, longest: int) -> bool:
    """Whether the store's own strategy may have made *stored* of a longer name, or leaves no name as long."""
    size = len(stored.encode())
    return size > longest or (size >= longest - _CUT and _HASHED.search(stored) is not None)
