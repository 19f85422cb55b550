"""The keyring of the operating system, through the keyring library: the one place that calls it."""

from __future__ import annotations

from importlib.util import find_spec

from kvseal.errors import SecretNotFoundError


def has_keyring() -> bool:
    """Whether a keyring exists here: a locked one does, the placeholder of a machine without any does not."""
    if find_spec("keyring") is None:
        return False
    import keyring  # noqa: PLC0415 - an extra
    import keyring.backends.fail  # noqa: PLC0415
    import keyring.backends.null  # noqa: PLC0415

    placeholders = (keyring.backends.fail.Keyring, keyring.backends.null.Keyring)
    return not isinstance(keyring.get_keyring(), placeholders)


def read_keyring(service: str, user: str) -> bytes | None:
    """
    Return the keyring entry, or `None` only where the keyring says that there is none.

    Raises:
        SecretNotFoundError: there is no keyring here, or it is locked or broken.
    """
    try:
        import keyring  # noqa: PLC0415 - an extra
    except ImportError as exc:
        msg = "keyring references need the keyring extra"
        raise SecretNotFoundError(msg, hint="pip install 'kvseal[keyring]'") from exc
    try:
        value: str | None = keyring.get_password(service, user)
    except Exception as exc:  # backends raise whatever their libraries do
        msg = f"the keyring cannot be read ({type(exc).__name__})"
        raise SecretNotFoundError(msg, hint="unlock it, or name another source") from exc
    return None if value is None else value.encode()


def write_keyring(service: str, user: str, value: bytes) -> None:
    """Store a keyring entry, or raise `SecretNotFoundError`.  Needs the keyring extra."""
    import keyring  # noqa: PLC0415 - an extra

    try:
        keyring.set_password(service, user, value.decode())
    except Exception as exc:  # noqa: BLE001 - backends raise whatever their libraries do
        msg = f"the secret cannot be stored in the keyring ({type(exc).__name__})"
        raise SecretNotFoundError(msg, hint="unlock it, or name another source") from None
