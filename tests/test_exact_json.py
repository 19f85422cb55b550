"""JSON that comes back as it was put, or is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys
from collections import OrderedDict
from decimal import Decimal
from enum import Enum, IntEnum
from traceback import walk_stack
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.strategies import any_text, json_objects, json_values, same

from kvseal import exact_json
from kvseal.envelope import payload
from kvseal.errors import UnsealableValueError

if TYPE_CHECKING:
    from collections.abc import Callable


class Colour(Enum):
    """An enumeration that orjson would write as its value."""

    RED = "red"


class Level(IntEnum):
    """An integer by another name."""

    HIGH = 3


class Word(str, Enum):
    """Text by another name."""

    YES = "yes"


class Metres(float):
    """A float by another name."""


class Point(NamedTuple):
    """A tuple that orjson and json would write as a list."""

    x: int
    y: int


@dataclasses.dataclass
class Person:
    """A dataclass that orjson would write as a dict."""

    name: str


def nested(depth: int, leaf: Any) -> dict[str, Any]:
    """Return *leaf* inside *depth* containers, dicts and lists in turn, the outermost a dict."""
    for level in reversed(range(1, depth)):
        leaf = [leaf] if level % 2 else {"k": leaf}
    return {"k": leaf}


def there_and_back(value: Any) -> Any:
    """Return what a reader of the record gets for *value*."""
    return payload.decode(*payload.encode(value))


lossy = pytest.mark.parametrize(
    "part",
    [
        pytest.param((1, 2), id="tuple"),
        pytest.param((), id="empty-tuple"),
        pytest.param(Point(1, 2), id="namedtuple"),
        pytest.param({1}, id="set"),
        pytest.param(frozenset(), id="frozenset"),
        pytest.param(b"x", id="bytes"),
        pytest.param(bytearray(b"x"), id="bytearray"),
        pytest.param(memoryview(b"x"), id="memoryview"),
        pytest.param(Colour.RED, id="enum"),
        pytest.param(UUID(int=1), id="uuid"),
        pytest.param(Person("Ada"), id="dataclass"),
        pytest.param(dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc), id="datetime"),
        pytest.param(dt.date(2026, 1, 1), id="date"),
        pytest.param(dt.time(12), id="time"),
        pytest.param(Decimal("1.5"), id="decimal"),
        pytest.param(1j, id="complex"),
        pytest.param(orjson.Fragment(b"1"), id="fragment"),
        pytest.param(MappingProxyType({}), id="mapping-that-is-no-dict"),
        pytest.param(range(3), id="range"),
        pytest.param(object(), id="object"),
        pytest.param(int, id="class"),
        pytest.param({1: "x"}, id="int-key"),
        pytest.param({None: "x"}, id="none-key"),
        pytest.param({True: "x"}, id="bool-key"),
        pytest.param({1.5: "x"}, id="float-key"),
        pytest.param({b"k": "x"}, id="bytes-key"),
        pytest.param({(1,): "x"}, id="tuple-key"),
        pytest.param({Colour.RED: "x"}, id="enum-key"),
        pytest.param({UUID(int=1): "x"}, id="uuid-key"),
    ],
)


@pytest.mark.exhaustive
@given(value=json_objects)
@example(value={"a": True, "b": 1, "c": 1.0, "d": -0.0, "e": 0})
@example(value={"a": None, "b": float("nan"), "c": [float("inf"), -float("inf")]})
@example(value={"a": float("nan"), "b": "null"})
@example(value={"a": [None, 0.5]})
@example(value={"a": 2**64 - 1, "b": 2**64, "c": -(2**63), "d": -(2**63) - 1})
@example(value={"a": "\ud800", "\udfff": 1})
@example(value={"a": "\ud83d\ude00", "b": "\U0001f600"})
@example(value={"\ud83d\ude00": 1, "\U0001f600": 2})
@example(value={})
@settings(max_examples=300)
def test_comes_back_exactly(value: dict[str, Any]) -> None:
    """Every JSON value comes back the same in type, sign, order and identity of NaN."""
    assert same(value, there_and_back(value))


@given(value=json_objects)
@example(value={"a": 2**64 - 1, "b": -(2**63)})
@pytest.mark.exhaustive
def test_portable_text_is_what_any_parser_reads(value: dict[str, Any]) -> None:
    """Text that is called portable is RFC 8259 UTF-8 that the standard library reads exactly."""
    text, portable = exact_json.dumps(value)

    if portable:
        assert same(value, json.loads(text.decode("utf-8"), parse_constant=pytest.fail))


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        pytest.param({"a": [1, "x", None, True, 1.5, {"b": {}}]}, payload.Encoding.MESSAGEPACK, id="plain"),
        pytest.param({"a": 2**64 - 1, "b": -(2**63)}, payload.Encoding.MESSAGEPACK, id="64-bit"),
        pytest.param({"a": 2**64}, payload.Encoding.EXTENDED_JSON, id="65-bit"),
        pytest.param({"a": -(2**63) - 1}, payload.Encoding.EXTENDED_JSON, id="65-bit-negative"),
        pytest.param({"a": float("nan")}, payload.Encoding.MESSAGEPACK, id="nan"),
        pytest.param({"a": [[float("inf")]]}, payload.Encoding.MESSAGEPACK, id="infinity"),
        pytest.param({"a": "\ud800"}, payload.Encoding.EXTENDED_JSON, id="surrogate"),
        pytest.param({"\ud800": "a"}, payload.Encoding.EXTENDED_JSON, id="surrogate-in-a-key"),
    ],
)
def test_encoding(value: dict[str, Any], encoding: payload.Encoding) -> None:
    """The extended encoding is used for values that need it, and for no other."""
    assert encoding == payload.encode(value)[1]


@pytest.mark.parametrize("leaf", ["x", float("nan"), 2**70, "\ud800", [], {}], ids=repr)
def test_254_levels_come_back(leaf: Any) -> None:
    """Values may be nested 254 deep, whichever path writes them."""
    value = nested(253 if isinstance(leaf, list | dict) else 254, leaf)

    assert same(value, there_and_back(value))


@pytest.mark.parametrize("leaf", ["x", float("nan"), 2**70, "\ud800", [], {}], ids=repr)
def test_255_levels_are_refused(leaf: Any) -> None:
    """Nested one level deeper they are refused, whichever path would write them."""
    with pytest.raises(UnsealableValueError, match="nested deeper than 254"):
        payload.encode(nested(254 if isinstance(leaf, list | dict) else 255, leaf))


@lossy
@pytest.mark.parametrize("spoiler", [None, float("nan"), "\ud800"], ids=["fast-path", "nan", "surrogate"])
@pytest.mark.parametrize("depth", [1, 2, 3, 20])
def test_lossy_parts_are_refused_at_any_depth(part: Any, depth: int, spoiler: Any) -> None:
    """What JSON would turn into something else is refused, wherever it is and whatever is beside it."""
    with pytest.raises(UnsealableValueError):
        payload.encode({"spoiler": spoiler, **nested(depth, part)})


@given(value=json_objects, part=st.sampled_from([(), b"", frozenset(), {1: 2}, Colour.RED, UUID(int=0)]))
@pytest.mark.exhaustive
def test_lossy_part_beside_anything_is_refused(value: dict[str, Any], part: Any) -> None:
    """No neighbour makes a lossy part pass."""
    with pytest.raises(UnsealableValueError):
        payload.encode({**value, "last": [value, part]})


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": {"b": [0, {"c": (1,)}]}}, "value.<field 1>.<field 1>[1].<field 1> is of type tuple"),
        ({"a": [{1: 2}]}, "value.<field 1>[0] has a key of type int"),
        ({1: 2}, "value has a key of type int"),
    ],
    ids=["tuple", "key", "top"],
)
def test_refusal_names_the_path(value: Any, path: str) -> None:
    """The error says where in the value the refused part is, and that it is one."""
    with pytest.raises(UnsealableValueError) as caught:
        payload.encode(value)

    assert path in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(OrderedDict(b=1, a=2), id="ordereddict"),
        pytest.param({"a": OrderedDict(b=OrderedDict(c=1))}, id="nested-ordereddict"),
        pytest.param({"a": Level.HIGH}, id="intenum"),
        pytest.param({"a": Word.YES}, id="str-enum"),
        pytest.param({Word.YES: 1}, id="str-enum-key"),
        pytest.param({"a": Metres(1.5)}, id="float-subclass"),
        pytest.param({"a": [Level.HIGH, Word.YES, {"b": Metres(-0.0)}]}, id="all"),
        pytest.param(MappingProxyType({"a": 1}), id="mapping-on-top"),
    ],
)
def test_subclasses_compare_equal(value: Any) -> None:
    """Subclasses of JSON's own types come back as those types, equal to what was put."""
    back = there_and_back(value)

    assert value == back
    assert list(value) == list(back)
    assert dict is type(back)


class Odd(str):
    """Text with an equality of its own, which a dict holds beside the same text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return super().__hash__()


@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("keys", [("a", Odd("a")), (Odd("a"), Odd("a"))], ids=["one", "both"])
def test_keys_of_one_text_are_refused(keys: tuple[str, str], depth: int) -> None:
    """Two keys that a reader cannot tell apart are refused: one of them would be lost."""
    value: dict[str, Any] = {"other": 1, keys[0]: 1, keys[1]: 2}

    with pytest.raises(UnsealableValueError, match="two keys of the same text"):
        payload.encode(nested(depth, value) if depth else value)
    assert {"a": 1, "b": 2} == there_and_back({Odd("a"): 1, "b": 2})


def at_the_end_of_the_stack(work: Callable[[], Any]) -> Any:
    """Return what *work* does where the stack has room for some hundred more calls."""

    def deeper(left: int) -> Any:
        return work() if left == 0 else deeper(left - 1)

    here = sum(1 for _ in walk_stack(None))
    return deeper(sys.getrecursionlimit() - here - 120)


@pytest.mark.parametrize("leaf", [1, 2**70, float("nan"), "\ud800", Level.HIGH], ids=repr)
def test_verdict_is_independent_of_the_stack(leaf: Any) -> None:
    """What is nested 254 deep comes back where the caller's own stack is nearly used up; 255 are refused there."""
    value, back = nested(254, leaf), None
    back = at_the_end_of_the_stack(lambda: there_and_back(value))

    with pytest.raises(UnsealableValueError, match="nested deeper"):
        at_the_end_of_the_stack(lambda: payload.encode(nested(255, leaf)))
    assert same(there_and_back(value), back)


def test_cyclic_values_are_refused() -> None:
    """A value that contains itself is refused rather than followed for ever."""
    value: dict[str, Any] = {"a": []}
    value["a"].append(value)

    with pytest.raises(UnsealableValueError):
        payload.encode(value)


def test_integer_of_too_many_digits_is_refused() -> None:
    """An integer longer than Python's limit of digits is refused as any other value that would not come back."""
    with pytest.raises(UnsealableValueError, match="digits"):
        payload.encode({"a": 10**5000})


@pytest.mark.exhaustive
@given(value=json_values, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 2))
@example(value=[2**64, 2.0**64, -(2**63) - 1], ascii_only=True, indent=None)
@example(value=2.0**70, ascii_only=True, indent=None)
@example(value=2**70, ascii_only=True, indent=None)
@example(value=float("nan"), ascii_only=True, indent=None)
@settings(max_examples=300)
def test_loads_reads_what_json_wrote(value: Any, ascii_only: bool, indent: int | None) -> None:
    """`loads` gives what `json.loads` gives for whatever `json.dumps` wrote, as text and as bytes."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    expected = json.loads(text)

    assert same(expected, exact_json.loads(text))
    assert same(expected, exact_json.loads(text.encode("utf-8", "surrogatepass")))


@given(text=any_text | st.sampled_from(["", "{", "[1,]", '{"a":1', "nul", "'a'", "1 2", "[" * 5000]))
def test_loads_raises_where_json_does(text: str) -> None:
    """What is not JSON is a `ValueError`, however deep it is nested."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        with pytest.raises(ValueError, match=r"."):
            exact_json.loads(text)


@pytest.mark.parametrize("encoding", list(payload.Encoding), ids=lambda encoding: encoding.name)
@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"1", b'"x"', b"null", b"{", b"{}x", b"\xff", b"[" * 5000, b"\x90", b"\x91" * 5000],
    ids=lambda text: repr(text[:5]),
)
def test_payload_that_is_no_object(encoding: payload.Encoding, text: bytes) -> None:
    """A payload that is not one JSON object is a `ValueError`."""
    with pytest.raises(ValueError, match=r"."):
        payload.decode(text, encoding)


def test_plain_encoding_has_no_extensions() -> None:
    """NaN and Infinity under the plain encoding are not JSON."""
    for text in (b'{"a":NaN}', b'{"a":Infinity}', b'{"a":"\xed\xa0\x80"}'):
        with pytest.raises(ValueError, match=r"."):
            payload.decode(text, payload.Encoding.JSON)
