"""
What is stored in place of a secret by mistake, so that it never becomes a password without notice.

A generated secret may stand inside other text: quotation marks that a file kept, `b'…'` as Python shows
bytes, `NAME=` of an environment file, UTF-16 of an editor.  And a source may hold a reference to a secret,
or the name of a variable that no shell expanded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from kvseal.errors import SecretReferenceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_WRAPPINGS: Final = (
    (re.compile(r"\s*\ufeff(?P<inner>.+)", re.DOTALL), "behind a byte order mark"),
    (re.compile(r"\s*b(['\"])(?P<inner>.+)\1\s*", re.DOTALL | re.IGNORECASE), "inside b'…'"),
    (re.compile(r"\s*(['\"`])(?P<inner>.+)\1\s*", re.DOTALL), "inside quotation marks"),
    (
        re.compile(
            r"\s*(?:export\s+)?[a-z_]\w{0,127}\s*[=:]\s*(['\"]?)(?P<inner>.+)\1\s*", re.DOTALL | re.IGNORECASE
        ),
        "behind a name, as in NAME=…",
    ),
)
_UNEXPANDED: Final = re.compile(
    r"\$\{[^{}]{1,256}\}"  # ${SECRET}, of shells and compose files
    r"|\$\([^()]{1,256}\)"  # $(command)
    r"|\$[A-Z][A-Z0-9_]{2,127}"  # $SECRET
    r"|%[A-Z][A-Z0-9_]{2,127}%"  # %SECRET%, of Windows
    r"|\$?\{\{.{1,256}\}\}"  # {{ .Values.secret }} and ${{ secrets.NAME }}, of templates
)
_LONGEST: Final = 4096
"""What is longer is no placeholder and no generated secret in some wrapping."""


def wrapped_texts(value: bytes) -> Iterator[tuple[str, str]]:
    """Yield each text that *value* may have wrapped, and what it is wrapped in, in words."""
    if len(value) > _LONGEST:
        return
    utf16 = _utf16(value)
    if utf16 is not None:
        yield "in UTF-16", utf16
    text = value.decode("utf-8", "replace")
    for pattern, what in _WRAPPINGS:
        match = pattern.fullmatch(text)
        if match is not None:
            yield what, match["inner"]


def refuse_placeholder(value: bytes, schemes: Collection[str]) -> None:
    """
    Raise where *value* is a reference of one of *schemes*, or a variable that was not expanded.

    Raises:
        SecretReferenceError: it is; nothing of it is repeated.
    """
    if len(value) > _LONGEST:
        return
    text = value.decode("utf-8", "replace").strip().strip("'\"")
    scheme, colon, rest = text.partition(":")
    if colon and scheme in schemes and (rest or scheme == "prompt"):
        msg = f"what was read as the secret is itself a reference of the scheme {scheme}:"
        raise SecretReferenceError(msg, hint="name the secret by that reference, in --secret or secret=")
    if _UNEXPANDED.fullmatch(text):
        msg = "what was read as the secret is a variable or template that was not expanded"
        raise SecretReferenceError(msg, hint="check what sets it: the shell, compose file, unit or chart")


def _utf16(value: bytes) -> str | None:
    """Return the text of *value* where it can only be UTF-16 of ASCII characters."""
    if value.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif len(value) > 1 and not any(value[1::2]):
        encoding = "utf-16-le"
    elif len(value) > 1 and not any(value[::2]):
        encoding = "utf-16-be"
    else:
        return None
    try:
        # A line break of one byte, or its half, may be left at the end.
        return value[: len(value) & ~1].decode(encoding)
    except UnicodeDecodeError:
        return None
