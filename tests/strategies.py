"""What hypothesis draws from, and equality that tells apart what `==` does not."""

from __future__ import annotations

from math import copysign, isnan
from typing import Any

from hypothesis import strategies as st

any_text = st.text(st.characters())
"""Every character, lone surrogates among them."""
utf8_text = st.text(st.characters(exclude_categories=["Cs"]))

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400]),
    st.floats(),
    st.sampled_from([-0.0, 0.0, 1.0, 2.0**63, -(2.0**64), 1e300, 5e-324]),
    any_text,
    st.sampled_from(["null", "NaN", "\ud83d\ude00", "\U0001f600", "\ud83d", "\x00", "\u2028"]),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(any_text, json_values, max_size=5)


def same(left: Any, right: Any) -> bool:
    """Whether two JSON values are the same in type, sign of zero and order of keys; NaN is itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        if isnan(left) or isnan(right):
            return isnan(left) and isnan(right)
        return left == right and copysign(1, left) == copysign(1, right)
    return bool(left == right)
