"""
The one place that generates a master secret without being asked: for a new vault without a named one.

It is stored where the default order will find it, and read back before it is used.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvseal import file_lock
from kvseal.errors import SecretNotFoundError
from kvseal.errors.operating_system import reason_of
from kvseal.secrets.defaults import (
    KEYRING_SERVICE,
    KEYRING_USER,
    NAME_ONE,
    default_key_file,
    default_secret,
    find_default,
)
from kvseal.secrets.key_file import write_key_file
from kvseal.secrets.secret import Secret, generate
from kvseal.secrets.system_keyring import has_keyring, write_keyring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def generate_default_secret() -> tuple[Secret, str | None]:
    """
    Return the default secret; if there was none, a generated one and where it is kept.

    Of several processes that start at once, one generates and all return the same secret.
    """
    with _only_one():
        found = find_default()
        if found is not None:
            return found, None
        secret = generate()
        if has_keyring():
            write_keyring(KEYRING_SERVICE, KEYRING_USER, secret.reveal())
        else:
            write_key_file(default_key_file(), secret.reveal() + b"\n")
        if default_secret() != secret:
            msg = f"the generated secret could not be read back from {_kept_at()}"
            raise SecretNotFoundError(msg, hint=NAME_ONE)
        return secret, _kept_at()


def _kept_at() -> str:
    path = default_key_file()
    return f"file:{path}" if path.exists() else f"keyring:{KEYRING_SERVICE}/{KEYRING_USER}"


@contextmanager
def _only_one() -> Iterator[None]:
    """Hold a lock file in the data directory, so that two processes never generate two secrets."""
    directory = default_key_file().parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (directory / "generate.lock").open("w")
    except OSError as exc:
        raise _not_into(directory, exc) from None
    with lock:
        try:
            file_lock.take(lock.fileno())
        except OSError as exc:
            raise _not_into(directory, exc) from None
        yield


def _not_into(directory: Path, exc: OSError) -> SecretNotFoundError:
    msg = f"no master secret can be generated into {directory}: {reason_of(exc)}"
    return SecretNotFoundError(msg, hint=NAME_ONE)
