"""
The keyring: the unlocked DEKs of one vault in memory, retired ones too until they are dropped.

It is built from a vault meta that the root key has verified, and is immutable.
When the meta changes, a new keyring replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Final, NoReturn

from kvseal.envelope.bounded_cache import BoundedCache
from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.errors import VaultLockedError
from kvseal.keys.retired import LoudCount
from kvseal.observe.counters import operations

if TYPE_CHECKING:
    from kvseal.keys.meta import VaultMeta
    from kvseal.keys.policy import Policy
    from kvseal.keys.rootkey import RootKey
    from kvseal.observe.counters import Count


_CONTEXTS: Final = 256


@dataclass(frozen=True, slots=True, repr=False)
class LegacyKey:
    """An unwrapped legacy key: 32 bytes, and the kind, which selects the codec."""

    kind: str
    key: bytes

    def __reduce__(self) -> NoReturn:
        msg = "a LegacyKey is not pickled or copied"
        raise TypeError(msg)


class Keyring:
    """
    The DEKs that seal and open this vault's records, and its legacy keys.

    Its repr shows no key, and it cannot be pickled.

    Raises:
        TamperedMetaError: *meta* does not verify under *root*.
    """

    __slots__ = (
        "__weakref__",
        "_active",
        "_deks",
        "codecs",
        "legacy",
        "policy",
        "retired",
        "revision",
        "vault_id",
        "writes_with",
    )

    def __init__(self, meta: VaultMeta, root: RootKey) -> None:
        meta.verify(root)
        self.vault_id = meta.vault_id
        self.revision = meta.revision
        self.policy: Policy = meta.policy
        self._active = meta.active_dek.number
        self._deks = {
            dek.number: root.unwrap_dek(dek.wrapped, dek.number)
            for dek in meta.deks
            if dek.wrapped is not None
        }
        self.retired = frozenset(dek.number for dek in meta.deks if dek.state == "retired")
        # Kept here and not in wrappers, so that no key outlives the keyring.
        self.codecs: BoundedCache[str, RecordCodec] = BoundedCache(self._build_codec, _CONTEXTS)
        self.legacy = tuple(
            LegacyKey(key.kind, root.unwrap_legacy(key.wrapped, key.kind, key.id)) for key in meta.legacy
        )
        write, ids = meta.policy.write, [key.id for key in meta.legacy]
        held = None if write is None or write.key is None else self.legacy[ids.index(write.key)]
        self.writes_with: LegacyKey | None = held if meta.policy.holds else None
        """The legacy key under which new values are written, while the policy holds that format."""

    def includes(self, other: Keyring) -> bool:
        """Whether every DEK, under its number, and every legacy key of *other* is in this keyring, too."""
        return all(
            number in self._deks and compare_digest(self._deks[number], dek)
            for number, dek in other._deks.items()
        ) and {(key.kind, key.key) for key in other.legacy} <= {(key.kind, key.key) for key in self.legacy}

    def lost_in(self, later: Keyring) -> int | None:
        """Return the lowest number whose DEK is another one in *later*, or gone without being retired."""
        kept = later._deks
        for number, dek in sorted(self._deks.items()):
            if number not in later.retired and not compare_digest(kept.get(number, b""), dek):
                return number
        return None

    @property
    def active_dek(self) -> int:
        """The number of the DEK that seals new records."""
        return self._active

    def _build_codec(self, context: str) -> RecordCodec:
        associations = Associations(self.vault_id, context=context)
        binding, active = self.policy.binding, self._active
        sealed = operations[self.vault_id, active, "seal"]
        opened = {number: self._opened(number) for number in self._deks}
        return RecordCodec(
            Sealer(self._deks[active], active, associations, binding=binding, counts=sealed),
            Opener(self._deks, associations, weakest=binding, counts=opened),
        )

    def _opened(self, number: int) -> Count:
        """Return the counter of what this DEK opens; one that is retired is heard of."""
        count = operations[self.vault_id, number, "open"]
        return LoudCount(count, self.vault_id, number) if number in self.retired else count

    def __repr__(self) -> str:
        return (
            f"<Keyring of vault {self.vault_id.hex()}, revision {self.revision}, DEK {self._active} active>"
        )

    def __reduce__(self) -> NoReturn:
        msg = "a Keyring is not pickled or copied"
        raise TypeError(msg)


class LockedCodecs(dict[str, RecordCodec]):
    """Replaces the codecs of a locked vault: every lookup raises."""

    def __missing__(self, _: str) -> RecordCodec:
        raise locked()


def locked() -> VaultLockedError:
    """Return the error for an operation that needs the keys of a locked vault."""
    return VaultLockedError("the vault is locked", hint="open it again")
