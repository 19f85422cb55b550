"""Whether the bucket's own rules would delete the vault meta one day, which never expires by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvseal.drivers.aws import FORBIDDEN
from kvseal.drivers.s3.names import RESERVED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.drivers.s3.bucket import Bucket

CONCEALED: Final = (
    "this user may not read the lifecycle rules of the bucket (s3:GetLifecycleConfiguration),"
    " which say whether objects expire"
)
_NONE: Final = frozenset({"NoSuchLifecycleConfiguration", "NotImplemented", "501", "404", "NoSuchBucket"})


def evicts(bucket: Bucket) -> bool | None:
    """Whether a rule makes kvseal's own entries expire; `None` if this user may not know."""
    answer = bucket.ask("get_bucket_lifecycle_configuration", expects=_NONE | FORBIDDEN)
    if answer.code in FORBIDDEN:
        return None
    return any(_expires(rule) for rule in answer.body.get("Rules", ()))


def _expires(rule: Mapping[str, Any]) -> bool:
    """Whether *rule* deletes current objects of kvseal's own by their age or at a date."""
    expiration = rule.get("Expiration", {})
    if rule.get("Status") != "Enabled" or not {"Days", "Date"} & set(expiration):
        return False
    chosen = rule.get("Filter", {})
    chosen = {**chosen, **chosen.get("And", {})}
    prefix = chosen.get("Prefix", rule.get("Prefix", ""))
    is_tagged = bool(chosen.get("Tag") or chosen.get("Tags"))
    return not is_tagged and f"{RESERVED}/".startswith(prefix[: len(RESERVED) + 1])
