"""
Who holds the keys of an open vault: takes newer metas, forgets the keys, finds the way back to them.

Keys are forgotten by `lock`, and by nobody using them for `idle_timeout` seconds.  What comes after
is as the caller chose: whatever needs a key raises `VaultLockedError`, or unlocks the vault again.  To
unlock again needs no more than what was there before: a reference to a secret, never a secret.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Protocol

from kvseal import audit
from kvseal.errors import Conflict, ForkedMetaError
from kvseal.health import Health
from kvseal.idle import IdleWatch, WatchedCodecs
from kvseal.keys.keyring import Keyring, LockedCodecs, locked
from kvseal.keys.meta import VaultMeta, present
from kvseal.keys.single_flight import SingleFlight
from kvseal.keys.succession import Succession
from kvseal.opening import unlocked
from kvseal.seen import accept
from kvseal.status import VaultStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kvseal.drivers.base import Entry
    from kvseal.envelope.codec import RecordCodec
    from kvseal.keys.freshness import Freshness
    from kvseal.keys.rootkey import RootKey
    from kvseal.keys.unlocker import Unlocker
    from kvseal.metastore import MetaStore
    from kvseal.opening import Opened, Opening


class Change(Protocol):
    """One of `kvseal.keys.changes`, with all but these given."""

    def __call__(self, meta: VaultMeta, root: RootKey, *, now: datetime) -> VaultMeta:
        """Return the next meta."""


class KeyHolder:
    """The keys of one vault, the meta that they came from, and the way back to them."""

    def __init__(self, opening: Opening, opened: Opened, freshness: Freshness) -> None:
        self._opening = opening.kept()
        self._metastore = opened.metastore
        self._memory_ceiling = opening.memory_ceiling
        self._closed = False
        self._unlocking: SingleFlight[None] = SingleFlight()
        seconds = opening.idle_seconds
        self._watch = None if seconds is None else IdleWatch(seconds, self._forget)
        self.freshness = freshness
        """When the vault meta is to be read again; whoever seals looks at it, see `confirm`."""
        self._hold(opened)

    def _hold(self, opened: Opened) -> None:
        self._secret: Unlocker | None = opened.secret
        self._root: RootKey | None = opened.root
        self._slot_id = opened.slot_id
        self._succession = Succession()
        self._opened_at = present()
        self._meta = opened.meta
        if self._watch is not None:
            self._watch.start()
        self._use(opened.keyring)

    def _use(self, keyring: Keyring) -> None:
        self._keyring: Keyring | None = keyring
        self.codecs: Mapping[str, RecordCodec] = keyring.codecs
        """The keyring's codecs by context, a dict hit away for the wrapper."""
        if self._watch is not None:
            self.codecs = WatchedCodecs(keyring.codecs, self._watch)

    @property
    def keyring(self) -> Keyring:
        """The unlocked DEKs.  Raises `VaultLockedError` where they are forgotten."""
        self._unlocked()
        if self._keyring is None:
            raise locked()
        return self._keyring

    @property
    def meta(self) -> VaultMeta:
        """The vault meta that the keyring was made from."""
        return self._meta

    @property
    def metastore(self) -> MetaStore:
        """Where the vault meta lies."""
        return self._metastore

    @property
    def is_locked(self) -> bool:
        """Whether the keys are forgotten, by `lock` or because nobody used them for so long."""
        if self._watch is not None and self._watch.is_over:
            self._forget()
        return self._root is None

    def status(self) -> VaultStatus:
        """Return what the vault meta says: slots, DEKs, policy, legacy keys.  No secret is in it."""
        return VaultStatus.of(
            self._meta,
            location=self._metastore.location,
            opened_by=self._slot_id,
            opened_at=self._opened_at,
        )

    def health(self, *, max_dek_age: timedelta | None = None) -> Health:
        """Return how this vault is, from memory alone; *max_dek_age* takes the place of its policy's."""
        forgotten: Literal["locked", "idle"] | None = None
        if self.is_locked:
            returns = self._opening.when_locked == "unlock" and not self._closed
            forgotten = "idle" if returns else "locked"
        return Health.of(
            self._meta,
            state=forgotten,
            location=self._metastore.location,
            slot_id=self._slot_id,
            freshness=self.freshness,
            max_dek_age=max_dek_age or timedelta(seconds=self._meta.policy.dek_age_limit),
        )

    async def refresh(self) -> bool:
        """
        Read the vault meta again and return whether it changed: another process may have rotated the DEK.

        Where another one has rotated the root key, this one follows with the secret that it holds.

        Raises:
            VaultMetaError: what is there now cannot be believed; the keyring stays as it was.
            RootRotatedError: the secret has no keyslot any more; the keyring stays as it was.
            PinFileError: the pin file cannot be read; the keyring stays as it was.
        """
        root, since = await self._key(), self.freshness.clock()
        _, meta = await self._metastore.expect()
        changed = meta != self._meta
        if changed:
            await self._believe(meta, root)
        else:
            await self._metastore.seen.remember(meta)
        self.freshness.confirm(since)
        return changed

    async def confirm(self) -> None:
        """
        Read the vault meta again if that is due, for whoever is about to seal.

        Raises:
            StaleKeyringError: it has been out of reach for too long; see `kvseal.keys.freshness`.
        """
        # Not within the patience of `renew`, which is shorter than a derivation may be.
        await self.unlock()
        await self.freshness.renew(self.refresh)
        self.freshness.check()

    async def lock(self) -> None:
        """
        Forget every key and the secret.

        What uses this vault then raises `VaultLockedError` until it is opened anew, or, with
        `when_locked="unlock"`, unlocks it again.

        Python cannot promise that no copy is left in memory; see docs/threat-model.md.
        """
        self._forget()

    async def unlock(self) -> None:
        """
        Unlock the vault again, once for all who ask; where it is not locked there is nothing to do.

        Raises:
            VaultLockedError: it was not opened with `when_locked="unlock"`, or is closed.
            VaultError, SecretError, StoreError: as `Vault.open`; the vault stays locked.
        """
        if self.is_locked:
            if self._closed or self._opening.when_locked != "unlock":
                raise locked()
            await self._unlocking.run(self._return)

    async def close(self) -> None:
        """Lock the vault and release what it opened to reach the vault meta; the stores stay open."""
        self._closed = True
        self._forget()
        await self._metastore.close()

    async def _return(self) -> None:
        since = self.freshness.clock()
        found = await unlocked(self._metastore, self._opening)
        if found.meta.vault_id != self._meta.vault_id:
            msg = f"there is another vault in {self._metastore.location} now"
            raise ForkedMetaError(msg, hint="find out who replaced it; open it anew if it was you")
        if self._closed:
            raise locked()
        await self._metastore.seen.remember(found.meta)
        self._hold(found)
        self.freshness.confirm(since)

    def _forget(self) -> None:
        if self._root is not None:
            audit.locked(self._meta.vault_id.hex(), self._meta.revision)
        self._root = None
        self._keyring = None
        self.codecs = LockedCodecs()
        self._secret = None
        self._succession = Succession()

    def _came_in(self, secret: Unlocker, slot_id: str, root: RootKey) -> None:
        """Hold what a rotation ended with, unless another task has locked the vault since."""
        if self._root is not None:
            self._secret, self._slot_id, self._root = secret, slot_id, root
            self._succession = Succession()
            self._opened_at = present()

    def _unlocked(self) -> RootKey:
        if self._watch is not None and self._root is not None:
            self._watch.use()
        if self._root is None:
            raise locked()
        return self._root

    async def _key(self) -> RootKey:
        """Return the root key, after unlocking the vault again if that is to be."""
        await self.unlock()
        return self._unlocked()

    def _return_with(self, secret: Unlocker | str | None) -> None:
        """Unlock again with *secret*, if it is a reference, from now on."""
        if isinstance(secret, str):
            self._opening = replace(self._opening, secret=secret)

    def _take(self, meta: VaultMeta, root: RootKey) -> None:
        """
        Believe *meta* after its MAC, and unlock its DEKs.

        Not where another task has locked the vault, or taken a newer meta, since this one was read.
        """
        keyring = Keyring(meta, root)
        accept(meta)
        if self._root is not None and meta.revision >= self._meta.revision:
            self._meta = meta
            self._use(keyring)

    async def _believe(self, meta: VaultMeta, root: RootKey) -> None:
        """Take *meta*, under *root* or under the root key that *root* has handed over to."""
        secret, slot_id = self._secret, None
        if secret is not None and meta.follows(root):
            root, slot = await self._succession.follow(meta, secret, memory_ceiling=self._memory_ceiling)
            slot_id = slot.id
        meta.verify(root)
        await self._metastore.seen.remember(meta)
        if secret is not None and slot_id is not None and meta.revision >= self._meta.revision:
            self._came_in(secret, slot_id, root)
        self._take(meta, root)

    async def _current(self, root: RootKey) -> tuple[Entry, VaultMeta]:
        entry, meta = await self._metastore.expect()
        if meta.follows(root):
            await self._believe(meta, root)
            msg = f"somebody else has rotated the root key of the vault in {self._metastore.location}"
            raise Conflict(msg, hint="nothing was changed; look at vaultctl status and try again")
        meta.verify(root)
        await self._metastore.seen.remember(meta)
        return entry, meta

    async def _amend(self, change: Change) -> VaultStatus:
        root = await self._key()
        entry, meta = await self._current(root)
        amended = change(meta, root, now=present())
        Keyring(VaultMeta.from_value(amended.as_value()), root)
        await self._metastore.change(entry, amended)
        self._take(amended, root)
        return self.status()
