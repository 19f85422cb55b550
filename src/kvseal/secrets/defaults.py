"""
The secret that is used when none is named, and the one place where a secret is ever generated.

The order is KVSEAL_MASTER_KEY, the file that KVSEAL_MASTER_KEY_FILE names, the
keyring, the key file in the user's data directory.  Only the creation of a vault
may generate, and what it generates is stored and read back before it is used.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from platformdirs import user_data_path

from kvseal.errors import SecretNotFoundError
from kvseal.secrets.key_file import write_key_file
from kvseal.secrets.secret import Secret, generate
from kvseal.secrets.sources import (
    check_unlocker,
    read_key_file,
    read_keyring,
    resolve,
    resolve_unlocker,
    write_keyring,
)
from kvseal.wrapkeys import SCHEMES, WrapKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvseal.secrets.sources import Unlocker

_log = logging.getLogger("kvseal")

VARIABLE: Final = "KVSEAL_MASTER_KEY"
FILE_VARIABLE: Final = "KVSEAL_MASTER_KEY_FILE"
KEYRING_SERVICE: Final = "kvseal"
KEYRING_USER: Final = "master-secret"


def default_key_file() -> Path:
    """Return where a generated secret is kept on a machine without a keyring."""
    return user_data_path("kvseal", appauthor=False) / "master.key"


def default_secret() -> Secret:
    """
    Return the first secret of the default order.

    Raises:
        SecretNotFoundError: none of them exists, or the keyring is there but locked.
        EmptySecretError: a variable is set but empty.
    """
    secret = _find()
    if secret is None:
        msg = f"no master secret: neither {VARIABLE} nor {FILE_VARIABLE} is set, and none was generated here"
        raise SecretNotFoundError(msg, hint=f"set {VARIABLE}, or name a source such as file:PATH")
    return secret


def generate_default_secret() -> tuple[Secret, str | None]:
    """
    Return the default secret; if there was none, a generated one and where it is kept.

    Of several processes that start at once, one generates and all return the same secret.
    """
    with _only_one():
        found = _find()
        if found is not None:
            return found, None
        secret = generate()
        if _usable_keyring():
            write_keyring(KEYRING_SERVICE, KEYRING_USER, secret.reveal())
        else:
            write_key_file(default_key_file(), secret.reveal() + b"\n")
        if default_secret() != secret:
            msg = f"the generated secret could not be read back from {_kept_at()}"
            raise SecretNotFoundError(msg, hint=f"set {VARIABLE}, or name a source such as file:PATH")
        return secret, _kept_at()


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
        return await asyncio.to_thread(default_secret)
    return await _resolved(secret, confirm=False)


async def new_secret_for(secret: Unlocker | str) -> Unlocker:
    """Return what *secret* points at; a person types a new secret twice."""
    return await _resolved(secret, confirm=True)


async def _resolved(secret: Unlocker | str, *, confirm: bool) -> Unlocker:
    check_secret(secret)
    if not isinstance(secret, str):
        return secret
    return await asyncio.to_thread(partial(resolve_unlocker, secret, confirm=confirm))


async def secret_for_creation(secret: Unlocker | str | None) -> Unlocker:
    """Return what *secret* points at, or the default, which is generated where there is none."""
    if secret is not None:
        return await new_secret_for(secret)
    chosen, kept_at = await asyncio.to_thread(generate_default_secret)
    if kept_at is not None:
        _log.warning("the master secret of the new vault was generated into %s: back it up", kept_at)
    return chosen


def _find() -> Secret | None:
    if VARIABLE in os.environ:
        return resolve(f"env:{VARIABLE}")
    if FILE_VARIABLE in os.environ:
        return resolve(f"file:{os.environ[FILE_VARIABLE]}")
    if _usable_keyring():
        value = read_keyring(KEYRING_SERVICE, KEYRING_USER)
        if value is not None:
            return Secret(value)
    path = default_key_file()
    return Secret(read_key_file(path).rstrip(b"\r\n")) if path.exists() else None


def _kept_at() -> str:
    path = default_key_file()
    return f"file:{path}" if path.exists() else f"keyring:{KEYRING_SERVICE}/{KEYRING_USER}"


def _usable_keyring() -> bool:
    """Whether a keyring exists here: a locked one does, the placeholder of a machine without any does not."""
    if find_spec("keyring") is None:
        return False
    import keyring  # noqa: PLC0415 - an extra
    import keyring.backends.fail  # noqa: PLC0415
    import keyring.backends.null  # noqa: PLC0415

    placeholders = (keyring.backends.fail.Keyring, keyring.backends.null.Keyring)
    return not isinstance(keyring.get_keyring(), placeholders)


@contextmanager
def _only_one() -> Iterator[None]:
    """Hold a lock file in the data directory, so that two processes never generate two secrets."""
    directory = default_key_file().parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "generate.lock").open("w") as lock:
        if os.name == "posix":
            import fcntl  # noqa: PLC0415 - not on Windows

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
