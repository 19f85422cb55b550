"""
What writers that died have left in a file tree: temporary files, some of them with an old value.

A file that is replaced or deleted is unlinked at once, so no file of a file tree store holds what was
overwritten, but for these.  kvseal's own are brought to an end as `swaps` says, under the
folder's lock.  The store's own have no lock, and a live writer may be about to rename one: only those
that have been there for `GRACE` are removed.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvseal import clock
from kvseal.drivers.base import FILE_SYSTEM, GRACE, Purged
from kvseal.drivers.filetree.folders import NotAFileError, listing, remove
from kvseal.drivers.filetree.swaps import recover_idle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvseal.drivers.filetree.folders import Tree

# As Python's `mkstemp(suffix=".tmp")` names them, which the store uses.
_OF_THE_STORE: Final = re.compile(r"tmp[a-z0-9_]{8}\.tmp")

_NOTHING: Final = "nothing: a value that is replaced is in no file any more, and no writer has left one"


@dataclass(slots=True)
class _Found:
    """How many temporary files there were, and how many of them stay."""

    removed: int = 0
    stay: int = 0


def purge_trees(trees: Iterable[Tree], *, dry_run: bool) -> Purged:
    """Remove what dead writers have left in every folder; blocks."""
    found = _Found()
    for tree in trees:
        for folder, _ in tree.walk():
            with contextlib.suppress(FileNotFoundError, NotAFileError), tree.opened(folder) as opened:
                _finish_swaps(opened, found, dry_run=dry_run)
                _remove_temporaries(opened, found, dry_run=dry_run)
    left = [FILE_SYSTEM]
    if found.stay and not dry_run:
        left.insert(0, f"temporary files that a process may be writing: {found.stay}; purge again in an hour")
    done = f"temporary files of dead writers removed: {found.removed}" if found.removed else _NOTHING
    return Purged((done,), tuple(left), complete=not found.stay)


def _finish_swaps(folder: int, found: _Found, *, dry_run: bool) -> None:
    before = set(listing(folder).leftovers)
    if before and not dry_run:
        recover_idle(folder)
    # While another process swaps in the folder, a file that is still there may be its own.
    stay = before & set(listing(folder).leftovers) if not dry_run else set()
    found.stay += len(stay)
    found.removed += len(before) - len(stay)


def _remove_temporaries(folder: int, found: _Found, *, dry_run: bool) -> None:
    with os.scandir(folder) as items:
        names = [item.name for item in items if _OF_THE_STORE.fullmatch(item.name)]
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime >= clock.wall() - GRACE:
                found.stay += 1
                continue
            found.removed += 1
            if not dry_run:
                remove(folder, name)
