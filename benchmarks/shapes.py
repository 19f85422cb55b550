"""
The values that are put: what applications keep in these stores, from an OAuth token to a tool's result.

`flat` is one dict of scalars, most of it one text; `nested` is the same with a list and a dict inside.
FastMCP's are from `values/`, made by its own models.  The others have the shape and the size of
what an agent keeps: a conversation, the answer of a tool, an embedding, a list of identifiers.
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Value = dict[str, Any]

KIB: Final = 1024
SIZES: Final = {"64 B": 64, "1 KiB": KIB, "16 KiB": 16 * KIB, "256 KiB": 256 * KIB, "1 MiB": KIB**2}
"""Lengths of the JSON text of what is put; the smallest value is a little longer than its name says."""

_FASTMCP: Final = Path(__file__).parent / "values" / "fastmcp.json"
_WORDS: Final = (
    "the",
    "record",
    "of",
    "a",
    "vault",
    "opens",
    "under",
    "one",
    "name",
    "and",
    "nowhere",
    "else",
)


def flat(size: int) -> Value:
    """Return an OAuth token as an application keeps it, whose JSON text has *size* bytes if it can."""
    return _filled(
        {
            "token_type": "Bearer",
            "scope": "openid offline",
            "id": None,
            "expires_at": 1767225600.25,
            "access_token": "",
        },
        size,
    )


def nested(size: int) -> Value:
    """Return the same token with a list of scopes and a dict of claims inside."""
    return _filled(
        {
            "token_type": "Bearer",
            "scopes": ["openid", "offline"],
            "claims": {"sub": "8f14e45f", "email_verified": True, "iat": 1767225600},
            "expires_at": 1767225600.25,
            "access_token": "",
        },
        size,
    )


def chat(messages: int = 50) -> Value:
    """Return a conversation."""
    random = Random(1)
    return {
        "session_id": "0b5f8a52-5f0e-4c0e-9d65-0d1a3f0f9c11",
        "model": "assistant-1",
        "temperature": 0.7,
        "messages": [
            {
                "id": f"msg_{number:08}",
                "role": "user" if number % 2 == 0 else "assistant",
                "content": [{"type": "text", "text": _text(random, 65)}],
                "created_at": 1767225600.5 + number,
                "usage": {"input_tokens": random.randrange(4000), "output_tokens": random.randrange(900)},
            }
            for number in range(messages)
        ],
    }


def tool_result(rows: int = 412) -> Value:
    """Return what a tool has found: many small objects in objects."""
    random = Random(2)
    return {
        "content": [{"type": "text", "text": f"{rows} rows"}],
        "structured_content": {"result": [_row(random, number) for number in range(rows)]},
        "is_error": False,
    }


def floats(count: int = 1536) -> Value:
    """Return an embedding."""
    random = Random(3)
    return {"model": "embedding-1", "embedding": [random.uniform(-0.1, 0.1) for _ in range(count)]}


def integers(count: int = 1000) -> Value:
    """Return a list of identifiers."""
    random = Random(4)
    return {"ids": [random.randrange(10**9) for _ in range(count)]}


@cache
def fastmcp(model: str) -> Value:
    """Return what FastMCP's OAuth proxy keeps of one *model*."""
    value: Value = json.loads(_FASTMCP.read_text(encoding="ascii"))["values"][model]
    return value


def _filled(value: Value, size: int) -> Value:
    value["access_token"] = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjQ3In0" * (1 + size // 35)
    surplus = len(orjson.dumps(value)) - size
    value["access_token"] = value["access_token"][:-surplus] or "eyJhbGci"
    return value


def _text(random: Random, words: int) -> str:
    return " ".join(random.choices(_WORDS, k=words))


def _row(random: Random, number: int) -> Value:
    return {
        "id": number,
        "path": f"src/package/module_{number}.py",
        "score": random.random(),
        "tags": random.sample(_WORDS, 3),
        "span": {"start": {"line": number, "column": 4}, "end": {"line": number + 9, "column": 31}},
        "owner": {"name": f"user-{number % 17}", "active": number % 3 == 0, "team": None},
        "excerpt": _text(random, 8),
    }


SHAPES: Final[Mapping[str, Callable[[], Value]]] = {
    **{f"flat {name}": partial(flat, size) for name, size in SIZES.items()},
    **{f"nested {name}": partial(nested, SIZES[name]) for name in ("1 KiB", "16 KiB", "256 KiB")},
    **{
        f"FastMCP {model}": partial(fastmcp, model)
        for model in ("UpstreamTokenSet", "ProxyDCRClient", "OAuthTransaction")
    },
    "chat of 50 messages": chat,
    "tool result": tool_result,
    "1,536 floats": floats,
    "1,000 ints": integers,
}
"""Every value of the benchmarks, by its name."""
