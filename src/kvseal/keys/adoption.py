"""Adoption: a new vault takes the place and the keys of another program's, in one write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.keys.keyring import LegacyKey


@dataclass(frozen=True, slots=True, repr=False)
class Adoption:
    """
    The key record that the new vault meta replaces, and the keys that it holds instead.

    *record* is exactly what lies where the vault meta will, or `None` where nothing does: an
    authsome before 0.5 had its keys elsewhere.  Whoever makes one has unwrapped *keys* from
    *record*, so that nothing is lost with it.
    """

    record: Mapping[str, Any] | None
    keys: tuple[LegacyKey, ...]

    def __reduce__(self) -> NoReturn:
        msg = "an Adoption holds keys and is not pickled or copied"
        raise TypeError(msg)
