"""Where FastMCP's default stores are, and how a secret is matched with its store before anything is opened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvseal.drivers import driver_from_url
from kvseal.drivers.abilities import count
from kvseal.errors import StoreNotFoundError, StoreUnreachableError
from kvseal.legacy.fastmcp import fingerprint, key_of_client_secret, key_of_text_signing_key
from kvseal.legacy.fastmcp_places import cli_places, existing, fastmcp_home, proxy_places

MIGRATIONS = Path(__file__).parent.parent.parent / "migrations"
DISK, TREE, CLI = (
    MIGRATIONS / name / "vault"
    for name in ("0005-fastmcp-2.13-disk", "0006-fastmcp-3-filetree", "0007-fastmcp-cli")
)
WRONG = key_of_client_secret(b"another secret")


def key_of_tree() -> bytes:
    """Return the key of the frozen file tree store."""
    return key_of_text_signing_key((TREE.parent / "keys/signing.key").read_bytes().strip())


def test_home_of_the_environment() -> None:
    """`FASTMCP_HOME` is the home; without it, or empty, it is the user's data directory."""
    default = fastmcp_home({})

    assert Path("/srv/fastmcp") == fastmcp_home({"FASTMCP_HOME": "/srv/fastmcp"})
    assert "fastmcp" == default.name
    assert default == fastmcp_home({"FASTMCP_HOME": ""})


def test_every_generation() -> None:
    """Each generation's directory is computed from home and key alone, the newest first."""
    home, name = Path("/srv/fastmcp"), fingerprint(WRONG)

    assert [
        f"filetree:/srv/fastmcp/oauth-proxy/{name}?names=v1",
        "disk:/srv/fastmcp/oauth-proxy",
    ] == [place.url for place in proxy_places(home, WRONG)]
    assert [f"filetree:/srv/fastmcp/cli-oauth/{name}?names=v1"] == [p.url for p in cli_places(home, WRONG)]


async def test_the_right_key_finds_its_tree() -> None:
    """A store of a real 3.x server is found by its key, and the URL opens it."""
    (place,) = existing(proxy_places(TREE, key_of_tree()))
    driver = await driver_from_url(place.url)

    assert f"{TREE}/oauth-proxy" == str(place.folder)
    assert (await count(driver)).entries > 0
    await driver.close()


async def test_the_right_key_finds_the_command_lines_tree() -> None:
    """The command line's store is found by the characters of its key."""
    (place,) = existing(cli_places(CLI, (CLI.parent / "keys/encryption.key").read_bytes().strip()))
    driver = await driver_from_url(place.url)

    assert 9 == (await count(driver)).entries
    await driver.close()


def test_a_disk_store_fits_every_key() -> None:
    """The older disk store is found whatever the key: its name proves nothing."""
    (place,) = existing(proxy_places(DISK, WRONG))

    assert f"disk:{DISK}/oauth-proxy" == place.url


def test_one_of_two_forms() -> None:
    """Of the two keys that one signing key may mean, the one that has a store is found, once."""
    right = key_of_tree()
    places = [*proxy_places(TREE, WRONG), *proxy_places(TREE, right), *proxy_places(TREE, right)]

    assert [fingerprint(right)] == [place.fingerprint for place in existing(places)]


def test_a_wrong_secret() -> None:
    """A wrong secret is told by its fingerprint, with the stores that do exist, and without the key."""
    with pytest.raises(StoreNotFoundError) as caught:
        existing(proxy_places(TREE, WRONG))

    assert (
        f"no store with the fingerprint {fingerprint(WRONG)} in {TREE}/oauth-proxy; these exist: "
        f"{fingerprint(key_of_tree())}" == caught.value.message
    )
    assert "signing key" in caught.value.hint
    assert WRONG.decode() not in str(caught.value)


def test_other_directories_are_no_stores(tmp_path: Path) -> None:
    """What only resembles a fingerprint is not offered: files, a disk store's folders, longer names."""
    folder = tmp_path / "oauth-proxy"
    for name in ("3f", "0123456789ABCDEF", "0123456789abcdef", "S_x-12345678", "b0b0b0b0b0b0"):
        (folder / name).mkdir(parents=True)
    (folder / "a0a0a0a0a0a0").write_text("")

    with pytest.raises(StoreNotFoundError, match=r"these exist: b0b0b0b0b0b0$"):
        existing(proxy_places(tmp_path, WRONG))


def test_no_store_at_all(tmp_path: Path) -> None:
    """Where there is nothing, the place that was looked at is named."""
    with pytest.raises(
        StoreNotFoundError, match=re.escape(f"no FastMCP store in {tmp_path}/oauth-proxy")
    ) as caught:
        existing(proxy_places(tmp_path, WRONG))

    assert "FASTMCP_HOME" in caught.value.hint
    assert 10 == caught.value.exit_code


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that may not be read is an error of its own, never taken for an empty one."""
    (tmp_path / "oauth-proxy").mkdir()

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(StoreUnreachableError, match="cannot look"):
        existing(proxy_places(tmp_path, WRONG))
