"""Tables of a DynamoDBStore, and what is in their items."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from key_value.aio.stores.dynamodb import DynamoDBStore

from kvseal.drivers.dynamodb.items import ttl_of

if TYPE_CHECKING:
    from datetime import datetime

    from tests.drivers.dynamodb.server import Server
    from tests.drivers.entries import RawWriter


class BulkStore(DynamoDBStore):
    """The store, except that `put_many` is quick: the items that it would write, 25 in a request."""

    async def _put_managed_entries(
        self, *, collection: str, keys: Any, managed_entries: Any, **_: Any
    ) -> None:
        items = [
            item(
                collection,
                key,
                self._serialization_adapter.dump_json(entry=managed, key=key, collection=collection),
                managed.expires_at,
            )
            for key, managed in zip(keys, managed_entries, strict=True)
        ]
        await asyncio.gather(
            *(
                self._connected_client.batch_write_item(
                    RequestItems={
                        self._table_name: [{"PutRequest": {"Item": one}} for one in items[start : start + 25]]
                    }
                )
                for start in range(0, len(items), 25)
            )
        )


def item(collection: str, key: str, body: str, expires_at: datetime | None) -> dict[str, Any]:
    """Return an item as the store writes it, with any text as its body."""
    made = {"collection": {"S": collection}, "key": {"S": key}, "value": {"S": body}}
    return made if expires_at is None else {**made, "ttl": {"N": ttl_of(expires_at)}}


def raw_writer(server: Server, table: str) -> RawWriter:
    """Return what stores any text as a body."""

    async def write_raw(collection: str, key: str, body: str, expires_at: datetime | None) -> None:
        server.client().put_item(TableName=table, Item=item(collection, key, body, expires_at))

    return write_raw
