"""
Inputs made of other inputs: bytes changed at random, and JSON changed where its structure is.

A parser refuses most random bytes at once, so half of what is made of a JSON text is JSON again, with one
part replaced by a value that a developer may forget: of another type, too large, too deep, there twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

LONGEST = 2**20
"""Bytes of an input, unless a target says otherwise: a quadratic parser shows at this size."""

_GROWTH = 0.01
"""How often a piece is repeated until the input is very long."""
_STEPS = 4
_TOKENS = (
    *(
        b"\x00",
        b"\xff",
        b"\x80",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xf4\x90\x80\x80",
        b"\x7f" * 8,
        b"\xff" * 8,
    ),
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-0.0",
        b"null",
        b"true",
        b'""',
        b"{}",
        b"[]",
        b"\\ud800",
    ),
    *(b"9" * 19, b"9" * 5000, b"-9223372036854775809", b"18446744073709551616", b"[" * 2000, b'{"a":' * 2000),
    *(
        b"0001-01-01T00:00:00+23:59",
        b"9999-12-31T23:59:59.999999-23:59",
        b"1e400",
        b"0x10",
        b"1_000",
        b"\xd9\xa1",
    ),
    *(
        b"::",
        b"://",
        b"@",
        b"?",
        b"%00",
        b"%2e",
        b"..",
        b"/",
        b"=",
        b"==",
        b"-",
        b"_",
        b"+",
        b" ",
        b"\r\n",
        b"\t",
    ),
    *(
        b"://:@",
        b"[::1",
        b"://[v1.",
        b"$(",
        b"${A}",
        b"'",
        b'"',
        b"\\",
        b"#",
        b"KVSEAL1-",
        b"KVSEALR1-",
        b"gAAAA",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**31,
        2**32,
        2**53 + 1,
        2**63,
        2**64,
        -(2**63) - 1,
        10**400,
        1e308,
        0.5,
        -0.0,
    ),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        " ",
        "0",
        "1",
        "-1",
        "a" * 300,
        "\x00",
        "\ud800",
        "\u202e",
        "=" * 5,
    ),
    *(
        [],
        {},
        [[]],
        {"": None},
        [None],
        "AAAA",
        "ff" * 16,
        "x:y",
        "..",
        "/",
        "argon2id",
        "active",
        "retired",
        "é",
    ),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00+00:00"),
)


@dataclass
class Mutator:
    """Makes inputs of those in `pool`; *is_json* ones are changed in their structure, too."""

    rng: Random
    pool: list[bytes]
    is_json: bool = False
    longest: int = LONGEST
    _changes: tuple[Callable[[bytes], bytes], ...] = field(init=False)

    def __post_init__(self) -> None:
        self._changes = (
            *(
                self._flip,
                self._set,
                self._insert,
                self._overwrite,
                self._remove,
                self._double,
                self._splice,
                self._cut,
            ),
        )

    def next(self) -> bytes:
        """Return a new input."""
        return self._made()[: self.longest]

    def _made(self) -> bytes:
        data = self.rng.choice(self.pool)
        if self.is_json and self.rng.random() < 0.6:
            data = self._restructured(data)
            if self.rng.random() < 0.7:
                return data
        if self.rng.random() < _GROWTH:
            return self._grow(data)
        for _ in range(self.rng.randint(1, _STEPS)):
            data = self.rng.choice(self._changes)(data)
        return data

    def _at(self, data: bytes) -> int:
        return self.rng.randint(0, len(data))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        changed = bytearray(data)
        changed[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        return bytes(changed)

    def _set(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + bytes((self.rng.randrange(256),)) + data[at + 1 :]

    def _insert(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self.rng.choice(_TOKENS) + data[at:]

    def _overwrite(self, data: bytes) -> bytes:
        at, token = self._at(data), self.rng.choice(_TOKENS)
        return data[:at] + token + data[at + len(token) :]

    def _remove(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + data[at + self.rng.choice((1, 2, 4, 16, 64)) :]

    def _double(self, data: bytes) -> bytes:
        start, end = sorted((self._at(data), self._at(data)))
        return data[:end] + data[start:]

    def _splice(self, data: bytes) -> bytes:
        other = self.rng.choice(self.pool)
        return data[: self._at(data)] + other[self._at(other) :]

    def _cut(self, data: bytes) -> bytes:
        return data[: self._at(data)]

    def _grow(self, data: bytes) -> bytes:
        start = self._at(data)
        piece = self.rng.choice(
            (data[start : start + self.rng.choice((1, 2, 8, 64))], self.rng.choice(_TOKENS))
        )
        size = self.rng.choice((2**12, 2**16, 2**18, self.longest))
        return data[:start] + piece * (size // max(1, len(piece))) + data[start:]

    def _restructured(self, data: bytes) -> bytes:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return data
        for _ in range(self.rng.randint(1, 2)):
            value = self._changed(value)
        try:
            text = json.dumps(value, ensure_ascii=self.rng.random() < 0.7)
        except (ValueError, RecursionError):
            return data
        return self._twice(text).encode("utf-8", "surrogatepass")

    def _changed(self, value: Any) -> Any:
        """Return *value* with one part of it changed, added or taken away."""
        if not value or not isinstance(value, (dict, list)) or self.rng.random() < 0.08:
            return self._other(value)
        if isinstance(value, list):
            at, items = self.rng.randrange(len(value)), list(value)
            items[at : at + 1] = self.rng.choice(
                ([self._changed(items[at])], [self._changed(items[at])], [], [items[at]] * 2)
            )
            return items
        name = self.rng.choice(list(value))
        ways = (
            lambda: {**value, name: self._changed(value[name])},
            lambda: {**value, name: self._changed(value[name])},
            lambda: {key: part for key, part in value.items() if key != name},
            lambda: {**value, self.rng.choice(("", "a", "\x00", "\ud800", name + " ")): value[name]},
            lambda: {**value, self.rng.choice(list(value)): value[name]},
        )
        return self.rng.choice(ways)()

    def _other(self, value: Any) -> Any:
        if isinstance(value, str) and value and self.rng.random() < 0.5:
            changed = self.rng.choice(self._changes)(value.encode("utf-8", "surrogatepass"))
            return changed.decode("utf-8", "replace")
        if self.rng.random() < 0.03:
            return self._deep()
        if self.rng.random() < 0.02:
            return [self.rng.choice(_VALUES)] * 50_000
        return self.rng.choice(_VALUES)

    def _deep(self) -> Any:
        value: Any = 0
        for _ in range(self.rng.choice((250, 254, 300, 900))):
            value = [value] if self.rng.random() < 0.5 else {"a": value}
        return value

    def _twice(self, text: str) -> str:
        """Return *text* with the first of its names there once more, now and then."""
        if self.rng.random() > 0.05 or not text.startswith('{"'):
            return text
        return text[:-1] + ", " + text[1:] if len(text) < self.longest else text
