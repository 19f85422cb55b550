"""How a restore reads a backup: in batches, and each of these in groups without duplicate names."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from kvseal.backup.file import BackupReader
from kvseal.concurrency import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from kvseal.drivers.base import Entry


async def batches(file: BinaryIO) -> AsyncIterator[list[Entry]]:
    """Yield the entries of *file* from its beginning, in batches; raises as `BackupReader`."""
    reader = await in_thread(BackupReader, file)
    found = reader.batches()
    while (batch := await in_thread(next, found, None)) is not None:
        yield batch


def groups(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Yield *entries* in order, in groups without duplicate names: of two, the later is written later."""
    group: dict[object, Entry] = {}
    for entry in entries:
        name = (entry.collection, entry.key, entry.path)
        if name in group:
            yield list(group.values())
            group = {}
        group[name] = entry
    if group:
        yield list(group.values())
