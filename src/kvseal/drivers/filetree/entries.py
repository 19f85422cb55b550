"""
The entries of a file tree store: what is stored at a place, which names it has, and where names lead.

A body that kvseal wrote names its entry.  A process that copies a file copies these names along, so
they count only where the store's own rules lead from them to the very place of the file.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvseal.drivers.base import Entry, has_expired
from kvseal.drivers.body import UnreadableBodyError, read_body
from kvseal.drivers.filetree.folders import SUFFIX, NotAFileError, is_text, read_info, refuse_path
from kvseal.errors import StoreError, StoreNotFoundError

if TYPE_CHECKING:
    from kvseal.drivers.body import Body
    from kvseal.drivers.filetree.collections import Collection, Collections
    from kvseal.drivers.filetree.folders import Tree
    from kvseal.drivers.filetree.names import Rule


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """The place of an entry: the folder below the data directory, and the file in it."""

    folder: str
    file: str

    @property
    def stem(self) -> str:
        """The stored form of the key."""
        return self.file[: -len(SUFFIX)]

    @property
    def path(self) -> str:
        """The place as text, which holds in a copy of the store too."""
        return f"{self.folder}/{self.file}"


class TreeEntries:
    """The entries in *tree*, with keys stored by the rule *keys*.  Every method that reads blocks."""

    def __init__(self, tree: Tree, collections: Collections, keys: Rule) -> None:
        self._tree = tree
        self._collections = collections
        self._keys = keys

    def place(self, collection: str, key: str) -> Place:
        """Return where the names lead; raises `StoreError` if the store cannot hold them."""
        file = f"{self._keys.stored(key)}{SUFFIX}"
        refuse_path(file)
        return Place(self._collections.folder(collection), file)

    def place_of_path(self, entry: Entry) -> Place:
        """
        Return the place of *entry*, which has a path because a name of it is not known.

        Raises:
            StoreError: it is no path in a store, or this store would find another name there.
        """
        folder, _, file = (entry.path or "").rpartition("/")
        for part in (*folder.split("/"), file):
            refuse_path(part)
        place, found = Place(folder, file), self._collections.of_folder(folder)
        is_there = entry.collection is None or self._collections.folder(entry.collection) == folder
        is_free = not found.problem and found.name in {None, entry.collection}
        if not (file.endswith(SUFFIX) and is_there and is_free and self._keys.name(place.stem) == entry.key):
            msg = f"a file {entry.path!r} would be another entry here: this store keeps names in another way"
            raise StoreError(msg, hint="end the URL with ?names=v1 if the backup is of such a store")
        return place

    def lead_to(self, collection: str | None, key: str, place: Place) -> bool | None:
        """Return whether the names lead to *place*, `None` if that is not known; no collection is any."""
        answers = {self._keys.leads_to(key, place.stem)}
        if collection is not None:
            answers.add(self._collections.rule.leads_to(collection, place.folder))
        if False in answers:
            return False
        return None if None in answers else True

    def at(self, collection: Collection, place: Place, *, expired: bool = False) -> Entry | None:
        """Return the entry at *place*; `None` if there is none, or unless *expired* none that lives."""
        stored = b""
        try:
            stored = self._tree.read(place.folder, place.file)
            return self._read(collection, place, stored, expired=expired)
        except FileNotFoundError:
            self._refuse_missing()
            return None
        except (NotAFileError, UnreadableBodyError) as exc:
            if self._collections.has_infos_among_entries and read_info(stored) is not None:
                return None  # The info file of a folder in this folder.
            problem = f"{place.folder}/{place.file}: {_problem(collection, place) or exc}"
            names = self._names_of_file(collection, place)
            return Entry(*names, None, locator=place, stored=stored, problem=problem)

    def expired(self, place: Place) -> bytes | None:
        """Return the body at *place* if it has expired; what cannot be read has not."""
        with contextlib.suppress(FileNotFoundError, NotAFileError, UnreadableBodyError):
            stored = self._tree.read(place.folder, place.file)
            return stored if has_expired(read_body(stored).expires_at) else None
        return None

    def _read(self, collection: Collection, place: Place, stored: bytes, *, expired: bool) -> Entry | None:
        body = read_body(stored)
        if problem := _problem(collection, place):
            raise UnreadableBodyError(problem)
        if has_expired(body.expires_at) and not expired:
            return None
        names = self._names(collection, place, body)
        path = place.path if None in names else None
        times = (body.created_at, body.expires_at)
        return Entry(*names, body.value, *times, locator=place, stored=stored, path=path)

    def _names(self, collection: Collection, place: Place, body: Body) -> tuple[str | None, str | None]:
        """Return the names that the body proves, or else those that come back from the file's."""
        if body.collection is None or body.key is None:
            return self._names_of_file(collection, place)
        is_own = self.lead_to(body.collection, body.key, place)
        if is_own is False or collection.name not in {None, body.collection}:
            msg = f"it holds the body of {body.collection!r}/{body.key!r}"
            raise UnreadableBodyError(msg)
        return (body.collection, body.key) if is_own else self._names_of_file(collection, place)

    def _names_of_file(self, collection: Collection, place: Place) -> tuple[str | None, str | None]:
        return collection.name, self._keys.name(place.stem) if is_text(place.file) else None

    def _refuse_missing(self) -> None:
        """Raise `StoreNotFoundError` if the whole store is gone: what it held is not merely absent."""
        if not self._tree.directory.is_dir():
            msg = f"no file tree store at {self._tree.directory}: no such directory"
            raise StoreNotFoundError(msg, hint="check the path and what is mounted there")


def _problem(collection: Collection, place: Place) -> str:
    """Return what is wrong with *place*, whatever is stored there."""
    return collection.problem if is_text(place.file) else "the file name is not text"
