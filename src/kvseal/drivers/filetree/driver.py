"""
The driver of `FileTreeStore`: a folder per collection, a JSON file per key.

    data/COLLECTION/KEY.json        the body, without names unless kvseal wrote it
    metadata/COLLECTION-info.json   the collection's name; metadata is data unless the store was given another

It works on the files, whether or not this process has the store open, and beside any number
of processes that have; `swaps` says what that takes and what it guarantees.  The info
file also has the absolute path that the folder had when it was created, which is ignored: a
store that was moved, or mounted elsewhere, is read where it is.  (The store itself does use
that path, so a collection that kvseal creates should be created under the application's own.)

The collection comes from the info file if the store's strategy turns that name into this
folder; an info file that was pasted is a problem of the folder.  Without an info file,
and for every key, the name is the file name where the strategy has left it alone, and `None`
where it has not.  `get` and `put_if_absent` get the names and need no guess, and
`proves` says whether a claimed name, such as one that is part of the value, is
stored under an entry's file name.  Of a sanitized name that is a proof of 32 bits.

A name once known is written down, unless the value says it itself to those who can open it: a body
that kvseal writes has `collection` and `key`, as the bodies of other stores do.  The store ignores
both, and leaves them out when it next writes the file.  They are believed where the store would keep
them in just this file; a body that belongs to another file, because it was copied, is a problem of
the entry.

A deleted entry leaves a body that expired long ago, as every entry of this store does that
expires: to vacate the name could undo what the application does with it in that moment.  The
store's own `cull` removes both.

A URL is `filetree:PATH`, and the strategies are read from what is there; where that shows
nothing, names are dealt with as long as all strategies agree on them.  `filetree:PATH?names=v1`
or `?names=plain` settles it.  A metadata directory elsewhere, or strategies of other kinds,
need the store object (`python:module:factory`).

A scan holds the file names of one collection, and the bodies of one page.  On a file system
that moves a file within its folder when it is written again (btrfs), a listing may miss one
that is written all the time; a run that must see every record ends with a second scan.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from key_value.aio._utils.serialization import BasicSerializationAdapter
from typing_extensions import ParamSpec

from kvseal.concurrency import in_thread
from kvseal.drivers.base import (
    Capabilities,
    Entry,
    OnThisMachine,
    Page,
    Replacement,
    closed,
    content,
    has_expired,
    is_in,
    next_page,
    on_disk,
    refuse_problem,
    refuse_problems,
)
from kvseal.drivers.body import patch_body, write_body
from kvseal.drivers.filetree.collections import Collection, Collections
from kvseal.drivers.filetree.entries import Place, TreeEntries
from kvseal.drivers.filetree.folders import NotAFileError, Tree, listing
from kvseal.drivers.filetree.location import directory_and_rules, open_store
from kvseal.drivers.filetree.names import Rule, StrategyRule
from kvseal.drivers.filetree.purge import purge_trees
from kvseal.drivers.filetree.swaps import Swap, Swaps, can_exchange, locked, recover_idle
from kvseal.errors import StoreError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from key_value.aio.stores.filetree import FileTreeStore

    from kvseal.drivers.base import Purged
    from kvseal.drivers.urls import StoreUrl

P = ParamSpec("P")
T = TypeVar("T")

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


_Location = tuple[Collection, Place]


class FileTreeDriver(OnThisMachine):
    """The entries of a `FileTreeStore` in *data*, whose names are stored by the two rules."""

    def __init__(
        self,
        data: Path,
        metadata: Path | None = None,
        *,
        collection_rule: Rule,
        key_rule: Rule,
    ) -> None:
        data = data.absolute()
        self.location = f"filetree:{data}"
        self._tree = Tree(data)
        infos = self._tree if metadata is None or metadata == data else Tree(metadata)
        self._keys = key_rule
        self._collections = Collections(self._tree, infos, collection_rule)
        self._trees = list(dict.fromkeys([self._tree, infos]))
        self._entries = TreeEntries(self._tree, self._collections, key_rule)
        self._recovered: set[str] = set()
        self._is_closed = False

    @cached_property
    def capabilities(self) -> Capabilities:
        """
        What this file system can promise.

        Whether it can exchange two files is tried out, once, with two empty ones in the data directory.
        """
        return Capabilities(
            atomic_replace=self._can_exchange(),
            evicts=False,
        )

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the entries in pages, folder by folder and name by name; the cursor is a place."""
        last = None if after is None else Place(*json.loads(after))
        live = self._live(self._places(last, partition), expired=expired)
        while page := await self._blocking(next_page, live):
            end = page[-1].locator
            yield Page(page, json.dumps([end.folder, end.file]))

    async def get(self, collection: str, key: str) -> Entry | None:
        """Return the entry as it is stored, with a `problem` where the store would read nothing or fail."""
        return await self._blocking(self._get, collection, key)

    async def put_if_absent(self, entry: Entry) -> bool:
        """Link a new file to the entry's name, or swap it for an expired one; make its folder if need be."""
        if entry.path is not None and entry.value is not None and None in (entry.collection, entry.key):
            body = write_body(entry.value, created_at=entry.created_at, expires_at=entry.expires_at)
            return await self._blocking(self._put_at, entry, body.encode())
        collection, key, value = content(entry)
        names = None if entry.names_inside else (collection, key)
        body = write_body(value, created_at=entry.created_at, expires_at=entry.expires_at, names=names)
        return await self._blocking(self._put_if_absent, collection, key, body.encode())

    async def get_at(self, entry: Entry) -> Entry | None:
        """Return what is stored at the path of *entry*."""
        return await self._blocking(self._get_at, entry)

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        """
        Swap each file that is unchanged, by itself; after a crash, some may be new and others old.

        The entry's `locator` says which file; its names go into the body if both are known and not inside.

        Raises:
            StoreError: an entry was given a key that is not stored in its place; nothing was written.
        """
        refuse_problems(replacements)
        if not replacements:
            return []
        bodies = await self._blocking(lambda: [self._patched(r) for r in replacements])
        return await self._blocking(self._replace_many, replacements, bodies)

    async def delete_if_unchanged(self, entry: Entry) -> bool:
        """Swap the file, if it is unchanged, for one that expired long ago and holds nothing."""
        refuse_problem(entry)
        body = patch_body(entry.stored, {}, _LONG_AGO).encode()
        (done,) = await self._blocking(self._replace_many, [Replacement(entry, {}, _LONG_AGO)], [body])
        return done

    async def purge(self, *, dry_run: bool = False) -> Purged:
        """Remove the temporary files of writers that died."""
        return await self._blocking(purge_trees, self._trees, dry_run=dry_run)

    async def close(self) -> None:
        """Refuse to go on; nothing is held open between calls."""
        self._is_closed = True

    @property
    def loses_names(self) -> bool:
        """Whether a strategy sanitizes names, or nothing shows that none does."""
        return not (self._keys.is_reversible and self._collections.rule.is_reversible)

    def proves(self, entry: Entry, key: str) -> bool:
        """
        Whether *key*, in the collection of *entry* if that is known, leads to the place of *entry*.

        For a sanitized name the proof has 32 bits: accidents are ruled out, malice is not.
        """
        return self._entries.lead_to(entry.collection, key, entry.locator) is True

    def place(self, collection: str, key: str) -> Place | None:
        """Return where the store would keep the entry; `None` where it could not, or nothing shows where."""
        try:
            return self._entries.place(collection, key)
        except StoreError:
            return None

    async def _blocking(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._is_closed:
            raise closed(self.location)
        try:
            return await on_disk(self.location, function, *args, **kwargs)
        except NotAFileError as exc:
            msg = f"{self.location}: {exc}"
            raise StoreUnreachableError(msg, hint="kvseal follows no symbolic link in a store") from exc

    def _can_exchange(self) -> bool:
        try:
            with self._tree.opened("") as folder:
                return can_exchange(folder)
        except OSError:
            return False

    def _live(self, places: Iterator[_Location], *, expired: bool) -> Iterator[Entry]:
        found = (self._entries.at(*place, expired=expired) for place in places)
        return (entry for entry in found if entry is not None and not _is_deleted(entry))

    def _places(self, after: Place | None, partition: tuple[int, int]) -> Iterator[_Location]:
        for collection in self._collections.all():
            if after is not None and collection.folder < after.folder:
                continue
            for file in self._files(collection.folder):
                place = Place(collection.folder, file)
                if (after is None or place > after) and is_in(partition, os.fsencode(place.path)):
                    yield collection, place

    def _files(self, folder: str) -> Sequence[str]:
        try:
            with self._tree.opened(folder) as opened:
                found = listing(opened)
                if found.leftovers:
                    recover_idle(opened)
        except (FileNotFoundError, NotAFileError):
            return []  # The application has removed it since the folders were listed.
        # What is in the data directory itself is no entry, but a link there may lead to a collection.
        return sorted((*found.files, *found.links)) if folder else found.links

    def _get(self, collection: str, key: str) -> Entry | None:
        place = self._entries.place(collection, key)
        found = self._collections.of_folder(place.folder)
        entry = self._entries.at(found, place)
        if entry is None:
            return None
        # Names that collide share a place: the entry there has the names that it was stored with.
        names = entry.collection or collection, key if entry.key is None else entry.key
        return replace(entry, collection=names[0], key=names[1])

    def _put_if_absent(self, collection: str, key: str, body: bytes) -> bool:
        place = self._entries.place(collection, key)
        self._collections.create(collection)
        return self._insert(place, body)

    def _get_at(self, entry: Entry) -> Entry | None:
        place = self._entries.place_of_path(entry)
        return self._entries.at(self._collections.of_folder(place.folder), place)

    def _put_at(self, entry: Entry, body: bytes) -> bool:
        place = self._entries.place_of_path(entry)
        if entry.collection is not None:
            self._collections.create(entry.collection)
        with self._tree.opened(place.folder, create=True):
            return self._insert(place, body)

    def _insert(self, place: Place, body: bytes) -> bool:
        with self._swapping(place.folder) as swaps:
            while not swaps.insert(place.file, body):
                there = self._entries.expired(place)
                if there is None:
                    return False
                if swaps.swap(place.file, there, body):
                    break
        return True

    def _patched(self, replacement: Replacement) -> bytes:
        entry, names = replacement.entry, None
        if entry.key is not None:
            if not self.proves(entry, entry.key):
                msg = f"{entry.collection!r}/{entry.key!r} is not stored in {entry.locator.file!r}"
                raise StoreError(msg, hint="a value that is sealed for it there could never be opened")
            names = None if entry.collection is None else (entry.collection, entry.key)
        value, expires_at, inside = replacement.value, replacement.expires_at, replacement.names_inside
        return patch_body(entry.stored, value, expires_at, names=names, names_inside=inside).encode()

    def _replace_many(self, replacements: Sequence[Replacement], bodies: Sequence[bytes]) -> list[bool]:
        done = [False] * len(replacements)
        entries = [replacement.entry for replacement in replacements]
        folders = dict.fromkeys(entry.locator.folder for entry in entries)
        for folder in folders:
            with contextlib.suppress(FileNotFoundError), self._swapping(folder) as swaps:
                mine = [n for n, entry in enumerate(entries) if _is_live_in(folder, entry)]
                swapped = swaps.swap_many(
                    [Swap(entries[n].locator.file, entries[n].stored, bodies[n]) for n in mine]
                )
                for n, is_done in zip(mine, swapped, strict=True):
                    done[n] = is_done
        return done

    @contextlib.contextmanager
    def _swapping(self, folder: str) -> Iterator[Swaps]:
        atomic = self.capabilities.atomic_replace
        with self._tree.opened(folder) as opened, locked(opened, required=atomic):
            swaps = Swaps(opened, atomic=atomic)
            if folder not in self._recovered:
                swaps.recover()
                self._recovered.add(folder)
            try:
                yield swaps
            finally:
                swaps.finish()


def _is_live_in(folder: str, entry: Entry) -> bool:
    return bool(entry.locator.folder == folder) and not has_expired(entry.expires_at)


def _is_deleted(entry: Entry) -> bool:
    return entry.expires_at == _LONG_AGO and not entry.value and not entry.problem


def for_store(store: FileTreeStore) -> FileTreeDriver:
    """Return the driver of *store*, with the store's own strategies."""
    adapter = type(store._serialization_adapter)  # noqa: SLF001
    if adapter is not BasicSerializationAdapter:
        msg = f"no driver for a FileTreeStore that writes its bodies with {adapter.__qualname__}"
        raise UnsupportedStoreError(
            msg, hint="use the store's default adapter, or give the vault a meta_store="
        )
    return FileTreeDriver(
        Path(store._data_directory),  # noqa: SLF001
        Path(store._metadata_directory),  # noqa: SLF001
        collection_rule=StrategyRule(store._collection_sanitization_strategy),  # noqa: SLF001
        key_rule=StrategyRule(store._key_sanitization_strategy),  # noqa: SLF001
    )


async def from_url(url: StoreUrl, *, create: bool) -> FileTreeDriver:
    """Return the driver of the store in the directory that *url* names; only with *create* may it be new."""
    directory, names = directory_and_rules(url)
    collection_rule, key_rule = await in_thread(open_store, directory, names, create=create)
    return FileTreeDriver(directory, collection_rule=collection_rule, key_rule=key_rule)
