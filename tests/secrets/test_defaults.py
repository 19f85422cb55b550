"""The secret that is used when none is named, and the one place where one is generated."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

from kvseal import Secret
from kvseal.errors import EmptySecretError, ExposedSecretFileError, SecretNotFoundError, SecretReferenceError
from kvseal.secrets import generation
from kvseal.secrets.defaults import (
    KEYRING_SERVICE,
    KEYRING_USER,
    default_key_file,
    default_secret,
)
from kvseal.secrets.generation import generate_default_secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class LockedKeyring(KeyringBackend):
    """A real backend class whose keyring is locked."""

    priority = 1  # type: ignore[assignment]  # The base class computes it.

    def get_password(self, service: str, username: str) -> str | None:
        """Fail as a locked keyring does."""
        raise KeyringLocked

    def set_password(self, service: str, username: str, password: str) -> None:
        """Fail as a locked keyring does."""
        raise KeyringLocked


class ReadOnlyKeyring(LockedKeyring):
    """A keyring that can be read but not written."""

    def get_password(self, service: str, username: str) -> str | None:
        """Say that there is no entry."""
        return None


class ForgetfulKeyring(ReadOnlyKeyring):
    """A keyring that takes entries and loses them."""

    def set_password(self, service: str, username: str, password: str) -> None:
        """Lose the entry."""


@pytest.fixture(autouse=True)
def keyring_before() -> Iterator[KeyringBackend]:
    """Yield the keyring of the tests' environment, which is none, and put it back after each test."""
    import keyring
    from keyring.backends.fail import Keyring

    keyring.set_keyring(Keyring())
    yield keyring.get_keyring()
    keyring.set_keyring(Keyring())


@pytest.fixture
def plaintext_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a real keyring backend, a file in a directory of this test, the one that is used."""
    import keyring
    from keyrings.alt.file import PlaintextKeyring

    monkeypatch.setattr(PlaintextKeyring, "file_path", str(tmp_path / "keyring.cfg"))
    keyring.set_keyring(PlaintextKeyring())


def write_key(path: Path, content: bytes) -> Path:
    """Write a key file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def keep_in_keyring(value: str) -> None:
    """Write the default keyring entry."""
    import keyring

    keyring.set_password(KEYRING_SERVICE, KEYRING_USER, value)


@pytest.mark.usefixtures("plaintext_keyring")
def test_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable goes before the file variable, that before the keyring, and the key file comes last."""
    monkeypatch.setenv("KVSEAL_MASTER_KEY", "variable")
    monkeypatch.setenv("KVSEAL_MASTER_KEY_FILE", str(write_key(tmp_path / "named", b"named\n")))
    keep_in_keyring("keyring")
    write_key(default_key_file(), b"file\n")
    found = [default_secret()]
    monkeypatch.delenv("KVSEAL_MASTER_KEY")
    found.append(default_secret())
    monkeypatch.delenv("KVSEAL_MASTER_KEY_FILE")
    found.append(default_secret())
    (tmp_path / "keyring.cfg").unlink()
    found.append(default_secret())

    assert [Secret(b"variable"), Secret(b"named"), Secret(b"keyring"), Secret(b"file")] == found


def test_none_at_all() -> None:
    """Where there is no secret the error says how to name one, and nothing was written."""
    with pytest.raises(SecretNotFoundError, match="no master secret") as caught:
        default_secret()
    assert "KVSEAL_MASTER_KEY" in caught.value.hint
    assert not default_key_file().exists()


@pytest.mark.parametrize("variable", ["KVSEAL_MASTER_KEY", "KVSEAL_MASTER_KEY_FILE"])
def test_variable_that_is_set_but_empty(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set to nothing is an error; nothing that comes later is used in its place."""
    write_key(default_key_file(), b"file\n")
    monkeypatch.setenv(variable, "")

    with pytest.raises((EmptySecretError, SecretReferenceError)):
        default_secret()
    with pytest.raises((EmptySecretError, SecretReferenceError)):
        generate_default_secret()


def test_named_file_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was named but is not there is an error, to open and to create."""
    monkeypatch.setenv("KVSEAL_MASTER_KEY_FILE", str(tmp_path / "missing"))

    with pytest.raises(SecretNotFoundError):
        default_secret()
    with pytest.raises(SecretNotFoundError):
        generate_default_secret()
    assert not default_key_file().exists()


def test_generated_into_a_file() -> None:
    """Without a keyring a secret is generated into a file of mode 0600, from which it is read again."""
    secret, kept_at = generate_default_secret()
    path = default_key_file()

    assert f"file:{path}" == kept_at
    assert 0o600 == path.stat().st_mode & 0o777
    assert secret.reveal() + b"\n" == path.read_bytes()
    assert secret.reveal().startswith(b"KVSEAL1-")
    assert secret == default_secret()


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077], ids=oct)
def test_umask_does_not_expose_the_file(umask: int) -> None:
    """Whatever the umask, nobody but the owner ever gets a right to the file."""
    before = os.umask(umask)
    try:
        generate_default_secret()
    finally:
        os.umask(before)

    assert 0 == default_key_file().stat().st_mode & 0o077


@pytest.mark.usefixtures("plaintext_keyring")
def test_generated_into_the_keyring() -> None:
    """With a keyring a secret is generated into it and no file is written."""
    secret, kept_at = generate_default_secret()

    assert "keyring:kvseal/master-secret" == kept_at
    assert secret == default_secret()
    assert not default_key_file().exists()


def test_never_generated_over_one_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where any default exists it is returned and nothing is written."""
    file = write_key(default_key_file(), b"file\n")
    monkeypatch.setenv("KVSEAL_MASTER_KEY", "variable")

    assert (Secret(b"variable"), None) == generate_default_secret()
    monkeypatch.delenv("KVSEAL_MASTER_KEY")
    assert (Secret(b"file"), None) == generate_default_secret()
    named = write_key(tmp_path / "named", b"named")
    monkeypatch.setenv("KVSEAL_MASTER_KEY_FILE", str(named))
    assert (Secret(b"named"), None) == generate_default_secret()
    assert b"file\n" == file.read_bytes()


def test_exposed_key_file_is_not_replaced() -> None:
    """A key file that others can read is refused, and stays as it is."""
    write_key(default_key_file(), b"file\n").chmod(0o644)

    with pytest.raises(ExposedSecretFileError):
        generate_default_secret()
    assert b"file\n" == default_key_file().read_bytes()


def test_empty_key_file_is_not_replaced() -> None:
    """A key file that a crash left empty is an error, never a reason to generate another secret."""
    write_key(default_key_file(), b"")

    with pytest.raises(EmptySecretError):
        generate_default_secret()
    assert b"" == default_key_file().read_bytes()


@pytest.mark.parametrize("use", [default_secret, generate_default_secret], ids=["open", "create"])
def test_locked_keyring_is_not_absence(use: object) -> None:
    """A locked keyring may hold the secret: nothing is generated and no file is read in its place."""
    import keyring

    keyring.set_keyring(LockedKeyring())
    write_key(default_key_file(), b"file\n")

    with pytest.raises(SecretNotFoundError, match="KeyringLocked"):
        use()  # type: ignore[operator]
    assert b"file\n" == default_key_file().read_bytes()


def test_keyring_that_cannot_be_written() -> None:
    """A keyring that takes no entry is an error of kvseal's own, and no file is written in its place."""
    import keyring

    keyring.set_keyring(ReadOnlyKeyring())

    with pytest.raises(SecretNotFoundError, match="cannot be stored"):
        generate_default_secret()
    assert not default_key_file().exists()


def test_generated_secret_is_read_back() -> None:
    """A secret that was not kept is never used."""
    import keyring

    keyring.set_keyring(ForgetfulKeyring())

    with pytest.raises(SecretNotFoundError):
        generate_default_secret()


@pytest.mark.processes
def test_eight_processes_generate_one_secret() -> None:
    """Of eight processes that start at once, one generates, and all return the same secret."""
    script = """
import sys
from hashlib import sha256
from kvseal.secrets.generation import generate_default_secret
print("ready", flush=True)
sys.stdin.read()
print(sha256(generate_default_secret()[0].reveal()).hexdigest())
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    pipes = [(process.stdin, process.stdout) for process in processes if process.stdin and process.stdout]
    assert ["ready\n"] * 8 == [stdout.readline() for _, stdout in pipes]
    for stdin, _ in pipes:
        stdin.close()
    secrets = {stdout.read() for _, stdout in pipes}
    for _, stdout in pipes:
        stdout.close()

    assert [0] * 8 == [process.wait() for process in processes]
    assert 1 == len(secrets)


@pytest.mark.parametrize("step", ["find_default", "write_key_file"])
def test_generated_under_a_lock(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the look for a secret and the writing of a new one happen while no other process may do either."""
    original, refused = getattr(generation, step), []

    def observed(*args: object) -> object:
        with (default_key_file().parent / "generate.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(step)
        return original(*args)

    monkeypatch.setattr(generation, step, observed)
    generate_default_secret()

    assert step in refused
