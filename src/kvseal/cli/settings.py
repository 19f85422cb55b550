"""
What every command shares: which store, which secret, how to speak.

A flag wins over the environment, the environment over `vaultctl.toml` in the
current directory, and that over the default.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kvseal.errors import UsageError

CONFIG_FILE: Final = "vaultctl.toml"

_LONGEST: Final = 2**18
"""Bytes of a TOML file: no recipe comes near it."""
_MOST_DOTS: Final = 500
"""In one line: Python's parser takes quadratic time for a key of many parts, 24 seconds for one of 80 kB."""

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
            raise usage_error(msg, hint="give --store disk:PATH, or set VAULTCTL_STORE")
        return self.store

    @property
    def may_ask(self) -> bool:
        """Whether a question may be put to a person."""
        return not self.no_input and sys.stdin.isatty()


def usage_error(message: str, *, hint: str = "") -> UsageError:
    """Return a `UsageError`; the module of errors takes longer to load than all else that help needs."""
    from kvseal.errors import UsageError  # noqa: PLC0415 - see above

    return UsageError(message, hint=hint)


def read_toml(path: Path) -> dict[str, Any]:
    """
    Return the TOML document *path*, which only its own user, or root, may have written.

    A store or a secret can name code to run.  The file is opened once, and what is checked is what is read:
    another file may take the name at any time.

    Raises:
        OSError: there is no such file, or it cannot be opened.
        UsageError: another user can change it, or it is not readable TOML.
    """
    # A pipe of that name must not keep the program waiting.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb") as file:
        _refuse_foreign(path, os.fstat(file.fileno()))
        content = file.read(_LONGEST + 1)
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - most programs have no such file
    else:
        import tomli as tomllib  # noqa: PLC0415 - as above
    try:
        _refuse_costly(content)
        return tomllib.loads(content.decode("utf-8"))
    except ValueError as exc:
        msg = f"{path} is not readable TOML: {exc}"
    except RecursionError:
        msg = f"{path} is not readable TOML: it is nested too deeply"
    raise usage_error(msg, hint="check the file with a TOML parser")


def _refuse_costly(content: bytes) -> None:
    """Raise `ValueError` for what would keep the parser busy for long."""
    if len(content) > _LONGEST:
        msg = f"it is longer than {_LONGEST:,} bytes"
        raise ValueError(msg)
    if max(line.count(b".") for line in content.split(b"\n")) > _MOST_DOTS:
        msg = f"a line has more than {_MOST_DOTS} dots"
        raise ValueError(msg)


def _refuse_foreign(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        msg = f"{path} is not a file"
        raise usage_error(msg, hint="name a TOML file, or rename it")
    if os.name == "posix" and (status.st_uid not in {os.geteuid(), 0} or status.st_mode & 0o022):
        msg = f"{path} can be changed by others, who could make it run their code"
        raise usage_error(msg, hint=f"chmod go-w {path}, or go to another directory")


def _read_config(path: Path) -> dict[str, str]:
    try:
        config = read_toml(path)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        from kvseal.errors.operating_system import next_step, reason_of  # noqa: PLC0415 - as above

        msg = f"{path} cannot be read: {reason_of(exc)}"
        raise usage_error(msg, hint=next_step(exc)) from None
    unknown = sorted(set(config) - set(_VARIABLES))
    if unknown or not all(isinstance(value, str) for value in config.values()):
        msg = f"{path} may hold {', '.join(_VARIABLES)} as text, and nothing else"
        raise usage_error(msg, hint=f"unknown: {', '.join(unknown)}" if unknown else "")
    return config
