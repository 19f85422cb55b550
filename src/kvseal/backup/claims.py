"""
The names that records of a backup carry, for a restore into a store that keeps names in another way.

A backup needs no secret, so of an entry whose names the store does not give back it has the place alone,
`FOLDER/FILE`.  The record there may say its names, and with the vault's secret a restore can read them.
A file that was copied or moved says the names of another place, so they are believed only

* if they lead to the place, by the rule of py-key-value's V1 strategies; or
* if that rule leads from no record of the backup to its place, so that the store kept names by another rule,
  which a backup does not have, and no entry in another place claims the same names, or has them.

An entry that was changed while the backup was taken is in it twice, in one place.  What is kept in memory
is two hashes of 16 bytes for each entry.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from kvseal import clock
from kvseal.backup.file import is_meta
from kvseal.backup.needed_deks import meta_in
from kvseal.concurrency import in_thread
from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING
from kvseal.envelope.record import name_field
from kvseal.envelope.stored import has_names_inside
from kvseal.errors import RecordError, StoreError, WrongSecretError
from kvseal.keys.keyring import Keyring
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.keys.unlocking import unlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from kvseal.drivers.base import Driver, Entry
    from kvseal.envelope.codec import RecordCodec
    from kvseal.keys.meta import VaultMeta
    from kvseal.secrets.sources import Unlocker

    Rule: TypeAlias = Callable[[str, str, str], bool]
    """Whether collection and key lead to the path `FOLDER/FILE`."""


class RefusedClaimError(StoreError):
    """The names that a record carries are not those of its place, or another entry claims them, too."""


class Claims:
    """The names that the entries of a backup claim or have, as its first reading has found them."""

    def __init__(self, codecs: Sequence[RecordCodec], rule: Rule) -> None:
        self._codecs = codecs
        self._rule = rule
        self._is_by_rule = False
        self._places: dict[bytes, bytes] = {}
        self._claimed_twice: set[bytes] = set()

    def add(self, entries: Iterable[Entry]) -> None:
        """Note what *entries* claim; blocks."""
        for entry in entries:
            if entry.collection is not None and entry.key is not None:
                self._note((entry.collection, entry.key), "")
            elif (names := self._names_in(entry)) is not None:
                self._note(names, entry.path or "")
                self._is_by_rule |= self._rule(*names, entry.path or "")

    def _note(self, names: tuple[str, str], path: str) -> None:
        mark, place = _mark(names), _hash(path.encode("utf-8", "surrogatepass"))
        if self._places.setdefault(mark, place) != place:
            self._claimed_twice.add(mark)

    def named(self, entry: Entry) -> Entry:
        """
        Return *entry* with the names that it carries, if it has a path instead and they can be read.

        Raises:
            RefusedClaimError: the names are not to be believed.
        """
        names = self._names_in(entry)
        if names is None:
            return entry
        if self._is_by_rule and not self._rule(*names, entry.path or ""):
            msg = "the record in it is that of another name: it was copied or moved there"
            raise RefusedClaimError(msg)
        if not self._is_by_rule and _mark(names) in self._claimed_twice:
            msg = "another entry of the backup claims the names of the record in it, too"
            raise RefusedClaimError(
                msg, hint="restore into a store of the same kind, and find out which it is"
            )
        return replace(entry, collection=names[0], key=names[1], names_inside=True)

    def _names_in(self, entry: Entry) -> tuple[str, str] | None:
        if entry.path is None or entry.value is None or not has_names_inside(entry.value):
            return None
        for codec in self._codecs:
            try:
                return codec.names_in(entry.value)
            except RecordError:
                continue
        return None


class NamesInside:
    """The names in the records of one backup, which *secret* opens under one of *contexts*."""

    def __init__(self, secret: Unlocker, contexts: Sequence[str]) -> None:
        self._secret = secret
        self._contexts = contexts
        self._claims: Claims | None = None

    async def look_at(self, batch: Sequence[Entry], metas: Driver) -> None:
        """
        Note what a *batch* of the first reading claims; the vault meta is the first entry, or in *metas*.

        Raises:
            WrongSecretError: the secret opens neither.
            VaultError: the one that it opens is not genuine.
        """
        if self._claims is None:
            saved = meta_in(batch[0]) if is_meta(batch[0]) else None
            present = meta_in(await metas.get(META_COLLECTION, META_KEY))
            self._claims = Claims(await self._codecs([saved, present]), v1_rule())
        await in_thread(self._claims.add, batch)

    async def believed(self, batch: Sequence[Entry]) -> tuple[list[Entry], list[tuple[Entry, StoreError]]]:
        """Return *batch* with the names that its records carry, and apart from it what is refused."""
        return await in_thread(self._believed, batch)

    def _believed(self, batch: Sequence[Entry]) -> tuple[list[Entry], list[tuple[Entry, StoreError]]]:
        believed: list[Entry] = []
        refused: list[tuple[Entry, StoreError]] = []
        for entry in batch:
            try:
                believed.append(entry if self._claims is None else self._claims.named(entry))
            except RefusedClaimError as exc:
                refused.append((entry, exc))
        return believed, refused

    async def _codecs(self, metas: Iterable[VaultMeta | None]) -> list[RecordCodec]:
        error = WrongSecretError("no vault meta was seen that could open the records", hint="--meta-store")
        for meta in metas:
            if meta is None:
                continue
            now, ceiling = clock.utc_seconds(), DEFAULT_MEMORY_CEILING
            try:
                root, _ = await unlock(
                    meta.slots, self._secret, meta.vault_id, now=now, memory_ceiling=ceiling
                )
            except WrongSecretError as exc:
                error = exc
                continue
            keyring = Keyring(meta, root)
            return [keyring.codecs[context] for context in self._contexts]
        raise error


def marked(entry: Entry) -> Entry:
    """Return *entry* marked if its record carries its names, so that a driver writes none beside it."""
    return replace(entry, names_inside=True) if has_names_inside(entry.value or {}) else entry


def v1_rule() -> Rule:
    """Return the rule of V1, by which nothing leads anywhere if the extra for file tree stores is missing."""
    try:
        from kvseal.drivers.filetree.names import leads_by_v1  # noqa: PLC0415 - an optional library
    except ImportError:
        return _nowhere
    return leads_by_v1


def _nowhere(_: str, __: str, ___: str) -> bool:
    return False


def _mark(names: tuple[str, str]) -> bytes:
    return _hash(name_field(names[0]) + name_field(names[1]))


def _hash(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()
