"""The keyring of the operating system, through the keyring library: the one place that calls it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from kvseal.errors import SecretNotFoundError

_OTHERWISE: Final = "unlock it, or name another source"


def has_keyring() -> bool:
    """
    Whether a keyring exists here: a locked one does, the placeholder of a machine without any does not.

    Raises:
        SecretNotFoundError: a backend is configured that cannot be loaded; it may hold the secret.
    """
    if find_spec("keyring") is None:
        return False
    chosen = _library().get_keyring()
    return not any(isinstance(chosen, _placeholder(name)) for name in ("fail", "null"))


def read_keyring(service: str, user: str) -> bytes | None:
    """
    Return the keyring entry, or `None` only where the keyring says that there is none.

    Raises:
        SecretNotFoundError: there is no keyring here, or it is locked or broken.
    """
    try:
        value: str | None = _library().get_password(service, user)
    except SecretNotFoundError:
        raise
    except Exception as exc:  # backends raise whatever their libraries do
        msg = f"the keyring cannot be read ({type(exc).__name__})"
        raise SecretNotFoundError(msg, hint=_OTHERWISE) from exc
    return None if value is None else value.encode()


def write_keyring(service: str, user: str, value: bytes) -> None:
    """Store a keyring entry, or raise `SecretNotFoundError`."""
    try:
        _library().set_password(service, user, value.decode())
    except SecretNotFoundError:
        raise
    except Exception as exc:  # noqa: BLE001 - backends raise whatever their libraries do
        msg = f"the secret cannot be stored in the keyring ({type(exc).__name__})"
        raise SecretNotFoundError(msg, hint=_OTHERWISE) from None


def _library() -> Any:
    """Return the keyring library with its backend loaded, which it does on import or on first use."""
    if find_spec("keyring") is None:
        msg = "keyring references need the keyring extra"
        raise SecretNotFoundError(msg, hint="pip install 'kvseal[keyring]'")
    try:
        library = import_module("keyring")
        library.get_keyring()
    except Exception as exc:  # noqa: BLE001 - whatever its configuration, or an import of a backend, raises
        msg = f"the configured keyring backend cannot be loaded ({type(exc).__name__})"
        raise SecretNotFoundError(
            msg, hint="install it, or set PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring for no keyring"
        ) from None
    return library


def _placeholder(name: str) -> type:
    placeholder: type = import_module(f"keyring.backends.{name}").Keyring
    return placeholder
