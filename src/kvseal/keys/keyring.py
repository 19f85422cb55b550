"""
The keyring: the unlocked DEKs of one vault in memory, retired ones too until they are dropped.

It is built from a vault meta that the root key has verified, and is immutable.
When the meta changes, a new keyring replaces it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

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


@dataclass(frozen=True, slots=True)
class WithNames:
    """Asks for the codec of *context* whose records carry their names: for a store that loses them."""

    context: str


CodecKey: TypeAlias = "str | WithNames"
"""A context, or a context on a store that loses names."""


def codec_key(context: str, *, loses_names: bool) -> CodecKey:
    """Return what asks a keyring for the codec of *context* on a store that does or does not lose names."""
    return WithNames(context) if loses_names else context


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
        "_seconds",
        "codecs",
        "ended",
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
        self.codecs: BoundedCache[CodecKey, RecordCodec] = BoundedCache(self._build_codec, _CONTEXTS)
        legacy: dict[str, LegacyKey] = {}
        ended: list[LegacyKey] = []
        seconds: defaultdict[int, list[bytes]] = defaultdict(list)
        for key in meta.legacy:
            unwrapped = root.unwrap_legacy(key.wrapped, key.kind, key.id)
            if key.second_dek is not None:
                seconds[key.second_dek].append(unwrapped)
            elif key.opens_old:
                legacy[key.id] = LegacyKey(key.kind, unwrapped)
            else:
                ended.append(LegacyKey(key.kind, unwrapped))
        self.legacy = tuple(legacy.values())
        self.ended = tuple(ended)
        """Legacy keys that open nothing any more, and are not dropped yet."""
        self._seconds = {number: tuple(deks) for number, deks in seconds.items()}
        write = meta.policy.write
        held = None if write is None or write.key is None else legacy[write.key]
        self.writes_with: LegacyKey | None = held if meta.policy.holds else None
        """The legacy key under which new values are written, while the policy holds that format."""

    def includes(self, other: Keyring) -> bool:
        """Whether every DEK, under its number, and every legacy key of *other* is in this keyring, too."""
        return not other._missing_in(self) and other._old_keys() <= self._old_keys()

    def lost_in(self, later: Keyring) -> int | None:
        """Return the lowest number whose DEK is another one in *later*, or gone without being retired."""
        return next((number for number, _ in self._missing_in(later) if number not in later.retired), None)

    def others_than(self, other: Keyring) -> list[tuple[int, bytes]]:
        """Return the DEKs whose number has another DEK in *other*, and that it does not hold beside that."""
        return [(number, dek) for number, dek in self._missing_in(other) if number in other._deks]

    def _missing_in(self, other: Keyring) -> list[tuple[int, bytes]]:
        """Return the DEKs, by number, that are not in *other*, neither first nor second."""
        return [(n, dek) for n, dek in self._all() if not any(compare_digest(dek, d) for d in other._of(n))]

    def _old_keys(self) -> set[tuple[str, bytes]]:
        return {(key.kind, key.key) for key in (*self.legacy, *self.ended)}

    def _all(self) -> list[tuple[int, bytes]]:
        return [(number, dek) for number in sorted({*self._deks, *self._seconds}) for dek in self._of(number)]

    def _of(self, number: int) -> tuple[bytes, ...]:
        first = (self._deks[number],) if number in self._deks else ()
        return (*first, *self._seconds.get(number, ()))

    @property
    def active_dek(self) -> int:
        """The number of the DEK that seals new records."""
        return self._active

    def _build_codec(self, key: CodecKey) -> RecordCodec:
        loses_names = isinstance(key, WithNames)
        context = key.context if isinstance(key, WithNames) else key
        associations = Associations(self.vault_id, context=context)
        binding, active = self.policy.binding, self._active
        sealed = operations[self.vault_id, active, "seal"]
        opened = {number: self._opened(number) for number in self._deks}
        return RecordCodec(
            Sealer(self._deks[active], active, associations, binding=binding, counts=sealed),
            Opener(self._deks, associations, weakest=binding, counts=opened, seconds=self._seconds),
            names_inside=self.policy.names_inside,
            loses_names=loses_names,
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


class LockedCodecs(dict[CodecKey, RecordCodec]):
    """Replaces the codecs of a locked vault: every lookup raises."""

    def __missing__(self, _: CodecKey) -> RecordCodec:
        raise locked()


def locked() -> VaultLockedError:
    """Return the error for an operation that needs the keys of a locked vault."""
    return VaultLockedError("the vault is locked", hint="open it again")
