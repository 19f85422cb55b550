"""
The lines of a backup file: one header, one line for each entry, one trailer.  Pure.

    {"format":"kvseal-backup","version":1,"tool":…,"store":…,"created_at":…}
    {"type":"entry","collection":…,"key":…,"path":…,"created_at":…,"expires_at":…,"value":{…}}
    {"type":"unreadable","collection":…,"key":…,"problem":…,"stored":base64}
    {"type":"trailer","entries":n,"sha256":hex}

Values are JSON that round-trips exactly, including NaN, large integers and lone surrogates.
Parsing is strict: exactly these fields, each of its type and each once, so nothing in a file is ignored.
docs/format.md is normative.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Final, TypeVar

from kvseal import exact_json
from kvseal.drivers.base import Entry
from kvseal.errors import MalformedBackupError, UnknownBackupVersionError, UnsealableValueError

T = TypeVar("T")

FORMAT: Final = "kvseal-backup"
VERSION: Final = 1
MAX_LINE: Final = 2**27
"""Bytes in one line, without its newline: the most that a reader holds, however hostile the file is."""

MAX_PARTS: Final = 1_000_000
"""Commas, colons and opening brackets outside of strings: what a line takes in memory is bound by them."""

_STRING: Final = re.compile(rb'"[^"]*"?')
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}\+00:00")
_PATH: Final = re.compile(r"[^/\0]+/[^/\0]+")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_HEADER: Final = {"format", "version", "tool", "store", "created_at"}
_FIELDS: Final = {
    "entry": {"type", "collection", "key", "path", "created_at", "expires_at", "value"},
    "unreadable": {"type", "collection", "key", "problem", "stored"},
    "trailer": {"type", "entries", "sha256"},
}


@dataclass(frozen=True, slots=True)
class Header:
    """The kvseal release that took the backup, the store, and the time."""

    tool: str
    store: str
    created_at: datetime

    def line(self) -> bytes:
        """Return the first line."""
        about = {"tool": self.tool, "store": self.store, "created_at": _time_text(self.created_at)}
        return _dump({"format": FORMAT, "version": VERSION, **about})

    @classmethod
    def parse(cls, line: bytes | bytearray) -> Header:
        """
        Read the first line.

        Raises:
            UnknownBackupVersionError: a later kvseal wrote it.
            MalformedBackupError: it is not a backup.
        """
        fields = _load(line)
        version = fields.get("version")
        if fields.get("format") != FORMAT or type(version) is not int or version < 1:
            msg = "the file is not a kvseal backup"
            raise MalformedBackupError(msg, hint="check its name")
        if version > VERSION:
            msg = f"the backup has version {version}; this kvseal reads version {VERSION}"
            raise UnknownBackupVersionError(msg, hint="upgrade kvseal")
        _expect_fields(fields, _HEADER, "header")
        created_at = _expect(_time(fields, "created_at"), "created_at")
        return cls(
            _expect(_text(fields, "tool"), "tool"), _expect(_text(fields, "store"), "store"), created_at
        )


@dataclass(frozen=True, slots=True)
class Trailer:
    """The number of entries, and the SHA-256 of all lines before this one, newlines included."""

    entries: int
    sha256: str

    def line(self) -> bytes:
        """Return the last line."""
        return _dump({"type": "trailer", **asdict(self)})


def entry_line(entry: Entry) -> tuple[bytes, str]:
    """Return the line of *entry*, and its problem if only its stored bytes can be kept."""
    problem = entry.problem or ("" if entry.value is not None else "it has no value")
    if None in (entry.collection, entry.key) and entry.path is None:
        problem = problem or "the store does not keep its name"
    if not problem:
        try:
            line = _entry_line(entry)
        except UnsealableValueError as exc:
            problem = f"a backup cannot hold its value: {exc}"
        except OverflowError:
            problem = "a backup cannot hold its times: in UTC they are beyond the calendar"
        else:
            problem = _excess(line)
            if not problem:
                return line, ""
    return _unreadable_line(entry, problem), problem


def parse_line(line: bytes | bytearray) -> Entry | Trailer:
    """Read any line but the first; raises `MalformedBackupError`."""
    fields = _load(line)
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise _malformed("a line has an unknown type")
    _expect_fields(fields, _FIELDS[kind], kind)
    if kind == "trailer":
        return _trailer(fields)
    return _entry(fields) if kind == "entry" else _unreadable(fields)


def _entry_line(entry: Entry) -> bytes:
    value, _ = exact_json.dumps(dict(entry.value or {}))
    is_named = entry.collection is not None and entry.key is not None
    head = _dump(
        {
            "type": "entry",
            "collection": entry.collection,
            "key": entry.key,
            "path": None if is_named else entry.path,
            "created_at": None if entry.created_at is None else _time_text(entry.created_at),
            "expires_at": None if entry.expires_at is None else _time_text(entry.expires_at),
        }
    )
    # The value is inserted as text: nested in the line, it could be one level less deep than in a store.
    return b'%b,"value":%b}' % (head[:-1], value)


def _unreadable_line(entry: Entry, problem: str) -> bytes:
    names = {"collection": entry.collection, "key": entry.key}
    line = _dump(
        {"type": "unreadable", **names, "problem": problem, "stored": b64encode(entry.stored).decode()}
    )
    if len(line) <= MAX_LINE:
        return line
    return _dump({"type": "unreadable", **names, "problem": problem, "stored": ""})


def _entry(fields: dict[str, Any]) -> Entry:
    collection, key, path = (_text(fields, name) for name in ("collection", "key", "path"))
    value = fields["value"]
    if not isinstance(value, dict):
        raise _malformed("the value of an entry is not a mapping")
    if path is not None and (not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/"))):
        raise _malformed("the path of an entry is not a folder and a file in it")
    if (path is None) != (collection is not None and key is not None):
        raise _malformed("an entry needs either both of its names, or the path where it is stored")
    times = _time(fields, "created_at"), _time(fields, "expires_at")
    return Entry(collection, key, value, *times, path=path)


def _unreadable(fields: dict[str, Any]) -> Entry:
    problem, stored = _expect(_text(fields, "problem"), "problem"), _text(fields, "stored")
    try:
        content = b64decode(_expect(stored, "stored"), validate=True)
    except ValueError:
        raise _malformed("the stored bytes of an entry are not base64") from None
    if not problem:
        raise _malformed("an unreadable entry does not name its problem")
    return Entry(_text(fields, "collection"), _text(fields, "key"), None, stored=content, problem=problem)


def _trailer(fields: dict[str, Any]) -> Trailer:
    entries, digest = fields["entries"], fields["sha256"]
    if type(entries) is not int or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise _malformed("the trailer has no count and SHA-256")
    return Trailer(entries, digest)


def _dump(fields: dict[str, Any]) -> bytes:
    return exact_json.dumps(fields)[0]


def _load(line: bytes | bytearray) -> dict[str, Any]:
    bare = _without_strings(line)
    if _parts(bare) > MAX_PARTS:
        raise _malformed(f"a line has more than {MAX_PARTS:,} parts")
    try:
        fields = exact_json.loads(line)
    except ValueError:
        # The parser's message quotes the line, which may hold plaintext.
        fields = None
    if not isinstance(fields, dict):
        raise _malformed("a line is not a JSON object")
    if bare.count(b":") != _fields_in(fields):
        raise _malformed("a line has a field of one name twice")
    return fields


def _excess(line: bytes) -> str:
    """Say why a reader would refuse *line* unread, if it would."""
    if len(line) > MAX_LINE:
        return f"it is longer than the {MAX_LINE:,} bytes that a backup can hold"
    if _parts(_without_strings(line)) > MAX_PARTS:
        return f"it has more than the {MAX_PARTS:,} parts that a backup can hold"
    return ""


def _without_strings(line: bytes | bytearray) -> bytes:
    """Return what stands outside of the strings of *line*, in one pass whatever it is."""
    if b"\\" in line:
        line = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    return _STRING.sub(b"", line)


def _parts(bare: bytes) -> int:
    return sum(map(bare.count, (b",", b":", b"[", b"{")))


def _fields_in(value: Any) -> int:
    """Return how many fields all objects of *value* have together."""
    fields, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if type(one) is dict:
            fields += len(one)
            waiting.extend(child for child in one.values() if child and type(child) in {dict, list})
        else:
            waiting.extend(child for child in one if child and type(child) in {dict, list})
    return fields


def _expect_fields(fields: dict[str, Any], expected: set[str], kind: str) -> None:
    if set(fields) != expected:
        odd = sorted(set(fields) ^ expected)
        raise _malformed(f"a line of type {kind} misses or adds fields: {', '.join(map(repr, odd))[:200]}")


def _expect(value: T | None, name: str) -> T:
    if value is None:
        raise _malformed(f"{name} is missing")
    return value


def _text(fields: dict[str, Any], name: str) -> str | None:
    text = fields[name]
    if text is not None and not isinstance(text, str):
        raise _malformed(f"{name} is not text")
    return text


def _time(fields: dict[str, Any], name: str) -> datetime | None:
    text = _text(fields, name)
    if text is None:
        return None
    with suppress(ValueError):
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(timezone.utc)
    raise _malformed(f"{name} is not a time in UTC to the microsecond")


def _time_text(time: datetime) -> str:
    return time.astimezone(timezone.utc).isoformat(timespec="microseconds")


def _malformed(what: str) -> MalformedBackupError:
    return MalformedBackupError(f"the backup is malformed: {what}", hint="use another copy of it")
