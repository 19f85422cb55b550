"""
Where FastMCP keeps its stores by default, so that a secret can be matched with its store.

    HOME/oauth-proxy                  2.13 and 2.14: one disk store for all servers of the machine
    HOME/oauth-proxy/FINGERPRINT      3.0 on: a file tree store for each key
    HOME/cli-oauth/FINGERPRINT        the command line's own tokens, for each key

Since 3.0 the directory is named after the key, so a wrong secret is found out before
anything is opened.  The older disk store says nothing about its keys; there, that a key
fits is found out by the survey.  Only names of files and directories are looked at here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from platformdirs import user_data_dir

from kvseal.errors import StoreNotFoundError, StoreUnreachableError
from kvseal.errors.operating_system import reason_of
from kvseal.legacy.fastmcp import fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROXY: Final = "oauth-proxy"
_CLI: Final = "cli-oauth"
_DISK_FILE: Final = "cache.db"
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one generation of FastMCP keeps its store; `fingerprint` is empty where no key is in the name."""

    folder: Path
    fingerprint: str = ""

    @property
    def directory(self) -> Path:
        """The directory of the store."""
        return self.folder / self.fingerprint

    @property
    def url(self) -> str:
        """The store as vaultctl takes it."""
        return f"filetree:{self.directory}?names=v1" if self.fingerprint else f"disk:{self.directory}"

    @property
    def exists(self) -> bool:
        """Whether there is a store."""
        return self.directory.is_dir() if self.fingerprint else (self.directory / _DISK_FILE).is_file()


def fastmcp_home(environment: Mapping[str, str]) -> Path:
    """Return the directory that FastMCP calls home: `FASTMCP_HOME`, or the user's data directory."""
    return Path(environment.get("FASTMCP_HOME") or user_data_dir("fastmcp", appauthor=False))


def proxy_places(home: Path, key: bytes) -> tuple[Place, ...]:
    """Return where the OAuth proxy's store under *key* is, the newest generation first."""
    folder = home / _PROXY
    return (Place(folder, fingerprint(key)), Place(folder))


def cli_places(home: Path, key: bytes) -> tuple[Place, ...]:
    """Return where the command line's store under *key* is."""
    return (Place(home / _CLI, fingerprint(key)),)


def existing(places: Sequence[Place]) -> tuple[Place, ...]:
    """
    Return those of *places* that exist, each once and in order.

    Raises:
        StoreNotFoundError: none does; the error names the fingerprints of the stores that do exist.
        StoreUnreachableError: a directory cannot be looked at.
    """
    try:
        found = tuple(place for place in dict.fromkeys(places) if place.exists)
        if found:
            return found
        folders = tuple(dict.fromkeys(place.folder for place in places))
        there = sorted(name for folder in folders for name in _fingerprints(folder))
    except OSError as exc:
        msg = f"cannot look for FastMCP's stores: {reason_of(exc)}"
        raise StoreUnreachableError(msg, hint="check the permissions there") from exc
    where = " or ".join(str(folder) for folder in folders)
    if not there:
        msg = f"no FastMCP store in {where}"
        raise StoreNotFoundError(msg, hint="check FASTMCP_HOME; a server may also have a store of its own")
    wanted = " or ".join(dict.fromkeys(place.fingerprint for place in places if place.fingerprint))
    msg = f"no store with the fingerprint {wanted} in {where}; these exist: {', '.join(there)}"
    raise StoreNotFoundError(
        msg,
        hint="it is another secret: the signing key, or the upstream client secret where none was configured",
    )


def _fingerprints(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [path.name for path in folder.iterdir() if _FINGERPRINT.fullmatch(path.name) and path.is_dir()]
