"""The recovery key: what a person may write, and which errors are found, and where, before any derivation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvseal import Secret
from kvseal.envelope import kdf
from kvseal.errors import MistypedSecretError
from kvseal.secrets.recovery_key import GROUP_SIZE, GROUPS, PREFIX, canonical, text_of
from kvseal.secrets.secret import generate, generate_recovery_key

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
KEY = bytes(range(32))
TEXT = text_of(KEY)
GROUPED = TEXT.split("-")[1:]
KEYS = st.binary(min_size=32, max_size=32)


def with_group(place: int, group: str) -> str:
    """Return TEXT with another group at *place*, from 1."""
    return "-".join([PREFIX, *GROUPED[: place - 1], group, *GROUPED[place:]])


def test_vector() -> None:
    """The text of known bytes, which never changes."""
    assert (
        "KVSEALR1-000GS-40R48-0M30H-E2096-185GX-R38E1-1W816-24GKG-2GAHK-C5RRR-34D1V-P70XW-3RFY9-0N0NS" == TEXT
    )


def reference(key: bytes) -> str:
    """Spell a key with bits as text and multiplication in GF(32) by a table of powers."""
    from hashlib import sha256

    powers = [1]
    for _ in range(30):
        doubled = powers[-1] * 2
        powers.append(doubled ^ 41 if doubled >= 32 else doubled)

    def times(a: int, b: int) -> int:
        return powers[(powers.index(a) + powers.index(b)) % 31] if a and b else 0

    checksum = sha256(b"kvseal/recovery-key/v1\x00" + key).digest()[:3]
    bits = "".join(f"{byte:08b}" for byte in key + checksum)
    data = [int(bits[start : start + 5], 2) for start in range(0, 280, 5)]
    groups = []
    for place in range(1, 15):
        four = data[4 * place - 4 : 4 * place]
        check = times(place, powers[4])
        for value, power in zip(four, (4, 3, 2, 1), strict=True):
            check ^= times(value, powers[power])
        groups.append("".join(ALPHABET[value] for value in [*four, check]))
    return "-".join(["KVSEALR1", *groups])


@given(KEYS)
def test_one_spelling(key: bytes) -> None:
    """Every key has one text, which another implementation of the format writes too, and comes back."""
    assert reference(key) == text_of(key)
    assert text_of(key) == canonical(text_of(key))


def test_form() -> None:
    """Fourteen groups of five characters, none of which looks like another."""
    prefix, *groups = generate_recovery_key().reveal().decode().split("-")

    assert PREFIX == prefix
    assert [GROUP_SIZE] * GROUPS == list(map(len, groups))
    assert not set("ILOU") & set("".join(groups))
    assert generate_recovery_key() != generate_recovery_key()


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(TEXT, id="as-it-is"),
        pytest.param(TEXT.lower(), id="lower-case"),
        pytest.param(TEXT.replace("-", " "), id="spaces"),
        pytest.param(TEXT.replace("-", ""), id="no-dashes"),
        pytest.param(TEXT.replace("-", " - "), id="dashes-and-spaces"),
        pytest.param(f"  {TEXT[:40]}\n{TEXT[40:]}\r\n", id="two-lines"),
        pytest.param(TEXT.replace("0", "O").replace("1", "I"), id="capitals-that-look-alike"),
        pytest.param(TEXT.replace("0", "o").replace("1", "l"), id="letters-that-look-alike"),
        pytest.param(TEXT.removeprefix(PREFIX), id="no-prefix"),
        pytest.param("".join(GROUPED).lower(), id="nothing-but-characters"),
    ],
)
def test_forgiven(variant: str) -> None:
    """Case, spacing, grouping, look-alikes and a missing prefix make no other secret."""
    assert TEXT.encode() == Secret(variant.encode()).reveal()
    assert Secret(variant.encode()).is_generated


@pytest.mark.parametrize("place", range(1, GROUPS + 1))
def test_every_wrong_character_is_located(place: int) -> None:
    """Any one wrong character is found, and the message names its group and shows nothing of it."""
    group = GROUPED[place - 1]
    for index in range(GROUP_SIZE):
        for wrong in set(ALPHABET) - {group[index]}:
            typed = with_group(place, group[:index] + wrong + group[index + 1 :])
            with pytest.raises(MistypedSecretError, match=rf"look at group {place} of 14$") as caught:
                canonical(typed)
            assert group not in str(caught.value)


@given(key=KEYS, place=st.integers(0, GROUPS - 1), index=st.integers(0, GROUP_SIZE - 2))
def test_neighbours_that_changed_places_are_located(key: bytes, place: int, index: int) -> None:
    """Two neighbouring characters of a group, exchanged, are found wherever they differ."""
    groups = text_of(key).split("-")[1:]
    one, two = groups[place][index : index + 2]
    groups[place] = groups[place][:index] + two + one + groups[place][index + 2 :]

    if one == two:
        assert text_of(key) == canonical("-".join([PREFIX, *groups]))
        return
    with pytest.raises(MistypedSecretError, match=rf"group {place + 1} of 14"):
        canonical("-".join([PREFIX, *groups]))


@given(key=KEYS, one=st.integers(0, GROUPS - 1), two=st.integers(0, GROUPS - 1))
def test_groups_that_changed_places_are_located(key: bytes, one: int, two: int) -> None:
    """A group that stands where another belongs is found, in both places."""
    groups = text_of(key).split("-")[1:]
    groups[one], groups[two] = groups[two], groups[one]

    if groups == text_of(key).split("-")[1:]:
        return
    first, second = sorted((one + 1, two + 1))
    with pytest.raises(MistypedSecretError, match=rf"groups {first} and {second} of 14"):
        canonical("-".join([PREFIX, *groups]))


@pytest.mark.parametrize(
    ("typed", "where"),
    [
        pytest.param(with_group(3, GROUPED[2][:4]), "group 3 of 14", id="a-character-missing"),
        pytest.param(with_group(3, GROUPED[2] + "0"), "group 3 of 14", id="a-character-too-many"),
        pytest.param(
            with_group(3, GROUPED[2][:4]).replace("-", ""), "group 3 of 14", id="missing-in-one-word"
        ),
        pytest.param(TEXT[:-6], "and 70 belong there", id="the-last-group-missing"),
        pytest.param(f"{TEXT}-{GROUPED[0]}", "and 70 belong there", id="a-group-too-many"),
        pytest.param(with_group(9, "*****"), "group 9 of 14", id="characters-of-no-alphabet"),
        pytest.param(PREFIX + "-hunter2", "group 1 of 14", id="hardly-anything"),
    ],
)
def test_missing_and_added_characters(typed: str, where: str) -> None:
    """What has too few characters or too many is no passphrase: it names the first group that is wrong."""
    with pytest.raises(MistypedSecretError, match=where):
        Secret(typed.encode())


def test_mistyped_prefix() -> None:
    """Behind a wrong beginning, groups that check are known for what they are."""
    with pytest.raises(MistypedSecretError, match="begins with was mistyped"):
        Secret(TEXT.replace("KVSEAL", "KVSAEL").encode())


def test_error_that_no_group_shows() -> None:
    """Errors that leave every group right, each one in 32, are found by the checksum of the whole."""
    other = text_of(bytes(32)).split("-")

    with pytest.raises(MistypedSecretError, match="all of its groups"):
        canonical("-".join([PREFIX, other[1], *GROUPED[1:]]))


@given(st.text(ALPHABET + "IOL-", min_size=60, max_size=90))
def test_other_texts_are_taken_as_they_are(text: str) -> None:
    """A passphrase of the same characters and the same length is no recovery key."""
    assert text.strip("- ") == "" or canonical(text) is None


def test_nothing_is_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped recovery key is refused by its text alone: no derivation is begun."""
    monkeypatch.setattr(kdf, "hash_secret_raw", None)
    rng = random.Random(1)
    for _ in range(200):
        at = rng.choice([i for i in range(len(PREFIX) + 1, len(TEXT)) if TEXT[i] != "-"])
        wrong = rng.choice(sorted(set(ALPHABET) - {TEXT[at]}))
        with pytest.raises(MistypedSecretError):
            Secret((TEXT[:at] + wrong + TEXT[at + 1 :]).encode())


def test_only_what_was_generated_is_generated() -> None:
    """A checksum tells the two generated forms from every passphrase."""
    assert [True, True, False] == [
        secret.is_generated for secret in (generate(), generate_recovery_key(), Secret(b"correct horse"))
    ]


def test_both_generated_forms_stay_apart() -> None:
    """A generated secret is never read as a recovery key, nor the other way round."""
    for _ in range(100):
        text = generate().reveal()
        assert text == Secret(text).reveal()
        assert canonical(text.decode()) is None
