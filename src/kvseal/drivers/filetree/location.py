"""
From the URL of a file tree store to its directory, and to the rules by which it stores names.

An empty directory could be a file tree store as well as a typo, so a store is what has an
info file of some collection: one that fits its folder, by one rule or the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvseal.drivers.filetree.collections import named_folders
from kvseal.drivers.filetree.folders import SUFFIX, NotAFileError, Tree
from kvseal.drivers.filetree.names import Evidence, Rule, plain_rule, v1_rules
from kvseal.errors import StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvseal.drivers.urls import StoreUrl

_CHOICES: Final = ("", "plain", "v1")


def directory_and_rules(url: StoreUrl) -> tuple[Path, str]:
    """
    Return the directory, and how the URL says that names are stored: `plain`, `v1` or nothing.

    Raises:
        UnsupportedStoreError: there is no path, or no such way.
    """
    plain, names = url.option("names")
    directory, names = plain.path(), names or ""
    if names not in _CHOICES:
        msg = f"filetree: has no names={names}"
        raise UnsupportedStoreError(msg, hint="write ?names=plain, ?names=v1 or nothing")
    return directory, names


def open_store(directory: Path, names: str, *, create: bool) -> tuple[Rule, Rule]:
    """
    Return the rules for collections and for keys of the store in *directory*; with *create* it may be new.

    Raises:
        StoreNotFoundError: there is no store.
        UnsupportedStoreError: some of its names are sanitized, some are not, and *names* does not say which.
    """
    try:
        if create and not directory.exists():
            directory.mkdir(mode=0o700, parents=True)
        if not directory.is_dir():
            raise _missing(directory, "no such directory")
        return _rules(directory, names, create=create)
    except OSError as exc:
        msg = f"cannot look at {directory}: {exc}"
        raise StoreUnreachableError(msg, hint="check the permissions there") from exc


def _rules(directory: Path, names: str, *, create: bool) -> tuple[Rule, Rule]:
    v1_collections, v1_keys = v1_rules(directory)
    tree = Tree(directory)
    fitting = [(c, folder) for c, folder in named_folders(tree) if folder in {c, v1_collections.stored(c)}]
    if not fitting and not (create and not any(directory.iterdir())):
        raise _missing(directory, "no collection's info file is in it")
    if names:
        return (v1_collections, v1_keys) if names == "v1" else (plain_rule(), plain_rule())
    collections = Evidence.of_pairs(fitting, v1_collections)
    keys = Evidence.of_stems(_stems(tree, [folder for _, folder in fitting]))
    return collections.rule(v1_collections, "collections"), keys.rule(v1_keys, "keys")


def _stems(tree: Tree, folders: list[str]) -> Iterator[str]:
    for folder in folders:
        try:
            files = tree.listing(folder).files
        except (FileNotFoundError, NotAFileError):
            continue
        yield from (file[: -len(SUFFIX)] for file in files)


def _missing(directory: Path, why: str) -> StoreNotFoundError:
    msg = f"no file tree store at {directory}: {why}"
    return StoreNotFoundError(msg, hint="check the path; nothing was created")
