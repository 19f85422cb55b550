"""From an old vault to a sealed one: survey, vault, recode, in the order in which nothing can be lost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvseal.envelope.aead import KEY_SIZE
from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.kdf import Argon2idParams
from kvseal.envelope.record import VAULT_ID_SIZE
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.metastore import MetaStore, driver_of
from kvseal.recode.codecs import SealedTarget
from kvseal.recode.engine import recode
from kvseal.recode.events import ignore
from kvseal.recode.plan import PlaintextRule, migration
from kvseal.recode.survey import survey
from kvseal.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.base import Driver
    from kvseal.keys.secret import Secret
    from kvseal.legacy import LegacyCodec
    from kvseal.recode.events import Listener
    from kvseal.recode.report import Report
    from kvseal.status import VaultStatus


@dataclass(frozen=True, slots=True)
class Migration:
    """What a migration did; `vault` is `None` after a dry run over a store that has no vault yet."""

    report: Report
    vault: VaultStatus | None


async def migrate(
    store: AsyncKeyValue | Driver,
    legacy: Sequence[LegacyCodec],
    *,
    secret: Secret | str | None = None,
    to: AsyncKeyValue | Driver | None = None,
    meta_store: AsyncKeyValue | Driver | None = None,
    kdf: Argon2idParams = Argon2idParams.RFC_9106_LOW_MEMORY,
    plaintext: PlaintextRule = PlaintextRule.REFUSE,
    context: str = "",
    dry_run: bool = False,
    command: str = "migrate",
    listener: Listener = ignore,
) -> Migration:
    """
    Re-seal what *legacy* opens, in place or as copies in the store *to*; the vault is created if need be.

    The whole store is surveyed before the first write, the vault included.

    Raises:
        WrongLegacyKeyError, PlaintextFoundError: found by the survey; nothing was written.
        VaultError, SecretError, StoreError: see `Vault`.
    """
    source = driver_of(store)
    try:
        found = await survey(source, legacy, plaintext=plaintext, listener=listener)
        vault = await _vault(to or store, secret, kdf, meta_store, dry_run=dry_run)
        try:
            target = _throwaway_target() if vault is None else SealedTarget(vault.keyring.codec(context))
            plan = migration(target, legacy, command=command, plaintext=plaintext, dry_run=dry_run)
            report = await recode(source, plan, to=to, total=found.total, listener=listener)
            return Migration(report, None if vault is None else vault.status())
        finally:
            if vault is not None:
                await vault.close()
    finally:
        if source is not store:
            await source.close()


async def _vault(
    store: AsyncKeyValue | Driver,
    secret: Secret | str | None,
    kdf: Argon2idParams,
    meta_store: AsyncKeyValue | Driver | None,
    *,
    dry_run: bool,
) -> Vault | None:
    if dry_run:
        async with MetaStore.reached(meta_store or store) as metastore:
            exists = await metastore.load() is not None
            await metastore.close()
        return await Vault.open(store, secret=secret, meta_store=meta_store) if exists else None
    return await Vault.open_or_create(store, secret=secret, kdf=kdf, meta_store=meta_store)


def _throwaway_target() -> SealedTarget:
    """Return a target whose keys nobody keeps, so that a dry run without a vault seals like a real one."""
    associations = Associations(os.urandom(VAULT_ID_SIZE))
    return SealedTarget(RecordCodec(Sealer(os.urandom(KEY_SIZE), 1, associations), Opener({}, associations)))
