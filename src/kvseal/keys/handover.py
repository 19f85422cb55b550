"""
The handover: the word of a root key that another one has taken its place.

A process that runs on holds the root key of before.  Its secret may open a slot of the new vault
meta, but that alone proves little: whoever has come to know *any* earlier root key can paste the slot
that wraps it, which the same secret opens, and authenticate what they like.  So a process goes
only where the root key that it holds has sent it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kvseal.keys.rootkey import RootKey

_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class Handover:
    """The identity of a new root key, and the MAC of the one before over it: 32 bytes each."""

    successor: bytes
    mac: bytes

    def __post_init__(self) -> None:
        sizes = (len(self.successor), len(self.mac))
        if sizes != (_SIZE, _SIZE):
            msg = f"a handover has {_SIZE} and {_SIZE} bytes, not {sizes}"
            raise ValueError(msg)

    @classmethod
    def between(cls, root: RootKey, successor: RootKey) -> Handover:
        """Return the word of *root* for *successor*."""
        return cls(successor.identity, root.vouch(successor.identity))

    def is_by(self, root: RootKey) -> bool:
        """Whether *root* has given it; nothing is derived from a secret for this."""
        return compare_digest(self.mac, root.vouch(self.successor))

    def is_to(self, root: RootKey) -> bool:
        """Whether *root* is the one that it names."""
        return compare_digest(self.successor, root.identity)
