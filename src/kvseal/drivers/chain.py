"""
The wrapper chain below kvseal, down to the base store that has the bytes.

A record is bound to the names that it has at the base store, so that it
means the same wherever in a stack of wrappers the encryption stands, and so that
a driver, which sees only the base store, finds exactly the names that were bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from key_value.aio.wrappers.prefix_collections import PrefixCollectionsWrapper
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from key_value.aio.wrappers.single_collection import SingleCollectionWrapper
from key_value.aio.wrappers.statistics import StatisticsWrapper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from key_value.aio.protocols.key_value import AsyncKeyValue

DEFAULT_COLLECTION: Final = "default_collection"
"""What py-key-value stores call the collection `None` unless they are given another name for it."""

_NEXT: Final = ("key_value", "primary_key_value", "_default_store")
"""Where wrappers keep the store below: nearly all; fallback and pass-through cache; routing."""

# Until 0.5 the statistics wrapper itself turned `None` into a name, past the default of the store below.
NAMES_NONE: Final = (StatisticsWrapper,) if version("py-key-value-aio").startswith("0.4.") else ()
"""Wrappers that name the collection `None` themselves."""

_KEY_RENAMERS: Final = (PrefixKeysWrapper, SingleCollectionWrapper)
_RENAMERS: Final = (PrefixCollectionsWrapper, *_KEY_RENAMERS, *NAMES_NONE)


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """
    The wrappers from *outermost* to innermost, and the base store at the end of them.

    A wrapper of an unknown class is taken to leave names alone.  Behind a router the
    chain goes on in its default store, behind a fallback or cache in the primary one.
    """

    base: AsyncKeyValue
    wrappers: tuple[AsyncKeyValue, ...]
    default_collection: str
    """What `collection=None` stands for at the base store."""
    renames_keys: bool
    """Whether `physical` changes keys; if not, `physical_collection` is all that a caller needs."""
    _renamers: tuple[AsyncKeyValue, ...]

    @classmethod
    def of(cls, store: AsyncKeyValue) -> Chain:
        """Walk from *store* to the base store; a chain that bites its own tail ends where it does."""
        *wrappers, base = _walk(store)
        renamers = tuple(w for w in wrappers if isinstance(w, _RENAMERS))
        return cls(
            base=base,
            wrappers=tuple(wrappers),
            default_collection=getattr(base, "default_collection", None) or DEFAULT_COLLECTION,
            renames_keys=any(isinstance(w, _KEY_RENAMERS) for w in renamers),
            _renamers=renamers,
        )

    def physical(self, collection: str | None, key: str) -> tuple[str, str]:
        """Return the names at the base store of what the top of the chain calls *collection* and *key*."""
        for wrapper in self._renamers:
            collection, key = _renamed(wrapper, collection=collection, key=key)
        return collection or self.default_collection, key

    def physical_collection(self, collection: str | None) -> str:
        """Return the collection at the base store; it never depends on the key."""
        return self.physical(collection, "")[0] if self._renamers else collection or self.default_collection


def _walk(store: AsyncKeyValue) -> Iterator[AsyncKeyValue]:
    seen: set[int] = set()
    current: AsyncKeyValue | None = store
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = _below(current)


def _below(store: AsyncKeyValue) -> AsyncKeyValue | None:
    """
    Return the store below *store*, if it wraps one.

    Only attributes of its own count.  A wrapper that passes unknown attributes through
    would answer with those of the store below it, and that store would be skipped.
    """
    own: dict[str, Any] = getattr(store, "__dict__", {})
    for name in _NEXT:
        if name in own or hasattr(type(store), name):
            below: AsyncKeyValue | None = getattr(store, name, None)
            if below is not None:
                return below
    return None


def _renamed(wrapper: Any, *, collection: str | None, key: str) -> tuple[str | None, str]:
    # The wrappers' own methods are called, so that a subclass that overrides them is followed.
    if isinstance(wrapper, PrefixCollectionsWrapper):
        return wrapper._prefix_collection(collection), key  # noqa: SLF001
    if isinstance(wrapper, PrefixKeysWrapper):
        return collection, wrapper._prefix_key(key)  # noqa: SLF001
    if isinstance(wrapper, StatisticsWrapper):
        return collection or DEFAULT_COLLECTION, key
    return wrapper.single_collection, wrapper._prefix_key(key, collection)  # noqa: SLF001
