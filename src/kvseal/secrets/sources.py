"""
Where secrets come from: references such as `env:NAME`, one function for each scheme.

A reference is safe to log and to pass in argv; what it points at is read only
when it is needed.  Text that is no reference is never taken for a password, and
never repeated in a message, because it may be one.
"""

from __future__ import annotations

import getpass
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from kvseal.errors import MistypedSecretError, SecretNotFoundError, SecretReferenceError
from kvseal.secrets.key_file import MAX_SIZE, read_key_file
from kvseal.secrets.secret import Secret
from kvseal.secrets.system_keyring import read_keyring
from kvseal.wrapkeys import SCHEMES, WrapKey

if TYPE_CHECKING:
    from collections.abc import Callable

Unlocker: TypeAlias = Secret | WrapKey
"""What opens a keyslot."""

_COMMAND_SECONDS: Final = 60


def resolve(reference: str, *, confirm: bool = False) -> Secret:
    """
    Return the secret that *reference* points at, without the line break a file or command ends with.

    Blocks: it may read a file, run a command or ask a person, whom *confirm* makes type it twice.

    Raises:
        SecretReferenceError: *reference* has no scheme that kvseal knows.
        SecretNotFoundError: it points at nothing.
        ExposedSecretFileError: others can read the file.
        EmptySecretError, MistypedSecretError: see `Secret`.
    """
    check_reference(reference)
    scheme, _, rest = reference.partition(":")
    if scheme == "prompt":
        return _from_prompt(rest, confirm=confirm)
    return Secret(SOURCES[scheme](rest).rstrip(b"\r\n"))


def resolve_unlocker(reference: str, *, confirm: bool = False) -> Unlocker:
    """
    Return the wrap key that *reference* names, or the secret that it points at; see `resolve`.

    Nothing is asked of a key service yet.
    """
    check_unlocker(reference)
    scheme, _, rest = reference.partition(":")
    return SCHEMES[scheme](rest) if scheme in SCHEMES else resolve(reference, confirm=confirm)


def check_unlocker(reference: str) -> None:
    """Raise `SecretReferenceError` unless *reference* has the form `scheme:rest`, of a secret or wrap key."""
    scheme, _, rest = reference.partition(":")
    if scheme not in SCHEMES or not rest:
        check_reference(reference)


def check_reference(reference: str) -> None:
    """Raise `SecretReferenceError` unless *reference* has the form `scheme:rest` with a known scheme."""
    scheme, colon, rest = reference.partition(":")
    if scheme == "prompt" and colon:
        return
    if scheme not in SOURCES or not rest:
        msg = "a secret given as text must be a reference, and this is not one"
        known = ", ".join(f"{name}:" for name in (*SOURCES, "prompt"))
        raise SecretReferenceError(msg, hint=f"start it with one of {known} or pass Secret(b'...')")


def _from_env(name: str) -> bytes:
    value = os.environ.get(name)
    if value is None:
        # What is no name of a variable may be a secret that a shell put in its place.
        shown = f"the environment variable {name}" if name.isidentifier() else "this environment variable"
        msg = f"{shown} is not set"
        raise SecretNotFoundError(msg)
    return os.fsencode(value)


def _from_file(path: str) -> bytes:
    return read_key_file(Path(path).expanduser())


def _from_fd(number: str) -> bytes:
    try:
        with os.fdopen(int(number), "rb") as file:
            return file.read(MAX_SIZE)
    except (OSError, ValueError) as exc:
        msg = f"file descriptor {number} cannot be read, or was already read"
        raise SecretNotFoundError(msg) from exc


def _from_credential(name: str) -> bytes:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory is None:
        msg = "CREDENTIALS_DIRECTORY is not set: this process was not started with systemd credentials"
        raise SecretNotFoundError(msg, hint=f"add LoadCredential={name}:… to the unit")
    if Path(name).name != name:
        msg = "a credential name is a file name, without directories"
        raise SecretReferenceError(msg)
    return read_key_file(Path(directory) / name)


def _from_command(command: str) -> bytes:
    try:
        arguments = shlex.split(command)
    except ValueError:
        arguments = []
    if not arguments:
        msg = "the command of a cmd: reference is empty, or has an open quotation"
        raise SecretReferenceError(msg)
    try:
        done = subprocess.run(  # noqa: S603 - the command is the reference
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_COMMAND_SECONDS, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as exc:
        msg = f"the secret command {arguments[0]} could not be run to its end ({type(exc).__name__})"
        raise SecretNotFoundError(msg) from None
    if done.returncode != 0:
        msg = f"the secret command {arguments[0]} exited with {done.returncode}"
        raise SecretNotFoundError(msg)
    return done.stdout


def _from_keyring(entry: str) -> bytes:
    service, slash, user = entry.rpartition("/")
    if not slash or not service or not user:
        msg = "a keyring reference has the form keyring:SERVICE/USER"
        raise SecretReferenceError(msg)
    value = read_keyring(service, user)
    if value is None:
        msg = f"the keyring has no entry for service {service!r}, user {user!r}"
        raise SecretNotFoundError(msg)
    return value


def _from_prompt(label: str, *, confirm: bool) -> Secret:
    if not sys.stdin.isatty():
        msg = "prompt: needs a terminal"
        raise SecretNotFoundError(msg, hint="use env:, file:, fd: or another source")
    first = Secret(getpass.getpass(f"{label or 'Master secret'}: ").encode())
    if confirm and Secret(getpass.getpass("Again: ").encode()) != first:
        msg = "the two entries differ"
        raise MistypedSecretError(msg, hint="run the command again")
    return first


SOURCES: Final[dict[str, Callable[[str], bytes]]] = {
    "env": _from_env,
    "file": _from_file,
    "keyring": _from_keyring,
    "fd": _from_fd,
    "cred": _from_credential,
    "cmd": _from_command,
}
