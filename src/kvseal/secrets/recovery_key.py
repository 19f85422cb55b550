"""
The recovery key as text: 256 random bits that a person can write down, read out and type.

    KVSEALR1-00001-…        14 groups: four characters of data and a check character

Its characters are Crockford's base32, which has no I, L, O and U; those that look alike are
taken for one another.  The check character of a group finds each wrong character, each two
neighbours that changed places, and a group that stands where another belongs, so an error
is found before any derivation and the message says where.  24 more bits check the whole.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from kvseal.errors import MistypedSecretError

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX: Final = "KVSEALR1"
GROUPS: Final = 14
GROUP_SIZE: Final = 5
TEXT_SIZE: Final = GROUPS * GROUP_SIZE
"""Characters behind the prefix, without separators."""

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_LOOK_ALIKES: Final = str.maketrans("ILO", "110")
_PREFIX_AS_READ: Final = PREFIX.translate(_LOOK_ALIKES)
_BITS: Final = 5
_KEY_SIZE: Final = 32
_CHECKSUM_SIZE: Final = 3
_CHECKSUM_LABEL: Final = b"kvseal/recovery-key/v1\x00"
_DATA_SIZE: Final = GROUPS * (GROUP_SIZE - 1)
_POLYNOMIAL: Final = 0b101001
"""x^5 + x^3 + 1, which is primitive: GF(32) as bech32 has it."""


def text_of(key: bytes) -> str:
    """Return the one spelling of the recovery key of these 32 bytes."""
    number = int.from_bytes(key + _checksum(key), "big")
    shifts = range(_BITS * (_DATA_SIZE - 1), -1, -_BITS)
    data = "".join(_ALPHABET[number >> shift & (len(_ALPHABET) - 1)] for shift in shifts)
    groups = enumerate(_cut(data, GROUP_SIZE - 1), 1)
    return "-".join([PREFIX, *(group + _check(place, group) for place, group in groups)])


def canonical(text: str) -> str | None:
    """
    Return the one spelling of a recovery key, or `None` where *text* is something else.

    Lower case, spaces, other grouping, look-alikes and a missing prefix are forgiven.

    Raises:
        MistypedSecretError: it is a recovery key with an error; the message says in which groups.
    """
    groups = _groups(text.upper().translate(_LOOK_ALIKES).replace("-", " ").split())
    if groups is None:
        return None
    wrong = [place for place, group in enumerate(groups[: GROUPS + 1], 1) if not _is_right(place, group)]
    if len(groups) != GROUPS or wrong:
        raise _mistyped(wrong, sum(map(len, groups)))
    number = 0
    for character in "".join(group[:-1] for group in groups):
        number = number << _BITS | _VALUES[character]
    spelled = text_of(number.to_bytes(_KEY_SIZE + _CHECKSUM_SIZE, "big")[:_KEY_SIZE])
    if spelled != "-".join([PREFIX, *groups]):
        raise _mistyped([], TEXT_SIZE)
    return spelled


def _groups(words: Sequence[str]) -> Sequence[str] | None:
    """Return the groups that *words* spell, right or wrong, or `None` where they are no recovery key."""
    letters = "".join(words)
    if letters.startswith(_PREFIX_AS_READ):
        as_written = len(words) == GROUPS + 1 and words[0] == _PREFIX_AS_READ
        return words[1:] if as_written else _cut(letters[len(PREFIX) :], GROUP_SIZE)
    groups = _cut(letters[-TEXT_SIZE:], GROUP_SIZE)
    # By chance, one text in ten million of this length has that many groups that check.
    right = sum(map(_is_right, range(1, GROUPS + 1), groups))
    if len(groups) != GROUPS or 2 * right < GROUPS:
        return None
    if len(letters) != TEXT_SIZE:
        msg = "the secret is a recovery key, but what it begins with was mistyped"
        raise MistypedSecretError(msg, hint=f"it begins with {PREFIX}")
    return groups


def _cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def _is_right(place: int, group: str) -> bool:
    known = len(group) == GROUP_SIZE and set(group) <= set(_ALPHABET)
    return known and group[-1] == _check(place, group[:-1])


def _check(place: int, data: str) -> str:
    """
    Return the check character of the group at *place*, counted from 1.

    A polynomial over GF(32) that gives every character, and the place, a weight of its own:
    one wrong character, two neighbours exchanged or another place all change the result.
    """
    total = place
    for character in data:
        total = (total ^ _VALUES[character]) << 1
        total ^= _POLYNOMIAL if total >> _BITS else 0
    return _ALPHABET[total]


def _checksum(key: bytes) -> bytes:
    return sha256(_CHECKSUM_LABEL + key).digest()[:_CHECKSUM_SIZE]


def _mistyped(places: Sequence[int], size: int) -> MistypedSecretError:
    if size != TEXT_SIZE:
        # Behind a character too many or too few, every group without separators is wrong.
        places = [place for place in places[:1] if place <= GROUPS]
    named = " and ".join(map(str, places))
    where = f"group{'s' if len(places) > 1 else ''} {named} of {GROUPS}" if places else "all of its groups"
    if size != TEXT_SIZE:
        where += f"; it has {size} characters, and {TEXT_SIZE} belong there"
    msg = f"the secret is a recovery key, but it was mistyped: look at {where}"
    return MistypedSecretError(msg, hint=f"compare it with the original; {PREFIX} does not count as a group")
