"""
The `secret=` of the API: a `Secret`, a wrap key, a reference to either, or none for the default.

A `str` is always a reference, so that a typing error never becomes a password.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from kvseal.concurrency import in_thread
from kvseal.secrets.defaults import default_secret
from kvseal.secrets.generation import generate_default_secret
from kvseal.secrets.secret import Secret
from kvseal.secrets.sources import check_unlocker, resolve_unlocker
from kvseal.wrapkeys import SCHEMES, WrapKey

if TYPE_CHECKING:
    from kvseal.secrets.sources import Unlocker

_log = logging.getLogger("kvseal")


def check_secret(secret: Unlocker | str | None) -> None:
    """Raise at once for a `str` that is no reference, so that a typing error never becomes a password."""
    if isinstance(secret, str):
        check_unlocker(secret)
    elif secret is not None and not isinstance(secret, (Secret, WrapKey)):
        msg = (
            f"a secret is a Secret, a WrapKey or a reference such as 'env:NAME', not {type(secret).__name__}"
        )
        raise TypeError(msg)


def names_wrap_key(secret: Unlocker | str | None) -> bool:
    """Whether *secret* is a wrap key or a reference to one; nothing is read or asked."""
    return secret.partition(":")[0] in SCHEMES if isinstance(secret, str) else isinstance(secret, WrapKey)


async def secret_for_opening(secret: Unlocker | str | None) -> Unlocker:
    """Return what *secret* points at, read in a thread, or the default."""
    if secret is None:
        return await in_thread(default_secret)
    return await _resolved(secret, confirm=False)


async def new_secret_for(secret: Unlocker | str) -> Unlocker:
    """Return what *secret* points at; a person types a new secret twice."""
    return await _resolved(secret, confirm=True)


async def _resolved(secret: Unlocker | str, *, confirm: bool) -> Unlocker:
    check_secret(secret)
    if not isinstance(secret, str):
        return secret
    return await in_thread(partial(resolve_unlocker, secret, confirm=confirm))


async def secret_for_creation(secret: Unlocker | str | None) -> Unlocker:
    """Return what *secret* points at, or the default, which is generated where there is none."""
    if secret is not None:
        return await new_secret_for(secret)
    chosen, kept_at = await in_thread(generate_default_secret)
    if kept_at is not None:
        _log.warning("the master secret of the new vault was generated into %s: back it up", kept_at)
    return chosen
