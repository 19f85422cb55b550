"""
What every command shares: which store, which secret, how to speak.

A flag wins over the environment, the environment over `vaultctl.toml` in the
current directory, and that over the default.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kvseal.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_FILE: Final = "vaultctl.toml"

_VARIABLES: Final = {
    "store": "VAULTCTL_STORE",
    "secret": "VAULTCTL_SECRET",
    "meta_store": "VAULTCTL_META_STORE",
    "manifest": "VAULTCTL_MANIFEST",
    "pin": "VAULTCTL_PIN",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options of one run; `None` is "not given"."""

    store: str | None = None
    secret: str | None = None
    meta_store: str | None = None
    manifest: str | None = None
    pin: str | None = None
    offline: bool | None = None
    as_json: bool | None = None
    yes: bool | None = None
    no_input: bool | None = None
    quiet: bool | None = None
    debug: bool | None = None
    arguments: tuple[str, ...] = ()
    """What the program was called with, for workers that do a part of the same."""
    given: frozenset[str] = frozenset()
    """What was given by a flag, which wins over everything else."""

    def overridden(self, **given: Any) -> Settings:
        """Return these settings with every option in *given* that was really given."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def completed(self) -> Settings:
        """Fill what no flag gave from the environment and `vaultctl.toml`."""
        config = _read_config(Path(CONFIG_FILE))

        def value(name: str) -> str | None:
            given: str | None = getattr(self, name)
            # An empty variable is as good as none; an empty flag is a mistake, such as `--store "$UNSET"`.
            return given if given is not None else os.environ.get(_VARIABLES[name]) or config.get(name)

        given = frozenset(name for name in _VARIABLES if getattr(self, name) is not None)
        return self.overridden(given=given, **{name: value(name) for name in _VARIABLES})

    def required_store(self) -> str:
        """Return the store URL, or raise `UsageError`."""
        if self.store is None:
            msg = "no store was named"
            raise UsageError(msg, hint="give --store disk:PATH, or set VAULTCTL_STORE")
        return self.store

    @property
    def may_ask(self) -> bool:
        """Whether a question may be put to a person."""
        return not self.no_input and sys.stdin.isatty()


def refuse_foreign(path: Path) -> None:
    """A store or a secret can name code to run, so only its own user, or root, may have written the file."""
    status = path.stat()
    if os.name == "posix" and (status.st_uid not in {os.geteuid(), 0} or status.st_mode & 0o022):
        msg = f"{path} can be changed by others, who could make it run their code"
        raise UsageError(msg, hint=f"chmod go-w {path}, or go to another directory")


def _read_config(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    refuse_foreign(path)
    try:
        config: dict[str, str] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        msg = f"{path} is not readable TOML: {exc}"
        raise UsageError(msg) from exc
    unknown = sorted(set(config) - set(_VARIABLES))
    if unknown or not all(isinstance(value, str) for value in config.values()):
        msg = f"{path} may hold {', '.join(_VARIABLES)} as text, and nothing else"
        raise UsageError(msg, hint=f"unknown: {', '.join(unknown)}" if unknown else "")
    return config
