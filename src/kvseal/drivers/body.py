"""
The stored body: the JSON text in which py-key-value keeps one entry.

    {"collection": …, "created_at": …, "expires_at": …, "key": …, "value": {…}, "version": 1}

Keys are sorted and everything is ASCII.  `expires_at` is there only if the entry
expires.  Stores that have the names elsewhere leave `collection` and `key` out, and
so did every store up to py-key-value-aio 0.2.8.  A change of the value is a patch:
what kvseal does not know in a body is kept as it was.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from kvseal import exact_json
from kvseal.drivers.base import KEEP, _Keep
from kvseal.errors import UnsealableValueError

if TYPE_CHECKING:
    from collections.abc import Mapping


_ENCODER: Final = json.JSONEncoder(sort_keys=True)
_VALUE_NAME: Final = b'"value": '
_VALUE_END: Final = b'}, "version": 1}'


class UnreadableBodyError(ValueError):
    """The text is not a body that the store itself could read; the message is the problem of an entry."""


class Body(NamedTuple):
    """What a body says; names are `None` where it has none."""

    collection: str | None
    key: str | None
    value: Mapping[str, Any]
    created_at: datetime | None
    expires_at: datetime | None


def read_body(text: bytes) -> Body:
    """
    Read a body as strictly as the store does.

    Raises:
        UnreadableBodyError: the store could not read it either, or it names itself only by half.
    """
    fields = _fields(text)
    collection, key = _text(fields, "collection"), _text(fields, "key")
    if (collection is None) != (key is None):
        msg = "the body has only one of collection and key"
        raise UnreadableBodyError(msg)
    return Body(collection, key, _value(fields), _time(fields, "created_at"), _time(fields, "expires_at"))


def write_body(
    value: Mapping[str, Any],
    *,
    created_at: datetime | None,
    expires_at: datetime | None,
    names: tuple[str, str] | None = None,
) -> str:
    """Return the body that the store would write; *names* only for stores that keep them in it."""
    fields: dict[str, Any] = {"value": dict(value), "version": 1}
    if names is not None:
        fields["collection"], fields["key"] = names
    if created_at is not None:
        fields["created_at"] = _iso(created_at)
    if expires_at is not None:
        fields["expires_at"] = _iso(expires_at)
    return _dump(fields)


def patch_body(
    text: bytes,
    value: Mapping[str, Any],
    expires_at: datetime | _Keep | None = KEEP,
    *,
    names: tuple[str, str] | None = None,
    names_inside: bool = False,
) -> str:
    """
    Return the body *text* with another value, another expiry unless it is `KEEP`, and *names* if given.

    With *names_inside* it has none, whatever it had.
    """
    keeps_rest = expires_at is KEEP and names is None and not names_inside
    if keeps_rest and (around := _around_value(text)) is not None:
        before, after = around
        return f"{before}{_dump(value)}{after}"
    fields = _fields(text)
    fields["value"] = dict(value)
    if names_inside:
        fields.pop("collection", None)
        fields.pop("key", None)
    elif names is not None:
        fields["collection"], fields["key"] = names
    if expires_at is None:
        fields.pop("expires_at", None)
    elif isinstance(expires_at, datetime):
        fields["expires_at"] = _iso(expires_at)
    return _dump(fields)


def flat_text(fields: Mapping[str, Any]) -> str | None:
    """Return what the encoder would, in less time, where all is integers and text without escapes."""
    parts = []
    try:
        for name in sorted(fields):
            part = fields[name]
            parts.append(f"{_plain(name)}: {part if type(part) is int else _plain(part)}")
    except (TypeError, ValueError):
        return None
    return f"{{{', '.join(parts)}}}"


def _around_value(text: bytes) -> tuple[str, str] | None:
    """
    Return what stands before and behind the value in *text*, a body that has been read before.

    Only where it is plain to see: the first closing brace is the last but one, so there are two objects,
    and the inner one begins where the value does.  So it is in nearly every body of an encrypted value.
    """
    start = text.find(_VALUE_NAME) + len(_VALUE_NAME)
    end = len(text) - len(_VALUE_END)
    if start < len(_VALUE_NAME) or text.find(b"{", 1) != start or text.find(b"}") != end:
        return None
    if not text.endswith(_VALUE_END) or not text.isascii():
        return None
    return text[:start].decode(), text[end + 1 :].decode()


def _dump(fields: Mapping[str, Any]) -> str:
    text = flat_text(fields)
    if text is not None:
        return text
    try:
        return _ENCODER.encode(dict(fields))
    except (TypeError, ValueError, RecursionError) as exc:
        msg = f"the store's JSON cannot hold the value: {exc}"
        raise UnsealableValueError(msg) from exc


def _plain(text: Any) -> str:
    """Return *text* in quotes; raises `TypeError` where that would not be its JSON."""
    quoted = orjson.dumps(text) if type(text) is str else b""
    # Every escape, and every character beyond ASCII, makes it longer; only DEL is escaped by one of the two.
    if len(quoted) != len(text) + 2 or "\x7f" in text:
        raise TypeError
    return quoted.decode()


def _fields(text: bytes) -> dict[str, Any]:
    try:
        fields = exact_json.loads(text)
    except ValueError:
        # The parser's message quotes the text, which may be a plaintext secret.
        msg = "the body is not JSON"
        raise UnreadableBodyError(msg) from None
    if not isinstance(fields, dict):
        msg = "the body is not a JSON object"
        raise UnreadableBodyError(msg)
    return fields


def _value(fields: dict[str, Any]) -> Mapping[str, Any]:
    value = fields.get("value")
    if isinstance(value, str):
        # Some stores keep the value as JSON within the JSON, and every store reads both.
        return _value({"value": _fields(value.encode("utf-8", "surrogatepass"))})
    if not isinstance(value, dict):
        msg = "the body has no value" if value is None else "the value is not a mapping"
        raise UnreadableBodyError(msg)
    return value


def _text(fields: dict[str, Any], name: str) -> str | None:
    text = fields.get(name)
    if text is not None and not isinstance(text, str):
        msg = f"{name} in the body is not text"
        raise UnreadableBodyError(msg)
    return text


def _time(fields: dict[str, Any], name: str) -> datetime | None:
    text = _text(fields, name)
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is timezone.utc:
            return time
        # No release wrote local times, so a time without a zone can only be UTC.
        return time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        msg = f"{name} in the body is not a time"
        raise UnreadableBodyError(msg) from None


def _iso(time: datetime) -> str:
    if time.tzinfo is None:
        msg = "a time without a zone would be read as another time elsewhere"
        raise ValueError(msg)
    return time.astimezone(timezone.utc).isoformat()
