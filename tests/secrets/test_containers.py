"""Key files as containers have them: root's files, groups of the process, mounts that `chmod` cannot change."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import pytest
from tests.privileges import NOBODY, as_user, file_size_limit, needs_root, remount_read_only, tmpfs

from kvseal.errors import ExposedSecretFileError, SecretError, UsageError
from kvseal.secrets.generation import generate_default_secret
from kvseal.secrets.key_file import TRUST_VARIABLE, write_key_file
from kvseal.secrets.sources import SOURCES, resolve
from kvseal.wrapkeys import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Iterator

FS_GROUP = 2000


pytestmark = pytest.mark.processes


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a directory that every user can search, outside of every mount in memory."""
    directory = Path(mkdtemp(prefix="kvseal-test-", dir=Path(__file__).parent))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def key(directory: Path, mode: int, *, group: int = 0) -> Path:
    """Return root's key file of *mode* and *group*."""
    path = directory / "master.key"
    path.write_bytes(b"hunter2\n")
    os.chown(path, 0, group)
    path.chmod(mode)
    return path


def read(path: Path) -> str:
    """Return the secret in *path*."""
    return resolve(f"file:{path}").reveal().decode()


@needs_root
@pytest.mark.parametrize(
    ("mode", "uid", "groups", "reads"),
    [
        pytest.param(0o440, 0, [FS_GROUP], True, id="root-in-the-group"),
        pytest.param(0o440, 0, [], False, id="root-outside-of-the-group"),
        pytest.param(0o440, NOBODY, [FS_GROUP], True, id="arbitrary-uid-in-the-group"),
        pytest.param(0o400, 0, [], True, id="root-alone"),
        pytest.param(0o460, NOBODY, [FS_GROUP], False, id="group-may-write"),
        pytest.param(0o444, NOBODY, [FS_GROUP], False, id="every-user"),
    ],
)
def test_a_file_of_root(folder: Path, mode: int, uid: int, groups: list[int], reads: bool) -> None:
    """Kubernetes' 0440 with `fsGroup` is fine for the processes of that group, root's among them."""
    path = key(folder, mode, group=FS_GROUP)

    found = as_user(lambda: read(path), uid=uid, gid=uid, groups=groups)

    assert found == "hunter2" if reads else found.startswith("ExposedSecretFileError")


def test_a_group_of_another_owner(folder: Path) -> None:
    """Of a file that is not root's, no group may read it."""
    path = key(folder, 0o440) if os.geteuid() == 0 else folder / "master.key"
    if os.geteuid() == 0:
        os.chown(path, NOBODY, 0)
    else:
        path.write_bytes(b"hunter2\n")
        path.chmod(0o440)

    with pytest.raises(ExposedSecretFileError):
        read(path)


@needs_root
@pytest.mark.parametrize("mode", [0o444, 0o644, 0o440], ids=oct)
@pytest.mark.parametrize("read_only", [True, False], ids=["read-only", "in-memory"])
def test_a_secret_mount(folder: Path, mode: int, read_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What all may read on such a mount needs an opt-in, which the hint names."""
    with tmpfs(folder / "secrets") as mount:
        path = key(mount, mode, group=FS_GROUP)
        if read_only:
            remount_read_only(mount)

        with pytest.raises(ExposedSecretFileError) as caught:
            read(path)
        monkeypatch.setenv(TRUST_VARIABLE, "1")

        assert f"{TRUST_VARIABLE}=1" in caught.value.hint
        assert read(path) == "hunter2"


@needs_root
@pytest.mark.parametrize(("mode", "owner"), [(0o666, 0), (0o464, 0), (0o444, NOBODY)])
def test_what_the_opt_in_does_not_cover(
    folder: Path, mode: int, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that others can change, or another user's, is refused on such a mount too."""
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    with tmpfs(folder / "secrets") as mount:
        path = key(mount, mode, group=FS_GROUP)
        os.chown(path, owner, FS_GROUP)

        with pytest.raises(ExposedSecretFileError):
            read(path)


def test_the_opt_in_is_for_mounts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system where `chmod` helps, the opt-in changes nothing."""
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    path = folder / "master.key"
    path.write_bytes(b"hunter2\n")
    path.chmod(0o644)

    with pytest.raises(ExposedSecretFileError) as caught:
        read(path)
    assert "chmod 600" in caught.value.hint


@needs_root
@pytest.mark.parametrize("home", ["/", None], ids=["root-directory", "none"])
def test_an_arbitrary_uid_without_a_home(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a generated secret has no place, the error says so and names the way out."""
    for name in ("XDG_DATA_HOME", "HOME", "KVSEAL_MASTER_KEY"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)

    found = as_user(generate_default_secret)

    assert found.startswith("SecretNotFoundError: ")
    assert "KVSEAL_MASTER_KEY" in found
    assert "Traceback" not in found


@pytest.mark.parametrize(
    ("backend", "named"),
    [("no.such.backend.Keyring", "cannot be loaded"), ("keyring.backends.SecretService.Keyring", "keyring")],
    ids=["not-installed", "no-d-bus"],
)
def test_a_keyring_that_is_configured_and_not_there(backend: str, named: str) -> None:
    """A backend that cannot be loaded may hold the secret: an error of kvseal's own, and none is generated."""
    script = """
from kvseal.secrets.generation import generate_default_secret
try:
    generate_default_secret()
except Exception as exc:
    print(type(exc).__name__, exc, exc.hint)
"""
    environment = {**os.environ, "PYTHON_KEYRING_BACKEND": backend}
    environment.pop("DBUS_SESSION_BUS_ADDRESS", None)
    environment.pop("KVSEAL_MASTER_KEY", None)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )

    assert done.stdout.startswith("SecretNotFoundError ")
    assert named in done.stdout


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_hard_links(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SMB, exFAT and some FUSE a key file is written all the same, and never over another."""

    def link(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "master.key"
    write_key_file(path, b"first")
    with pytest.raises(UsageError, match="exists already"):
        write_key_file(path, b"second")

    assert path.read_bytes() == b"first"
    assert [path] == list(tmp_path.iterdir())
    assert 0o600 == path.stat().st_mode & 0o777


def test_a_limit_of_file_sizes(tmp_path: Path) -> None:
    """`ulimit -f` is named with its remedy, and nothing is left behind."""
    with file_size_limit(0), pytest.raises(UsageError, match="File too large") as caught:
        write_key_file(tmp_path / "master.key", b"secret")

    assert "ulimit -f" in caught.value.hint
    assert [] == list(tmp_path.iterdir())


@needs_root
def test_a_full_disk(tmp_path: Path) -> None:
    """A full file system is named with its remedy, and nothing is left behind."""
    with tmpfs(tmp_path / "full", size="64k") as mount:
        with pytest.raises(OSError, match="No space"), (mount / "filler").open("wb") as filler:
            filler.write(bytes(2**20))
        with pytest.raises(UsageError, match="No space left") as caught:
            write_key_file(mount / "master.key", b"secret" * 2000)

        assert "free space" in caught.value.hint
        assert [mount / "filler"] == list(mount.iterdir())


@pytest.mark.parametrize("reference", ["file:.", "file:/", "file:none", "cred:none"])
def test_no_message_ends_in_an_empty_reason(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the system says, the message has a reason and no `None`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    with pytest.raises(SecretError) as caught:
        resolve(reference)

    assert not str(caught.value).endswith((": ", ":", "None"))
    assert caught.value.hint


def test_the_page_has_every_scheme() -> None:
    """The table of `docs/containers.md` lists each scheme that there is, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "containers.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+):[A-Z]", page, re.MULTILINE)

    assert sorted([*SOURCES, "prompt", *SCHEMES]) == sorted(rows)
    assert f"{TRUST_VARIABLE}=1" in page
