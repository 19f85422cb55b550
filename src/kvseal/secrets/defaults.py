"""
The secret that is used when none is named.

The order is KVSEAL_MASTER_KEY, the file that KVSEAL_MASTER_KEY_FILE names, the
keyring, the key file in the user's data directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from platformdirs import user_data_path

from kvseal.errors import SecretNotFoundError
from kvseal.secrets.key_file import read_key_file
from kvseal.secrets.sources import resolve, secret_from
from kvseal.secrets.system_keyring import has_keyring, read_keyring

if TYPE_CHECKING:
    from kvseal.secrets.secret import Secret

VARIABLE: Final = "KVSEAL_MASTER_KEY"
FILE_VARIABLE: Final = "KVSEAL_MASTER_KEY_FILE"
KEYRING_SERVICE: Final = "kvseal"
KEYRING_USER: Final = "master-secret"
NAME_ONE: Final = f"set {VARIABLE}, or name a source such as file:PATH"
"""What to do where there is no default secret."""


def default_key_file() -> Path:
    """
    Return where a generated secret is kept on a machine without a keyring.

    Raises:
        SecretNotFoundError: this user has no home directory, as an arbitrary uid in a container has none.
    """
    try:
        directory = user_data_path("kvseal", appauthor=False)
    except RuntimeError:
        # Older releases of platformdirs return a path that begins with ~.
        directory = Path("~")
    if not directory.is_absolute():
        msg = "this user has no home directory, so there is no place for a generated secret"
        raise SecretNotFoundError(msg, hint=NAME_ONE)
    return directory / "master.key"


def default_secret() -> Secret:
    """
    Return the first secret of the default order.

    Raises:
        SecretNotFoundError: none of them exists, or the keyring is there but locked.
        EmptySecretError: a variable is set but empty.
    """
    secret = find_default()
    if secret is None:
        msg = f"no master secret: neither {VARIABLE} nor {FILE_VARIABLE} is set, and none was generated here"
        raise SecretNotFoundError(msg, hint=NAME_ONE)
    return secret


def find_default() -> Secret | None:
    """Return the first secret of the default order, or `None` where there is none."""
    if VARIABLE in os.environ:
        return resolve(f"env:{VARIABLE}")
    if FILE_VARIABLE in os.environ:
        return resolve(f"file:{os.environ[FILE_VARIABLE]}")
    if has_keyring():
        value = read_keyring(KEYRING_SERVICE, KEYRING_USER)
        if value is not None:
            return secret_from(value)
    path = default_key_file()
    return secret_from(read_key_file(path)) if _may_exist(path) else None


def _may_exist(path: Path) -> bool:
    """Whether *path* exists, or cannot be looked for: then no other secret may be generated in its place."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
