"""Names and object keys: none is guessed, and what is known leads to the very object."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from key_value.aio._utils.sanitization import (
    AlwaysHashStrategy,
    HybridSanitizationStrategy,
    PassthroughStrategy,
)
from key_value.aio.stores.s3 import S3CollectionSanitizationStrategy, S3KeySanitizationStrategy

from kvseal.drivers.s3.names import RESERVED, ObjectNames, StrategyRule, is_entry, rules_of
from kvseal.errors import StoreError
from kvseal.keys.meta import META_COLLECTION

SHORT = st.text(st.sampled_from("ab/-é0"), min_size=1, max_size=8)
LONG = st.builds(
    lambda character, size, end: character * size + end,
    st.sampled_from("aé/"),
    st.sampled_from([240, 245, 246, 248, 250, 488, 492, 496, 500]),
    st.sampled_from(["", "-", "0123abcd", "zz0123abcd", "b" * 20]),
)
NAMES = st.one_of(SHORT, LONG)
PLAIN = rules_of("plain")
HASHED = rules_of("hashed")
UNDECIDED = rules_of(None)
RULES = {
    "plain": PLAIN,
    "hashed": HASHED,
    "undecided": UNDECIDED,
    "hybrid": tuple(StrategyRule(HybridSanitizationStrategy(allowed_characters="ab/")) for _ in range(2)),
    "unknown": tuple(StrategyRule(AlwaysHashStrategy()) for _ in range(2)),
}


def test_the_reserved_collection() -> None:
    """The collection that this driver knows to be kvseal's own is the one of the vault meta."""
    assert META_COLLECTION == RESERVED
    assert (RESERVED, "__recode__/0007") == ObjectNames.of(PLAIN).names(f"{RESERVED}/__recode__/0007")


@pytest.mark.exhaustive
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@given(collection=NAMES, key=NAMES)
@example("a", "b/c").via("another split")
@example("a/b", "c").via("another split")
@example("c", "k" * 492 + "0123abcd").via("as if it were cut")
def test_no_name_is_guessed(rules: tuple[StrategyRule, StrategyRule], collection: str, key: str) -> None:
    """Whatever an object key gives back are the names that made it, and these are proven to lead there."""
    names = ObjectNames.of(rules)
    try:
        object_key = names.object_key(collection, key)
    except StoreError:
        return

    found = names.names(object_key)

    assert found[0] in {None, collection}
    assert found[1] in {None, key}
    assert names.lead_to(collection, key, object_key)
    assert names.lead_to(None, key, object_key)


@given(collection=SHORT, key=SHORT)
def test_plain_names_come_back(collection: str, key: str) -> None:
    """With one slash both names come back, and with more neither does; each split proves its key."""
    names = ObjectNames.of(UNDECIDED)
    object_key = names.object_key(collection, key)
    parts = object_key.split("/")
    splits = [("/".join(parts[:n]), "/".join(parts[n:])) for n in range(1, len(parts))]
    possible = [split for split in splits if split[0]]

    assert ((collection, key) if len(possible) == 1 else (None, None)) == names.names(object_key)
    assert [True] * len(possible) == [names.lead_to(None, other, object_key) for _, other in possible]
    assert not names.lead_to(None, f"{key}x", object_key)
    assert not names.lead_to(f"x{collection}", key, object_key)
    assert not names.lead_to(None, key, f"/{key}")


def test_given_collections() -> None:
    """With the operator's word on what collections there are, an object key that fits one of them is split."""
    names = ObjectNames.of(PLAIN, ["clients", "other", "other/deep"])

    assert ("clients", "https://host/path") == names.names("clients/https://host/path")
    assert ("unheard", "of") == names.names("unheard/of")
    assert (None, None) == names.names("unheard/of/it")
    assert (None, None) == names.names("other/deep/key")


def test_given_collections_that_are_cut() -> None:
    """A collection that the store has cut comes back where the operator has named it."""
    long = "c" * 600
    names = ObjectNames.of(HASHED, [long])

    assert (long, "key") == names.names(names.object_key(long, "key"))
    assert (None, "key") == ObjectNames.of(HASHED).names(names.object_key(long, "key"))


@pytest.mark.parametrize("size", [501, 503, 600])
def test_cut_names(size: int) -> None:
    """A name that the store has cut does not come back, and is proven by the store's own strategy."""
    names = ObjectNames.of(
        (StrategyRule(S3CollectionSanitizationStrategy()), StrategyRule(S3KeySanitizationStrategy()))
    )
    key = "ключ"[size % 4] * size
    object_key = names.object_key("coll", key)

    assert ("coll", None) == names.names(object_key)
    assert [True, False] == [names.lead_to("coll", one, object_key) for one in (key, f"{key}x")]


def test_what_a_url_leaves_open() -> None:
    """Whether a long name is cut is not guessed: it is refused until the URL says so."""
    with pytest.raises(StoreError, match="shortens a name of 501 bytes") as raised:
        ObjectNames.of(UNDECIDED).object_key("coll", "k" * 501)

    assert "names=plain or names=hashed" in raised.value.hint
    assert f"coll/{'k' * 501}" == ObjectNames.of(PLAIN).object_key("coll", "k" * 501)
    assert 505 == len(ObjectNames.of(HASHED).object_key("coll", "k" * 501))
    assert ("coll", None) == ObjectNames.of(UNDECIDED).names(f"coll/{'k' * 501}")


def test_too_long() -> None:
    """An object key of 1,025 bytes is an error with its size, and one of 1,024 is none."""
    names = ObjectNames.of(PLAIN)

    assert 1024 == len(names.object_key("é" * 500, "k" * 23).encode())
    with pytest.raises(StoreError, match="has 1,025 bytes, and S3 takes 1,024"):
        names.object_key("é" * 500, "k" * 24)


def test_no_text() -> None:
    """A name that is no text is refused, and proves nothing."""
    names = ObjectNames.of(PLAIN)

    with pytest.raises(StoreError, match="lone surrogate"):
        names.object_key("coll", "\udc80")
    assert not names.lead_to(None, "\udc80", "coll/key")


@pytest.mark.parametrize(
    ("object_key", "size", "expected"),
    [
        ("coll/key", 2, True),
        ("coll/", 2, True),
        ("coll/", 0, False),
        ("a/b/", 0, False),
        ("coll/key", 0, True),
        ("kvseal-probe", 9, False),
        ("/key", 2, False),
        ("/a/key", 2, True),
    ],
)
def test_foreign_objects(object_key: str, size: int, expected: bool) -> None:
    """An object without a collection is not the store's, and neither is the mark of a folder."""
    assert expected == is_entry(object_key, size)


def test_rules_are_strategies_of_the_store() -> None:
    """The rules of a URL are those of stores with both strategies and with none."""
    name = "n" * 700
    for names, strategies in (
        (PLAIN, (PassthroughStrategy(), PassthroughStrategy())),
        (HASHED, (S3CollectionSanitizationStrategy(), S3KeySanitizationStrategy())),
    ):
        assert [rule.stored(name) for rule in names] == [strategy.sanitize(name) for strategy in strategies]
    assert [None, None] == [rule.name("k" * 492 + "01234567") for rule, _ in product(HASHED, range(1))]
