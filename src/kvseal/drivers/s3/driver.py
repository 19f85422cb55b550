"""
The driver of `S3Store`, beside any number of applications that use its bucket.

It has a client of its own, which blocks, and works in kvseal's threads: so it may be used from any event
loop.

* Objects without a slash in their key, and the marks of folders, belong to others: the store can have written
  neither, and no scan mentions them.
* A scan lists the keys by the server's own continuation, and reads each object.  It ends at what was the
  highest key when it began, so newcomers behind that cannot hold it up.  A cursor says where a listing began,
  and the last key of it that was read.
* Names that an object key does not give back are `None` (`names`), so `loses_names` is true of every store.
* An entry that expired is one until the store itself deletes it, which it does when it reads it.
* `count` counts the keys of a listing, those of expired entries too: an estimate.
* Before its first write the driver finds out whether the server honours conditions, and refuses one that does
  not (`probe`).  So every write that it does is atomic.
* `store_time` is the `Date` of an answer, to a second.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from key_value.aio._utils.serialization import BasicSerializationAdapter
from key_value.aio.stores.s3 import S3Store
from typing_extensions import ParamSpec

from kvseal.concurrency import each_in_thread, in_thread
from kvseal.drivers.aws import ATTEMPTS, FEW_ATTEMPTS, AwsClient, Reach, shown, split_url
from kvseal.drivers.base import (
    PAGE_BYTES,
    PAGE_SIZE,
    Capabilities,
    Count,
    Page,
    has_expired,
    is_in,
    refuse_problem,
    refuse_problems,
)
from kvseal.drivers.s3.bounds import Bound, bound_of, is_in_some_order
from kvseal.drivers.s3.bucket import Bucket
from kvseal.drivers.s3.entries import (
    Found,
    Place,
    entry_of,
    new_object,
    refuse_other_place,
    replacing_object,
)
from kvseal.drivers.s3.landing import names_of
from kvseal.drivers.s3.lifecycle import CONCEALED, evicts
from kvseal.drivers.s3.names import ObjectNames, is_entry, rules_of
from kvseal.drivers.s3.probe import refuse_careless
from kvseal.drivers.s3.purge import purge_bucket
from kvseal.errors import StoreError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from kvseal.drivers.base import Entry, Purged, Replacement, StoreTime
    from kvseal.drivers.s3.bucket import Listing
    from kvseal.drivers.s3.entries import NewObject
    from kvseal.drivers.urls import StoreUrl

P = ParamSpec("P")
T = TypeVar("T")

_DIRECTORY_BUCKET: Final = "--x-s3"
_NAMES: Final = ("plain", "hashed")


class S3Driver:
    """The entries in *bucket*, whose object keys are made by the rules of *names*."""

    loses_names: ClassVar[bool] = True

    def __init__(self, bucket: Bucket, names: ObjectNames) -> None:
        self.location = bucket.location
        self._bucket = bucket
        self._names = names
        self._evicts: bool | None = None
        self._is_asked = False
        self._is_careful = False

    @property
    def capabilities(self) -> Capabilities:
        """What the server can promise, as far as it has been asked."""
        return Capabilities(
            atomic_replace=True,
            evicts=self._evicts is not False,
            conceals=CONCEALED if self._evicts is None and self._is_asked else "",
            keeps_time=True,
        )

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries in pages, in the server's order; a part reads what is its own of each listing."""
        token, last = ("", "") if after is None else json.loads(after)
        listing = await self._blocking(self._bucket.listing, token)
        if listing is None:  # The server has forgotten where that was.
            token, listing = "", await self._blocking(self._bucket.behind, last)
        bound = Bound(None)
        if listing.following is not None:
            bound = await self._blocking(bound_of, self._bucket.keys_behind)
        while True:
            _check_order(self.location, listing)
            for few in _pages(_behind(listing, last), bound, partition):
                entries = await self._entries([key for key, _ in few], expired=expired)
                if entries:
                    yield Page(entries, json.dumps([token, few[-1][0]]))
            if listing.following is None or bound.is_beyond(listing.objects[-1][0]):
                return
            token, last = listing.following, ""
            listing = await self._next(token)

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry as it is stored, with a `problem` where the store would read nothing or fail."""
        object_key = self._names.object_key(collection, key)
        found = await self._blocking(self._bucket.get, object_key)
        return None if found is None else _live(self._entry(found, (collection, key)))

    async def get_at(self, entry: Entry) -> Entry | None:
        """Return what is stored at the path of *entry*."""
        refuse_other_place(self._names, entry)
        found = await self._blocking(self._bucket.get, entry.path or "")
        return None if found is None else _live(self._entry(found))

    async def put_if_absent(self, entry: Entry) -> bool:
        """Write an object where there is none, or over one that has expired and is what was read."""
        return await self._writing(self._bucket.insert, new_object(self._names, entry), self._is_live)

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """Replace each object that is unchanged, by itself; after a crash, some may be new and others old."""
        refuse_problems(replacements)
        new = [replacing_object(self._names, replacement) for replacement in replacements]
        done = [False] * len(replacements)
        for numbers in _without_repeats(new):
            swapped = await self._each(
                self._swap, [(replacements[number].entry, new[number]) for number in numbers]
            )
            for number, was_done in zip(numbers, swapped, strict=True):
                done[number] = was_done
        return done

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Delete the object if it is unchanged."""
        refuse_problem(entry)
        if has_expired(entry.expires_at):
            return False
        return await self._writing(self._bucket.delete, entry.locator)

    async def count(self) -> Count:
        """Count the object keys that the store can have written: an estimate."""
        entries, listing = 0, await self._blocking(self._bucket.listing, "")
        while listing is not None:
            entries += sum(is_entry(*one) for one in listing.objects)
            listing = None if listing.following is None else await self._next(listing.following)
        return Count(entries, exact=False)

    async def store_time(self) -> StoreTime | None:
        """Ask the server for its time, which it gives to a second."""
        return await self._blocking(self._bucket.time)

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """Delete the older versions of the store's objects, where the bucket keeps any."""
        return await purge_bucket(self._bucket, dry_run=dry_run)

    def units_of_scan(self, entries: Sequence[Entry]) -> int:
        """Return the requests that read *entries*: one for each, and the listings, of which there are few."""
        return len(entries)

    def units_of_writes(self, replacements: Sequence[Replacement]) -> int:
        """Return the requests that write *replacements*; S3 takes an object of any size that memory holds."""
        refuse_problems(replacements)
        return len([replacing_object(self._names, replacement) for replacement in replacements])

    def proves(self, entry: Entry, key: str) -> bool:
        """Whether *key*, in the collection of *entry* or if that is not known in any, leads to its object."""
        return self._names.lead_to(entry.collection, key, entry.locator.key)

    def place(self, collection: str, key: str) -> Place | None:
        """Return where the store would keep the entry; `None` where it could not."""
        try:
            return Place(self._names.object_key(collection, key))
        except StoreError:
            return None

    async def close(self) -> None:
        """Close the driver's own connections; the store's stay open."""
        await in_thread(self._bucket.close)

    async def _next(self, token: str) -> Listing:
        listing = await self._blocking(self._bucket.listing, token)
        if listing is None:
            msg = f"{self.location}: the server does not go on with a listing that it has begun"
            raise StoreError(msg, hint="run the same command again")
        return listing

    async def _entries(self, keys: Sequence[str], *, expired: bool) -> list[Entry]:
        """Return the entries at *keys* that are there, and live unless also those *expired* are wanted."""
        found = await self._each(self._listed, keys, writes=False)
        entries = (self._entry(one) for one in found if one is not None)
        return [entry for entry in entries if expired or not has_expired(entry.expires_at)]

    def _listed(self, key: str) -> Found | None:
        """Return what is stored at *key*, which was listed; `None` only if it is not listed any more."""
        found = self._bucket.get(key)
        if found is not None:
            return found
        again = self._bucket.listing(prefix=key, most=1)
        if again is None or key not in again.keys:
            return None
        return self._bucket.get(key) or Found(
            Place(key), problem="the server lists it, but does not give it out under this key"
        )

    def _entry(self, found: Found, asked: tuple[str, str] | None = None) -> Entry:
        return entry_of(self._names, found, asked)

    def _is_live(self, found: Found) -> bool:
        entry = self._entry(found)
        return bool(entry.problem) or not has_expired(entry.expires_at)

    def _swap(self, one: tuple[Entry, NewObject]) -> bool:
        entry, new = one
        return not has_expired(entry.expires_at) and self._bucket.swap(new, entry.locator)

    async def _each(
        self, function: Callable[[Any], T], items: Sequence[Any], *, writes: bool = True
    ) -> list[T]:
        if not items:
            return []
        await in_thread(self._prepare, writes=writes)
        return await each_in_thread(function, items)

    async def _writing(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        await in_thread(self._prepare, writes=True)
        return await in_thread(function, *args, **kwargs)

    async def _blocking(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        await in_thread(self._prepare, writes=False)
        return await in_thread(function, *args, **kwargs)

    def _prepare(self, *, writes: bool) -> None:
        """Ask once what only the server knows: its rules at first, its care before a write."""
        if not self._is_asked:
            self._evicts = evicts(self._bucket)
            self._is_asked = True
        if writes and not self._is_careful:
            self._bucket.expect()
            refuse_careless(self._bucket)
            self._is_careful = True


def _live(entry: Entry) -> Entry | None:
    return None if has_expired(entry.expires_at) else entry


def _check_order(location: str, listing: Listing) -> None:
    if not is_in_some_order(listing.keys):
        msg = f"{location}: the server lists its objects in no order that kvseal knows"
        raise UnsupportedStoreError(msg, hint="move the store to a bucket of another kind or server")


def _behind(listing: Listing, last: str) -> Sequence[tuple[str, int]]:
    """Return the objects of *listing* behind *last*; all of them if it is not there any more."""
    number = next((number for number, (key, _) in enumerate(listing.objects) if key == last), -1)
    return listing.objects[number + 1 :]


def _pages(
    objects: Sequence[tuple[str, int]], bound: Bound, partition: tuple[int, int]
) -> Iterator[list[tuple[str, int]]]:
    """Yield those of *objects* that a scan reads, as many at once as one page may hold."""
    page: list[tuple[str, int]] = []
    held = 0
    for key, size in objects:
        if not is_entry(key, size) or bound.is_beyond(key) or not is_in(partition, key.encode()):
            continue
        page.append((key, size))
        held += size
        if len(page) == PAGE_SIZE or held >= PAGE_BYTES:
            yield page
            page, held = [], 0
    if page:
        yield page


def _without_repeats(new: Sequence[NewObject]) -> list[list[int]]:
    """Return the numbers of *new* in rounds in which no object comes twice."""
    rounds: list[list[int]] = []
    seen: dict[str, int] = {}
    for number, one in enumerate(new):
        turn = seen[one.key] = seen.get(one.key, -1) + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(number)
    return rounds


def for_store(store: S3Store) -> S3Driver:
    """
    Return the driver of a store, whether or not it is set up.

    Raises:
        UnsupportedStoreError: it does not say where its client connects, or stores in a way of its own.
    """
    adapter, kind = type(store._serialization_adapter), type(store)  # noqa: SLF001
    if adapter is not BasicSerializationAdapter or kind._get_s3_key is not S3Store._get_s3_key:  # noqa: SLF001
        msg = f"no driver for a {kind.__qualname__} that makes its bodies or its object keys in another way"
        raise UnsupportedStoreError(msg, hint="use S3Store as it is, or give the vault a meta_store=")
    reach, name = _reach_of(store), store._bucket_name  # noqa: SLF001
    return S3Driver(_bucket(name, reach, creates=True), names_of(store))


def _reach_of(store: Any) -> Reach:
    if store._client_provided_by_user:  # noqa: SLF001
        return Reach.of_client(store._client)  # noqa: SLF001
    settings = getattr(store, "_client_settings", None)
    if settings is None:
        # Before 0.5 the store kept a client that is not made yet, and nothing of what it is made of.
        msg = "this release of py-key-value-aio does not say where an S3Store connects"
        raise UnsupportedStoreError(
            msg, hint="install py-key-value-aio 0.5, or name the bucket: s3://BUCKET?region=REGION"
        )
    return Reach.of_settings(settings)


def _bucket(name: str, reach: Reach, *, creates: bool = False, attempts: int = ATTEMPTS) -> Bucket:
    if name.endswith(_DIRECTORY_BUCKET):
        msg = f"s3://{name} is a directory bucket, which lists its objects in no order"
        raise UnsupportedStoreError(msg, hint="use a general purpose bucket")
    location = shown("s3", name, reach)
    return Bucket(AwsClient("s3", reach, location, attempts=attempts), name, location, creates=creates)


async def from_url(url: StoreUrl, *, create: bool) -> S3Driver:
    """
    Return the driver of the bucket that `//BUCKET?region=…&endpoint=…` names.

    It exists, or with *create* is made now.  `names=plain` or `names=hashed` says whether the store shortens
    long names, and `collections=A,B,…` names all its collections, where object keys with several slashes
    leave open what is collection and what is key.  Credentials come from the SDK's own chain.

    Raises:
        UnsupportedStoreError: that is not the URL of a bucket.
        StoreNotFoundError: there is no such bucket.
        StoreUnreachableError: there is no service, or it refuses the user.
    """
    name, reach, names = parse_url(url)
    # Without a service, that is found out soon; later requests are more patient.
    first = _bucket(name, reach, creates=create, attempts=FEW_ATTEMPTS)
    try:
        await in_thread(first.expect)
    finally:
        await in_thread(first.close)
    return S3Driver(_bucket(name, reach), names)


def parse_url(url: StoreUrl) -> tuple[str, Reach, ObjectNames]:
    """Return the bucket, how it is reached and its names; raises `UnsupportedStoreError`."""
    name, reach, options = split_url("s3", url.location, ("names", "collections"))
    rule = options.get("names")
    if rule not in {None, *_NAMES} or "/" in name:
        msg = "this is not a URL of the form s3://BUCKET?region=REGION"
        raise UnsupportedStoreError(msg, hint="names= is plain or hashed, and no path follows the bucket")
    collections = [one for one in options.get("collections", "").split(",") if one]
    return name, reach, ObjectNames.of(rules_of(rule), collections)
