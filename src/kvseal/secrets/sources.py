"""
Where secrets come from: references such as `env:NAME`, one function for each scheme.

A reference is safe to log and to pass in argv; what it points at is read only
when it is needed.  Text that is no reference is never taken for a password, and
never repeated in a message, because it may be one.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from kvseal.errors import MistypedSecretError, SecretNotFoundError, SecretReferenceError
from kvseal.secrets.key_file import MAX_SIZE, expanded, read_key_file
from kvseal.secrets.mistakes import refuse_placeholder
from kvseal.secrets.secret import Secret
from kvseal.secrets.system_keyring import read_keyring
from kvseal.wrapkeys import SCHEMES, WrapKey

if TYPE_CHECKING:
    from collections.abc import Callable

Unlocker: TypeAlias = Secret | WrapKey
"""What opens a keyslot."""

_COMMAND_SECONDS: Final = 60
_VARIABLE: Final = re.compile(r"[A-Z]{1,16}|[A-Z][A-Z0-9]{0,15}(_[A-Z0-9]{1,16}){1,8}")
"""A name as environments have them: parts of capitals that underscores join."""

_NUMBER: Final = re.compile(r"-?[0-9]{1,7}")
_ENTRY_NAME: Final = re.compile(r"[a-z0-9@._/ -]{1,64}")
"""A keyring entry that a message shows: random text has capitals, as base64 and base32 do."""


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
    return secret_from(SOURCES[scheme](rest))


def secret_from(content: bytes) -> Secret:
    """
    Return the secret that a source holds, without the line break that a file or command ends with.

    Raises:
        SecretReferenceError: *content* is itself a reference, or a variable that was not expanded.
        EmptySecretError, MistypedSecretError: see `Secret`.
    """
    refuse_placeholder(content, (*SOURCES, "prompt", *SCHEMES))
    return Secret(content.rstrip(b"\r\n"))


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
    value = os.environ.get(name) if "\0" not in name else None
    if value is None:
        # A secret may have been pasted in place of a name, so only what is written like a name is shown.
        shown = f" {name}" if _VARIABLE.fullmatch(name) else " that the reference names"
        msg = f"the environment variable{shown} is not set"
        raise SecretNotFoundError(msg, hint="env: takes the name of a variable, not its value")
    return os.fsencode(value)


def _from_file(path: str) -> bytes:
    return read_key_file(expanded(path))


def _from_fd(number: str) -> bytes:
    try:
        with os.fdopen(int(number), "rb") as file:
            return file.read(MAX_SIZE)
    except (OSError, ValueError) as exc:
        shown = f"file descriptor {number}" if _NUMBER.fullmatch(number) else "the file descriptor"
        msg = f"{shown} cannot be read, or was already read ({type(exc).__name__})"
        raise SecretNotFoundError(msg, hint="fd: takes the number of an open file descriptor") from None


def _from_credential(name: str) -> bytes:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory is None:
        msg = "CREDENTIALS_DIRECTORY is not set: this process was not started with systemd credentials"
        raise SecretNotFoundError(msg, hint="add LoadCredential=NAME:PATH to the unit")
    if Path(name).name != name or "\0" in name:
        msg = "a credential name is a file name, without directories"
        raise SecretReferenceError(msg)
    path = Path(directory) / name
    if not os.path.lexists(path):
        msg = f"there is no credential of the name that the reference gives in {directory}"
        raise SecretNotFoundError(msg, hint="add LoadCredential=NAME:PATH to the unit")
    return read_key_file(path)


def _from_command(command: str) -> bytes:
    try:
        arguments = shlex.split(command)
    except ValueError:
        arguments = []
    if not arguments:
        msg = "the command of a cmd: reference is empty, or has an open quotation"
        raise SecretReferenceError(msg)
    # Where no such program exists, what was given may be a secret and no command.
    shown = (
        f"secret command {arguments[0]}" if shutil.which(arguments[0]) else "command of the cmd: reference"
    )
    try:
        done = subprocess.run(  # noqa: S603 - the command is the reference
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_COMMAND_SECONDS, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as exc:
        msg = f"the {shown} could not be run to its end ({type(exc).__name__})"
        raise SecretNotFoundError(msg, hint="cmd: takes a command that prints the secret") from None
    if done.returncode != 0:
        msg = f"the {shown} exited with {done.returncode}"
        raise SecretNotFoundError(msg, hint="run it by itself to see why")
    return done.stdout


def _from_keyring(entry: str) -> bytes:
    service, slash, user = entry.rpartition("/")
    if not slash or not service or not user:
        msg = "a keyring reference has the form keyring:SERVICE/USER"
        raise SecretReferenceError(msg)
    value = read_keyring(service, user)
    if value is None:
        named = (
            f" for service {service!r}, user {user!r}" if _ENTRY_NAME.fullmatch(entry) else " of that name"
        )
        msg = f"the keyring has no entry{named}"
        raise SecretNotFoundError(msg, hint="keyring: takes SERVICE/USER, the name of an entry")
    return value


def _from_prompt(label: str, *, confirm: bool) -> Secret:
    if not sys.stdin.isatty():
        msg = "prompt: needs a terminal"
        raise SecretNotFoundError(msg, hint="use env:, file:, fd: or another source")
    first = secret_from(getpass.getpass(f"{label or 'Master secret'}: ").encode())
    if confirm and secret_from(getpass.getpass("Again: ").encode()) != first:
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
