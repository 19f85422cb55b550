"""What the report says of `profile.json`: the parts of an operation, and what is the primitives' own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START: Final = "<!-- parts from benchmarks/results: python -m benchmarks.report -->\n"
END: Final = "<!-- end of parts -->\n"

_SEALING: Final = {"seal": ("pack", "second encoder", "urandom", "AES-GCM encrypt", "base64 encode")}
_OPENING: Final = {"open": ("base64 decode", "AES-GCM decrypt", "unpack")}
_ENVELOPE: Final = {"put": _SEALING, "get": _OPENING, "put_many": _SEALING, "get_many": _OPENING}
"""What each operation consists of, and which primitives each part calls."""
_AROUND: Final = {
    "put": ("names", "freshness", "keyring", "coroutine"),
    "get": ("names", "keyring", "coroutine"),
}
"""What the wrapper does for every call."""
_AAD: Final = "associated data"
_WITHIN: Final = {
    "seal": "associated data ({aad}), nonce budget, joining, the two fields",
    "open": "strict fields and text, derived key, associated data ({aad}), slices",
    "names": "the base store's names",
    "freshness": "when the meta is due to be read again",
    "keyring": "the codec of this context",
    "coroutine": "one coroutine, empty",
}


def render(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of nanoseconds for each operation that was measured."""
    parts = figures["parts"]
    for operation, envelope in _ENVELOPE.items():
        if {operation, *envelope} <= parts.keys():
            yield ""
            yield f"| {operation} of 1 KiB, ns a record | all | share | the primitive | around it | |"
            yield "|---|---|---|---|---|---|"
            yield from _rows(operation, parts, envelope)


def _rows(operation: str, parts: Mapping[str, int], envelope: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    whole, rest = parts[operation], parts[operation]
    for part, primitives in envelope.items():
        inner = sum(parts[name] for name in primitives)
        own = f"{' + '.join(primitives)}: {inner} | {parts[part] - inner}"
        said = _WITHIN[part].format(aad=parts.get(_AAD, "not timed"))
        yield _row(part, parts[part], whole, f"{own} | {said}")
        rest -= parts[part]
    for part in _AROUND.get(operation, ()):
        if part in parts:
            yield _row(part, parts[part], whole, f"| | {_WITHIN[part]}")
            rest -= parts[part]
    store = parts[f"store.{operation}"]
    yield _row(f"the store's own {operation}", store, whole, "| | a coroutine of its own included")
    yield _row("rest", rest - store, whole, "| | lines between the parts; caches that are colder")
    yield f"| **all** | **{whole}** | | | | |"


def _row(name: str, nanoseconds: int, whole: int, cells: str) -> str:
    return f"| {name} | {nanoseconds} | {nanoseconds / whole:.0%} | {cells} |"
