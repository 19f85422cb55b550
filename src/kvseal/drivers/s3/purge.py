"""
What a bucket with versions keeps of overwritten objects, and how it goes away.

A version that is not the latest is deleted by its number, for ever.  A bucket may hold other objects than
the store's, and their versions are left alone: those of a key are deleted if the newest of them that has a
body is an entry of a store.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from kvseal.concurrency import each_in_thread, in_thread
from kvseal.drivers.aws import FORBIDDEN
from kvseal.drivers.base import Purged
from kvseal.drivers.body import UnreadableBodyError, read_body
from kvseal.drivers.s3.names import is_entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kvseal.drivers.s3.bucket import Bucket

_LEFT: Final = (
    "replicas in other buckets, AWS Backup, and what Object Lock or MFA delete keeps; inventories and access"
    " logs hold names"
)
_NONE: Final = frozenset({"NotImplemented", "501"})
_AT_ONCE: Final = 1000
"""Versions in one listing, and in one request to delete them."""
_START: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Version:
    """One version of an object, or a mark of its deletion, which has no body."""

    key: str
    number: str
    is_latest: bool
    has_body: bool
    size: int = 0


@dataclass(slots=True)
class _Outcome:
    """What a purge has met so far."""

    deleted: int = 0
    refused: int = 0
    foreign: int = 0


async def purge_bucket(bucket: Bucket, *, dry_run: bool) -> Purged:
    """Delete every version of the store's objects that is not the latest; with *dry_run* count them."""
    answer = await in_thread(bucket.ask, "get_bucket_versioning", expects=_NONE | FORBIDDEN)
    if answer.code in FORBIDDEN:
        left = "older versions, if the bucket has any: s3:GetBucketVersioning is needed to find out"
        return Purged(("nothing",), (left, _LEFT), complete=False)
    if answer.code or not answer.body.get("Status"):
        return Purged(("nothing: the bucket keeps no older versions",), (_LEFT,))
    outcome = _Outcome()
    following: Mapping[str, str] | None = _START
    while following is not None:
        found, following = await in_thread(_page, bucket, following)
        older = await _older(bucket, found, outcome)
        if not dry_run and older:
            outcome.refused += await in_thread(_refused, bucket, older)
        outcome.deleted += len(older)
    return _purged(outcome, dry_run=dry_run)


def _purged(outcome: _Outcome, *, dry_run: bool) -> Purged:
    verb = "to delete" if dry_run else "deleted"
    left = []
    if outcome.refused:
        left.append(
            f"{outcome.refused:,} versions that the service did not delete: Object Lock, MFA delete, or the"
            " right s3:DeleteObjectVersion is missing"
        )
    if outcome.foreign:
        left.append(f"{outcome.foreign:,} versions of objects that are no entries of a store")
    done = f"{outcome.deleted - outcome.refused:,} older versions {verb}"
    return Purged((done,), (*left, _LEFT), complete=not outcome.refused)


async def _older(bucket: Bucket, found: Sequence[_Version], outcome: _Outcome) -> list[_Version]:
    """Return those of *found* that are not the latest, of keys of the store; others are noted as foreign."""
    versions: dict[str, list[_Version]] = {}
    for version in found:
        versions.setdefault(version.key, []).append(version)
    older = {key: [one for one in each if not one.is_latest] for key, each in versions.items()}
    newest = [next((one for one in versions[key] if one.has_body), None) for key in older if older[key]]
    bodies = [one for one in newest if one is not None]
    are_stores = await each_in_thread(partial(_is_stores, bucket), bodies)
    foreign = {one.key for one, is_stores in zip(bodies, are_stores, strict=True) if not is_stores}
    outcome.foreign += sum(len(older[key]) for key in foreign)
    return [one for key, each in older.items() if key not in foreign for one in each]


def _is_stores(bucket: Bucket, version: _Version) -> bool:
    if not is_entry(version.key, version.size):
        return False
    found = bucket.get(version.key, version=version.number)
    try:
        return found is not None and not found.problem and bool(read_body(found.body))
    except UnreadableBodyError:
        return False


def _refused(bucket: Bucket, older: Sequence[_Version]) -> int:
    """Delete *older*, and return how many of them the service did not delete."""
    objects = [{"Key": version.key, "VersionId": version.number} for version in older]
    answer = bucket.ask("delete_objects", Delete={"Objects": objects, "Quiet": True})
    return len(answer.body.get("Errors", ()))


def _page(bucket: Bucket, start: Mapping[str, str]) -> tuple[list[_Version], Mapping[str, str] | None]:
    """Return versions from *start* on, of each key the newest first, and where the next ones begin."""
    body = bucket.ask("list_object_versions", MaxKeys=_AT_ONCE, **start).body
    found = [
        *(_version(one, has_body=True) for one in body.get("Versions", ())),
        *(_version(one, has_body=False) for one in body.get("DeleteMarkers", ())),
    ]
    if not body.get("IsTruncated"):
        return found, None
    return found, {"KeyMarker": body["NextKeyMarker"], "VersionIdMarker": body["NextVersionIdMarker"]}


def _version(one: Mapping[str, Any], *, has_body: bool) -> _Version:
    return _Version(
        one["Key"], one["VersionId"], bool(one["IsLatest"]), has_body=has_body, size=int(one.get("Size", 0))
    )
