"""What a recode is to do, as a value: made once, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from kvseal.errors import PlaintextRecordError
from kvseal.legacy import FernetCodec, PlaintextCodec, codecs_for
from kvseal.recoding.formats import FernetTarget, LegacySource, RefusedSource, SealedTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.legacy import LegacyCodec
    from kvseal.recoding.formats import Source, Target
    from kvseal.vault.vault import Vault


class PlaintextRule(Enum):
    """What becomes of records that nobody encrypted."""

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

    What *target* would not write any differently is left alone, and so is what one of
    *leaves* recognises.  With *dry_run* everything is opened and sealed, and nothing written.
    A *vault* keeps the lease and the checkpoint; without one, nothing keeps two runs apart.
    *prepared* is what the checkpoint remembers: what comes before the first write, a backup, is done.
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
    """Every format that has a name in this plan; what is left alone before what is refused."""

    def __post_init__(self) -> None:
        """Order the formats once: every entry is held against them."""
        refused = tuple(source for source in self.sources if isinstance(source, RefusedSource))
        opened = (source for source in self.sources if source not in refused)
        object.__setattr__(self, "known", (self.target, *opened, *self.leaves, *refused))

    async def refresh(self) -> bool:
        """Read the vault meta again; whether it has changed."""
        return self.vault is not None and await self.vault.refresh()

    async def confirm(self) -> None:
        """Have the vault meta read again if that is due, before something is sealed."""
        if self.vault is not None:
            await self.vault.confirm()


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
    Return the plan that re-seals with *target* what is of a *legacy* format and, if told so, plaintext.

    What a codec of *leaves* recognises is left as it is.
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
    """Return the plan that re-seals with the active DEK every record that an older one sealed."""
    sealed = SealedTarget.of(vault, context)
    held = codecs_for((key.kind, key.key) for key in vault.keyring.legacy)
    leaves = tuple(LegacySource(codec) for codec in (FernetCodec(()), *held, PlaintextCodec()))
    return Plan("reencrypt", (sealed,), sealed, leaves, dry_run=dry_run, vault=vault)


def plan_rollback(vault: Vault, fernet: FernetCodec, *, context: str = "", dry_run: bool = False) -> Plan:
    """Return the plan that turns every record of *vault* into one for py-key-value's Fernet wrapper."""
    return Plan(
        command="migrate-to-fernet",
        sources=(SealedTarget.of(vault, context),),
        target=FernetTarget(fernet),
        leaves=(LegacySource(PlaintextCodec()),),
        dry_run=dry_run,
        vault=vault,
    )
