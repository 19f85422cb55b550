"""
Where the names of an `S3Store` land.

Amazon's S3 keeps an object key as it is, so `("a", "b/c")` and `("a/b", "c")` are one object, and no other
names are.  Servers that speak its protocol, and proxies before them, resolve dot segments and repeated
slashes.  So a name counts as reaching wherever any of them would take it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kvseal.drivers.landing import UnknownPlaces
from kvseal.drivers.s3.names import ObjectNames, StrategyRule

if TYPE_CHECKING:
    from key_value.aio.stores.s3 import S3Store

_ANY: UnknownPlaces = UnknownPlaces()


@dataclass(frozen=True, slots=True)
class S3Places:
    """The places of the names of one store, after its own strategies."""

    names: ObjectNames
    loses_names: ClassVar[bool] = True
    check_value: ClassVar[None] = None

    def check_key(self, key: str) -> None:
        """Raise `StoreError` if *key* climbs out of its collection by dot segments."""
        _ANY.check_key(self.names.keys.stored(key))

    def reaches(self, collection: str, reserved: str) -> bool:
        """Whether the resolved collection is the reserved one or in it."""
        stored = self.names.collections.stored
        return _ANY.reaches(stored(collection), stored(reserved))

    def place(self, collection: str, key: str) -> tuple[str, str]:
        """Return the object key, without what such servers leave out."""
        stored = self.names.object_key(collection, key)
        return _ANY.place(*stored.split("/", 1))


def landing(store: S3Store) -> S3Places:
    """Return the rule of *store*."""
    return S3Places(names_of(store))


def names_of(store: S3Store) -> ObjectNames:
    """Return the names of *store*, by its own strategies."""
    return ObjectNames.of(
        (
            StrategyRule(store._collection_sanitization_strategy),  # noqa: SLF001
            StrategyRule(store._key_sanitization_strategy),  # noqa: SLF001
        )
    )
