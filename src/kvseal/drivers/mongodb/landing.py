"""Where the names of a `MongoDBStore` land: keys as they are, collections by the store's own strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kvseal.drivers.mongodb.documents import check_value
from kvseal.drivers.mongodb.names import Names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from key_value.aio.stores.mongodb import MongoDBStore


@dataclass(frozen=True, slots=True)
class CollectionPlaces:
    """A MongoDB collection for each collection, or for several where a strategy folds them."""

    loses_names: ClassVar[bool] = False

    names: Names
    check_key: None = None

    def check_value(self, collection: str, key: str, value: Mapping[str, Any]) -> None:
        """Raise `EntryTooLargeError` if a document with *value* would be larger than MongoDB takes."""
        check_value(collection, key, value)

    def reaches(self, collection: str, reserved: str) -> bool:
        """Whether both names lead to one MongoDB collection."""
        return self.names.stored(collection) == self.names.stored(reserved)

    def place(self, collection: str, key: str) -> tuple[str, str]:
        """Return the MongoDB collection and the key."""
        return self.names.stored(collection), key


def landing(store: MongoDBStore) -> CollectionPlaces:
    """Return the rule of *store*."""
    return CollectionPlaces(Names(store._sanitize_collection))  # noqa: SLF001
