"""
The old format that a process writes while the vault's policy holds it: both have to agree.

The policy orders and the process permits.  If the policy alone decided, an older vault meta that an attacker
puts back could make a process write plaintext.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.errors import HoldNotPermittedError, VaultHeldError

if TYPE_CHECKING:
    from kvseal.keys.policy import WritePolicy


def held_format(write: WritePolicy | None, kind: str | None, permitted: str | None) -> str:
    """
    Return the format that *write* orders: the *kind* of its key, or what it says itself.

    Raises:
        HoldNotPermittedError: this process has *permitted* another format, or none.
        VaultHeldError: it has permitted one, and the vault was never told to hold any.
    """
    if write is None:
        msg = f"this process holds {permitted} records, and the vault was not told to"
        raise VaultHeldError(msg, hint="vaultctl policy hold, or leave hold= out; nothing was written")
    ordered = kind or write.form
    if ordered != permitted:
        msg = f"the vault's policy holds {ordered} records, which this process does not permit"
        hint = f"configure it with hold={ordered!r}, or vaultctl policy seal; nothing was written"
        raise HoldNotPermittedError(msg, hint=hint)
    return ordered
