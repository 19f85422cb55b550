"""
Rows of a `PostgreSQLStore` table as entries, and values as the text that goes into its JSONB column.

JSONB keeps what a value means and not how it was written: keys are sorted, and every number is a
decimal.  A value that would come back as another one is refused before anything is written.

Usually the column holds an object.  Where the application's pool has a JSON codec the store's text
is encoded once more, and the column holds a string with the object's JSON in it; both are read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kvseal import exact_json
from kvseal.drivers.base import Entry
from kvseal.drivers.body import flat_text
from kvseal.errors import StoreError, UnsealableValueError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a row, and the times that it had when it was read."""

    collection: str
    key: str
    created_at: datetime | None
    expires_at: datetime | None


def entry_of(row: Mapping[str, Any]) -> Entry:
    """Return what *row* says, with a `problem` where it cannot be read."""
    place = Place(row["collection"], row["key"], row["created_at"], row["expires_at"])
    text: str = row["value"]
    value, problem = _read(text)
    if row["has_odd_time"]:
        value, problem = None, "its creation time or expiry is outside of the years 1 to 9999"
    return Entry(
        place.collection,
        place.key,
        value,
        place.created_at,
        place.expires_at,
        locator=place,
        stored=text.encode(),
        problem=problem,
    )


def is_text(stored: bytes) -> bool:
    """Whether a column's value is JSON text in a string rather than an object."""
    return stored.startswith(b'"')


def _read(text: str) -> tuple[dict[str, Any] | None, str]:
    # The parser's message quotes the text, which may be a plaintext secret.
    try:
        value = exact_json.loads(text)
        if isinstance(value, str):
            value = exact_json.loads(value)
    except ValueError:
        return None, "the value is not JSON that can be read"
    return (value, "") if isinstance(value, dict) else (None, "the value is not a mapping")


def written(value: Mapping[str, Any], *, as_text: bool) -> str:
    """
    Return the JSON for the column, an object or a string with the object *as_text* in it.

    Raises:
        UnsealableValueError: JSON or PostgreSQL cannot hold the value as it is.
    """
    text = flat_text(value)
    if text is not None and not as_text:
        return text
    try:
        text = json.dumps(dict(value), sort_keys=True, allow_nan=as_text)
    except (TypeError, ValueError, RecursionError) as exc:
        msg = f"the store's JSON cannot hold the value: {exc}"
        raise UnsealableValueError(msg) from exc
    if as_text:
        return json.dumps(text)
    _refuse_text(text, value)
    _refuse_numbers(text)
    return text


def _refuse_text(text: str, value: Mapping[str, Any]) -> None:
    if "\\u0000" in text and _NUL.search(text):
        msg = "the value has a NUL character, which PostgreSQL cannot hold"
        raise UnsealableValueError(msg, hint="keep it sealed, or leave the character out")
    if "\\ud" not in text:
        return
    try:
        json.dumps(dict(value), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Its message quotes the value.
        msg = "the value has half of a surrogate pair, which PostgreSQL cannot hold"
        raise UnsealableValueError(msg, hint="keep it sealed, or leave the character out") from None


def _refuse_numbers(text: str) -> None:
    # The numbers meant are rare, so only a text that might have one is parsed again.
    if "e+" in text or "-0.0" in text:
        json.loads(text, parse_float=_refuse_number)


def _refuse_number(literal: str) -> None:
    """Refuse the floats that come back changed: -0.0 as 0.0, and those from 1e+16 on as integers."""
    if literal == "-0.0" or "e+" in literal:
        msg = f"PostgreSQL would give back the number {literal} as another one"
        raise UnsealableValueError(msg, hint="keep it sealed, or store the number as text")


def checked_names(collection: str, key: str) -> tuple[str, str]:
    """
    Return the names; raises `StoreError` if PostgreSQL cannot hold one.

    Its text has no NUL character, and no half of a surrogate pair.
    """
    for name in (collection, key):
        if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
            msg = f"PostgreSQL cannot hold the name {name!r}"
            raise StoreError(msg, hint="use names without NUL characters and lone surrogates")
    return collection, key


def without_repeats(names: Mapping[int, tuple[str, str]]) -> list[list[int]]:
    """
    Return the numbers of *names* in rounds in which no name comes twice, each in the order of names.

    A statement changes a row once, by an arbitrary one of those that fit.  In the order of names two
    batches that share rows seldom wait for each other in a circle.
    """
    rounds: list[list[int]] = []
    seen: dict[tuple[str, str], int] = {}
    for number, name in names.items():
        turn = seen[name] = seen.get(name, -1) + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(number)
    return [sorted(numbers, key=names.__getitem__) for numbers in rounds]
