"""The stored body: read as strictly as the store reads it, written as the store writes it, patched exactly."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from key_value.aio._utils.managed_entry import ManagedEntry
from key_value.aio._utils.serialization import BasicSerializationAdapter
from tests.drivers.entries import CREATED, FUTURE, VALUES
from tests.strategies import json_objects

from kvseal.drivers.body import UnreadableBodyError, flat_text, patch_body, read_body, write_body
from kvseal.errors import UnsealableValueError


@pytest.mark.parametrize("expires_at", [None, FUTURE])
@pytest.mark.parametrize("names", [None, ("coll", "schlüssel")])
@pytest.mark.parametrize("value", VALUES)
def test_written_as_the_store_writes(
    value: dict[str, Any], names: tuple[str, str] | None, expires_at: datetime | None
) -> None:
    """A body is the store's own text, character by character, and is read back as it was meant."""
    managed = ManagedEntry(value=value, created_at=CREATED, expires_at=expires_at)
    collection, key = names or (None, None)
    text = BasicSerializationAdapter().dump_json(managed, collection=collection, key=key)

    body = read_body(text.encode())

    assert text == write_body(value, created_at=CREATED, expires_at=expires_at, names=names)
    assert text == patch_body(patch_body(text.encode(), {"other": 1}).encode(), value)
    assert (collection, key, value) == (body.collection, body.key, body.value)
    assert (CREATED, expires_at) == (body.created_at, body.expires_at)


def test_times_of_other_zones() -> None:
    """A time is the same moment in UTC, whatever zone it was written in, and one without a zone is UTC."""
    abroad = FUTURE.astimezone(timezone(timedelta(hours=-7)))
    text = json.dumps(
        {"value": {}, "created_at": "2024-02-29T23:59:59.123457", "expires_at": abroad.isoformat()}
    )

    body = read_body(text.encode())

    assert (CREATED, FUTURE) == (body.created_at, body.expires_at)
    assert "+00:00" in write_body({}, created_at=abroad, expires_at=None)


def test_naive_time_is_refused() -> None:
    """A time without a zone is not written, because it would be read as another time elsewhere."""
    with pytest.raises(ValueError, match="without a zone"):
        write_body({}, created_at=CREATED.replace(tzinfo=None), expires_at=None)


@pytest.mark.parametrize("value", [{"a": b"bytes"}, {"a": object()}, {"a": {1, 2}}])
def test_value_that_json_cannot_hold(value: dict[str, Any]) -> None:
    """A value that the store's JSON cannot hold is refused in kvseal's own words."""
    with pytest.raises(UnsealableValueError, match="cannot hold"):
        write_body(value, created_at=None, expires_at=None)
    with pytest.raises(UnsealableValueError, match="cannot hold"):
        patch_body(b'{"value": {}}', value)


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"{}", b'{"value": 1}', b'{"value": {}, "key": "k"}'])
def test_unreadable(text: bytes) -> None:
    """What is no body is told apart from everything else that can go wrong."""
    with pytest.raises(UnreadableBodyError):
        read_body(text)


@pytest.mark.exhaustive
@given(names=st.tuples(st.text(), st.text()), old=json_objects, new=json_objects)
def test_patch_is_what_the_store_would_write(
    names: tuple[str, str], old: dict[str, Any], new: dict[str, Any]
) -> None:
    """Whatever names and values look like, a patched body is the text that the store writes for the new value."""
    texts = [write_body(value, created_at=CREATED, expires_at=FUTURE, names=names) for value in (old, new)]

    assert texts[1] == patch_body(texts[0].encode(), new)


@pytest.mark.parametrize(
    "text",
    [
        '{"value": {"a": 1}, "version": 1}',
        '{"note": "\\"value\\": {", "value": {"a": "}"}, "version": 1}',
        '{"a": {"value": {"b": 1}}, "value": {}, "version": 1}',
        '{"a": {"b": 1}, "value": "{}", "version": 1}',
        '{"value": {}, "value": {"a": 1}, "version": 1}',
        '{"value": {"value": {"a": 1}, "version": 1}, "version": 1}',
        '{"value": [{"a": 1}], "version": 1}',
        '{"z": {"a": 1}, "version": 1}',
        '{"value": "x", "z": {"a": 1}, "version": 1}',
        '{"key": "{", "value": {"a": "{"}, "version": 1}',
        '{"key": "\ud800", "value": {"a": 1}, "version": 1}',
        '{"value": {"a": 1}, "z": {"b": 2}, "version": 1}',
        '{"key": "\u00e4", "value": {"a": 1}, "version": 1}',
        '{"value": {"a": 1}, "version": 2, "more": [1.50, 1e400]}',
    ],
)
def test_patch_changes_the_value_alone(text: str) -> None:
    """Of a body that somebody else wrote, in any form, everything but the value stays what it was."""
    patched = patch_body(text.encode("utf-8", "surrogatepass"), {"new": "v"})

    assert {**json.loads(text), "value": {"new": "v"}} == json.loads(patched)


@pytest.mark.exhaustive
@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.floats(), st.none())))
def test_text_of_flat_values(value: dict[str, Any]) -> None:
    """The quick way to write a flat value writes what `json` does, to the character, or leaves it to it."""
    assert flat_text(value) in {None, json.dumps(value, sort_keys=True)}


def test_text_of_an_encrypted_value() -> None:
    """The two fields of every encrypted value take the quick way; what needs an escape does not."""
    sealed = {"__encrypted_data__": "Z0FB+/==", "__encryption_version__": 1}

    assert json.dumps(sealed, sort_keys=True) == flat_text(sealed)
    assert [None] * 5 == [flat_text({"a": a}) for a in ("\x7f", '"', "\u00e4", "\ud800", True)]
