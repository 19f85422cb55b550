"""
Rows of a `DuckDBStore` table as entries, and entries as the parameters of its statements.

The column has JSON text.  What the driver writes is text that Python has made, so that DuckDB
makes nothing else of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from kvseal import clock, exact_json
from kvseal.drivers.base import KEEP, Entry, content
from kvseal.errors import StoreError, UnsealableValueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from kvseal.drivers.base import Replacement

Names = tuple[str, str]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a row, and the times that it had when it was read, in microseconds."""

    collection: str
    key: str
    created_at: int | None
    expires_at: int | None


def entry_of(row: Sequence[Any]) -> Entry:
    """Return what *row* says, with a `problem` where it cannot be read."""
    collection, key, text, created_at, expires_at, has_odd_time = row
    value, problem = _read(text)
    times: tuple[datetime | None, datetime | None] = (None, None)
    try:
        times = _time(created_at), _time(expires_at)
    except OverflowError:
        has_odd_time = True
    if has_odd_time:
        value, problem = None, "its creation time or expiry is outside of the years 1 to 9999"
    place = Place(collection, key, created_at, expires_at)
    return Entry(collection, key, value, *times, locator=place, stored=text.encode(), problem=problem)


def _read(text: str) -> tuple[dict[str, Any] | None, str]:
    # The parser's message quotes the text, which may be a plaintext secret.
    try:
        value = exact_json.loads(text)
    except ValueError:
        return None, "the value is not JSON that can be read"
    return (value, "") if isinstance(value, dict) else (None, "the value is not a mapping")


def text_of(value: Mapping[str, Any]) -> str:
    """Return the JSON for the column; raises `UnsealableValueError` if JSON cannot hold *value*."""
    try:
        return json.dumps(dict(value), sort_keys=True)
    except (TypeError, ValueError, RecursionError) as exc:
        msg = f"the store's JSON cannot hold the value: {exc}"
        raise UnsealableValueError(msg) from exc


def checked_names(collection: str, key: str) -> dict[str, Any]:
    """Return the names as parameters; raises `StoreError` if DuckDB cannot hold one."""
    for name in (collection, key):
        try:
            name.encode()
        except UnicodeEncodeError as exc:
            msg = f"DuckDB cannot hold the name {name!r}: it has a lone surrogate"
            raise StoreError(msg) from exc
    return {"collection": collection, "key": key}


def read_of(entry: Entry) -> dict[str, Any]:
    """Return what a write of *entry* compares, as parameters."""
    place: Place = entry.locator
    return {
        "collection": place.collection,
        "key": place.key,
        "stored": entry.stored.decode(),
        "created_at": place.created_at,
        "expires_at": place.expires_at,
    }


def change_of(replacement: Replacement, text: str) -> dict[str, Any]:
    """Return one of the rows of `Table.replace`."""
    expires_at = replacement.expires_at
    expiry = microseconds(expires_at) if isinstance(expires_at, datetime) else None
    return {**read_of(replacement.entry), "value": text, "expiry": expiry}


def new_row(entry: Entry) -> dict[str, Any]:
    """Return the parameters that insert *entry*; raises `StoreError` or `UnsealableValueError`."""
    collection, key, value = content(entry)
    return {
        **checked_names(collection, key),
        "value": text_of(value),
        "created_at": microseconds(entry.created_at),
        "expires_at": microseconds(entry.expires_at),
    }


def names_of(row: Mapping[str, Any]) -> Names:
    """Return the names in parameters."""
    return row["collection"], row["key"]


def kinds_of(replacements: Sequence[Replacement]) -> Iterator[tuple[int, Names, bool]]:
    """Yield the number, the names and the kind of each replacement: one statement is for one kind."""
    for number, replacement in enumerate(replacements):
        place: Place = replacement.entry.locator
        yield number, (place.collection, place.key), replacement.expires_at is KEEP


def rounds_of(rows: Iterable[tuple[int, Names, bool]]) -> list[list[int]]:
    """Return the numbers of *rows*, in order, in rounds of one kind with no name twice."""
    rounds: list[list[int]] = []
    kind, seen = None, set[Names]()
    for number, names, of_kind in rows:
        if of_kind is not kind or names in seen:
            rounds.append([])
            kind, seen = of_kind, set()
        rounds[-1].append(number)
        seen.add(names)
    return rounds


def now() -> int:
    """Return this process's time, in microseconds."""
    return (clock.utc_now() - _EPOCH) // timedelta(microseconds=1)


def microseconds(time: datetime | None) -> int | None:
    """Return *time* in microseconds since 1970."""
    return None if time is None else (time - _EPOCH) // timedelta(microseconds=1)


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
