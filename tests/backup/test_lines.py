"""The lines of a backup: what comes back is what was put in, and nothing odd is read."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backup.made import CREATED, FUTURE, HEADER, entry
from tests.strategies import any_text, json_objects, same

from kvseal.backup import lines
from kvseal.backup.lines import Header, Trailer, entry_line, parse_line
from kvseal.drivers.base import Entry
from kvseal.errors import MalformedBackupError, UnknownBackupVersionError

ENTRY = json.loads(entry_line(entry(expires_at=FUTURE))[0])
UNREADABLE = json.loads(entry_line(Entry("c", "k", None, stored=b"\x80", problem="odd"))[0])
TRAILER = json.loads(Trailer(3, "ab" * 32).line())
FIRST = json.loads(HEADER.line())
DEEP: dict[str, Any] = {}
for _ in range(253):
    DEEP = {"d": DEEP}

times = st.none() | st.datetimes(timezones=st.just(CREATED.tzinfo))


def changed(fields: dict[str, Any], **changes: Any) -> bytes:
    """Return the line with other fields; `...` leaves one out."""
    fields = {**fields, **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


@pytest.mark.exhaustive
@given(any_text, any_text, json_objects, times, times)
def test_an_entry_comes_back(
    collection: str, key: str, value: dict[str, Any], created_at: datetime | None, expires_at: datetime | None
) -> None:
    """Names, value and times come back exactly, whatever JSON can say."""
    line, problem = entry_line(Entry(collection, key, value, created_at, expires_at))
    found = parse_line(line)

    assert "" == problem
    assert b"\n" not in line
    assert isinstance(found, Entry)
    assert (collection, key, created_at, expires_at) == (
        found.collection,
        found.key,
        found.created_at,
        found.expires_at,
    )
    assert same(value, found.value)


@given(st.none() | any_text, st.none() | any_text, any_text.filter(bool), st.binary())
def test_an_unreadable_entry_comes_back(
    collection: str | None, key: str | None, problem: str, stored: bytes
) -> None:
    """Its stored bytes and its problem come back, and no value."""
    made = Entry(collection, key, None, stored=stored, problem=problem)
    line, told = entry_line(made)

    assert (made, problem) == (parse_line(line), told)


def test_the_deepest_value_comes_back() -> None:
    """A value of the greatest depth that kvseal seals is no deeper in a backup."""
    line, problem = entry_line(entry(value=DEEP))

    assert "" == problem
    assert parse_line(line) == entry(value=DEEP)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (entry(value={"d": DEEP, "secret": "s3cr3t"}, stored=b"raw"), "nested deeper than 254 levels"),
        (entry(None, stored=b"raw"), "does not keep its name"),
        (Entry("c", "k", None, stored=b"raw"), "has no value"),
    ],
)
def test_what_cannot_be_restored_is_kept_as_bytes(made: Entry, problem: str) -> None:
    """An entry that no line can hold keeps its stored bytes, and says why in no word of its value."""
    line, told = entry_line(made)
    found = parse_line(line)

    assert problem in told
    assert b"s3cr3t" not in line
    assert isinstance(found, Entry)
    assert (None, b"raw", told) == (found.value, found.stored, found.problem)


def test_a_line_is_never_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too long a value is kept as bytes, and if those are too long as well, by name alone."""
    monkeypatch.setattr(lines, "MAX_LINE", 500)

    kept, problem = entry_line(entry(value={"v": "x" * 500}, stored=b"y" * 100))
    named, _ = entry_line(entry(value={"v": "x" * 500}, stored=b"y" * 500))

    assert "longer than the 500 bytes" in problem
    assert [b"y" * 100, b""] == [getattr(parse_line(line), "stored", None) for line in (kept, named)]


def test_an_entry_keeps_a_path_only_without_a_name() -> None:
    """The path stands for a name that is not known, and a line has one or the other."""
    unnamed = Entry("c", None, {}, path="c/S_k.json")

    assert unnamed == parse_line(entry_line(unnamed)[0])
    assert entry() == parse_line(entry_line(entry(path="c/k.json"))[0])


def test_a_header_comes_back() -> None:
    """Tool, store and time come back."""
    assert HEADER == Header.parse(HEADER.line())


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param(changed(FIRST, version=2), UnknownBackupVersionError, id="version of the future"),
        pytest.param(
            changed(FIRST, version=2, more=1), UnknownBackupVersionError, id="its fields are its own affair"
        ),
        pytest.param(changed(FIRST, version=0), MalformedBackupError, id="version 0"),
        pytest.param(changed(FIRST, version=True), MalformedBackupError, id="version true"),
        pytest.param(changed(FIRST, version=1.0), MalformedBackupError, id="version 1.0"),
        pytest.param(changed(FIRST, format="other"), MalformedBackupError, id="another format"),
        pytest.param(changed(FIRST, more=1), MalformedBackupError, id="unknown field"),
        pytest.param(changed(FIRST, tool=...), MalformedBackupError, id="missing field"),
        pytest.param(changed(FIRST, store=None), MalformedBackupError, id="no store"),
        pytest.param(changed(FIRST, created_at="now"), MalformedBackupError, id="no time"),
        pytest.param(changed(ENTRY), MalformedBackupError, id="an entry"),
        pytest.param(b"", MalformedBackupError, id="empty"),
    ],
)
def test_a_strict_header(line: bytes, error: type[MalformedBackupError]) -> None:
    """Only a header of this version is read; a later one is told apart."""
    with pytest.raises(MalformedBackupError) as caught:
        Header.parse(line)

    assert error is type(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"\xff{}", id="no text"),
        pytest.param(b"[" * 100_000, id="too deep"),
        pytest.param(b'{"type":' + b"9" * 10_000 + b"}", id="too large a number"),
        pytest.param(changed(ENTRY, type="other"), id="unknown type"),
        pytest.param(changed(ENTRY, type=["entry"]), id="type of another type"),
        pytest.param(changed(ENTRY, type=...), id="no type"),
        pytest.param(changed(ENTRY, more=1), id="unknown field"),
        pytest.param(changed(ENTRY, path=...), id="missing field"),
        pytest.param(changed(ENTRY, key=1), id="key is no text"),
        pytest.param(changed(ENTRY, key=None), id="neither name nor path"),
        pytest.param(changed(ENTRY, path="c/k.json"), id="names and path"),
        pytest.param(changed(ENTRY, value=[]), id="value is no mapping"),
        pytest.param(changed(ENTRY, value=None), id="no value"),
        pytest.param(changed(ENTRY, created_at=1), id="time is no text"),
        pytest.param(changed(ENTRY, created_at="2024-02-29"), id="only a date"),
        pytest.param(changed(ENTRY, expires_at="2024-02-29T00:00:00.000000"), id="no time zone"),
        pytest.param(changed(ENTRY, expires_at="2024-02-29T01:00:00.000000+01:00"), id="not UTC"),
        pytest.param(changed(ENTRY, expires_at="2024-02-29T00:00:00+00:00"), id="not to the microsecond"),
        pytest.param(changed(UNREADABLE, stored="?"), id="no base64"),
        pytest.param(changed(UNREADABLE, stored=None), id="no stored bytes"),
        pytest.param(changed(UNREADABLE, problem=""), id="no problem"),
        pytest.param(changed(UNREADABLE, value={}), id="unreadable with a value"),
        pytest.param(changed(TRAILER, entries=True), id="count is no number"),
        pytest.param(changed(TRAILER, sha256="AB" * 32), id="no lower-case hex"),
        pytest.param(changed(TRAILER, more=1), id="trailer with more"),
    ],
)
def test_a_strict_line(line: bytes) -> None:
    """Whatever is no line of the format is refused as that, in no word of the line."""
    with pytest.raises(MalformedBackupError):
        parse_line(line)


def test_more_parts_than_memory_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of countless tiny objects is refused before it becomes objects, and is never written."""
    monkeypatch.setattr(lines, "MAX_PARTS", 1000)
    many = {"v": [{} for _ in range(500)]}
    with monkeypatch.context() as writing:
        writing.setattr(lines, "MAX_PARTS", 10_000)
        line, _ = entry_line(entry(value=many))
        assert isinstance(parse_line(line), Entry)
    monkeypatch.setattr(lines.exact_json, "loads", pytest.fail)

    with pytest.raises(MalformedBackupError, match="more than 1,000 parts"):
        parse_line(line)
    assert "it has more than the 1,000 parts that a backup can hold" == entry_line(entry(value=many))[1]


def test_text_has_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in a string costs no more than its bytes, whatever it looks like."""
    monkeypatch.setattr(lines, "MAX_PARTS", 100)
    value = {"v": '[{:,\\"' * 1000}

    line, problem = entry_line(entry(value=value))

    found = parse_line(line)
    assert ("", value) == (problem, found.value if isinstance(found, Entry) else None)


@pytest.mark.parametrize(
    "quotes", [b'"' * 10**6, b'"\\"' * 10**6, b"\\" * 10**6], ids=["open", "escaped", "no text"]
)
def test_what_is_no_json_is_refused_in_one_pass(quotes: bytes) -> None:
    """A megabyte of quotes is looked at once, not once for each of them."""
    with pytest.raises(MalformedBackupError):
        parse_line(quotes)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-32-be", "utf-8-sig"])
def test_utf_8_alone(encoding: str) -> None:
    """A line is UTF-8 without a byte order mark, as the format says."""
    with pytest.raises(MalformedBackupError, match="not a JSON object"):
        parse_line(changed(ENTRY).decode().encode(encoding))


@pytest.mark.parametrize(
    "line",
    [
        changed(ENTRY)[:-1] + b', "key": "another"}',
        changed(ENTRY, value={"a": 1}).replace(b'"a": 1', b'"a": 1, "a": 2'),
        changed(ENTRY, value={"a": 1}).replace(b'"a": 1', b'"b": [{"a": 1, "a": 2}]'),
        changed(ENTRY, value={"a": 1}).replace(b'"a": 1', b'"a": 1, "\\u0061": 2'),
        changed(TRAILER)[:-1] + b', "entries": 3}',
    ],
    ids=["entry", "value", "in the value", "escaped", "trailer"],
)
def test_a_field_twice(line: bytes) -> None:
    """Of two fields of one name neither is taken."""
    with pytest.raises(MalformedBackupError, match="twice"):
        parse_line(line)


@pytest.mark.parametrize(
    "time",
    [
        "0001-01-01T00:00:00.000000+01:00",
        "9999-12-31T23:59:59.999999-01:00",
        "2026-01-01T00:00:00.000000+00:00:00",
        "2026-01-01 00:00:00.000000+00:00",
        "2026-02-30T00:00:00.000000+00:00",
        "\u0662026-01-01T00:00:00.000000+00:00",
    ],
)
def test_times_of_another_form(time: str) -> None:
    """A time has one form, also at the ends of the calendar."""
    with pytest.raises(MalformedBackupError, match="not a time"):
        parse_line(changed(ENTRY, expires_at=time))


def test_a_time_beyond_the_calendar() -> None:
    """An entry whose time is no time in UTC is kept as raw bytes and named."""
    first = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))

    line, problem = entry_line(Entry("c", "k", {"v": 1}, first, stored=b"raw"))

    found = parse_line(line)
    assert "beyond the calendar" in problem
    assert (b"raw", problem) == ((found.stored, found.problem) if isinstance(found, Entry) else None)


@pytest.mark.parametrize(
    "path", ["", "file", "/file", "folder/", "a/b/c", "../file", "folder/..", "./f", "a\0/b"]
)
def test_paths_of_another_form(path: str) -> None:
    """A path is a folder and a file in it."""
    with pytest.raises(MalformedBackupError, match="path"):
        parse_line(changed(ENTRY, key=None, path=path))
