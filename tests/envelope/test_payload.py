"""Two encoders prove that a value comes back as it is; whatever it would not, is refused."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import struct
import types
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import orjson
import ormsgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.strategies import any_text, json_objects, same, scalars
from tests.vectors import verify_records

from kvseal import exact_json
from kvseal.envelope import common, payload
from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.errors import MalformedRecordError, UnsealableValueError

REFUSED = "refused"
STRICT = payload.STRICT_PACKING
FRAGMENT = getattr(ormsgpack, "Fragment", orjson.Fragment)


class Colour(enum.Enum):
    """An enumeration."""

    RED = "red"


class Level(enum.IntEnum):
    """An integer by another name."""

    HIGH = 3


class Word(str, enum.Enum):
    """Text by another name."""

    YES = "yes"


class Text(str):
    """Text itself, but for its class."""

    __slots__ = ()


class Number(int):
    """An integer itself, but for its class."""


class Metres(float):
    """A float itself, but for its class."""


class Items(list[Any]):
    """A list itself, but for its class."""


class Fields(dict[str, Any]):
    """A dict itself, but for its class."""


class Point(NamedTuple):
    """A tuple with names."""

    x: int


@dataclasses.dataclass
class Person:
    """A dataclass."""

    name: str


@dataclasses.dataclass(slots=True)
class Slotted:
    """A dataclass without a dict."""

    name: str


def nan(payload_bits: int) -> float:
    """Return a NaN with these bits, which may be a signalling one."""
    number: float = struct.unpack(">d", struct.pack(">Q", 0x7FF0_0000_0000_0000 | payload_bits))[0]
    return number


EXOTIC: dict[str, Any] = {
    "str subclass": Text("a"),
    "int subclass": Number(1),
    "large int subclass": Number(2**70),
    "float subclass": Metres(1.5),
    "list subclass": Items([1]),
    "dict subclass": Fields(a=1),
    "OrderedDict": collections.OrderedDict(a=1),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "Counter": collections.Counter("ab"),
    "Enum": Colour.RED,
    "IntEnum": Level.HIGH,
    "str Enum": Word.YES,
    "dataclass": Person("Ada"),
    "slotted dataclass": Slotted("Ada"),
    "namedtuple": Point(1),
    "tuple": (1, 2),
    "empty tuple": (),
    "datetime": dt.datetime(2026, 1, 1),  # noqa: DTZ001 - a naive one
    "aware datetime": dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
    "date": dt.date(2026, 1, 1),
    "time": dt.time(12),
    "timedelta": dt.timedelta(1),
    "UUID": UUID(int=1),
    "bytes": b"x",
    "empty bytes": b"",
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "ormsgpack.Ext": ormsgpack.Ext(1, b"x"),
    "ormsgpack.Fragment": FRAGMENT(b"\x01"),
    "orjson.Fragment": orjson.Fragment(b"1"),
    "Decimal": Decimal("1.5"),
    "complex": 1j,
    "set": {1},
    "frozenset": frozenset(),
    "range": range(2),
    "deque": collections.deque([1]),
    "MappingProxyType": types.MappingProxyType({"a": 1}),
    "UserDict": collections.UserDict(a=1),
    "UserString": collections.UserString("a"),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "object": object(),
    "class": int,
    "function": len,
    "Ellipsis": ...,
    "numpy float64": np.float64(1.5),
    "numpy float32": np.float32(1.5),
    "numpy int64": np.int64(1),
    "numpy bool": np.bool_(True),
    "numpy str": np.str_("a"),
    "numpy bytes": np.bytes_(b"a"),
    "numpy array": np.array([1, 2]),
    "numpy datetime": np.datetime64("2026"),
    "NaN with a payload": nan(0x8_0000_0000_0123),
    "signalling NaN": nan(1),
    "surrogate": "\ud800",
    "surrogate pair": "\ud83d\ude00",
    "int keys": {1: 2},
    "bool keys": {True: 2},
    "float keys": {1.5: 2},
    "None keys": {None: 2},
    "bytes keys": {b"a": 2},
    "tuple keys": {(1,): 2},
    "UUID keys": {UUID(int=1): 2},
    "enum keys": {Colour.RED: 2},
    "str Enum keys": {Word.YES: 2},
    "IntEnum keys": {Level.HIGH: 2},
    "str subclass keys": {Text("a"): 2},
    "numpy str keys": {np.str_("a"): 2},
    "surrogate keys": {"\ud800": 2},
    "date keys": {dt.date(2026, 1, 1): 2},
}

exotic = st.sampled_from(list(EXOTIC.values()))
anything = st.recursive(
    st.one_of(scalars, exotic),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(any_text, inner, max_size=4),
        st.lists(inner, max_size=2).map(tuple),
        st.lists(inner, max_size=2).map(Items),
        st.dictionaries(any_text.map(Text), inner, max_size=2).map(Fields),
        st.dictionaries(st.integers() | st.booleans() | any_text, inner, max_size=2),
    ),
    max_leaves=12,
)
objects = st.dictionaries(any_text | st.sampled_from([1, None, Word.YES, Text("k")]), anything, max_size=4)


def nested(depth: int, leaf: Any) -> dict[str, Any]:
    """Return *leaf* inside *depth* containers, dicts and lists in turn, the outermost a dict."""
    for level in reversed(range(1, depth)):
        leaf = [leaf] if level % 2 else {"k": leaf}
    return {"k": leaf}


def by_messagepack(value: Any) -> Any:
    """Return what comes back of *value*."""
    try:
        return payload.decode(*payload.encode(value))
    except UnsealableValueError:
        return REFUSED


def by_json(value: Any) -> Any:
    """Return what came back of *value* before there was MessagePack."""
    try:
        text, portable = exact_json.dumps(value)
    except UnsealableValueError:
        return REFUSED
    return payload.decode(text, payload.Encoding.JSON if portable else payload.Encoding.EXTENDED_JSON)


def codec() -> RecordCodec:
    """Return the codec of a vault with one DEK."""
    associations = Associations(b"v" * 16)
    return RecordCodec(Sealer(b"k" * 32, 1, associations), Opener({1: b"k" * 32}, associations))


def sealed_and_opened(value: Any) -> Any:
    """Return what comes back of *value* through the common path."""
    one = codec()
    try:
        return one.opening["c"](one.sealing["c"](value, "k"), "k")[0]
    except UnsealableValueError:
        return REFUSED


def encoders(part: Any) -> tuple[bool, bool]:
    """Return whether ormsgpack writes *part*, and whether orjson does, both strict."""
    writes = []
    for write in (
        lambda value: ormsgpack.packb(value, option=STRICT),
        lambda value: orjson.dumps(value, option=exact_json.STRICT),
    ):
        try:
            write({"k": part})
        except TypeError:
            writes.append(False)
        else:
            writes.append(True)
    return writes[0], writes[1]


@given(value=objects)
@pytest.mark.exhaustive
@settings(max_examples=400)
def test_both_encodings_agree_on_any_object(value: Any) -> None:
    """Of arbitrary Python objects MessagePack takes what JSON took, and gives back what JSON gave back."""
    before = by_json(value)

    assert same(before, by_messagepack(value))
    assert same(before, sealed_and_opened(value))


@pytest.mark.parametrize("depth", [1, 2, 3, 100])
@pytest.mark.parametrize("name", EXOTIC)
def test_both_encodings_agree_on_every_kind(name: str, depth: int) -> None:
    """So they do of each kind of object, on top of a value and inside, beside little and beside much."""
    for beside in ({}, {"null": None, "much": "x" * common.LARGE}, {"bytes of bin": 0xC4C5C6C7D4}):
        value = {**beside, **nested(depth, EXOTIC[name])}

        assert same(by_json(value), by_messagepack(value))
        assert same(by_json(value), sealed_and_opened(value))


@pytest.mark.parametrize("name", EXOTIC)
def test_no_object_passes_both_encoders_unless_it_comes_back(name: str) -> None:
    """What both strict encoders write is of a plain type, and NaN: the proof of decision 8."""
    if all(encoders(EXOTIC[name])):
        assert float is type(EXOTIC[name])


def test_encoders_are_needed_both() -> None:
    """Each of the two encoders writes something that would not come back, so neither is a proof alone."""
    writers = {name: encoders(part) for name, part in EXOTIC.items()}

    assert {"bytes", "empty bytes", "bytearray", "memoryview", "ormsgpack.Ext"} <= {
        name for name, writes in writers.items() if writes == (True, False)
    }
    assert {"tuple", "empty tuple", "UUID", "Enum", "IntEnum", "str Enum", "orjson.Fragment"} <= {
        name for name, writes in writers.items() if writes == (False, True)
    }


@pytest.mark.parametrize("depth", [252, 253, 254, 255, 256, 257, 1025, 100_000])
@pytest.mark.parametrize("leaf", [1, "x", 2**70, [], {}], ids=repr)
def test_both_encodings_agree_on_depth(depth: int, leaf: Any) -> None:
    """254 levels are taken and 255 refused, whatever is inside."""
    value = nested(depth, leaf)
    levels = depth + isinstance(leaf, list | dict)

    assert (levels > 254) == (by_messagepack(value) == REFUSED) == (by_json(value) == REFUSED)
    assert (levels > 254) == (sealed_and_opened(value) == REFUSED)
    assert levels > 254 or same(value, by_messagepack(value))


@pytest.mark.parametrize("inside", [[], {}], ids=["list", "dict"])
def test_cycles_are_refused(inside: Any) -> None:
    """A value that contains itself is refused, however large it is beside that."""
    for beside in ({}, {"much": "x" * common.LARGE}):
        value: dict[str, Any] = {**beside, "a": inside}
        if isinstance(inside, list):
            inside[:] = [value]
        else:
            inside["b"] = value

        assert REFUSED == by_messagepack(value) == sealed_and_opened(value)


@given(value=json_objects)
@example(value={"a": [2**64 - 1, 2**63, 2**32, 2**16, 256, 128, 127, 0]})
@example(value={"a": [-1, -32, -33, -128, -129, -(2**15), -(2**15) - 1, -(2**31), -(2**31) - 1, -(2**63)]})
@example(value={"a" * 31: "b" * 32, "c" * 255: "d" * 256, "e" * 65535: "f" * 65536})
@example(value={"a": [None] * 15, "b": [None] * 16, "c": [None] * 65535, "d": [None] * 65536})
@example(value={"a": {str(n): n for n in range(15)}, "b": {str(n): n for n in range(65536)}})
@pytest.mark.exhaustive
@settings(max_examples=300)
def test_packing_is_the_one_form(value: dict[str, Any]) -> None:
    """What is written is read by the independent parser, which takes nothing but the shortest forms."""
    packed, encoding = payload.encode(value)

    if encoding == payload.Encoding.MESSAGEPACK:
        assert same(value, verify_records.value_of(packed, encoding))


bad = st.sampled_from(
    [b"\xc4\x01x", b"\xd4\x05x", b"\xca\x00\x00\x00\x00", b"\xcc\x01", b"\xd9\x00", b"\xc1"]
)


@given(value=json_objects, at=st.integers(0, 400), cut=st.integers(0, 3), put=bad | st.binary(max_size=6))
@pytest.mark.exhaustive
@settings(max_examples=400)
def test_verify_takes_what_the_independent_parser_takes(
    value: dict[str, Any], at: int, cut: int, put: bytes
) -> None:
    """A packing with other bytes somewhere is strict for kvseal exactly where it is for the verifier."""
    packed, encoding = payload.encode(value)
    if encoding != payload.Encoding.MESSAGEPACK:
        return
    at %= len(packed) + 1
    changed = packed[:at] + put + packed[at + cut :]
    try:
        expected = verify_records.value_of(changed, encoding)
    except verify_records.Refused:
        expected = REFUSED
    if type(expected) is not dict:
        expected = REFUSED

    assert same(expected, strictly_read(changed))


def strictly_read(packed: bytes) -> Any:
    """Return what `verify` makes of a payload."""
    one, sealer = codec(), Sealer(b"k" * 32, 1, Associations(b"v" * 16))
    stored = one.seal({}, "c", "k")
    record = sealer.seal(packed, "c", "k", payload.Encoding.MESSAGEPACK)
    stored["__encrypted_data__"] = payload_text(record)
    try:
        return one.verify(stored, "c", "k")[0]
    except MalformedRecordError:
        return REFUSED


def payload_text(record: bytes) -> str:
    """Return standard base64."""
    return verify_records.base64.b64encode(record).decode()


def test_plain_json_holds_what_it_holds() -> None:
    """Kvseal's own entries are in plain JSON, which any release reads, or are refused."""
    assert b'{"a":[1,null]}' == payload.encode_json({"a": [1, None]})
    for value in ({"a": float("nan")}, {"a": 2**64}, {"a": (1,)}):
        with pytest.raises(UnsealableValueError):
            payload.encode_json(value)
