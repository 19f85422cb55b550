"""
The highest object key of a bucket, which S3 cannot be asked for: it lists forwards alone.

A key is looked for by asking whether there is any behind a guess.  First the longest beginning is found that
the highest key has in common with a key that is known, then the character behind it, and so on, until what is
left fits on one page: some dozens of requests for millions of objects.

S3 lists in the order of bytes.  Servers that keep objects as files in folders list folder by folder, as if
the slash came before every other character.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import lt
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TOP: Final = "\U0010ffff"
"""Behind every other character, and allowed in a request."""
_ASCII: Final = 0x7F
_SURROGATES: Final = (0xD800, 0xDFFF)
_SLASH: Final = ord("/")
_FOLDERS_FIRST: Final = {_SLASH: 0, **{code: code + 1 for code in range(_SLASH)}}
_AS_IT_WAS: Final = {new: old for old, new in _FOLDERS_FIRST.items()}
_MOST_REQUESTS: Final = 500


class Keys(NamedTuple):
    """Object keys as they are listed, and whether more follow."""

    keys: Sequence[str]
    more: bool


class _OtherOrderError(Exception):
    """The server does not list in this order."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The end of a scan: *last* was the highest object key when it began; `None` if it could not be found."""

    last: str | None

    def is_beyond(self, key: str) -> bool:
        """Whether *key* is behind the end in every order in which a server lists."""
        if self.last is None or key.startswith(self.last):
            return False
        return key > self.last and _folders_first(key) > _folders_first(self.last)


def bound_of(behind: Callable[[str], Keys]) -> Bound:
    """
    Return where a scan that begins now may end; *behind* lists what follows a key.

    What is written and deleted meanwhile may be taken into account or not.
    """
    for there, back in ((str, str), (_folders_first, _as_it_was)):

        def ordered(
            guess: str, there: Callable[[str], str] = there, back: Callable[[str], str] = back
        ) -> Keys:
            found = behind(back(guess))
            return Keys([there(key) for key in found.keys], found.more)

        try:
            return Bound(back(_Search(ordered).run()))
        except _OtherOrderError:
            continue
    return Bound(None)


def is_in_some_order(keys: Sequence[str]) -> bool:
    """Whether *keys* stand in one of the orders in which a server may list."""
    return any(
        all(map(lt, ordered, ordered[1:])) for ordered in (keys, [_folders_first(key) for key in keys])
    )


def _folders_first(key: str) -> str:
    return key.translate(_FOLDERS_FIRST)


def _as_it_was(key: str) -> str:
    return key.translate(_AS_IT_WAS)


class _Search:
    """What is known so far: *low* is the highest key seen, and *is_done* says that it is the highest."""

    def __init__(self, behind: Callable[[str], Keys]) -> None:
        self._behind = behind
        self._requests = 0
        self.low = ""
        self.is_done = False

    def run(self) -> str:
        """Return the highest key; raises `_OtherOrderError` where answers contradict the order."""
        while self.look(self.low) and not self.is_done:
            self.find_character(self.find_common())
        return self.low

    def look(self, guess: str) -> bool:
        """Whether there is a key behind *guess*; the last one on the page is the highest seen then."""
        if self.low > guess:
            return True
        found, self._requests = self._behind(guess), self._requests + 1
        if not found.keys:
            return False
        last = found.keys[-1]
        # Nothing can be asked about what begins with the last character of all.
        if last <= self.low or found.keys[0] <= guess or _TOP in last or self._requests > _MOST_REQUESTS:
            raise _OtherOrderError
        self.low, self.is_done = last, not found.more
        return True

    def find_common(self) -> str:
        """Return the longest beginning of a key seen that the highest key has, too."""
        low, least, most = self.low, 0, len(self.low)
        while least < most and not self.is_done:
            middle = (least + most + 1) // 2
            if self.look(low[:middle] + _TOP):
                most = middle - 1
            else:
                least = middle
        return low[:least]

    def find_character(self, common: str) -> None:
        """See a key that begins with *common* and goes on with the same character as the highest key."""
        most = ord(_TOP)
        while not self.is_done:
            least = ord(self.low[len(common)]) if len(self.low) > len(common) else 0
            if least >= most:
                return
            middle = _ASCII if least < _ASCII and most == ord(_TOP) else (least + most) // 2
            if _SURROGATES[0] <= middle <= _SURROGATES[1]:
                middle = _SURROGATES[0] - 1
            if not self.look(f"{common}{chr(middle)}{_TOP}"):
                most = middle
