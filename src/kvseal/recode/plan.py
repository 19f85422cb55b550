"""What a recode is to do, as a value: made once, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from kvseal.errors import PlaintextRecordError
from kvseal.legacy import FernetCodec, PlaintextCodec
from kvseal.recode.codecs import LegacySource, RefusedSource, SealedTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.legacy import LegacyCodec
    from kvseal.recode.codecs import Source, Target
    from kvseal.vault import Vault


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
    """

    command: str
    sources: tuple[Source, ...]
    target: Target
    leaves: tuple[Source, ...] = ()
    dry_run: bool = False
    verify: bool = True

    @property
    def known(self) -> tuple[Source, ...]:
        """Every format that has a name in this plan."""
        return (self.target, *self.sources, *self.leaves)


def migration(
    target: Target,
    legacy: Sequence[LegacyCodec],
    *,
    command: str = "migrate",
    plaintext: PlaintextRule = PlaintextRule.REFUSE,
    dry_run: bool = False,
) -> Plan:
    """Return the plan that re-seals with *target* what is of a *legacy* format and, if told so, plaintext."""
    unencrypted = LegacySource(PlaintextCodec())
    sources: list[Source] = [LegacySource(codec) for codec in legacy]
    if plaintext is PlaintextRule.SEAL:
        sources.append(unencrypted)
    elif plaintext is PlaintextRule.REFUSE:
        sources.append(RefusedSource(PlaintextCodec(), PlaintextRecordError("the record is not encrypted")))
    return Plan(
        command=command,
        sources=tuple(sources),
        target=target,
        leaves=(unencrypted,) if plaintext is PlaintextRule.SKIP else (),
        dry_run=dry_run,
    )


def reencryption(vault: Vault, *, context: str = "", dry_run: bool = False) -> Plan:
    """Return the plan that re-seals with the active DEK every record that an older one sealed."""
    sealed = SealedTarget(vault.keyring.codec(context))
    legacy = (FernetCodec(()), PlaintextCodec())
    leaves = tuple(LegacySource(codec) for codec in legacy)
    return Plan(command="reencrypt", sources=(sealed,), target=sealed, leaves=leaves, dry_run=dry_run)
