"""
The table of a `DynamoDBStore`: what it looks like, and how the store makes it.

Reading makes nothing.  A table is made where the store object would make it, with the first put, and where a
URL is opened to create a store.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError, WaiterError

from kvseal.errors import StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.drivers.aws import Answer, AwsClient

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}", re.ASCII)
_ARN: Final = re.compile(r"arn:[\w-]+:dynamodb:[\w-]+:\d{12}:table/[A-Za-z0-9_.-]{3,255}", re.ASCII)
_SCHEMA: Final = (("collection", "HASH"), ("key", "RANGE"))
NOT_FOUND: Final = "ResourceNotFoundException"
_IN_USE: Final = "ResourceInUseException"


def checked_name(name: str) -> str:
    """Return *name*, which becomes part of statements; raises `UnsupportedStoreError` if no table has it."""
    if _NAME.fullmatch(name) or _ARN.fullmatch(name):
        return name
    msg = "this is not the name of a DynamoDB table"
    raise UnsupportedStoreError(
        msg, hint="a name is 3 to 255 letters, digits and _.-; or give the table's ARN"
    )


def described(client: AwsClient, name: str, *, expects: frozenset[str] = frozenset()) -> Answer:
    """Return the answer to the question what the table is like."""
    return client.ask("describe_table", expects={NOT_FOUND, *expects}, TableName=name)


def check_table(client: AwsClient, name: str, location: str) -> None:
    """
    Raise unless there is a table as the store makes it.

    Raises:
        StoreNotFoundError: there is no table of that name.
        StoreUnreachableError: it is being made, or deleted.
        UnsupportedStoreError: it is a table of something else.
    """
    answer = described(client, name)
    if answer.code:
        raise not_found(location, name)
    table: Mapping[str, Any] = answer.body["Table"]
    schema = [(part["AttributeName"], part["KeyType"]) for part in table["KeySchema"]]
    types = {part["AttributeName"]: part["AttributeType"] for part in table["AttributeDefinitions"]}
    if sorted(schema) != sorted(_SCHEMA) or any(types.get(attribute) != "S" for attribute, _ in _SCHEMA):
        msg = f"{location}: the table {name} has another key than a DynamoDBStore's"
        raise UnsupportedStoreError(msg, hint="name a table that DynamoDBStore made")
    if table.get("TableStatus") not in {"ACTIVE", "UPDATING"}:
        msg = f"{location}: the table {name} is {table.get('TableStatus', 'not there').lower()}"
        raise StoreUnreachableError(msg, hint="wait until it is active, and try again")


def not_found(location: str, name: str) -> StoreNotFoundError:
    """Return the error of a table that does not exist."""
    msg = f"{location}: there is no table {name}"
    return StoreNotFoundError(
        msg, hint="check table, region and account (?region=NAME), or create the store explicitly"
    )


def make_table(client: AwsClient, name: str, location: str, config: Mapping[str, Any]) -> None:
    """Make the table as the store does, time to live switched on; one that is there stays as it is."""
    given = {
        **config,
        "TableName": name,
        "KeySchema": [{"AttributeName": attribute, "KeyType": kind} for attribute, kind in _SCHEMA],
        "AttributeDefinitions": [
            {"AttributeName": attribute, "AttributeType": "S"} for attribute, _ in _SCHEMA
        ],
        "BillingMode": "PAY_PER_REQUEST",
    }
    if not described(client, name).code:
        return
    client.ask("create_table", expects={_IN_USE}, **given)
    try:
        client.client().get_waiter("table_exists").wait(TableName=name)
    except (WaiterError, ClientError) as exc:
        msg = f"{location}: the table {name} is not active yet ({type(exc).__name__})"
        raise StoreUnreachableError(msg, hint="try again") from None
    status = client.ask("describe_time_to_live", TableName=name).body.get("TimeToLiveDescription", {})
    if status.get("TimeToLiveStatus") == "DISABLED":
        # Another process that makes the table at the same moment may have switched it on already.
        client.ask(
            "update_time_to_live",
            expects={"ValidationException", _IN_USE},
            TableName=name,
            TimeToLiveSpecification={"Enabled": True, "AttributeName": "ttl"},
        )
