"""Where the names of a `FileTreeStore` land, by its own strategies and in its own folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.drivers.filetree.folders import SUFFIX, refuse_path
from kvseal.drivers.filetree.names import StrategyRule
from kvseal.drivers.landing import FolderPlaces

if TYPE_CHECKING:
    from key_value.aio.stores.filetree import FileTreeStore


def landing(store: FileTreeStore) -> FolderPlaces:
    """Return the rule of *store*: a folder is a path without dot segments, and a key is one file in it."""
    collections = StrategyRule(store._collection_sanitization_strategy)  # noqa: SLF001
    keys = StrategyRule(store._key_sanitization_strategy)  # noqa: SLF001

    def folder(collection: str) -> str:
        return checked_folder(collections.stored(collection))

    def file(key: str) -> str:
        name = f"{keys.stored(key)}{SUFFIX}"
        refuse_path(name)
        return name

    return FolderPlaces(folder, file, loses_names=not (collections.is_reversible and keys.is_reversible))


def checked_folder(folder: str) -> str:
    """Return *folder*; raises `StoreError` if a part of it cannot be the name of one folder."""
    for part in folder.split("/"):
        refuse_path(part)
    return folder
