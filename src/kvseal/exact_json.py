"""
JSON that round-trips exactly, or is refused.

orjson is fast but lossy at the edges: NaN becomes null, tuples, enums and UUIDs
become something else, it reads integers beyond 64 bits as floats.  This module
uses its result only if the types show that nothing was lost; everything else
takes the standard library's exact path, or raises.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from kvseal.errors import UnsealableValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

A = TypeVar("A")
R = TypeVar("R")

MAX_DEPTH: Final = 254
"""Containers inside containers, the outermost counted: what orjson writes and every reader here reads."""

STRICT: Final = (
    orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
)
"""With it orjson refuses what it would turn into something else, but for tuples, enums, UUIDs and NaN."""
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_CONTAINERS: Final = frozenset({dict, list})
_KINDS: Final = _SCALARS | _CONTAINERS
_FIRST_LOSSY_FLOAT: Final = 2.0**63
_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two values are one JSON text: 1 is not true there, and NaN is itself."""
    return dumps(dict(one))[0] == dumps(dict(other))[0]


def dumps(value: dict[str, Any]) -> tuple[bytes, bool]:
    """
    Return *value* as JSON text, and whether any RFC 8259 parser with 64-bit integers reads it exactly.

    Text that is not portable has NaN or an infinity, an integer beyond 64 bits, a lone
    surrogate (as generalized UTF-8), or came from a subclass of a JSON type; `loads_exact`
    reads it.

    Raises:
        UnsealableValueError: a part of *value* would not round-trip exactly.
    """
    try:
        text = orjson.dumps(value, option=STRICT)
    except TypeError:
        return dumps_exact(value), False
    if _is_lossless(value, text):
        return text, True
    return dumps_exact(value), False


def dumps_exact(value: dict[str, Any]) -> bytes:
    """
    Return *value* as JSON text that `loads_exact` reads, by the standard library alone.

    Raises:
        UnsealableValueError: a part of *value* would come back as something else.
    """
    return _at_any_depth(_dumps_exact, value)


def loads(text: bytes | bytearray | str) -> Any:
    """Parse what `json.dumps` wrote, exactly; raises `ValueError` if it is not JSON."""
    try:
        value = orjson.loads(text)
    except ValueError:
        return loads_exact(text)
    return loads_exact(text) if _has_lossy_float(value) else value


def loads_exact(text: bytes | bytearray | str) -> Any:
    """
    Parse with the standard library alone: slower, but NaN, large integers and surrogates survive.

    Bytes are UTF-8, or generalized UTF-8: the standard library would take UTF-16 and UTF-32 for JSON too.
    """
    try:
        if not isinstance(text, str):
            text = text.decode("utf-8", "surrogatepass")
        return _at_any_depth(json.loads, text)
    except RecursionError:
        msg = "JSON is nested too deeply"
        raise ValueError(msg) from None


def loads_portable(text: bytes) -> Any:
    """
    Parse JSON whose integers have 64 bits; raises `ValueError` for any other.

    orjson would read an integer beyond them as a float: as another number.
    """
    value = orjson.loads(text)
    if not _LONG_NUMBER.search(text):
        return value
    try:
        return _at_any_depth(partial(json.loads, parse_int=_of_64_bits), text)
    except RecursionError:
        msg = "JSON is nested too deeply"
        raise ValueError(msg) from None


def _of_64_bits(digits: str) -> int:
    number = int(digits)
    if not -(2**63) <= number < 2**64:
        msg = "an integer beyond 64 bits"
        raise ValueError(msg)
    return number


def ascii_text(value: dict[str, Any]) -> str:
    """Return JSON for a terminal, in ASCII: characters that UTF-8 cannot encode are escaped."""
    return json.dumps(value)


def _at_any_depth(function: Callable[[A], R], argument: A) -> R:
    """
    Return `function(argument)`, with a stack of its own if the caller's is used up.

    The standard library recurses, so without that its verdict would depend on who asks.
    """
    try:
        return function(argument)
    except RecursionError:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(function, argument).result()


def _is_lossless(value: dict[str, Any], text: bytes) -> bool:
    """Whether orjson's *text* is read back as *value*; keys need no look, orjson refuses all but `str`."""
    if type(value) is not dict:
        return False
    kinds = set(map(type, value.values()))
    if not kinds <= _SCALARS:
        kinds = _kinds_below(value)
        if not kinds <= _KINDS:
            return False
    # orjson writes NaN and infinities as null, so text without null has none of them.
    return float not in kinds or b"null" not in text or all(map(isfinite, _floats(value)))


def _kinds_below(value: dict[str, Any]) -> set[type]:
    kinds: set[type] = set()
    level: list[Any] = [value]
    while level:
        children = list(chain.from_iterable(c.values() if type(c) is dict else c for c in level))
        kinds.update(map(type, children))
        level = [child for child in children if type(child) in _CONTAINERS]
    return kinds


def _floats(value: Any) -> list[float]:
    floats: list[float] = []
    level: list[Any] = [value]
    while level:
        children = list(chain.from_iterable(c.values() if type(c) is dict else c for c in level))
        floats += [child for child in children if type(child) is float]
        level = [child for child in children if type(child) in _CONTAINERS]
    return floats


def _has_lossy_float(value: Any) -> bool:
    """Whether a float may have been an integer that orjson could not hold."""
    waiting: list[Iterable[Any]] = [(value,)]
    while waiting:
        for child in waiting.pop():
            kind = type(child)
            if kind is float:
                if abs(child) >= _FIRST_LOSSY_FLOAT:
                    return True
            elif kind is dict:
                waiting.append(child.values())
            elif kind is list:
                waiting.append(child)
    return False


def _dumps_exact(value: dict[str, Any]) -> bytes:
    _refuse_lossy(value, "value", 1)
    try:
        # Without ASCII escapes a high surrogate followed by a low one stays two characters.
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except ValueError:
        msg = "the value has an integer of more digits than Python writes and reads"
        raise UnsealableValueError(msg, hint="see sys.set_int_max_str_digits, or store it as text") from None
    return text.encode("utf-8", "surrogatepass")


def _refuse_lossy(value: Any, path: str, depth: int) -> None:
    if value is None or isinstance(value, str | int | float):
        return
    if depth > MAX_DEPTH:
        msg = f"the value is nested deeper than {MAX_DEPTH} levels"
        raise UnsealableValueError(msg, hint="flatten it, or store parts under keys of their own")
    if isinstance(value, dict):
        for number, (key, child) in enumerate(value.items(), 1):
            if not isinstance(key, str):
                msg = f"{path} has a key of type {type(key).__name__}; JSON would turn it into a string"
                raise UnsealableValueError(msg, hint="use str keys at every depth")
            # The name of a field is plaintext too, so a message gives its number instead.
            _refuse_lossy(child, f"{path}.<field {number}>", depth + 1)
        _refuse_twins(value, path)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            _refuse_lossy(child, f"{path}[{index}]", depth + 1)
    else:
        msg = f"{path} is of type {type(value).__name__}, which JSON cannot hold"
        raise UnsealableValueError(msg, hint="convert it to str, int, float, bool, None, list or dict first")


def _refuse_twins(value: dict[str, Any], path: str) -> None:
    """Refuse keys of one text that a subclass of `str` holds apart: a reader would keep the last of them."""
    if len(set(map(str.__str__, value))) < len(value):
        msg = f"{path} has two keys of the same text, of which JSON would keep one"
        raise UnsealableValueError(
            msg, hint="use str itself for keys, not a subclass with an equality of its own"
        )
