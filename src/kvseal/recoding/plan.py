"""The plan of a recode, as a value: made once, and checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from kvseal.errors import PlaintextRecordError, VaultHeldError
from kvseal.legacy import FernetCodec, PlaintextCodec, codecs_for
from kvseal.recoding.formats import LegacySource, LegacyTarget, RefusedSource, SealedTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.legacy import LegacyCodec, SealingCodec
    from kvseal.recoding.formats import Source, Target
    from kvseal.vault.vault import Vault


class PlaintextRule(Enum):
    """What to do with records that are not encrypted."""

    REFUSE = "refuse"
    """Stop before the first write."""
    SKIP = "skip"
    """Leave them as they are."""
    SEAL = "seal"
    """Seal them too."""


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Open with the first of *sources* that recognises an entry, seal with *target*.

    An entry stays as it is if *target* would not change it, or if one of *leaves* recognises it.  With
    *dry_run* every record is opened and sealed, and nothing is written.  The *vault* keeps the lease
    and the checkpoint; without a vault, nothing prevents two runs at the same time.  *prepared* goes
    into the checkpoint: the steps before the first write, such as a backup, are done.
    """

    command: str
    sources: tuple[Source, ...]
    target: Target
    leaves: tuple[Source, ...] = ()
    dry_run: bool = False
    verify: bool = True
    vault: Vault | None = None
    prepared: bool = False
    known: tuple[Source, ...] = field(init=False, repr=False, compare=False)
    """Every format that this plan can name; formats to leave alone before formats to refuse."""

    def __post_init__(self) -> None:
        """Order the formats once, because every entry is compared with them."""
        refused = tuple(source for source in self.sources if isinstance(source, RefusedSource))
        opened = (source for source in self.sources if source not in refused)
        object.__setattr__(self, "known", (self.target, *opened, *self.leaves, *refused))

    def on(self, *, loses_names: bool) -> Plan:
        """Return this plan for a destination that loses names, or keeps them."""
        if not isinstance(self.target, SealedTarget):
            return self
        target = self.target.on(loses_names=loses_names)
        sources = tuple(target if source is self.target else source for source in self.sources)
        return replace(self, target=target, sources=sources)

    async def refresh(self) -> bool:
        """Read the vault meta again, and return whether it has changed."""
        return self.vault is not None and await self.vault.refresh()

    async def confirm(self) -> None:
        """Read the vault meta again if that is due, before a record is sealed."""
        if self.vault is not None:
            await self.vault.confirm()
            if self.vault.holds and self.seals_old_formats and not self.dry_run:
                msg = "the vault's policy holds new values in the old format, and this would seal them"
                raise VaultHeldError(
                    msg, hint="vaultctl policy seal first; what is sealed already stays sealed"
                )

    @property
    def seals_old_formats(self) -> bool:
        """Whether a record in an old format is sealed by this."""
        return isinstance(self.target, SealedTarget) and any(
            not isinstance(source, SealedTarget | RefusedSource) for source in self.sources
        )


def plan_migration(
    target: Target,
    legacy: Sequence[LegacyCodec],
    *,
    command: str = "migrate",
    plaintext: PlaintextRule = PlaintextRule.REFUSE,
    leaves: Sequence[LegacyCodec] = (),
    vault: Vault | None = None,
    dry_run: bool = False,
    verify: bool = True,
) -> Plan:
    """
    Return the plan that re-seals *legacy* records with *target*, and plaintext if the rule says so.

    Records that a codec of *leaves* recognises are not changed.
    """
    unencrypted = LegacySource(PlaintextCodec())
    sources: list[Source] = [LegacySource(codec) for codec in legacy]
    left: list[Source] = [LegacySource(codec) for codec in leaves]
    if plaintext is PlaintextRule.SEAL:
        sources.append(unencrypted)
    elif plaintext is PlaintextRule.SKIP:
        left.append(unencrypted)
    else:
        sources.append(RefusedSource(PlaintextCodec(), PlaintextRecordError("the record is not encrypted")))
    return Plan(
        command=command,
        sources=tuple(sources),
        target=target,
        leaves=tuple(left),
        dry_run=dry_run,
        verify=verify,
        vault=vault,
    )


def plan_reencryption(vault: Vault, *, context: str = "", dry_run: bool = False) -> Plan:
    """Return the plan that re-seals every record of an older DEK with the active DEK."""
    sealed = SealedTarget.of(vault, context)
    held = codecs_for((key.kind, key.key) for key in vault.keyring.legacy)
    leaves = tuple(LegacySource(codec) for codec in (FernetCodec(()), *held, PlaintextCodec()))
    return Plan("reencrypt", (sealed,), sealed, leaves, dry_run=dry_run, vault=vault)


def plan_rollback(
    vault: Vault,
    codec: SealingCodec,
    *,
    command: str = "migrate-to-fernet",
    context: str = "",
    dry_run: bool = False,
) -> Plan:
    """Return the plan that converts every record of *vault* to one that *codec* writes."""
    return Plan(
        command=command,
        sources=(SealedTarget.of(vault, context),),
        target=LegacyTarget(codec),
        leaves=(LegacySource(PlaintextCodec()),),
        dry_run=dry_run,
        vault=vault,
    )
