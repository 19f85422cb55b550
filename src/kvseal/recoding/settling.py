"""
Settling: after a change of what is written or read, every process follows, and how long that may take.

A process goes by the vault meta that it has read, for `LIMIT` times its `refresh_after` where the store does
not answer.  Until that is over, one may still write as before: an old record after a census that found none,
or a sealed one after the last was brought back.
"""

from __future__ import annotations

from asyncio import sleep
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from kvseal.errors import RecodeError, VaultHeldError
from kvseal.keys.stamps import time_text

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from kvseal.drivers.base import Driver
    from kvseal.vault.vault import Vault

SETTLED_AFTER: Final = timedelta(hours=1)
"""Longer than a process that may hold goes on with an old vault meta: ten times 300 seconds at most."""


async def settles_at(vault: Vault, grace: timedelta = SETTLED_AFTER) -> datetime | None:
    """
    Return until when a process may write as before the last change of the policy, `None` once none does.

    The store's clock and this host's own have to agree that it is over.

    Raises:
        ClocksApartError: this host's clock is not the store's.
        StoreError: the store does not answer.
    """
    write = vault.meta.policy.write
    if write is None or not grace:
        return None
    clocks = await vault.clocks()
    clocks.check("until when an old format may be written")
    ends_at = write.since + grace
    return ends_at if clocks.reached < ends_at else None


async def ended_before(vault: Vault, grace: timedelta) -> frozenset[str]:
    """
    Return the ids of the legacy keys with which reads ended at least *grace* ago.

    The store's clock and this host's own have to agree that it is over.  Without *grace* it is over at once,
    and neither is asked.

    Raises:
        ClocksApartError: this host's clock is not the store's.
        StoreError: the store does not answer.
    """
    ended = {key.id: key.ended_at for key in vault.meta.legacy if key.ended_at is not None}
    if not ended or not grace:
        return frozenset(ended)
    clocks = await vault.clocks()
    clocks.check("when an old key may be dropped")
    return frozenset(key for key, ended_at in ended.items() if ended_at + grace <= clocks.reached)


async def end_legacy(vault: Vault, ended: AbstractSet[str], *, at_once: bool, reads_lag: float = 0.0) -> None:
    """
    End legacy reads after a census that found nothing old, and drop the *ended* legacy keys.

    A key is dropped by a run that began a grace after the end of reads with it: then its census has met what
    a process wrote that followed late.  *at_once* drops all of them, by the word of an operator that no
    process writes an old format any more.  *reads_lag* is that of the store: see `await_reads`.

    Raises:
        VaultError, StoreError: see `Vault`.
    """
    await await_reads(reads_lag)
    policy = vault.keyring.policy
    if policy.read_legacy or policy.read_plaintext:
        await vault.end_legacy_reads()
    if at_once:
        ended = await ended_before(vault, timedelta())
    if ended:
        await vault.drop_legacy_keys(ended)


async def check_settled(vault: Vault, grace: timedelta) -> None:
    """Raise `VaultHeldError` while a process may still write the old format that was held."""
    ends_at = await settles_at(vault, grace)
    if ends_at is not None:
        msg = "a process that has not read the vault meta since the flip may write the old format until {}"
        raise VaultHeldError(
            msg.format(time_text(ends_at)),
            hint="run this again then, or with --grace 0 if every process was restarted since",
        )


def refuse_blindness(driver: Driver) -> None:
    """Raise if a scan does not see every record: a record that it misses may need the old keys."""
    if not driver.capabilities.sees_all:
        msg = f"a scan of {driver.location} sees only the names in a manifest, so nothing can be finalized"
        raise RecodeError(msg, hint="finalize with a driver that can scan the whole store")


async def await_reads(reads_lag: float) -> None:
    """
    Wait until the store's own reads return what was written last.

    Those of some backends lag: an application would read an old record for which there is no key any more.
    """
    if reads_lag:
        await sleep(reads_lag)
