"""Where secrets come from: every scheme with the real thing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING

import pytest

from kvseal import Secret
from kvseal.errors import (
    EmptySecretError,
    ExposedSecretFileError,
    MistypedSecretError,
    SecretError,
    SecretNotFoundError,
    SecretReferenceError,
)
from kvseal.secrets import key_file as key_files
from kvseal.secrets.sources import SOURCES, check_reference, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BARE = [
    "hunter2",
    "correct horse battery staple",
    "",
    ":",
    ":hunter2",
    "Env:hunter2",
    "envhunter2",
    "pass:hunter2",
    "https://hunter2",
    "env:",
    "file:",
    "keyring:",
    "fd:",
    "cred:",
    "cmd:",
    "prompt",
    "C:\\hunter2",
]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Return a key file that only its owner can read."""
    path = tmp_path / "master.key"
    path.write_bytes(b"hunter2\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def plaintext_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make a real keyring backend, a file in a directory of this test, the one that is used."""
    import keyring
    from keyrings.alt.file import PlaintextKeyring

    monkeypatch.setattr(PlaintextKeyring, "file_path", str(tmp_path / "keyring.cfg"))
    before = keyring.get_keyring()
    keyring.set_keyring(PlaintextKeyring())
    yield
    keyring.set_keyring(before)


@pytest.mark.parametrize("text", BARE, ids=repr)
def test_bare_passphrase_is_refused_and_never_repeated(text: str) -> None:
    """Text that is no reference is refused at once, and its words stand neither in the error nor its traceback."""
    for use in (resolve, check_reference):
        try:
            use(text)
        except SecretReferenceError as exc:
            shown = [str(exc), repr(exc), exc.hint, *map(str, exc.args), *traceback.format_exception(exc)]
        else:
            pytest.fail("taken for a reference")

        assert not any(word in line for line in shown for word in ("hunter2", "horse", "staple"))


def test_hint_names_every_scheme() -> None:
    """The hint lists the schemes that there are, and `Secret`."""
    with pytest.raises(SecretReferenceError) as caught:
        check_reference("hunter2")

    assert all(f"{scheme}:" in caught.value.hint for scheme in (*SOURCES, "prompt"))
    assert "Secret(b'...')" in caught.value.hint


def test_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """`env:` reads a variable of the environment."""
    monkeypatch.setenv("TEST_SECRET", "hunter2")

    assert Secret(b"hunter2") == resolve("env:TEST_SECRET")


def test_env_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable whose bytes are not UTF-8 gives exactly its bytes."""
    monkeypatch.setitem(os.environb, b"TEST_SECRET", b"\xff\xfehunter2")

    assert Secret(b"\xff\xfehunter2") == resolve("env:TEST_SECRET")


def test_env_that_is_not_set() -> None:
    """A variable that is not set is `SecretNotFoundError` that names it."""
    with pytest.raises(SecretNotFoundError, match="TEST_SECRET is not set"):
        resolve("env:TEST_SECRET")


def test_env_that_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set to nothing is an empty secret, not a missing one."""
    monkeypatch.setenv("TEST_SECRET", "")

    with pytest.raises(EmptySecretError):
        resolve("env:TEST_SECRET")


def test_file(key_file: Path) -> None:
    """`file:` reads a key file without the line break at its end."""
    assert Secret(b"hunter2") == resolve(f"file:{key_file}")


def test_file_in_the_home_directory(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that starts with a tilde is below the home directory."""
    monkeypatch.setenv("HOME", str(key_file.parent))

    assert Secret(b"hunter2") == resolve("file:~/master.key")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"hunter2", b"hunter2", id="none"),
        pytest.param(b"hunter2\n", b"hunter2", id="line-feed"),
        pytest.param(b"hunter2\r\n", b"hunter2", id="crlf"),
        pytest.param(b"hunter2\n\n", b"hunter2", id="two"),
        pytest.param(b" hunter2 \n", b" hunter2 ", id="spaces-stay"),
        pytest.param(b"\nhunter2", b"\nhunter2", id="first-line-break-stays"),
        pytest.param(b"two\nlines\n", b"two\nlines", id="inner-line-break-stays"),
        pytest.param(b"\x00\xff\x00", b"\x00\xff\x00", id="binary"),
    ],
)
def test_line_breaks(content: bytes, expected: bytes, key_file: Path) -> None:
    """Only line breaks at the end are not part of the secret."""
    key_file.write_bytes(content)

    assert Secret(expected) == resolve(f"file:{key_file}")


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700], ids=oct)
def test_file_of_its_owner(mode: int, key_file: Path) -> None:
    """A file that only its owner can read is read."""
    key_file.chmod(mode)

    assert Secret(b"hunter2") == resolve(f"file:{key_file}")


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o644, 0o602, 0o666, 0o777], ids=oct)
def test_exposed_file(mode: int, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on an ordinary disk that others can read or write is refused, and the hint says how to close it."""
    # The tests' files may be in memory, as mounted secrets are.
    monkeypatch.setattr(key_files, "is_secret_mount", lambda _: False)
    key_file.chmod(mode)

    with pytest.raises(ExposedSecretFileError, match=f"{mode:04o}") as caught:
        resolve(f"file:{key_file}")
    assert "chmod 600" in caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_file_of_root_for_a_group(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service user reads root's file through its group, but not one that all can read."""
    monkeypatch.setattr(key_files, "_ROOT", key_file.stat().st_uid)
    monkeypatch.setattr(os, "geteuid", lambda: key_file.stat().st_uid + 1)
    key_file.chmod(0o640)

    assert Secret(b"hunter2") == resolve(f"file:{key_file}")
    key_file.chmod(0o644)
    with pytest.raises(ExposedSecretFileError):
        resolve(f"file:{key_file}")


def test_symbolic_link(key_file: Path) -> None:
    """A link is followed, as orchestrators mount secrets, and the file behind it is what is checked."""
    link = key_file.parent / "link"
    link.symlink_to(key_file)

    assert Secret(b"hunter2") == resolve(f"file:{link}")
    key_file.chmod(0o644)
    with pytest.raises(ExposedSecretFileError):
        resolve(f"file:{link}")


@pytest.mark.parametrize("name", ["missing", ".", "link"], ids=["missing", "directory", "dangling-link"])
def test_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    """A file that is not there, or is none, is `SecretNotFoundError` that names it."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    with pytest.raises(SecretNotFoundError, match="cannot be read"):
        resolve(f"file:{tmp_path / name}")


def test_empty_file(key_file: Path) -> None:
    """A file with nothing but a line break is an empty secret."""
    key_file.write_bytes(b"\n")

    with pytest.raises(EmptySecretError):
        resolve(f"file:{key_file}")


def test_fd() -> None:
    """`fd:` reads a file descriptor to its end and closes it."""
    reading, writing = os.pipe()
    os.write(writing, b"hunter2\n")
    os.close(writing)

    assert Secret(b"hunter2") == resolve(f"fd:{reading}")
    with pytest.raises(SecretNotFoundError, match="already read"):
        resolve(f"fd:{reading}")


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "987654"])
def test_fd_that_cannot_be_read(number: str) -> None:
    """What is no open file descriptor is `SecretNotFoundError`."""
    with pytest.raises(SecretNotFoundError):
        resolve(f"fd:{number}")


def test_cred(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cred:` reads a systemd credential."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(key_file.parent))

    assert Secret(b"hunter2") == resolve("cred:master.key")


def test_cred_outside_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the error says what the unit lacks."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    with pytest.raises(SecretNotFoundError) as caught:
        resolve("cred:kv")
    assert "LoadCredential=" in caught.value.hint


@pytest.mark.parametrize("name", ["../master.key", "/etc/passwd", "a/b"])
def test_cred_is_no_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential name leads nowhere but into the credentials directory."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    with pytest.raises(SecretReferenceError):
        resolve(f"cred:{name}")


@pytest.mark.parametrize("name", ["missing", ".."])
def test_cred_that_is_missing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential that is not there is `SecretNotFoundError`, or no name at all."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    with pytest.raises((SecretNotFoundError, SecretReferenceError)):
        resolve(f"cred:{name}")


@pytest.mark.processes
def test_cmd() -> None:
    """`cmd:` takes what a command prints, without the line break at its end."""
    assert Secret(b"hunter2") == resolve(f"cmd:{sys.executable} -c \"print('hunter2')\"")


@pytest.mark.processes
def test_cmd_is_not_run_by_a_shell(tmp_path: Path) -> None:
    """Nothing in a command is expanded or redirected."""
    target = tmp_path / "target"

    assert Secret(f"$HOME > {target}".encode()) == resolve(f"cmd:echo '$HOME' > {target}")
    assert not target.exists()


@pytest.mark.processes
def test_cmd_has_no_input() -> None:
    """A command reads nothing from the terminal."""
    with pytest.raises(EmptySecretError):
        resolve("cmd:cat")


@pytest.mark.processes
def test_cmd_that_fails() -> None:
    """What a failing command printed is not used, and its exit status is named."""
    with pytest.raises(SecretNotFoundError, match="exited with 3") as caught:
        resolve(f"cmd:{sys.executable} -c \"print('hunter2'); raise SystemExit(3)\"")
    assert "hunter2" not in str(caught.value)


@pytest.mark.processes
def test_cmd_that_does_not_exist() -> None:
    """A command that is not installed is `SecretNotFoundError`; it may be a secret, so it is not named."""
    with pytest.raises(SecretNotFoundError, match="FileNotFoundError") as caught:
        resolve("cmd:no-such-command --for-kvseal")
    assert "no-such-command" not in str(caught.value) + caught.value.hint


def test_cmd_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that takes too long is given up, and what it had printed is not shown."""

    def hang(arguments: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(arguments, 60, output=b"hunter2")

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(SecretNotFoundError, match="TimeoutExpired") as caught:
        resolve("cmd:pass show kv")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.processes
@pytest.mark.parametrize("command", [" ", "echo 'open", "#"], ids=["blank", "open-quotation", "comment"])
def test_cmd_that_is_none(command: str) -> None:
    """A command that is empty or cannot be split is an error of kvseal's own."""
    with pytest.raises(SecretError):
        resolve(f"cmd:{command}")


@pytest.mark.processes
def test_cmd_with_a_nul() -> None:
    """A command that no system can run is an error of kvseal's own."""
    with pytest.raises(SecretNotFoundError):
        resolve("cmd:echo \x00")


@pytest.mark.usefixtures("plaintext_keyring")
def test_keyring() -> None:
    """`keyring:` reads the entry of a service and a user; the service may have slashes."""
    import keyring

    keyring.set_password("a/service", "user", "hunter2")

    assert Secret(b"hunter2") == resolve("keyring:a/service/user")


@pytest.mark.usefixtures("plaintext_keyring")
def test_keyring_without_the_entry() -> None:
    """An entry that is not there is `SecretNotFoundError` that names it."""
    with pytest.raises(SecretNotFoundError, match="no entry for service 's', user 'u'"):
        resolve("keyring:s/u")


@pytest.mark.parametrize("entry", ["s", "/u", "s/", "/"])
def test_keyring_reference_has_two_parts(entry: str) -> None:
    """A keyring reference names a service and a user."""
    with pytest.raises(SecretReferenceError, match="SERVICE/USER"):
        resolve(f"keyring:{entry}")


def test_keyring_that_there_is_none() -> None:
    """The placeholder of a machine without a keyring is `SecretNotFoundError`, not an absent entry."""
    import keyring
    from keyring.backends.fail import Keyring

    keyring.set_keyring(Keyring())
    with pytest.raises(SecretNotFoundError, match="cannot be read"):
        resolve("keyring:s/u")


def test_keyring_whose_library_breaks(tmp_path: Path, plaintext_keyring: None) -> None:
    """Whatever a backend raises is `SecretNotFoundError`: here a file that it cannot parse."""
    (tmp_path / "keyring.cfg").write_text("this is no configuration")

    with pytest.raises(SecretNotFoundError, match="cannot be read"):
        resolve("keyring:s/u")


def test_keyring_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the hint says what to install."""
    monkeypatch.setitem(sys.modules, "keyring", None)

    with pytest.raises(SecretNotFoundError) as caught:
        resolve("keyring:s/u")
    assert "kvseal[keyring]" in caught.value.hint


ON_ITS_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY)
from kvseal import Secret
from kvseal.errors import MistypedSecretError
from kvseal.secrets.sources import resolve
"""
"""A process that starts a session of its own takes its standard input for its terminal."""

ONCE = ON_ITS_TERMINAL + "assert resolve('prompt:Vault key') == Secret(b'hunter2')"
TWICE = (
    ON_ITS_TERMINAL
    + """
try:
    assert resolve("prompt:", confirm=True) == Secret(b"hunter2")
except MistypedSecretError:
    raise SystemExit(3)
"""
)


def on_a_terminal(script: str, typed: list[bytes]) -> tuple[int, str]:
    """Run *script* on a terminal where *typed* is typed, line by line; return exit status and screen."""
    terminal, line = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=line, stdout=line, stderr=line, start_new_session=True
    )
    os.close(line)
    screen = b""
    while True:
        try:
            shown = os.read(terminal, 1024)
        except OSError:  # Linux's way to say that the other side is closed.
            break
        screen += shown
        if shown.endswith(b": ") and typed:
            os.write(terminal, typed.pop(0) + b"\n")
    os.close(terminal)
    return process.wait(), screen.decode()


@pytest.mark.processes
@pytest.mark.parametrize(
    ("script", "typed", "expected", "asked"),
    [
        pytest.param(ONCE, [b"hunter2"], 0, ["Vault key: "], id="once"),
        pytest.param(TWICE, [b"hunter2", b"hunter2"], 0, ["Master secret: ", "Again: "], id="twice"),
        pytest.param(TWICE, [b"hunter2", b"hunter3"], 3, ["Master secret: ", "Again: "], id="mistyped"),
    ],
)
def test_prompt(script: str, typed: list[bytes], expected: int, asked: list[str]) -> None:
    """`prompt:` asks on the terminal without echo, and twice where a new secret is set."""
    status, screen = on_a_terminal(script, list(typed))

    assert expected == status, screen
    assert all(text in screen for text in asked)
    assert "hunter" not in screen


@pytest.mark.processes
def test_prompt_without_a_terminal() -> None:
    """Where nobody can type, the prompt is refused rather than read from a pipe."""
    done = subprocess.run(
        [sys.executable, "-c", "from kvseal.secrets.sources import resolve; resolve('prompt:')"],
        input=b"hunter2\n",
        capture_output=True,
        check=False,
    )

    assert b"SecretNotFoundError: prompt: needs a terminal" in done.stderr
    assert b"hunter2" not in done.stderr


def test_mistyped_generated_secret(key_file: Path) -> None:
    """A damaged generated secret is found in whichever source it is."""
    key_file.write_bytes(b"KVSEAL1-AAAAA-BBBBB\n")

    with pytest.raises(MistypedSecretError):
        resolve(f"file:{key_file}")


def test_variable_that_is_no_name_is_not_shown() -> None:
    """`env:$VAR` has the secret where the name should be; it is not repeated."""
    with pytest.raises(SecretNotFoundError) as caught:
        resolve("env:hunter2-the-passphrase")

    assert "hunter2" not in str(caught.value)


PASTED = [
    "env:hunter2",
    "env:hunter2_and_more",
    "env:MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U",
    "env:with\0nul",
    "file:hunter2",
    "file:hunter2/AbC+9",
    "file:/9jhunter2/AbC",
    "file:with\0nul",
    "file:" + "hunter2" * 60,
    "fd:hunter2",
    "cred:hunter2",
    pytest.param("cmd:hunter2", marks=pytest.mark.processes),
    pytest.param("cmd:hunter2 and more", marks=pytest.mark.processes),
    "keyring:Hunter2/AbC+9",
]


@pytest.mark.parametrize("reference", PASTED, ids=repr)
@pytest.mark.usefixtures("plaintext_keyring")
def test_a_secret_pasted_behind_a_scheme_is_not_repeated(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands behind the colon may be the secret itself: no part of it is in the error or its traceback."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pasted = reference.partition(":")[2]

    with pytest.raises(SecretError) as caught:
        resolve(reference)

    exc = caught.value
    shown = "".join([str(exc), exc.hint, *map(str, exc.args), str(exc.__cause__ or "")])
    assert pasted not in shown
    assert pasted.split()[0].split("\0")[0] not in shown


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("env:OLD_KEY_2", "OLD_KEY_2"),
        ("file:/tmp/none.of/this", "/tmp/none.of/this"),
        ("file:master.key", "master.key"),
        ("fd:987654", "987654"),
        ("keyring:app/user@host", "'app'"),
    ],
)
@pytest.mark.usefixtures("plaintext_keyring")
def test_what_is_clearly_a_name_is_shown(
    reference: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt name is found faster where the message repeats it."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SecretNotFoundError) as caught:
        resolve(reference)

    assert named in str(caught.value)


def test_no_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path below `~` of a user without a home, as in a container, is an error of kvseal's own."""
    monkeypatch.delenv("HOME", raising=False)

    with pytest.raises(SecretNotFoundError, match="no home directory"):
        resolve("file:~nobody-of-that-name/master.key")
