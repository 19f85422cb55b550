"""
One bucket: the few requests that the driver needs, each of which blocks and may come from any thread.

Every write has a condition, which the server decides: `If-None-Match: *` for an object that is new, and
`If-Match` with the ETag that was read for one that is replaced or deleted.  botocore repeats a request whose
answer is lost, and then the condition no longer holds: such a loser reads the object back, and if it holds
what was to be written, the write was done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from botocore.exceptions import BotoCoreError, HTTPClientError

from kvseal.drivers.s3.bounds import Keys
from kvseal.drivers.s3.entries import Found, Place
from kvseal.errors import StoreNotFoundError, StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from kvseal.drivers.aws import Answer, AwsClient
    from kvseal.drivers.base import StoreTime
    from kvseal.drivers.s3.entries import NewObject

NO_BUCKET: Final = "NoSuchBucket"
AT_ONCE: Final = 1000
"""Object keys in one listing: as many as S3 gives."""
LARGEST: Final = 128 * 2**20
"""Bytes of an object that is read: more is no record, and would not fit into memory a page at a time."""

_MISSING: Final = frozenset({"404", "NoSuchKey"})
_CHANGED: Final = frozenset({"412", "PreconditionFailed"})
_BUSY: Final = frozenset({"409", "ConditionalRequestConflict"})
_LOST: Final = _MISSING | _CHANGED | _BUSY
_ARCHIVED: Final = "InvalidObjectState"
_BAD_ARGUMENT: Final = "InvalidArgument"
_ATTEMPTS: Final = 10

_KEPT: Final = (
    "BucketKeyEnabled",
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Metadata",
    "SSEKMSKeyId",
    "ServerSideEncryption",
    "StorageClass",
    "WebsiteRedirectLocation",
)
"""What a read says of an object and a write has to say again: S3 keeps nothing of the object before."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Some objects, each with its key and size, as the server lists them, and where the next ones begin."""

    objects: Sequence[tuple[str, int]]
    following: str | None

    @property
    def keys(self) -> list[str]:
        """The keys alone."""
        return [key for key, _ in self.objects]


class Bucket:
    """The bucket *name*.  With *creates*, one that does not exist is empty, and `expect` makes it."""

    def __init__(self, client: AwsClient, name: str, location: str, *, creates: bool = False) -> None:
        self.location = location
        self._client = client
        self._name = name
        self._creates = creates

    def listing(self, token: str = "", *, prefix: str = "", most: int | None = None) -> Listing | None:
        """Return the objects from where *token* says, or the first; `None` if *token* no longer holds."""
        given: dict[str, Any] = {"ContinuationToken": token} if token else {}
        answer = self._ask(
            "list_objects_v2",
            expects={_BAD_ARGUMENT} if token else (),
            MaxKeys=most or AT_ONCE,
            Prefix=prefix,
            **given,
        )
        if answer is None:
            return Listing((), None)
        if answer.code:
            return None
        return Listing(_objects(answer), answer.body.get("NextContinuationToken") or None)

    def behind(self, key: str) -> Listing:
        """Return the objects that follow *key*, whether it is there or not."""
        answer = self._ask("list_objects_v2", MaxKeys=AT_ONCE, StartAfter=key)
        if answer is None:
            return Listing((), None)
        return Listing(_objects(answer), answer.body.get("NextContinuationToken") or None)

    def keys_behind(self, key: str) -> Keys:
        """Return what `behind` does, as the search for the last key has it."""
        found = self.behind(key)
        return Keys(found.keys, more=found.following is not None)

    def get(self, key: str, *, version: str | None = None) -> Found | None:
        """Return what is stored there, with a problem if it is not to be read, and `None` if nothing is."""
        given = {"VersionId": version} if version else {}
        for _ in range(_ATTEMPTS):
            answer = self._ask("get_object", expects={*_MISSING, _ARCHIVED}, Key=key, **given)
            if answer is None or answer.code in _MISSING:
                return None
            if answer.code == _ARCHIVED:
                return Found(
                    Place(key), problem="it is archived (restore it, or let no lifecycle rule do so)"
                )
            try:
                return _found(key, answer.body)
            except (BotoCoreError, HTTPClientError, OSError):
                continue  # The connection broke in the middle of the body, which botocore does not repeat.
        msg = f"{self.location}: an object could not be read to its end {_ATTEMPTS} times"
        raise StoreUnreachableError(msg, hint="check the network, and run the same command again")

    def tags(self, key: str) -> str:
        """Return the tags of an object, as a write takes them."""
        answer = self._ask("get_object_tagging", expects=_MISSING, Key=key)
        found = [] if answer is None else answer.body.get("TagSet", [])
        return urlencode([(tag["Key"], tag["Value"]) for tag in found])

    def insert(self, new: NewObject, is_in_the_way: Callable[[Found], bool]) -> bool:
        """Write an object where there is none, or one that is not in the way, and return whether it was."""
        for _ in range(_ATTEMPTS):
            if self._write(new, None):
                return True
            there = self.get(new.key)
            if there is None:
                continue
            if is_in_the_way(there):
                return False
            if self._write(new, there.place.etag):
                return True
        raise self._outrun()

    def swap(self, new: NewObject, place: Place) -> bool:
        """Write an object if *place* still holds what was read there, and return whether it did."""
        if place.is_tagged and (tags := self.tags(place.key)):
            new = replace(new, headers={**new.headers, "Tagging": tags})
        return self._write(new, place.etag)

    def delete(self, place: Place) -> bool:
        """Delete the object if *place* still holds what was read there, and return whether it did."""
        for _ in range(_ATTEMPTS):
            answer = self.ask("delete_object", expects=_LOST, Key=place.key, IfMatch=place.etag)
            if not answer.code:
                return True
            if answer.was_repeated and self.get(place.key) is None:
                return True
            if answer.code not in _BUSY:
                return False
        raise self._outrun()

    def ask(self, operation: str, *, expects: Collection[str] = (), **given: Any) -> Answer:
        """Return what the service answers to *operation* about this bucket; see `AwsClient.ask`."""
        return self._client.ask(operation, expects=expects, Bucket=self._name, **given)

    def time(self) -> StoreTime | None:
        """Return what the server's clock says, to a second."""
        return self.ask("head_bucket", expects={"403", "404"}).time

    def expect(self) -> None:
        """Raise `StoreError` unless the bucket is there; where the store makes it, make it."""
        if not self.ask("head_bucket", expects={"404"}).code:
            return
        if not self._creates:
            raise self._not_found()
        self.create()

    def create(self) -> None:
        """Make the bucket as the store does, unless it is there and ours."""
        reach = self._client.reach
        region = None if reach.endpoint else self._client.client().meta.region_name
        given: dict[str, Any] = {}
        if region not in {None, "us-east-1"}:
            given["CreateBucketConfiguration"] = {"LocationConstraint": region}
        self.ask("create_bucket", expects={"BucketAlreadyOwnedByYou"}, **given)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _write(self, new: NewObject, etag: str | None) -> bool:
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        # That nothing is there is what a new object wants: a server that says so then does not take the key.
        lost = _LOST - _MISSING if etag is None else _LOST
        given = {"Key": new.key, "Body": new.body, **new.headers, **condition}
        for _ in range(_ATTEMPTS):
            answer = self.ask("put_object", expects=lost, **given)
            if not answer.code:
                return True
            if answer.was_repeated and (there := self.get(new.key)) and there.body == new.body:
                return True
            # Where another writer was under way, the condition decides once more, after what that has done.
            if answer.code not in _BUSY:
                return False
        raise self._outrun()

    def _ask(self, operation: str, *, expects: Collection[str] = (), **given: Any) -> Answer | None:
        """Return the answer; `None` if there is no bucket and the store has yet to make it."""
        answer = self.ask(operation, expects={*expects, NO_BUCKET}, **given)
        if answer.code != NO_BUCKET:
            return answer
        if self._creates:
            return None
        raise self._not_found()

    def _not_found(self) -> StoreNotFoundError:
        msg = f"{self.location}: there is no bucket {self._name}"
        return StoreNotFoundError(msg, hint="check the name, the region and the account, or create it")

    def _outrun(self) -> StoreUnreachableError:
        msg = f"{self.location}: other writers were faster {_ATTEMPTS} times"
        return StoreUnreachableError(msg, hint="try again with fewer writers")


def _objects(answer: Answer) -> list[tuple[str, int]]:
    return [(one["Key"], int(one["Size"])) for one in answer.body.get("Contents", ())]


def _found(key: str, answer: Mapping[str, Any]) -> Found:
    size = int(answer.get("ContentLength", 0))
    headers = {name: answer[name] for name in _KEPT if name in answer}
    place = Place(key, answer["ETag"], headers, is_tagged=bool(answer.get("TagCount")))
    with answer["Body"] as stream:
        if size > LARGEST:
            return Found(place, problem=f"it has {size:,} bytes, more than any record")
        return Found(place, stream.read())
