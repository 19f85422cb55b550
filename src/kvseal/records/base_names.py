"""
The names at the base store: what a record is bound to, and where it lands there.

A wrapper chain may rename what its caller names, and a store may fold a name into another place: a file tree
resolves `..`, a multi-disk store drops what a file system refuses.  Both are worked out here, before an
operation, so that no name reaches an entry of the vault or of another collection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvseal.concurrency import slices_between_turns
from kvseal.drivers import landing_of
from kvseal.drivers.landing import UnknownPlaces
from kvseal.envelope.bounded_cache import BoundedCache
from kvseal.errors import ReservedNameError, StoreError
from kvseal.keys.meta import META_COLLECTION, refuse_reserved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kvseal.drivers.chain import Chain

_COLLECTIONS: Final = 4096


class BaseNames:
    """The names of records at the base store of *chain*."""

    __slots__ = (
        "_chain",
        "_check_key",
        "_landing",
        "check_value",
        "collections",
        "is_plain",
        "loses_names",
        "only_dots_lead_out",
    )

    collections: BoundedCache[str | None, str]
    """The collection at the base store; raises `ReservedNameError` for one that is not a user's."""

    is_plain: bool
    """Whether every key is its own name at the base store, and stays in its collection."""

    loses_names: bool
    """Whether the base store may not give a name back, so that each record carries its own."""

    only_dots_lead_out: bool
    """Whether a key without `.` and `%` is its own name and stays: a store unknown to kvseal."""

    check_value: Callable[[str, str, Mapping[str, Any]], object] | None
    """What raises `EntryTooLargeError` for a value that the store cannot hold under its names there."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._landing = landing_of(chain.base)
        self._check_key = self._landing.check_key
        self.check_value = self._landing.check_value
        self.collections = BoundedCache(self._collection, _COLLECTIONS)
        self.loses_names = self._landing.loses_names
        self.is_plain = self._check_key is None and not chain.renames_keys
        self.only_dots_lead_out = isinstance(self._landing, UnknownPlaces) and not chain.renames_keys

    def of(self, collection: str | None, key: str) -> tuple[str, str]:
        """
        Return collection and key at the base store.

        Raises:
            ReservedNameError: they lead to an entry of the vault, or out of their own collection.
        """
        if not self._chain.renames_keys:
            names = self.collections[collection], key
        else:
            names = self._chain.physical(collection, key)
            self._refuse(names[0])
        if self._check_key is not None:
            try:
                self._check_key(names[1])
            except StoreError as exc:
                raise ReservedNameError(exc.message or "", hint=exc.hint) from None
        return names

    async def of_many(self, collection: str | None, keys: Sequence[str]) -> list[tuple[str, str]]:
        """Return what `of` does for each key; of many keys, others on the event loop have their turn."""
        base = self.collections[collection]  # Refuses a reserved one, even without any keys.
        names: list[tuple[str, str]] = []
        async for part in slices_between_turns(len(keys)):
            few = keys[part]
            names += (
                [(base, key) for key in few] if self.is_plain else [self.of(collection, key) for key in few]
            )
        return names

    def _collection(self, collection: str | None) -> str:
        name = self._chain.physical_collection(collection)
        self._refuse(name)
        return name

    def _refuse(self, collection: str) -> None:
        refuse_reserved(collection)
        try:
            reaches = self._landing.reaches(collection, META_COLLECTION)
        except StoreError as exc:
            raise ReservedNameError(exc.message or "", hint=exc.hint) from None
        if reaches:
            msg = f"the collection {collection!r} leads to that of the vault meta in this store"
            raise ReservedNameError(msg, hint="use another name for your own data")
