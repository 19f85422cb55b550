"""The highest object key of a bucket, found by asking what follows a guess."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvseal.drivers.s3.bounds import Bound, Keys, bound_of, is_in_some_order

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = st.sets(st.text(st.sampled_from("ab/!-0é\U0010fffd\ud7ff\ue000"), min_size=1, max_size=9), max_size=60)


def by_bytes(key: str) -> str:
    """Sort as S3 does."""
    return key


def by_folders(key: str) -> str:
    """Sort as a server does that keeps objects as files in folders."""
    return key.translate({47: 0} | {n: n + 1 for n in range(47)})


ORDERS = pytest.mark.parametrize("order", [by_bytes, by_folders])


class Server:
    """Lists *keys* in *order*, and counts the requests."""

    def __init__(self, keys: set[str], order: Callable[[str], str], page: int) -> None:
        self.requests = 0
        self._listed = sorted(keys, key=order)
        self._ranks = [order(key) for key in self._listed]
        self._order = order
        self._page = page

    def behind(self, guess: str) -> Keys:
        """Return one page of what follows *guess*, which has to be text that a request can have."""
        guess.encode()
        self.requests += 1
        start = bisect_right(self._ranks, self._order(guess))
        end = start + self._page
        return Keys(self._listed[start:end], more=end < len(self._listed))


@pytest.mark.exhaustive
@ORDERS
@given(keys=KEYS, page=st.integers(1, 5))
def test_highest_key(order: Callable[[str], str], keys: set[str], page: int) -> None:
    """The bound is the last key that the server lists, in whichever of the two orders."""
    bound = bound_of(Server(keys, order, page).behind)

    assert max(keys, key=order, default="") == bound.last


def test_below_the_last_key() -> None:
    """What begins with the last key is not beyond it: SeaweedFS does not list it behind that."""
    assert [False, True] == [Bound("a/b").is_beyond(key) for key in ("a/b/c", "a/c")]


FEW = st.sets(st.text(st.sampled_from("a/!"), min_size=1, max_size=4), max_size=8)


@pytest.mark.exhaustive
@ORDERS
@given(keys=FEW, newcomers=FEW, page=st.integers(1, 5))
def test_nothing_that_was_there_is_beyond(
    order: Callable[[str], str], keys: set[str], newcomers: set[str], page: int
) -> None:
    """No key that was there is beyond the bound, and a newcomer is only if the server lists it behind all of them."""
    bound = bound_of(Server(keys, order, page).behind)

    assert [] == [key for key in keys if bound.is_beyond(key)]
    last = max((order(key) for key in keys), default="")
    assert [] == [key for key in newcomers if bound.is_beyond(key) and order(key) <= last]


def test_few_requests() -> None:
    """Among two hundred thousand keys of one collection it takes some dozens of requests."""
    server = Server({f"mcp-upstream-tokens/{n * 7919:032x}" for n in range(200_000)}, by_bytes, 1000)

    assert f"mcp-upstream-tokens/{199_999 * 7919:032x}" == bound_of(server.behind).last
    assert server.requests < 60


def test_a_server_without_an_order() -> None:
    """Where answers fit no order there is no bound, rather than one that leaves something out."""
    keys = [f"{n * 7 % 40:02}/x" for n in range(40)]

    def behind(guess: str) -> Keys:
        start = keys.index(guess) + 1 if guess in keys else 0
        return Keys(keys[start : start + 3], more=True)

    bound = bound_of(behind)

    assert Bound(None) == bound
    assert not bound.is_beyond("\U0010ffff")


def test_the_last_character_of_all() -> None:
    """A key with the character that guesses are made of gives no bound."""
    keys = {"a/\U0010ffffz", "b/\U0010ffff", *(f"c/{n}" for n in range(9)), "\U0010ffff/x"}

    assert Bound(None) == bound_of(Server(keys, by_bytes, 2).behind)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["a-b/1", "a/1", "b/1"], True),
        (["a/1", "a-b/1", "b/1"], True),
        (["b/1", "a/1"], False),
        (["a/1", "a/1"], False),
        ([], True),
    ],
)
def test_orders(keys: list[str], expected: bool) -> None:
    """A listing is in the order of bytes or of folders, or in none."""
    assert expected == is_in_some_order(keys)
