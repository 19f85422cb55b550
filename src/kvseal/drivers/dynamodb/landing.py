"""Where names land in a `DynamoDBStore`: both are kept exactly, if DynamoDB can hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kvseal.drivers.dynamodb.items import (
    COLLECTION_BYTES,
    KEY_BYTES,
    check_name,
    check_value,
    checked_names,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from key_value.aio.protocols.key_value import AsyncKeyValue


@dataclass(frozen=True, slots=True)
class ItemPlaces:
    """Two attributes of an item, each as it is, within DynamoDB's limits."""

    loses_names: ClassVar[bool] = False

    def check_key(self, key: str) -> None:
        """Raise `StoreError` if DynamoDB cannot hold *key*."""
        check_name(key, "key", KEY_BYTES)

    def check_value(self, collection: str, key: str, value: Mapping[str, Any]) -> None:
        """Raise `EntryTooLargeError` if DynamoDB cannot hold *value* under these names."""
        check_value(collection, key, value)

    def reaches(self, collection: str, reserved: str) -> bool:
        """Whether it is the same collection; raises `StoreError` if DynamoDB cannot hold it."""
        check_name(collection, "collection", COLLECTION_BYTES)
        return collection == reserved

    def place(self, collection: str, key: str) -> tuple[str, str]:
        """Return the names; raises `StoreError` if DynamoDB cannot hold them."""
        return checked_names(collection, key)


def landing(store: AsyncKeyValue) -> ItemPlaces:  # noqa: ARG001 - every table has the same rule
    """Return where names land."""
    return ItemPlaces()
