"""
An open vault: who holds its keys, takes newer metas, forgets the keys and finds the way back to them.

Keys are forgotten by `lock`, and when no caller has used them for `idle_timeout` seconds.  What comes
after is as the caller chose: an operation that needs a key raises `VaultLockedError`, or unlocks the vault
again.  To unlock again needs no more than what was there before: a reference to a secret, never a secret.

Changes of a vault are functions of their own (`secret_rotation`, `root_rotation`, `slots`), which use the
public names of an open vault: `root_key`, `read_current`, `commit` and `amend`.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

from kvseal import clock
from kvseal.concurrency import SingleFlight
from kvseal.errors import (
    Conflict,
    ForeignVaultError,
    ForkedMetaError,
    RolledBackMetaError,
    VaultLockedError,
    VaultMetaError,
    VaultNotFoundError,
)
from kvseal.keys.keyring import Keyring, LockedCodecs, locked
from kvseal.keys.meta import VaultMeta
from kvseal.observe import audit
from kvseal.vault.health import Health
from kvseal.vault.held_format import held_format
from kvseal.vault.idle import UNLOCKINGS, IdleWatch, WatchedCodecs
from kvseal.vault.opening import unlocked
from kvseal.vault.putting_back import put_back_older
from kvseal.vault.seen.newest import accept
from kvseal.vault.status import VaultStatus
from kvseal.vault.store_clock import read_clocks
from kvseal.vault.succession import Succession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.drivers.base import Entry
    from kvseal.envelope.codec import RecordCodec
    from kvseal.errors import VaultError
    from kvseal.keys.changes import Change, StampedChange
    from kvseal.keys.keyring import CodecKey
    from kvseal.keys.rootkey import RootKey
    from kvseal.secrets.sources import Unlocker
    from kvseal.vault.freshness import Freshness
    from kvseal.vault.metastore import MetaStore
    from kvseal.vault.opening import Opened, Opening
    from kvseal.vault.store_clock import Clocks

NOT_OURS: Final = (VaultNotFoundError, ForeignVaultError, VaultMetaError)
"""Definite answers of a store that has lost our vault meta, or holds another one in its place."""

_log = logging.getLogger("kvseal")


@dataclass(frozen=True, slots=True, repr=False)
class WayIn:
    """What opened a vault: a secret or wrap key, the id of its keyslot, and the root key in that."""

    secret: Unlocker
    slot_id: str
    root: RootKey


class OpenVault:
    """The keys of one vault, the meta that they came from, and the way back to them."""

    def __init__(self, opening: Opening, opened: Opened, freshness: Freshness) -> None:
        self._opening = opening.kept()
        self.metastore: MetaStore = opened.metastore
        """Where the vault meta is stored."""
        self.memory_ceiling = opening.memory_ceiling
        """The most memory, in KiB, that a stored keyslot may ask for."""
        self._closed = False
        self._has_forked = False
        self._puts_back_at = -math.inf
        self._unlocking: SingleFlight[None] = SingleFlight()
        seconds = opening.idle_seconds
        self._watch = None if seconds is None else IdleWatch(seconds, self._forget)
        self.freshness = freshness
        """When the vault meta is to be read again; a writer looks at it before it seals, see `confirm`."""
        self._hold(opened)

    def _hold(self, opened: Opened) -> None:
        self._enter(WayIn(opened.secret, opened.slot_id, opened.root))
        if self._watch is not None:
            self._watch.start()
        self._go_by(opened.meta, opened.keyring)

    def _enter(self, way_in: WayIn) -> None:
        self._way_in: WayIn | None = way_in
        self.slot_id = way_in.slot_id
        """The id of the keyslot that opened this vault."""
        self.opened_at = clock.utc_seconds()
        """When it did."""
        self._succession = Succession()

    def _go_by(self, meta: VaultMeta, keyring: Keyring) -> None:
        self._meta = meta
        self.freshness.go_by(meta, holds=self.holds)
        self._keyring: Keyring | None = keyring
        self.codecs: Mapping[CodecKey, RecordCodec] = keyring.codecs
        """The keyring's codecs by context, a dict hit away for the wrapper."""
        if self._watch is not None:
            self.codecs = WatchedCodecs(keyring.codecs, self._watch)

    @property
    def keyring(self) -> Keyring:
        """The unlocked DEKs.  Raises `VaultLockedError` where they are forgotten."""
        self.way_in()
        if self._keyring is None:
            raise locked()
        return self._keyring

    @property
    def meta(self) -> VaultMeta:
        """The vault meta that the keyring was made from."""
        return self._meta

    @property
    def holds(self) -> bool:
        """Whether new values are not sealed: an old format is held, or this process waits for one to be."""
        return self._meta.policy.holds or (self._opening.hold is not None and self._meta.policy.write is None)

    def held_format(self) -> str:
        """
        Return the old format that new values are written in, `fernet` for example.

        Raises:
            HoldNotPermittedError, VaultHeldError: see `kvseal.vault.held_format`.
        """
        held = self.keyring.writes_with
        return held_format(self._meta.policy.write, None if held is None else held.kind, self._opening.hold)

    @property
    def is_locked(self) -> bool:
        """Whether the keys are forgotten, by `lock` or because no caller used them for so long."""
        if self._watch is not None and self._watch.is_over:
            self._forget()
        return self._way_in is None

    def status(self) -> VaultStatus:
        """Return what the vault meta says: slots, DEKs, policy, legacy keys.  No secret is in it."""
        return VaultStatus.of(
            self._meta, location=self.metastore.location, opened_by=self.slot_id, opened_at=self.opened_at
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
            location=self.metastore.location,
            slot_id=self.slot_id,
            freshness=self.freshness,
            max_dek_age=max_dek_age or timedelta(seconds=self._meta.policy.dek_age_limit),
        )

    async def refresh(self) -> bool:
        """
        Read the vault meta again and return whether it changed: another process may have rotated the DEK.

        Where another one has rotated the root key, this one follows with the secret that it holds.  Where
        the store has lost the last changes, as in a failover, this process puts them back if that loses no
        key; see `kvseal.vault.putting_back`.

        Raises:
            VaultNotFoundError, ForeignVaultError, VaultMetaError: the store holds no vault meta, or none that
                can be believed.  The keyring stays as it was, and nothing is sealed with it until the
                store holds it again.
            RootRotatedError: the secret has no keyslot any more; the keyring stays as it was.
            PinFileError: the pin file cannot be read; the keyring stays as it was.
        """
        root, since = await self.root_key(), self.freshness.clock()
        try:
            changed = await self._look(root)
        except NOT_OURS as exc:
            # Before anything is mended: the store may fail, hang or go back once more meanwhile.
            self._refute(exc)
            if not await self._mended(exc, root):
                raise
            changed = await self._look(root)
        self.freshness.confirm(since)
        return changed

    async def confirm(self) -> None:
        """
        Read the vault meta again if that is due, for a caller that is about to seal.

        Raises:
            StaleKeyringError: it has been out of reach for too long; see `kvseal.vault.freshness`.
        """
        for _ in range(UNLOCKINGS):
            # Not within the patience of `renew`, which is shorter than a derivation may be.
            await self.unlock()
            with suppress(VaultLockedError):
                await self.freshness.renew(self.refresh)
                return self.freshness.check()
        raise locked()

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
            await self._unlocking.run(self._unlock_again)

    def unlock_with(self, secret: Unlocker | str | None) -> None:
        """Unlock again with *secret*, if it is a reference, from now on."""
        if isinstance(secret, str):
            self._opening = replace(self._opening, secret=secret)

    async def close(self) -> None:
        """Lock the vault and release what it opened to reach the vault meta; the stores stay open."""
        self._closed = True
        self._forget()
        await self.metastore.close()

    def way_in(self) -> WayIn:
        """Return what opened the vault, which is a use of its keys; raises `VaultLockedError`."""
        if self._watch is not None and self._way_in is not None:
            self._watch.use()
        if self._way_in is None:
            raise locked()
        return self._way_in

    async def root_key(self) -> RootKey:
        """Return the root key, after unlocking the vault again if that is to be."""
        await self.unlock()
        return self.way_in().root

    async def read_current(self, root: RootKey, *, despite_unknown: bool = False) -> tuple[Entry, VaultMeta]:
        """
        Return the vault meta as it is stored now, and the entry that a change of it replaces.

        Raises:
            UnknownExtensionError: it has a critical part of a later kvseal, unless *despite_unknown*.
            Conflict: another process has rotated the root key; this one has followed.
            VaultNotFoundError, VaultMetaError: it is missing, or cannot be believed.
        """
        entry, meta = await self.metastore.expect()
        if meta.follows(root):
            await self._believe(meta, root)
            msg = f"another process has rotated the root key of the vault in {self.metastore.location}"
            raise Conflict(msg, hint="nothing was changed; look at vaultctl status and try again")
        meta.verify(root)
        await self.metastore.seen.remember(meta)
        if not despite_unknown:
            meta.refuse_unknown()
        return entry, meta

    async def commit(
        self, entry: Entry, meta: VaultMeta, keyring: Keyring, *, way_in: WayIn | None = None
    ) -> tuple[Entry, VaultMeta]:
        """
        Write *meta* in place of *entry*, read it back, and go on with *keyring*, and with *way_in* if given.

        *keyring* proves that *meta* opens: it was made from the very bytes that are written.  Returns what
        was read back.  A vault that another task has locked meanwhile stays locked.

        Raises:
            Conflict: another process changed the vault meta first; nothing was written.
            VaultMetaError: the backend does not give back what was written, nor a genuine change of it.
        """
        stored = await self.metastore.change(entry, meta)
        if way_in is not None and self._way_in is not None:
            self._enter(way_in)
        self.take(meta, keyring)
        if stored[1] != meta and not self.is_locked:
            # A change that came after ours, or a forgery: its revision alone proves nothing.
            await self.refresh()
        return stored

    async def clocks(self) -> Clocks:
        """Return what time it is, by the store of the vault meta and by this host."""
        return await read_clocks(self.metastore.driver)

    async def amend(
        self, change: Change | StampedChange, *, stamps: bool = False, despite_unknown: bool = False
    ) -> VaultStatus:
        """
        Make one change that leaves the ways in as they are; raises like `read_current` and `commit`.

        One that *stamps* gets the store's time too, asked for last: nothing but the write comes after.
        """
        root = await self.root_key()
        entry, meta = await self.read_current(root, despite_unknown=despite_unknown)
        clocks = await self.clocks()
        amended = change(meta, root, now=clocks.reached, **({"at": clocks.stamp} if stamps else {}))
        keyring = Keyring(VaultMeta.from_value(amended.as_value()), root)
        await self.commit(entry, amended, keyring)
        return self.status()

    async def _look(self, root: RootKey) -> bool:
        _, meta = await self.metastore.expect()
        if meta == self._meta:
            await self.metastore.seen.remember(meta)
            return False
        await self._believe(meta, root)
        return True

    async def _mended(self, error: VaultError, root: RootKey) -> bool:
        """Whether the newest vault meta was put back over an older one, at most once per `refresh_after`."""
        now = self.freshness.clock()
        if not isinstance(error, RolledBackMetaError) or self._has_forked or now < self._puts_back_at:
            return False
        self._puts_back_at = now + self.freshness.refresh_after
        if not await put_back_older(self.metastore, self._meta, self.keyring, root):
            return False
        _log.warning("%s; revision %d was put back", error.message, self._meta.revision)
        return True

    def _refute(self, error: VaultError) -> None:
        if not self.freshness.is_refuted:
            _log.error("nothing is sealed any more: %s", error.message)
            audit.refuted(self._meta.vault_id.hex(), self._meta.revision, error)
        self._has_forked |= isinstance(error, ForkedMetaError)
        self.freshness.refute(error)

    async def _unlock_again(self) -> None:
        since = self.freshness.clock()
        found = await unlocked(self.metastore, self._opening)
        if found.meta.vault_id != self._meta.vault_id:
            msg = f"there is another vault in {self.metastore.location} now"
            raise ForkedMetaError(msg, hint="find out who replaced it; open it anew if it was you")
        if self._closed:
            raise locked()
        await self.metastore.seen.remember(found.meta)
        self._hold(found)
        self.freshness.confirm(since)

    def _forget(self) -> None:
        if self._way_in is not None:
            audit.locked(self._meta.vault_id.hex(), self._meta.revision)
        self._way_in = None
        self._keyring = None
        self.codecs = LockedCodecs()
        self._succession = Succession()

    async def _believe(self, meta: VaultMeta, root: RootKey) -> None:
        """Take *meta*, under *root* or under the root key that *root* has handed over to."""
        way_in, successor = self._way_in, None
        if way_in is not None and meta.follows(root):
            root, slot = await self._succession.follow(
                meta, way_in.secret, memory_ceiling=self.memory_ceiling
            )
            successor = WayIn(way_in.secret, slot.id, root)
        keyring = Keyring(meta, root)
        lost = None if self._keyring is None else self._keyring.lost_in(keyring)
        if lost is not None:
            msg = f"the vault meta in {self.metastore.location} has another DEK {lost} than this process"
            raise ForkedMetaError(
                msg, hint="a rotation was lost and made again; this process has the lost DEK"
            )
        await self.metastore.seen.remember(meta)
        if successor is not None and self._way_in is not None and meta.revision >= self._meta.revision:
            self._enter(successor)
        self.take(meta, keyring)

    def take(self, meta: VaultMeta, keyring: Keyring) -> None:
        """
        Go on with *meta* and the *keyring* in it, whose making has verified the MAC.

        Not where another task has locked the vault, or taken a newer meta, since this one was read.
        """
        accept(meta)
        if self._way_in is not None and meta.revision >= self._meta.revision:
            self._go_by(meta, keyring)
