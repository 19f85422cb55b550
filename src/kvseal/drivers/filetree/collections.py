"""
The collections of a file tree store: which folder is whose, and who says so.

The info file beside the folders says which collection a folder belongs to.  It is believed
only if the store's own rule turns that name into this folder, because a process that can write to
the store could paste one that gives every record in it another name.  Names with a slash,
which a store without strategies keeps as they are, are folders within folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvseal.drivers.filetree.folders import (
    INFO_SUFFIX,
    NotAFileError,
    Tree,
    is_text,
    read_info,
    write_info,
)
from kvseal.drivers.filetree.landing import checked_folder
from kvseal.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvseal.drivers.filetree.names import Rule

_LOOKED_AT: Final = 1000
"""Folders in which a store is looked for, lest a wrong path mean a walk over the whole disk."""


@dataclass(frozen=True, slots=True)
class Collection:
    """One folder; `name` is `None` where nothing proves it, and `problem` says what is wrong with it."""

    folder: str
    name: str | None
    problem: str = ""


class Collections:
    """The collections in *tree*, named by the info files in *infos* and by *rule*.  Every method blocks."""

    def __init__(self, tree: Tree, infos: Tree, rule: Rule) -> None:
        self._tree = tree
        self._infos = infos
        self.rule = rule
        self.has_infos_among_entries = infos.directory == tree.directory

    def folder(self, name: str) -> str:
        """Return the folder of the collection *name*; raises `StoreError` if it can have none."""
        return checked_folder(self.rule.stored(name))

    def all(self) -> list[Collection]:
        """
        Return every folder as a collection, in the order of their paths.

        Raises:
            FileNotFoundError: the data directory is gone; that is no empty store.
        """
        with self._tree.opened(""):
            pass
        return [self.of_folder(folder) for folder in sorted(folder for folder, _ in self._tree.walk())]

    def of_folder(self, folder: str) -> Collection:
        """Return the collection of *folder*, which need not be there."""
        if not folder:
            return Collection(folder, None)
        try:
            named = self._info(folder)
        except NotAFileError as exc:
            return Collection(folder, None, f"the info file of folder {folder!r}: {exc}")
        except FileNotFoundError:
            return self._without_info(folder)
        if named is None or not self._leads_to(named, folder):
            whose = "cannot be read" if named is None else f"is that of collection {named!r}"
            return Collection(folder, None, f"the info file of folder {folder!r} {whose}")
        return Collection(folder, named)

    def create(self, name: str) -> str:
        """
        Return the folder of the collection *name*, made with its info file as the store makes them.

        Raises:
            StoreError: the folder is another collection's.
        """
        folder = self.folder(name)
        found = self.of_folder(folder)
        if found.problem or found.name not in {None, name}:
            msg = found.problem or f"the folder of collection {name!r} is that of {found.name!r}"
            raise StoreError(msg, hint="the store's names collide; use shorter ones, or another store")
        with self._tree.opened(folder, create=True):
            pass
        try:
            self._info(folder)
        except FileNotFoundError:
            write_info(self._infos, folder, name, data=self._tree.directory)
        return folder

    def _without_info(self, folder: str) -> Collection:
        # The store makes a new info file when it is next used, so these are entries of its own.
        if "/" in folder:
            return Collection(folder, None, f"no info file says whose folder {folder!r} is")
        return Collection(folder, self.rule.name(folder) if is_text(folder) else None)

    def _leads_to(self, name: str, folder: str) -> bool:
        try:
            return self.folder(name) == folder
        except StoreError:
            return False

    def _info(self, folder: str) -> str | None:
        parent, _, last = folder.rpartition("/")
        return read_info(self._infos.read(parent, f"{last}{INFO_SUFFIX}"))


def named_folders(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield (collection, folder) for each info file below *tree*, and give up where none is near the top."""
    is_store = False
    for looked_at, (folder, found) in enumerate(tree.walk()):
        if looked_at >= _LOOKED_AT and not is_store:
            return
        for file in found.files:
            named = _named(tree, folder, file)
            if named is not None:
                is_store = True
                yield named, f"{folder}/{file}".lstrip("/")[: -len(INFO_SUFFIX)]


def _named(tree: Tree, folder: str, file: str) -> str | None:
    if not file.endswith(INFO_SUFFIX):
        return None
    try:
        return read_info(tree.read(folder, file))
    except (FileNotFoundError, NotAFileError):
        return None
