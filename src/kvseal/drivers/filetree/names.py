"""
How a file tree store turns names into file names, and when a file name gives the name back.

py-key-value keeps names as they are unless it is given sanitization strategies, and most
of those lose something: `S_a_b-1a2b3c4d` is what became of `a/b`, and of whatever else has
the same beginning and the same 32 bits of SHA-256.  A name is given back only where no
other name can have led to the same file name; everywhere else it is `None`, because a
record that is sealed for a guessed name can never be opened under its true one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from key_value.aio._utils.sanitization import (
    HashExcessLengthStrategy,
    HybridSanitizationStrategy,
    PassthroughStrategy,
)
from key_value.aio.stores.filetree import (
    FileTreeV1CollectionSanitizationStrategy,
    FileTreeV1KeySanitizationStrategy,
)

from kvseal.drivers.filetree.folders import SUFFIX
from kvseal.errors import StoreError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

# What these strategies change gets a prefix, so what has none is what it was.
_PREFIXES: Final = ("S_", "H_")
_MARKING: Final = (HybridSanitizationStrategy.sanitize, HashExcessLengthStrategy.sanitize)
_SANITIZED: Final = re.compile(r"S_[A-Za-z0-9_]*-[0-9a-f]{8}")
_UNTOUCHED: Final = re.compile(r"[A-Za-z0-9_]*")


class Rule(Protocol):
    """How names of one kind, keys or collections, are stored."""

    @property
    def is_reversible(self) -> bool:
        """Whether every name comes back."""
        ...

    def stored(self, name: str) -> str:
        """Return what becomes of *name*; raises `StoreError` if that is not known."""
        ...

    def name(self, stored: str) -> str | None:
        """Return the one name that becomes *stored*, or `None` where there may be several."""
        ...

    def leads_to(self, name: str, stored: str) -> bool | None:
        """Return whether *name* becomes *stored*, or `None` if that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class StrategyRule:
    """The rule of a sanitization strategy; of one that kvseal does not know, no name is given back."""

    strategy: Any

    @property
    def is_reversible(self) -> bool:
        """Whether the strategy leaves every name alone."""
        return type(self.strategy).sanitize is PassthroughStrategy.sanitize

    def stored(self, name: str) -> str:
        """Let the strategy itself sanitize *name*."""
        try:
            return str(self.strategy.sanitize(name))
        except UnicodeEncodeError as exc:
            msg = f"a file tree store cannot hold the name {name!r}: it has a lone surrogate"
            raise StoreError(msg) from exc

    def name(self, stored: str) -> str | None:
        """Give back what the strategy has left alone, which shows in the missing prefix."""
        if self.is_reversible:
            return stored
        is_untouched = type(self.strategy).sanitize in _MARKING and not stored.startswith(_PREFIXES)
        return stored if is_untouched and self.stored(stored) == stored else None

    def leads_to(self, name: str, stored: str) -> bool:
        """Return whether the strategy makes *stored* of *name*."""
        try:
            return self.stored(name) == stored
        except StoreError:
            return False


@dataclass(frozen=True, slots=True)
class UndecidedRule:
    """
    Plain or V1, as long as nothing in the store shows which: only where they agree is there an answer.

    They agree on names of ASCII letters, digits and underscores that are not too long, such as
    those of the vault meta.
    """

    rules: tuple[Rule, ...]
    is_reversible: ClassVar[bool] = False

    def stored(self, name: str) -> str:
        """Return what every rule says, or raise `StoreError`."""
        answers = {rule.stored(name) for rule in self.rules}
        if len(answers) > 1:
            msg = f"nothing in the store shows whether it sanitizes names, and for {name!r} that matters"
            raise StoreError(msg, hint="end the URL with ?names=plain or with ?names=v1")
        return answers.pop()

    def name(self, stored: str) -> str | None:
        """Return what every rule says, or nothing."""
        answers = {rule.name(stored) for rule in self.rules}
        return answers.pop() if len(answers) == 1 else None

    def leads_to(self, name: str, stored: str) -> bool | None:
        """Return what every rule says, or that it is not known."""
        answers = {rule.leads_to(name, stored) for rule in self.rules}
        return answers.pop() if len(answers) == 1 else None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the names in a store show about its rule."""

    is_plain: bool
    is_v1: bool

    @classmethod
    def of_stems(cls, stems: Iterable[str]) -> Evidence:
        """Look at file names alone: `S_…-1a2b3c4d` is V1's hand, and what V1 would have changed is not."""
        is_plain = is_v1 = False
        for stem in stems:
            if _SANITIZED.fullmatch(stem):
                is_v1 = True
            elif not _UNTOUCHED.fullmatch(stem):
                is_plain = True
        return cls(is_plain, is_v1)

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[str, str]], v1: Rule) -> Evidence:
        """Look at names together with what became of them; pairs that fit neither rule show nothing."""
        is_plain = is_v1 = False
        for name, stored in pairs:
            plain_fits, v1_fits = name == stored, v1.stored(name) == stored
            is_plain |= plain_fits and not v1_fits
            is_v1 |= v1_fits and not plain_fits
        return cls(is_plain, is_v1)

    def rule(self, v1: Rule, kind: str) -> Rule:
        """
        Return the rule that the evidence shows.

        Raises:
            UnsupportedStoreError: it shows both, and the wrong one would give records wrong names.
        """
        if self.is_plain and self.is_v1:
            msg = f"some {kind} of the store are sanitized and others are not"
            raise UnsupportedStoreError(msg, hint="end the URL with ?names=plain or with ?names=v1")
        if self.is_plain:
            return plain_rule()
        return v1 if self.is_v1 else UndecidedRule((plain_rule(), v1))


def plain_rule() -> Rule:
    """Return the rule of a store without a strategy."""
    return StrategyRule(PassthroughStrategy())


def v1_rules(directory: Path) -> tuple[Rule, Rule]:
    """Return the rules of py-key-value's own V1 strategies in *directory*, for collections and for keys."""
    return (
        StrategyRule(FileTreeV1CollectionSanitizationStrategy(directory)),
        StrategyRule(FileTreeV1KeySanitizationStrategy(directory)),
    )


def leads_by_v1(collection: str, key: str, path: str) -> bool:
    """Whether the V1 strategies keep an entry of these names at *path*, where the usual limits hold."""
    collections, keys = _usual_v1_rules()
    folder, _, file = path.rpartition("/")
    return (
        collections.leads_to(collection, folder) is True and keys.leads_to(key, file[: -len(SUFFIX)]) is True
    )


@cache
def _usual_v1_rules() -> tuple[Rule, Rule]:
    return v1_rules(Path("/"))
