"""
What DynamoDB keeps of overwritten values: nothing in the table, and copies that were asked for elsewhere.

An item that is written again is gone from the table at once.  What a continuous backup, a backup, a stream,
a replica or an export has of it goes by settings of the table, which are asked for here; what this
process may not ask is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvseal.drivers.aws import FORBIDDEN
from kvseal.drivers.base import Purged
from kvseal.drivers.dynamodb.table import NOT_FOUND, described, not_found

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvseal.drivers.aws import AwsClient

_DONE: Final = "nothing: DynamoDB keeps no overwritten value in the table itself"
_EXPECTED: Final = FORBIDDEN | {
    NOT_FOUND,
    "TableNotFoundException",
    "UnknownOperationException",
    "ValidationException",
}
_EXPORTS: Final = "exports to S3, and what a pipeline has copied: delete them there"


def purge_table(client: AwsClient, name: str, location: str, *, auto_create: bool) -> Purged:
    """Look at what holds copies; with a dry run it is the same, because nothing is changed."""
    answer = described(client, name, expects=FORBIDDEN)
    if answer.code == NOT_FOUND:
        if auto_create:
            return Purged(("nothing: there is no table yet",))
        raise not_found(location, name)
    table: Mapping[str, Any] = answer.body.get("Table", {})
    asked = (
        ("continuous backups", "describe_continuous_backups", _continuous),
        ("backups", "list_backups", _backups),
        ("Kinesis streams", "describe_kinesis_streaming_destination", _kinesis),
    )
    left = [*_of_table(table)]
    if answer.code:
        left.append("streams and replicas: this process may not ask for them (dynamodb:DescribeTable)")
    for what, operation, look in asked:
        left += _asked(client, name, what, operation, look)
    return Purged((_DONE,), (*left, _EXPORTS))


def _of_table(table: Mapping[str, Any]) -> list[str]:
    left = []
    if table.get("StreamSpecification", {}).get("StreamEnabled"):
        left.append("the table's stream has old and new values for 24 hours, and its readers what they kept")
    regions = [replica.get("RegionName", "?") for replica in table.get("Replicas", [])]
    if regions:
        left.append(f"replicas in {', '.join(regions)} follow within seconds; look at their own backups")
    return left


def _asked(
    client: AwsClient, name: str, what: str, operation: str, look: Callable[[Mapping[str, Any]], list[str]]
) -> list[str]:
    answer = client.ask(operation, expects=_EXPECTED, TableName=name)
    if answer.code:
        return [f"{what}: they could not be asked for ({answer.code}); look at them in the console"]
    return look(answer.body)


def _continuous(body: Mapping[str, Any]) -> list[str]:
    recovery = body.get("ContinuousBackupsDescription", {}).get("PointInTimeRecoveryDescription", {})
    if recovery.get("PointInTimeRecoveryStatus") != "ENABLED":
        return []
    days = recovery.get("RecoveryPeriodInDays", 35)
    return [f"point-in-time recovery has every second of the last {days} days, until it is switched off"]


def _backups(body: Mapping[str, Any]) -> list[str]:
    names = [one.get("BackupName", "?") for one in body.get("BackupSummaries", [])]
    return [f"{len(names)} backups: delete-backup {', '.join(names)}"] if names else []


def _kinesis(body: Mapping[str, Any]) -> list[str]:
    active = [one for one in body.get("KinesisDataStreamDestinations", []) if one.get("StreamArn")]
    return [f"{len(active)} Kinesis streams keep what was written, as long as they are set to"] * bool(active)
