"""
Names that records carry, and where they are believed: in the very place to which they lead.

A scan of a store that loses names meets entries without both.  A record that says its names, and lies where
they lead, is the record of these names.  Anywhere else it was moved, and nothing is done by its names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kvseal.envelope.inside import moved
from kvseal.envelope.stored import has_names_inside
from kvseal.errors import MovedRecordError, RecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from kvseal.drivers.base import Entry
    from kvseal.envelope.codec import RecordCodec

    Leads: TypeAlias = Callable[[Entry, str, str], bool]
    """Whether collection and key lead to the very place of an entry: what a driver can prove."""


def located(codec: RecordCodec, entry: Entry, leads: Leads) -> Entry:
    """
    Return *entry* with the names that its record carries, where the store does not give both back.

    Raises:
        MovedRecordError: the names do not lead to the place of the entry.
        RecordError: the record does not open.
    """
    if entry.value is None or (entry.collection is not None and entry.key is not None):
        return entry
    names = codec.names_in(entry.value)
    if names is None:
        return entry
    if not leads(entry, *names):
        raise moved()
    return replace(entry, collection=names[0], key=names[1], names_inside=True)


def located_by_any(codecs: Iterable[RecordCodec], entry: Entry, leads: Leads) -> Entry:
    """
    Return what `located` does with the first of *codecs*, one for each context, that opens the record.

    An entry that none opens stays as it is.  Raises `MovedRecordError` like `located`.
    """
    if entry.value is None or not has_names_inside(entry.value):
        return entry
    for codec in codecs:
        try:
            return located(codec, entry, leads)
        except MovedRecordError:
            raise
        except RecordError:
            continue
    return entry
