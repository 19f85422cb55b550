"""Extensions: every reader of the format judges the same parts alike, and keeps them value for value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.vectors.verify_records import canonical, check_extensions, outcome_of

from kvseal.keys.extensions import Extensions

ODD_KEYS = st.sampled_from(["", "A", "a_b", "since", "a" * 32, "a" * 33, "b" * 64, "b" * 65, "²", "a\n", "1"])
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,3}", fullmatch=True) | ODD_KEYS
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) - 1, 2**53 + 1)
    | st.sampled_from([2**53 - 1, 2**53, -(2**53), 1.0, 0.5, "\ud800", "1.0", "0.9.1"])
    | st.text(max_size=4)
)
PARTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@st.composite
def metas(draw: st.DrawFn) -> dict[str, Any]:
    """Return the two fields, most often nearly right."""
    ext = draw(st.dictionaries(NAMES, PARTS, max_size=4) | PARTS)
    names = list(ext) if isinstance(ext, dict) and ext else ["a"]
    crit = draw(st.lists(st.sampled_from(names), max_size=3).map(sorted) | PARTS)
    return {"ext": ext, "crit": crit} if draw(st.booleans()) else {"ext": ext}


@given(meta=metas())
@example(meta={"ext": {"a": {"since": "1.2"}}, "crit": ["a"]})
@example(meta={"ext": {"a": [[[[[[[]]]]]]]}})
@example(meta={"ext": {"a": [[[[[[[[]]]]]]]]}})
@pytest.mark.exhaustive
def test_both_readers_agree(meta: dict[str, Any]) -> None:
    """The independent reader and kvseal accept the same parts; what is accepted comes back as it was."""
    verdict = outcome_of(check_extensions, meta)
    if verdict != "accepted":
        with pytest.raises((ValueError, TypeError)):
            Extensions.from_json(meta)
        return

    written = Extensions.from_json(meta).as_json()

    assert canonical(meta) == canonical(written)


def test_nothing_is_nothing() -> None:
    """A meta without parts has neither field."""
    assert {} == Extensions.from_json({}).as_json()
